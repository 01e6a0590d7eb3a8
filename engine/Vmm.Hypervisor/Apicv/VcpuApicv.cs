using System.Runtime.CompilerServices;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Apicv;

/// <summary>
/// APICv on one vCPU: keeps vmcs01 in agreement with the machine's inhibits and with the mode of the local APIC, and says what the
/// processor needs to know for each entry. The local APIC's registers are the virtual-APIC page, active or not.
/// </summary>
public sealed unsafe class VcpuApicv
{
    private const SecondaryControls Virtualization = SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;
    private const SecondaryControls Modes = SecondaryControls.VirtualizeApicAccesses | SecondaryControls.VirtualizeX2Apic;

    private readonly Vcpu _vcpu;
    private readonly ApicvInhibits _inhibits;
    private ExitReason? _endedBy;

    internal VcpuApicv(Vcpu vcpu, ApicvInhibits inhibits)
    {
        _vcpu = vcpu;
        _inhibits = inhibits;
    }

    /// <summary>Whether the processor virtualizes L1's local APIC, as far as L0 knows.</summary>
    public bool IsActive { get; private set; }

    /// <summary>Whether a change waits: to be serviced before the next entry, or deferred until L2 is left.</summary>
    public bool IsPending => IsDeferred || _vcpu.IsRequested(VcpuRequest.ApicvUpdate);

    /// <summary>Whether a change waits for L2 to be left.</summary>
    public bool IsDeferred { get; private set; }

    /// <summary>The generation of the inhibits that was applied last.</summary>
    public ulong AppliedGeneration { get; private set; }

    /// <summary>
    /// To be called on nested VM exit, once vmcs01 is current and before L1 executes: does what was deferred while L2 was active,
    /// however many changes that were.
    /// </summary>
    /// <param name="exit">The basic reason of the exit; null where L2 was left without one that L1 sees.</param>
    public void ServiceDeferred(ExitReason? exit = null)
    {
        if (!IsDeferred)
            return;
        IsDeferred = false;
        _endedBy = exit;
        Refresh();
        _endedBy = null;
    }

    /// <summary>The request, before a VM entry.</summary>
    internal void Service()
    {
        if (_vcpu.IsGuestMode && _inhibits.Policy == ApicvPolicy.Deferred)
        {
            if (IsDeferred)
                _vcpu.Counters.ApicvCoalesced++;
            else
                _vcpu.Counters.ApicvDeferrals++;
            IsDeferred = true;
            _inhibits.Report(ApicvEventKind.UpdateDeferred, _vcpu, IsActive);
        }
        else if (_vcpu.IsGuestMode && _inhibits.Policy == ApicvPolicy.UnsafeImmediate)
        {
            OverwriteCurrent();
        }
        else
        {
            IsDeferred = false;
            Refresh();
        }
    }

    /// <summary>vmcs01's controls have been set up anew, without APICv: they must be refreshed before the next entry.</summary>
    internal void ControlsReset()
    {
        IsActive = false;
        IsDeferred = false;
        _vcpu.Request(VcpuRequest.ApicvUpdate);
    }

    /// <summary>
    /// Before an entry that runs L1 with APICv active: RVI and SVI are what the registers have, so that whatever L0 has done to them
    /// since the last exit counts (SDM volume 3, section 25.4.2).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void PrepareEntry()
    {
        LocalApic apic = _vcpu.Apic;
        int requested = apic.IsSoftwareEnabled ? apic.Page.Highest(ApicRegister.Request) : -1;
        int inService = apic.Page.Highest(ApicRegister.InService);
        _vcpu.Vmcs01[VmcsField.GuestInterruptStatus] = (uint)Math.Max(requested, 0) | (uint)Math.Max(inService, 0) << 8;
        if (apic.TakeTriggerModeChange())
            WriteEoiExitBitmap();
    }

