using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.SavedState;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Hypervisor.SystemManagement;

/// <summary>
/// System-management mode of one vCPU (SDM volume 3, chapter 32), with the default treatment of SMIs in VMX operation (section 32.14): L0
/// delivers SMIs to its guest and executes RSM for it. The handler runs on vmcs01, whichever level the SMI has interrupted. SMRAM is
/// ordinary memory: there is no address space that only the handler sees.
/// </summary>
public sealed unsafe class SystemManagementMode
{
    /// <summary>SMBASE after power-up.</summary>
    public const uint PowerUpBase = 0x3_0000;

    private const uint EntryPoint = 0x8000, EventValid = 1u << 31;
    private const ulong BlockedBySti = 1 << 0, BlockedByMovSs = 1 << 1, BlockedBySmi = 1 << 2, BlockedByNmi = 1 << 3, PendingSingleStep = 1 << 14;
    private const ulong BranchStep = 1 << 1;

    private readonly Vcpu _vcpu;
    private bool _isPending;
    private InterruptedState? _interrupted;

    internal SystemManagementMode(Vcpu vcpu) => _vcpu = vcpu;

    /// <summary>Whether the vCPU is in system-management mode.</summary>
    public bool IsActive => _interrupted != null;

    /// <summary>SMBASE.</summary>
    public uint Base { get; private set; } = PowerUpBase;

    /// <summary>Whether an SMI waits that wakes a vCPU.</summary>
    internal bool Wakes => _isPending && !IsActive;

    /// <summary>An SMI has arrived. Of those that arrive in system-management mode one is remembered.</summary>
    internal void Note() => _isPending = true;

    /// <summary>As after power-up.</summary>
    internal void Reset()
    {
        _isPending = false;
        _interrupted = null;
        Base = PowerUpBase;
    }

    /// <summary>
    /// Between two instructions: delivers the SMI that waits, where it is not blocked. Where an event is on its way into the guest, the
    /// processor comes back before the first instruction behind it.
    /// </summary>
    internal void DeliverPending()
    {
        if (!_isPending || IsActive || _vcpu.Activity is VcpuActivity.WaitForSipi or VcpuActivity.Shutdown)
            return;
        if (_vcpu.HasQueuedEvent || _vcpu.Nested.RunPending)
            _vcpu.Cpu.RequestAttention();
        else
            Deliver();
    }

    /// <summary>RSM: goes back to where the SMI came, or shuts down. Undefined outside system-management mode.</summary>
    internal void Return()
    {
        if (_interrupted is not { } interrupted)
        {
            _vcpu.InjectException(Vector.Ud);
            return;
        }
        Span<byte> map = stackalloc byte[SaveStateMap.Size];
        // No memory reads as ones, which no register can have.
        map.Fill(0xFF);
        _vcpu.Cpu.Environment.Memory.TryRead((ulong)Base + SaveStateMap.Offset, map);
        _vcpu.CountEmulated();
        _vcpu.DropEvent();
        _vcpu.Vmcs[VmcsField.GuestInterruptibility] = 0;
        _interrupted = null;
        if (!IsAcceptable(map))
        {
            ShutDown();
            return;
        }
        Base = SaveStateMap.BaseOf(map);
        RegistersOfTheProcessor carried = RegistersOfTheProcessor.Of(_vcpu.Vmcs);
        _vcpu.Nested.ResumeAfterSystemManagement();
        carried.Put(_vcpu.Vmcs);
        Load(map, interrupted);
        ProcessorEnvironment environment = _vcpu.Cpu.Environment;
        var subject = new EntrySubject(_vcpu.Vmcs, environment.Vmx, environment.EntryLimits, environment.EntryMemory);
        if (EntryChecks.FirstViolation(subject) == null)
            Changed();
        else
            ShutDown();
    }

    /// <summary>Its state; null where it is as after power-up.</summary>
    internal SystemManagementState? Save() => !_isPending && !IsActive && Base == PowerUpBase ? null : new()
    {
        Base = Base,
        IsPending = _isPending,
        Interrupted = _interrupted,
    };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">A value is none that it could have.</exception>
    internal void Load(SystemManagementState? state)
    {
        Reset();
        if (state == null)
            return;
        InvalidStateException.ThrowUnless(state.Interrupted is not { } before || (before.Interruptibility <= 15 && before.PrivilegeLevel is >= 0 and <= 3
            && (before.PendingDebugExceptions & ~0x500FUL) == 0 && before.Activity is VcpuActivity.Active or VcpuActivity.Halted or VcpuActivity.NestedShutdown),
            "Vcpu.SystemManagement.Interrupted", "a value is none that a processor has.");
        Base = state.Base;
        _isPending = state.IsPending;
        _interrupted = state.Interrupted;
    }

