using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// What L0 keeps for L1's VMX operation on one vCPU: whether L1 is in it, its current VMCS (cached as vmcs12 while it is current),
/// and vmcs02, on which the hardware runs L2. All members are for the thread that runs the machine.
/// </summary>
/// <remarks>
/// L1 has no EPT under it: its physical addresses are the hardware's. So the structures that L1 names in vmcs12 (bitmaps, EPT
/// tables, virtual-APIC page) serve vmcs02 as they are, and nothing is composed or shadowed. That also makes them visible to the
/// hardware the moment L1 writes to them, as on a processor.
/// </remarks>
public sealed unsafe partial class NestedVmx : IEntryMemory, IDisposable
{
    /// <summary>A pointer that points nowhere: the current-VMCS pointer while there is none.</summary>
    public const ulong NoPointer = ulong.MaxValue;

    private readonly Vcpu _vcpu;
    private readonly Vmcs _shadow = new();
    private (uint Version, bool LongMode) _passed;
    private (uint Vmcs01, uint Vmcs12, uint Vmcs02) _built;

    internal NestedVmx(Vcpu vcpu, VmxCapabilities capabilities)
    {
        _vcpu = vcpu;
        Capabilities = capabilities;
        MsrBitmap = new NestedMsrBitmap(vcpu.Cpu.Environment.Memory);
        TimeStamp = new NestedTimeStamp(vcpu.Cpu.Environment.Memory);
        Timer = new NestedPreemptionTimer(vcpu);
        ProcessorModel model = vcpu.Machine.Model;
        Limits = new EntryLimits(model.PhysicalAddressBits, model.Features.EferAllowed) { DebugCtlAllowed = vcpu.Cpu.Environment.EntryLimits.DebugCtlAllowed };
    }

    /// <summary>The capability MSRs that L1 sees.</summary>
    public VmxCapabilities Capabilities { get; }

    /// <summary>Whether L1 is in VMX operation, root or non-root.</summary>
    public bool IsOn { get; internal set; }

    /// <summary>The address of the VMXON region.</summary>
    public ulong VmxonPointer { get; internal set; } = NoPointer;

    /// <summary>The current-VMCS pointer.</summary>
    public ulong CurrentPointer
    {
        get;
        internal set
        {
            field = value;
            FollowCurrent();
        }
    } = NoPointer;

    /// <summary>The current VMCS, cached: memory has its last state only once it is cleared or another one becomes current.</summary>
    public Vmcs Vmcs12 { get; } = new();

    /// <summary>The VMCS on which the hardware runs L2.</summary>
    public Vmcs Vmcs02 { get; } = new() { EntryChecks = EntryCheckPolicy.Full };

    /// <summary>Whether the launch state of the current VMCS is "launched".</summary>
    public bool IsLaunched { get; internal set; }

    /// <summary>Whether the current VMCS is a shadow VMCS.</summary>
    public bool IsShadow { get; internal set; }

    /// <summary>
    /// Whether L1 has entered L2 and the hardware has not yet: what vmcs12 injects comes first, and nothing may take L2 away.
    /// </summary>
    public bool RunPending { get; internal set; }

    /// <summary>Whether there is a current VMCS.</summary>
    public bool HasCurrent => CurrentPointer != NoPointer;

    /// <summary>Whether the controls of vmcs02 are those that vmcs12 and vmcs01 as they are make.</summary>
    internal bool IsBuilt => _built == (_vcpu.Vmcs01.ConfigurationVersion, Vmcs12.ConfigurationVersion, Vmcs02.ConfigurationVersion);

    internal EntryLimits Limits { get; }

    internal NestedPreemptionTimer Timer { get; }

    internal NestedMsrBitmap MsrBitmap { get; }

    internal NestedTimeStamp TimeStamp { get; }

    internal PhysicalMemory Memory => _vcpu.Cpu.Environment.Memory;

    /// <summary>Whether controls and host state of vmcs12 as they are have passed L0's checks, on behalf of an L1 in the same mode.</summary>
    internal bool HasPassed(bool longMode) => _passed == (Vmcs12.ConfigurationVersion, longMode);

    /// <summary>They have passed.</summary>
    internal void NotePassed(bool longMode) => _passed = (Vmcs12.ConfigurationVersion, longMode);