    /// <summary>Everything that it holds.</summary>
    internal VcpuApicvState Save() => new() { IsActive = IsActive, IsDeferred = IsDeferred, AppliedGeneration = AppliedGeneration };

    /// <summary>Takes a saved state.</summary>
    internal void Load(VcpuApicvState state)
    {
        IsActive = state.IsActive;
        IsDeferred = state.IsDeferred;
        AppliedGeneration = state.AppliedGeneration;
    }

    private bool IsWanted => _inhibits.AllowsApicv && _vcpu.Apic.Mode != ApicMode.Disabled;

    /// <summary>Brings vmcs01, and never vmcs02, into agreement with the inhibits and the local APIC's mode.</summary>
    private void Refresh()
    {
        LocalApic apic = _vcpu.Apic;
        Vmcs vmcs = _vcpu.Vmcs01;
        bool active = IsWanted;
        SecondaryControls before = (SecondaryControls)vmcs.Read32(VmcsField.SecondaryControls);
        SecondaryControls secondary = before & ~(Virtualization | Modes);
        ProcControls primary = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls) & ~(ProcControls.TprShadow | ProcControls.UseMsrBitmaps);
        if (active)
        {
            bool extended = apic.Mode == ApicMode.X2Apic;
            secondary |= Virtualization | (extended ? SecondaryControls.VirtualizeX2Apic : SecondaryControls.VirtualizeApicAccesses);
            primary |= ProcControls.TprShadow | (extended ? ProcControls.UseMsrBitmaps : 0);
            primary &= ~ProcControls.Cr8LoadExiting;
            vmcs[VmcsField.TprThreshold] = 0;
            vmcs[VmcsField.VirtualApicAddress] = apic.Page.HostPhysical;
            vmcs[VmcsField.ApicAccessAddress] = apic.BaseAddress;
            vmcs[VmcsField.MsrBitmaps] = _vcpu.Machine.X2ApicBitmap;
            WriteEoiExitBitmap();
        }
        else
        {
            primary |= ProcControls.Cr8LoadExiting;
            vmcs[VmcsField.GuestInterruptStatus] = 0;
            _vcpu.State->Cr8 = apic.TaskPriority >> 4;
        }
        vmcs[VmcsField.SecondaryControls] = (uint)secondary;
        vmcs[VmcsField.ProcessorBasedControls] = (uint)primary;
        // Translations that were cached while the APIC-access page was there, or was not, lead past it or into it.
        if (((secondary ^ before) & SecondaryControls.VirtualizeApicAccesses) != 0)
            _vcpu.Cpu.Mmu.FlushEverything();
        Applied(active, ApicvEventKind.UpdateApplied);
    }

    // What comes of a refresh that takes it for granted that L1 is active.
    private void OverwriteCurrent()
    {
        bool active = IsWanted;
        Vmcs current = _vcpu.Vmcs;
        SecondaryControls secondary = (SecondaryControls)current.Read32(VmcsField.SecondaryControls);
        current[VmcsField.SecondaryControls] = (uint)(active ? secondary | Virtualization : secondary & ~Virtualization);
        Applied(active, ApicvEventKind.CurrentVmcsOverwritten);
    }

    private void Applied(bool active, ApicvEventKind kind)
    {
        IsActive = active;
        AppliedGeneration = _inhibits.Generation;
        _vcpu.Counters.ApicvUpdates++;
        _inhibits.Report(kind, _vcpu, active, _endedBy);
    }

    // The end of a level-triggered interrupt is the I/O APICs' business, so L0 must see it.
    private void WriteEoiExitBitmap()
    {
        ApicPage page = _vcpu.Apic.Page;
        for (uint k = 0; k < 4; k++)
        {
            ulong level = page[ApicRegister.TriggerMode + k * 32] | (ulong)page[ApicRegister.TriggerMode + k * 32 + 16] << 32;
            _vcpu.Vmcs01[(VmcsField)((int)VmcsField.EoiExitBitmap0 + (int)k * 2)] = level;
        }
    }
}