    private void Deliver()
    {
        Vmcs left = _vcpu.Vmcs;
        bool halted = _vcpu.Activity == VcpuActivity.Halted;
        ulong cr4 = _vcpu.IsGuestMode ? left[VmcsField.GuestCr4] : _vcpu.L1Cr4;
        Span<byte> map = stackalloc byte[SaveStateMap.Size];
        map.Clear();
        SaveStateMap.Save(_vcpu, Base, cr4 & ~Cr4.Vmxe, halted, map);
        _vcpu.Cpu.Package.WriteMemory((ulong)Base + SaveStateMap.Offset, map);
        _vcpu.DropApicAccessStep();
        _isPending = false;
        _interrupted = new InterruptedState
        {
            Activity = _vcpu.Activity,
            Interruptibility = left.Read32(VmcsField.GuestInterruptibility),
            PendingDebugExceptions = left[VmcsField.GuestPendingDebugExceptions],
            IsVmxEnabled = (cr4 & Cr4.Vmxe) != 0,
            PrivilegeLevel = (int)(left.Read32(VmcsField.GuestSsAccessRights) >> 5) & 3,
            IsVirtual8086 = (left[VmcsField.GuestRflags] & Rflags.Vm) != 0,
        };
        _vcpu.Nested.SuspendForSystemManagement();
        EnterHandler(left);
        Changed();
    }

    /// <summary>The state with which the handler begins (SDM volume 3, section 32.5.1). What is not in there stays as it was.</summary>
    private void EnterHandler(Vmcs left)
    {
        const uint Data = 0x8093;
        Vmcs vmcs = _vcpu.Vmcs;
        RegistersOfTheProcessor.Of(left).Put(vmcs);
        vmcs[VmcsField.GuestCr0] = left[VmcsField.GuestCr0] & ~(Cr0.Pe | Cr0.Em | Cr0.Ts | Cr0.Pg);
        vmcs[VmcsField.GuestCr3] = left[VmcsField.GuestCr3];
        _vcpu.SetGuestCr4(0);
        vmcs[VmcsField.GuestEfer] = 0;
        vmcs[VmcsField.VmEntryControls] = vmcs.Read32(VmcsField.VmEntryControls) & ~(uint)VmEntryControls.Ia32eModeGuest;
        vmcs[VmcsField.GuestDr7] = 0x400;
        vmcs[VmcsField.GuestRflags] = Rflags.Fixed1;
        vmcs[VmcsField.GuestRip] = EntryPoint;
        _vcpu.SetSegment(Seg.Cs, (ushort)(Base >> 4), Base, uint.MaxValue, Data);
        foreach (int segment in (ReadOnlySpan<int>)[Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs])
            _vcpu.SetSegment(segment, 0, 0, uint.MaxValue, Data);
        foreach (int segment in (ReadOnlySpan<int>)[Seg.Ldtr, Seg.Tr])
        {
            _vcpu.SetSegment(segment, (ushort)left[Vcpu.SegmentField(VmcsField.GuestEsSelector, segment)], left[Vcpu.SegmentField(VmcsField.GuestEsBase, segment)],
                left.Read32(Vcpu.SegmentField(VmcsField.GuestEsLimit, segment)), left.Read32(Vcpu.SegmentField(VmcsField.GuestEsAccessRights, segment)));
        }
        vmcs[VmcsField.GuestGdtrBase] = left[VmcsField.GuestGdtrBase];
        vmcs[VmcsField.GuestGdtrLimit] = left[VmcsField.GuestGdtrLimit];
        // An exception before the handler has a table of its own shuts down, and does not go where the interrupted program would.
        vmcs[VmcsField.GuestIdtrBase] = vmcs[VmcsField.GuestIdtrLimit] = 0;
        vmcs[VmcsField.GuestInterruptibility] = BlockedBySmi | BlockedByNmi;
        vmcs[VmcsField.GuestPendingDebugExceptions] = 0;
        _vcpu.Activity = VcpuActivity.Active;
    }

    /// <summary>What RSM demands of the image (SDM volume 3, sections 32.3.2 and 32.14.2), besides what VM entry demands of any guest.</summary>
    private static bool IsAcceptable(ReadOnlySpan<byte> map) =>
        (SaveStateMap.Cr4Of(map) & Cr4.Vmxe) == 0 && (SaveStateMap.Cr0Of(map) & (Cr0.Nw | Cr0.Cd)) != Cr0.Nw;

    private void Load(ReadOnlySpan<byte> map, InterruptedState interrupted)
    {
        SaveStateMap.Load(_vcpu, map);
        Vmcs vmcs = _vcpu.Vmcs;
        ulong cr4 = SaveStateMap.Cr4Of(map) | (interrupted.IsVmxEnabled ? Cr4.Vmxe : 0);
        if (_vcpu.IsGuestMode)
            vmcs[VmcsField.GuestCr4] = cr4 | Cr4.Vmxe;
        else
            _vcpu.SetGuestCr4(cr4);
        uint entry = vmcs.Read32(VmcsField.VmEntryControls) & ~(uint)VmEntryControls.Ia32eModeGuest;
        vmcs[VmcsField.VmEntryControls] = entry | ((vmcs[VmcsField.GuestEfer] & Efer.Lma) != 0 ? (uint)VmEntryControls.Ia32eModeGuest : 0);
        if (_vcpu.Nested.IsOn)
            RestoreCritical(vmcs, interrupted);
        _vcpu.Activity = interrupted.Activity == VcpuActivity.Halted && !SaveStateMap.RestartsHalt(map) ? VcpuActivity.Active : interrupted.Activity;
        if (_vcpu.IsGuestMode)
            vmcs[VmcsField.GuestActivityState] = (ulong)(_vcpu.Activity switch
            {
                VcpuActivity.Halted => ActivityState.Hlt,
                VcpuActivity.NestedShutdown => ActivityState.Shutdown,
                _ => ActivityState.Active,
            });
        RestoreBlocking(vmcs, interrupted);
    }

