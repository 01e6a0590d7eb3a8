using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <content>
/// System-management mode has no VMX: an SMI leaves VMX operation, silently for L1, and RSM enters it again (SDM volume 3, sections
/// 32.14.1 and 32.14.2).
/// </content>
public sealed unsafe partial class NestedVmx
{
    /// <summary>In system-management mode: whether the SMI has interrupted VMX operation, root or non-root.</summary>
    public bool IsOnBeforeSmi { get; internal set; }

    /// <summary>In system-management mode: whether the SMI has interrupted L2.</summary>
    public bool IsGuestModeBeforeSmi { get; internal set; }

    /// <summary>Whether L1 is in VMX operation, or the program is that an SMI has interrupted.</summary>
    internal bool IsOnAnywhere => IsOn || IsOnBeforeSmi;

    /// <summary>Leaves VMX operation for an SMI: vmcs12 has L2's state then, and vmcs01 is current.</summary>
    internal void SuspendForSystemManagement()
    {
        IsOnBeforeSmi = IsOn;
        IsGuestModeBeforeSmi = _vcpu.IsGuestMode;
        if (IsGuestModeBeforeSmi)
            NestedExit.Suspend(_vcpu);
        IsOn = false;
        FollowCurrent();
        _vcpu.VmxOperationChanged();
    }

    /// <summary>Enters VMX operation again, as far as the SMI has left it: where it has interrupted L2, vmcs02 is current again.</summary>
    internal void ResumeAfterSystemManagement()
    {
        bool guestMode = IsGuestModeBeforeSmi;
        IsOn = IsOnBeforeSmi;
        IsOnBeforeSmi = IsGuestModeBeforeSmi = false;
        FollowCurrent();
        _vcpu.VmxOperationChanged();
        if (!guestMode)
            return;
        NestedEntry.Build(_vcpu);
        _vcpu.SwitchTo(Vmcs02, guestMode: true);
    }

    // Its VMREAD and VMWRITE go to vmcs12 just while L1 is in VMX operation.
    private void FollowCurrent() => _vcpu.Machine.VmcsShadowing.Follow(_vcpu, HasCurrent && IsOn);
}
