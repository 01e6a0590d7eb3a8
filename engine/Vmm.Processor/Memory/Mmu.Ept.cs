using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Memory;

/// <summary>
/// EPT and VPID: a cached translation is a combined mapping, from linear to host-physical, under the tag of its VPID, EPT pointer
/// and PCID. An access that EPT stops records <see cref="Vector.VmExit"/> in place of a fault's vector; what settles faults
/// makes it a VM exit.
/// </summary>
public sealed unsafe partial class Mmu
{
    private AccessExit _exit;

    /// <summary>The cached guest-physical mappings.</summary>
    internal GuestPhysicalCache GuestPhysical { get; } = new();

    /// <summary>Whether guest-physical addresses go through EPT.</summary>
    internal bool EptEnabled { get; private set; }

    /// <summary>The EPT pointer, when <see cref="EptEnabled"/>; 0 otherwise.</summary>
    internal ulong EptRoot { get; private set; }

    /// <summary>Whether EPT keeps accessed and dirty flags.</summary>
    internal bool EptAccessedDirty { get; private set; }

    /// <summary>Whether EPT has execute permissions of their own for user-mode linear addresses.</summary>
    internal bool EptModeBasedExecute { get; private set; }

    /// <summary>Whether pages that become dirty are logged.</summary>
    internal bool PageModificationLog { get; private set; }

    /// <summary>
    /// INVEPT: forgets the combined mappings of one EPT pointer, or of all, and all guest-physical ones (SDM volume 3, section 29.4.3). Only
    /// the address of the pointer counts.
    /// </summary>
    /// <param name="eptPointer">The EPT pointer; null for all.</param>
    public void InvalidateEpt(ulong? eptPointer)
    {
        _spaces.ForgetEpt(eptPointer);
        GuestPhysical.Clear();
        _cpu.ModeChanged();
    }

    /// <summary>INVVPID of a single context, or of all contexts but VPID 0. Between entries: the next one chooses the address space.</summary>
    /// <param name="vpid">The VPID; null for all.</param>
    public void InvalidateVpid(ushort? vpid)
    {
        _spaces.ForgetVpid(vpid);
        _cpu.ForgetGuestState();
    }

    /// <summary>INVVPID of an individual address. May forget more than asked.</summary>
    public void InvalidateVpidAddress(ushort vpid, ulong linear)
    {
        if (ForgetPage(linear))
            return;
        _spaces.ForgetVpid(vpid);
        _cpu.ModeChanged();
    }

    /// <summary>Takes EPT and VPID from the VMCS that is being entered; the caller then chooses the address space.</summary>
    internal void EnterContext(Vmcs vmcs, SecondaryControls controls)
    {
        uint vpid = (controls & SecondaryControls.EnableVpid) != 0 ? vmcs.Read32(VmcsField.VirtualProcessorId) : 0;
        EptEnabled = (controls & SecondaryControls.EnableEpt) != 0;
        EptRoot = EptEnabled ? vmcs[VmcsField.EptPointer] : 0;
        EptAccessedDirty = (EptRoot & EptPointer.AccessedDirty) != 0;
        EptModeBasedExecute = EptEnabled && (controls & SecondaryControls.ModeBasedExecute) != 0;
        PageModificationLog = EptAccessedDirty && (controls & SecondaryControls.EnablePml) != 0;
        ApicAccessPage = (controls & SecondaryControls.VirtualizeApicAccesses) != 0 ? vmcs[VmcsField.ApicAccessAddress] & ~0xFFFUL : NoApicAccessPage;
        _spaces.Enter(vpid, EptRoot, ApicAccessPage);
        // Without VPIDs an entry forgets everything (SDM volume 3, section 29.4.3.1). Without EPT too there is only one address
        // space of guest-physical memory, whose changes L0 announces itself: see Flush.
        if (EptEnabled && (controls & SecondaryControls.EnableVpid) == 0)
            _spaces.ForgetUntagged();
    }

    /// <summary>Notes the VM exit that an access has met, for <see cref="SettleExit"/>; returns false.</summary>
    internal bool RecordExit(in AccessExit exit)
    {
        _exit = exit;
        _state->FaultLength = 0;
        return Fault.Record(_state, Vector.VmExit);
    }

    /// <summary>EPTP switching by VMFUNC: what was cached under either pointer stays (SDM volume 3, section 29.4.3.4).</summary>
    internal void SwitchEptPointer(ulong pointer)
    {
        EptRoot = pointer;
        EptAccessedDirty = (pointer & EptPointer.AccessedDirty) != 0;
        PageModificationLog = EptAccessedDirty && (_state->SecondaryControls & SecondaryControls.EnablePml) != 0;
        _spaces.Enter(_spaces.Vpid, pointer, ApicAccessPage);
        _cpu.ModeChanged();
    }

    /// <summary>
    /// Makes a virtualization exception of the EPT violation that <see cref="RecordExit"/> has noted, where the guest is to have one (SDM
    /// volume 3, sections 26.5.7.1 and 26.5.7.2): what it needs to know is in its information area then. Not in the delivery of an event.
    /// </summary>
    internal bool ConvertExit()
    {
        if (_exit is not { Reason: ExitReason.EptViolation, Convertible: true } || (_state->Cr0 & Cr0.Pe) == 0
            || (_state->SecondaryControls & SecondaryControls.EptViolationVe) == 0)
            return false;
        Vmcs vmcs = _cpu.Vmcs!;
        ulong address = vmcs[VmcsField.VirtualizationExceptionAddress] & ~0xFFFUL;
        byte* area = _cpu.Environment.Memory.HostPage(address);
        if (area == null || *(uint*)(area + 4) != 0)
            return false;
        *(uint*)area = (uint)ExitReason.EptViolation;
        *(uint*)(area + 4) = uint.MaxValue;
        *(ulong*)(area + 8) = _exit.Qualification;
        *(ulong*)(area + 16) = _exit.Linear;
        *(ulong*)(area + 24) = _exit.Physical;
        *(ushort*)(area + 32) = (ushort)vmcs[VmcsField.EptpIndex];
        _cpu.Package.Code.Written(address, 34);
        Fault.Record(_state, Vector.Ve);
        return true;
    }

    /// <summary>Brings about the VM exit that <see cref="RecordExit"/> has noted.</summary>
    /// <param name="delivering">Whether an event was being delivered to the guest.</param>
    internal void SettleExit(bool delivering)
    {
        Vmcs vmcs = _cpu.Vmcs!;
        if (_exit.Reason == ExitReason.ApicAccess)
        {
            SettleApicAccess(vmcs, delivering);
            return;
        }
        ulong qualification = _exit.Qualification;
        bool virtualNmis = (_state->PinControls & PinControls.VirtualNmis) != 0;
        if (_state->NmiUnblocking && !delivering && (virtualNmis || (_state->PinControls & PinControls.NmiExiting) == 0)
            && _exit.Reason != ExitReason.EptMisconfiguration)
            qualification |= 1 << 12;
        _state->NmiUnblocking = false;
        VmExit.Record(_state, _exit.Reason, qualification);
        if (!delivering)
            vmcs[VmcsField.VmExitInstructionLength] = _state->FaultLength;
        if (_exit.Reason == ExitReason.PmlFull)
            return;
        vmcs[VmcsField.GuestPhysicalAddress] = _exit.Physical;
        if ((_exit.Qualification & (ulong)EptAccess.LinearValid) != 0)
            vmcs[VmcsField.GuestLinearAddress] = _exit.Linear;
    }
}