    /// <summary>The controls of vmcs02 have been built.</summary>
    internal void NoteBuilt() => _built = (_vcpu.Vmcs01.ConfigurationVersion, Vmcs12.ConfigurationVersion, Vmcs02.ConfigurationVersion);

    /// <summary>Whether vmcs12 has a pin-based control.</summary>
    internal bool Has(PinControls control) => (Vmcs12.Read32(VmcsField.PinBasedControls) & (uint)control) != 0;

    /// <summary>Whether vmcs12 has a primary processor-based control.</summary>
    internal bool Has(ProcControls control) => (Vmcs12.Read32(VmcsField.ProcessorBasedControls) & (uint)control) != 0;

    /// <summary>Whether vmcs12 has a secondary processor-based control, and the secondary controls are active.</summary>
    internal bool Has(SecondaryControls control) =>
        Has(ProcControls.ActivateSecondary) && (Vmcs12.Read32(VmcsField.SecondaryControls) & (uint)control) != 0;

    /// <summary>Whether vmcs12 has a VM-entry control.</summary>
    internal bool Has(VmEntryControls control) => (Vmcs12.Read32(VmcsField.VmEntryControls) & (uint)control) != 0;

    /// <summary>Whether vmcs12 has a VM-exit control.</summary>
    internal bool Has(VmExitControls control) => (Vmcs12.Read32(VmcsField.VmExitControls) & (uint)control) != 0;

    /// <summary>After the hardware has come back from vmcs02: reflects the exit if it is L1's. False where L0 handles it.</summary>
    /// <exception cref="InvalidOperationException">The hardware refused vmcs02, although vmcs12 has passed L0's checks: an error of the engine.</exception>
    internal static bool TakeExit(Vcpu vcpu, ExitReason reason)
    {
        bool refused = reason is ExitReason.VmFailValid or ExitReason.VmxAbort
            || (vcpu.Vmcs.Read32(VmcsField.ExitReason) >> 31 != 0 && reason != ExitReason.BudgetExhausted);
        if (refused && reason == ExitReason.VmFailValid && vcpu.Machine.Apicv.Policy == ApicvPolicy.UnsafeImmediate && !vcpu.Machine.NestedEarlyCheck)
        {
            NestedEntry.BlameL1(vcpu);
            return true;
        }
        if (refused)
            throw new InvalidOperationException($"vCPU {vcpu.Index}: the hardware refused vmcs02 ({reason}): {vcpu.Vmcs.FailedRule} is violated.");
        vcpu.Nested.RunPending = false;
        if (!NestedExitOwner.IsL1(vcpu, reason))
            return false;
        NestedExit.Reflect(vcpu);
        return true;
    }

    /// <summary>After the hardware has come back without an exit: L2 may have gone to wait.</summary>
    internal static void NoteActivity(Vcpu vcpu) => vcpu.Activity = (ActivityState)vcpu.Vmcs.Read32(VmcsField.GuestActivityState) switch
    {
        ActivityState.Hlt => VcpuActivity.Halted,
        ActivityState.Shutdown => VcpuActivity.NestedShutdown,
        ActivityState.WaitForSipi => VcpuActivity.WaitForSipi,
        _ => VcpuActivity.Active,
    };

    /// <summary>As after power-up: not in VMX operation.</summary>
    internal void Reset()
    {
        IsOn = IsLaunched = IsShadow = RunPending = IsOnBeforeSmi = IsGuestModeBeforeSmi = false;
        VmxonPointer = CurrentPointer = EnlightenedPointer = NoPointer;
    }

    /// <summary>Whether a VMX structure of a page may be at an address: page aligned, and within MAXPHYADDR.</summary>
    internal bool IsRegion(ulong address) => (address & 0xFFF) == 0 && address >> Limits.PhysicalAddressBits == 0;

    /// <summary>Whether VM entry would take an EPT pointer.</summary>
    internal bool IsEptPointer(ulong pointer) =>
        EptPointer.IsValid(pointer, Limits.PhysicalAddressBits)
        && ((pointer & EptPointer.AccessedDirty) == 0 || Capabilities.Allows(EptVpidCapabilities.AccessedDirty));

    /// <summary>Whether a linear address is canonical for the widest that the processor has.</summary>
    internal bool IsCanonical(ulong linear) => Canonical.IsWithin(linear, Capabilities.LinearAddressBits);

