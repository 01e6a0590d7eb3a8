using Vmm.Hypervisor.Nested;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Vcpus;

/// <content>What changes of a vCPU when L1 uses VMX.</content>
public sealed unsafe partial class Vcpu
{
    private const ulong FixedInOperation = Cr0.Pe | Cr0.Ne | Cr0.Pg;

    /// <summary>CR4 as the guest that runs reads it.</summary>
    public ulong GuestCr4 => Cr4In(Vmcs);

    /// <summary>CR4 as L1 has it.</summary>
    internal ulong L1Cr4 => Cr4In(Vmcs01);

    private static ulong Cr4In(Vmcs vmcs)
    {
        ulong mask = vmcs[VmcsField.Cr4Mask];
        return (vmcs[VmcsField.GuestCr4] & ~mask) | (vmcs[VmcsField.Cr4Shadow] & mask);
    }

    /// <summary>
    /// Sets L1's CR4. The hardware is in VMX operation, so the register itself has VMXE set whatever L1 has; what L1 has of it is in
    /// the read shadow.
    /// </summary>
    public void SetGuestCr4(ulong value)
    {
        Vmcs01[VmcsField.GuestCr4] = value | Cr4.Vmxe;
        Vmcs01[VmcsField.Cr4Mask] = Cr4.Vmxe;
        Vmcs01[VmcsField.Cr4Shadow] = value & Cr4.Vmxe;
    }

    /// <summary>A general-purpose register of the guest that has exited.</summary>
    internal ulong General(int register) => register == Gpr.Rsp ? Vmcs[VmcsField.GuestRsp] : State->Gpr[register];

    /// <summary>Sets a general-purpose register of the guest that has exited.</summary>
    internal void SetGeneral(int register, ulong value)
    {
        if (register == Gpr.Rsp)
            Vmcs[VmcsField.GuestRsp] = value;
        else
            State->Gpr[register] = value;
    }

    /// <summary>The next entry is on another VMCS.</summary>
    internal void SwitchTo(Vmcs vmcs, bool guestMode)
    {
        Vmcs = vmcs;
        IsGuestMode = guestMode;
    }

    /// <summary>After VMXON and VMXOFF: in VMX operation some bits of CR0 cannot change, so that an attempt must come to L0.</summary>
    internal void VmxOperationChanged()
    {
        Vmcs01[VmcsField.Cr0Mask] = Nested.IsOn ? FixedInOperation : 0;
        Vmcs01[VmcsField.Cr0Shadow] = Nested.IsOn ? FixedInOperation : 0;
        if (!Nested.IsOn && !SystemManagement.IsActive && _initPending)
        {
            _initPending = false;
            Request(VcpuRequest.Init);
        }
    }

    // In system-management mode and in VMX root operation INIT is blocked, and remembered; in non-root operation it is a VM exit (SDM volume 3, section 24.8).
    private bool _initPending;

    /// <summary>The level that goes on with the next entry where it was interrupted for L0 alone; 0 for none. Kept while somebody traces.</summary>
    internal byte ContinuedLevel { get; set; }

    /// <summary>Whether an INIT waits for VMX root operation to end, or for L2.</summary>
    internal bool HasBlockedInit => _initPending;

    /// <summary>Takes the INIT that was blocked.</summary>
    internal void TakeBlockedInit() => _initPending = false;

    private void TakeInit()
    {
        if (IsGuestMode)
            NestedExit.Raise(this, ExitReason.Init);
        else if (Nested.IsOn || SystemManagement.IsActive)
            _initPending = true;
        else
            Init();
    }

    private void TakeStartUp()
    {
        if (IsGuestMode)
            NestedExit.Raise(this, ExitReason.Sipi, _startUpPage);
        else
            StartUpAt(_startUpPage);
    }
}