    /// <summary>In VMX operation the processor remembers some of the state itself, and some bits are fixed (SDM volume 3, section 32.14.2).</summary>
    private void RestoreCritical(Vmcs vmcs, InterruptedState interrupted)
    {
        bool unrestricted = _vcpu.IsGuestMode && _vcpu.Nested.Has(SecondaryControls.UnrestrictedGuest);
        vmcs[VmcsField.GuestCr0] |= unrestricted ? Cr0.Ne : Cr0.Pe | Cr0.Ne | Cr0.Pg;
        vmcs[VmcsField.GuestRflags] = vmcs[VmcsField.GuestRflags] & ~Rflags.Vm | (interrupted.IsVirtual8086 ? Rflags.Vm : 0);
        vmcs[VmcsField.GuestSsAccessRights] = vmcs.Read32(VmcsField.GuestSsAccessRights) & ~(3u << 5) | (uint)interrupted.PrivilegeLevel << 5;
        if (interrupted.IsVirtual8086 || unrestricted)
            return;
        vmcs[VmcsField.GuestCsSelector] = vmcs[VmcsField.GuestCsSelector] & ~3UL | (uint)interrupted.PrivilegeLevel;
        vmcs[VmcsField.GuestSsSelector] = vmcs[VmcsField.GuestSsSelector] & ~3UL | (uint)interrupted.PrivilegeLevel;
    }

    /// <summary>
    /// What was blocked and pending. The handler may have changed the flags that go with it: what does not fit them any more is gone, and a
    /// single step that is pending follows TF.
    /// </summary>
    private void RestoreBlocking(Vmcs vmcs, InterruptedState interrupted)
    {
        ulong flags = vmcs[VmcsField.GuestRflags], blocking = interrupted.Interruptibility & ~BlockedBySmi, debug = interrupted.PendingDebugExceptions;
        if ((flags & Rflags.If) == 0)
            blocking &= ~BlockedBySti;
        if (_vcpu.Activity != VcpuActivity.Active)
            blocking &= ~(BlockedBySti | BlockedByMovSs);
        if ((blocking & (BlockedBySti | BlockedByMovSs)) != 0 || vmcs[VmcsField.GuestActivityState] == (ulong)ActivityState.Hlt)
        {
            bool stepping = (flags & Rflags.Tf) != 0 && (vmcs[VmcsField.GuestDebugCtl] & BranchStep) == 0;
            debug = debug & ~PendingSingleStep | (stepping ? PendingSingleStep : 0);
        }
        vmcs[VmcsField.GuestInterruptibility] = blocking;
        vmcs[VmcsField.GuestPendingDebugExceptions] = debug;
    }

    private void ShutDown()
    {
        if (_vcpu.IsGuestMode)
            _vcpu.SwitchTo(_vcpu.Vmcs01, guestMode: false);
        _vcpu.Activity = VcpuActivity.Shutdown;
    }

    // Both ways every translation is dropped that could be of the other (sections 32.14.1 and 32.14.2).
    private void Changed()
    {
        _vcpu.Vmcs[VmcsField.VmEntryInterruptionInformation] = _vcpu.Vmcs.Read32(VmcsField.VmEntryInterruptionInformation) & ~EventValid;
        _vcpu.Cpu.Mmu.FlushEverything();
        _vcpu.Cpu.TakeGuestState(_vcpu.Vmcs);
    }

    /// <summary>Registers that SMI delivery and RSM leave as they are, and a VMCS has a field for.</summary>
    private readonly record struct RegistersOfTheProcessor(ulong Pat, ulong DebugCtl, ulong SysenterCs, ulong SysenterEsp, ulong SysenterEip)
    {
        public static RegistersOfTheProcessor Of(Vmcs vmcs) => new(vmcs[VmcsField.GuestPat], vmcs[VmcsField.GuestDebugCtl],
            vmcs[VmcsField.GuestSysenterCs], vmcs[VmcsField.GuestSysenterEsp], vmcs[VmcsField.GuestSysenterEip]);

        public void Put(Vmcs vmcs)
        {
            vmcs[VmcsField.GuestPat] = Pat;
            vmcs[VmcsField.GuestDebugCtl] = DebugCtl;
            vmcs[VmcsField.GuestSysenterCs] = SysenterCs;
            vmcs[VmcsField.GuestSysenterEsp] = SysenterEsp;
            vmcs[VmcsField.GuestSysenterEip] = SysenterEip;
        }
    }
}
