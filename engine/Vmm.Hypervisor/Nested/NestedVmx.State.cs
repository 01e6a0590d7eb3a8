using Vmm.Hypervisor.SavedState;
using Vmm.Processor.SavedState;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Hypervisor.Nested;

/// <content>Saving and loading.</content>
public sealed unsafe partial class NestedVmx
{
    /// <summary>Everything that it holds.</summary>
    public NestedState Save() => new()
    {
        VmxonPointer = IsOnAnywhere ? VmxonPointer : null,
        IsOnBeforeSmi = IsOnBeforeSmi,
        IsGuestModeBeforeSmi = IsGuestModeBeforeSmi,
        CurrentPointer = HasCurrent ? CurrentPointer : null,
        EnlightenedPointer = IsEnlightened ? EnlightenedPointer : null,
        IsLaunched = IsLaunched,
        IsShadow = IsShadow,
        RunPending = RunPending,
        Vmcs12 = Vmcs12.Save(isGuests: true),
        Vmcs02 = Vmcs02.Save(isGuests: false),
        Shadow = Vmcs02.Shadow?.Save(isGuests: true),
        PreemptionDeadline = Timer.Deadline,
        PreemptionTimer = Timer.SaveWakeUp(),
        MsrReadsAllowed = MsrBitmap.Allowed(write: false),
        MsrWritesAllowed = MsrBitmap.Allowed(write: true),
    };

    /// <summary>Takes a saved state.</summary>
    /// <param name="state">What was saved.</param>
    /// <param name="guestMode">Whether L2 is active.</param>
    /// <param name="systemManagement">Whether the vCPU is in system-management mode.</param>
    /// <exception cref="InvalidStateException">A value is none that it could have.</exception>
    public void Load(NestedState state, bool guestMode, bool systemManagement)
    {
        bool isOn = state.VmxonPointer is not null, hasCurrent = state.CurrentPointer is not null, isEnlightened = state.EnlightenedPointer is not null;
        InvalidStateException.ThrowUnless(!isOn || IsRegion(state.VmxonPointer!.Value), "Nested.VmxonPointer", "it is not page aligned, or beyond MAXPHYADDR.");
        InvalidStateException.ThrowUnless(!hasCurrent || IsRegion(state.CurrentPointer!.Value), "Nested.CurrentPointer", "it is not page aligned, or beyond MAXPHYADDR.");
        InvalidStateException.ThrowUnless(isOn || !hasCurrent, "Nested.CurrentPointer", "there is none outside VMX operation.");
        InvalidStateException.ThrowUnless(hasCurrent || isEnlightened || !(state.IsLaunched || state.IsShadow || guestMode), "Nested", "that needs a current VMCS.");
        InvalidStateException.ThrowUnless(!isEnlightened || (isOn && !hasCurrent && !state.IsShadow && _vcpu.Machine.Model.EnlightenedVmcs && IsRegion(state.EnlightenedPointer!.Value)),
            "Nested.EnlightenedPointer", "there cannot be one.");
        InvalidStateException.ThrowUnless(guestMode || !state.RunPending, "Nested.RunPending", "L2 is not active.");
        InvalidStateException.ThrowUnless(!guestMode || !state.IsShadow, "Nested.IsShadow", "L2 does not run on a shadow VMCS.");
        InvalidStateException.ThrowUnless(state.IsOnBeforeSmi == (systemManagement && isOn), "Nested.IsOnBeforeSmi", "VMX operation is left in system-management mode.");
        InvalidStateException.ThrowUnless(!state.IsGuestModeBeforeSmi || (state.IsOnBeforeSmi && (hasCurrent || isEnlightened) && !state.IsShadow), "Nested.IsGuestModeBeforeSmi", "that needs a current VMCS.");
        IsOn = isOn && !state.IsOnBeforeSmi;
        IsOnBeforeSmi = state.IsOnBeforeSmi;
        IsGuestModeBeforeSmi = state.IsGuestModeBeforeSmi;
        VmxonPointer = state.VmxonPointer ?? NoPointer;
        CurrentPointer = state.CurrentPointer ?? NoPointer;
        EnlightenedPointer = state.EnlightenedPointer ?? NoPointer;
        IsLaunched = state.IsLaunched;
        IsShadow = state.IsShadow;
        RunPending = state.RunPending;
        Vmcs12.Load(state.Vmcs12, isGuests: true);
        LoadVmcs02(state, guestMode);
        Timer.Load(state.PreemptionDeadline, state.PreemptionTimer);
    }

    // What the hardware does on vmcs02 it checks on every entry. What L0 does on leaving L2 it has checked before, on entering.
    private void LoadVmcs02(NestedState state, bool guestMode)
    {
        Vmcs02.Load(state.Vmcs02, isGuests: false);
        Vmcs02.Shadow = null;
        if (state.Shadow is not null)
        {
            _shadow.Load(state.Shadow, isGuests: true);
            Vmcs02.Shadow = _shadow;
        }
        MsrBitmap.Allow(state.MsrReadsAllowed, state.MsrWritesAllowed);
        if (!guestMode)
            return;
        if ((Vmcs02.Read32(VmcsField.ProcessorBasedControls) & (uint)ProcControls.UseMsrBitmaps) != 0)
            Vmcs02[VmcsField.MsrBitmaps] = MsrBitmap.Address;
        InvalidStateException.ThrowUnless((Vmcs02[VmcsField.VmExitMsrLoadCount] | Vmcs02[VmcsField.VmEntryMsrLoadCount]) == 0,
            "Nested.Vmcs02", "L0 keeps its lists of MSRs to load empty.");
        TimeStamp.Follow(this);
        bool wide = Has(VmExitControls.HostAddressSpaceSize);
        var subject = new EntrySubject(Vmcs12, Capabilities, Limits, this, wide, Vmcs12Pointer);
        if (EntryChecks.FirstViolation(EntryCheckGroup.HostState, subject) is { } violated)
            throw new InvalidStateException("Nested.Vmcs12", $"L2 cannot be active: {violated} is violated.");
    }
}