    /// <summary>The first four bytes of a region; all ones where there is no memory.</summary>
    internal uint ReadHeader(ulong address) => Read32(address);

    /// <summary>Makes a VMCS current: it is cached from now on.</summary>
    internal void LoadCurrent(ulong address)
    {
        Span<byte> region = stackalloc byte[Vmcs12Layout.RegionSize];
        ReadRegion(address, region);
        Vmcs12Layout.Load(region, Vmcs12);
        IsLaunched = BitConverter.ToUInt32(region[Vmcs12Layout.LaunchState..]) != 0;
        IsShadow = (BitConverter.ToUInt32(region) & Vmcs12Layout.ShadowIndicator) != 0;
        CurrentPointer = address;
    }

    /// <summary>Writes the current VMCS to its region and has none any more.</summary>
    /// <param name="clear">Whether its launch state becomes "clear".</param>
    internal void ReleaseCurrent(bool clear)
    {
        if (!HasCurrent)
            return;
        StoreCurrent(clear);
        CurrentPointer = NoPointer;
        IsLaunched = IsShadow = false;
    }

    /// <summary>Writes the current VMCS to its region, where it stays current.</summary>
    internal void StoreCurrent(bool clear = false)
    {
        Span<byte> region = stackalloc byte[Vmcs12Layout.RegionSize];
        ReadRegion(CurrentPointer, region);
        Vmcs12Layout.Store(Vmcs12, region);
        BitConverter.TryWriteBytes(region[Vmcs12Layout.LaunchState..], IsLaunched && !clear ? 1 : 0);
        WriteRegion(CurrentPointer, region);
    }

    /// <summary>Caches the shadow VMCS to which the link pointer of vmcs12 points, for L2's own VMREAD and VMWRITE.</summary>
    /// <returns>The shadow VMCS, or null where the link pointer points nowhere.</returns>
    internal Vmcs? LoadShadow()
    {
        ulong pointer = Vmcs12[VmcsField.VmcsLinkPointer];
        if (pointer == NoPointer)
            return null;
        Span<byte> region = stackalloc byte[Vmcs12Layout.RegionSize];
        ReadRegion(pointer, region);
        return TakeShadow(region);
    }

    /// <summary>Caches a shadow VMCS whose contents are not read from memory.</summary>
    internal Vmcs TakeShadow(ReadOnlySpan<byte> region)
    {
        Vmcs12Layout.Load(region, _shadow);
        return _shadow;
    }

    /// <summary>Writes the shadow VMCS back to its region.</summary>
    internal void StoreShadow()
    {
        ulong pointer = Vmcs12[VmcsField.VmcsLinkPointer];
        if (pointer == NoPointer)
            return;
        Span<byte> region = stackalloc byte[Vmcs12Layout.RegionSize];
        ReadRegion(pointer, region);
        Vmcs12Layout.Store(_shadow, region);
        WriteRegion(pointer, region);
    }

    /// <summary>Makes the launch state of a VMCS that is not current "clear".</summary>
    internal void ClearLaunchState(ulong address) => WriteRegion(address + Vmcs12Layout.LaunchState, stackalloc byte[4]);

    /// <summary>Reads L1's memory; zeros where there is none.</summary>
    internal void ReadRegion(ulong address, Span<byte> region)
    {
        region.Clear();
        Memory.TryRead(address, region);
    }

    /// <summary>Writes L1's memory, as a processor would; nothing where there is none.</summary>
    internal void WriteRegion(ulong address, ReadOnlySpan<byte> region) => _vcpu.Cpu.Package.WriteMemory(address, region);

    /// <inheritdoc/>
    public uint Read32(ulong address)
    {
        uint value;
        return Memory.TryRead(address, new Span<byte>(&value, 4)) ? value : uint.MaxValue;
    }

    /// <inheritdoc/>
    public ulong Read64(ulong address)
    {
        ulong value;
        return Memory.TryRead(address, new Span<byte>(&value, 8)) ? value : ulong.MaxValue;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Vmcs12.Dispose();
        Vmcs02.Dispose();
        _shadow.Dispose();
        MsrBitmap.Dispose();
        TimeStamp.Dispose();
    }
}
