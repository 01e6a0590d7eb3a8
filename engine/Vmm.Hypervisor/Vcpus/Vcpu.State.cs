using System.Collections.Frozen;
using Vmm.Hypervisor.SavedState;
using Vmm.Processor.SavedState;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Vcpus;

/// <content>Saving and loading.</content>
public sealed unsafe partial class Vcpu
{
    private const ulong Everything = ulong.MaxValue;

    /// <summary>
    /// The bits of control fields of vmcs01 that change while the vCPU lives. All others are as L0 has set them up, whoever saved: a state
    /// cannot have the hardware run L1 in another way.
    /// </summary>
    private static readonly FrozenDictionary<VmcsField, ulong> Changing = new Dictionary<VmcsField, ulong>
    {
        [VmcsField.ProcessorBasedControls] = (ulong)(ProcControls.InterruptWindowExiting | ProcControls.NmiWindowExiting
            | ProcControls.TprShadow | ProcControls.UseMsrBitmaps | ProcControls.Cr8LoadExiting),
        [VmcsField.SecondaryControls] = (ulong)(SecondaryControls.VirtualizeApicAccesses | SecondaryControls.VirtualizeX2Apic
            | SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery
            | SecondaryControls.VmcsShadowing),
        [VmcsField.VmEntryControls] = (ulong)VmEntryControls.Ia32eModeGuest,
        [VmcsField.VmEntryInterruptionInformation] = Everything,
        [VmcsField.VmEntryExceptionErrorCode] = Everything,
        [VmcsField.VmEntryInstructionLength] = Everything,
        [VmcsField.Cr0Mask] = FixedInOperation,
        [VmcsField.Cr0Shadow] = FixedInOperation,
        [VmcsField.Cr4Shadow] = Cr4.Vmxe,
        [VmcsField.TscOffset] = Everything,
        [VmcsField.ApicAccessAddress] = Everything,
        [VmcsField.EoiExitBitmap0] = Everything,
        [VmcsField.EoiExitBitmap1] = Everything,
        [VmcsField.EoiExitBitmap2] = Everything,
        [VmcsField.EoiExitBitmap3] = Everything,
    }.ToFrozenDictionary();

    /// <summary>Everything that it holds. While it does not execute.</summary>
    public VcpuState Save() => new()
    {
        Processor = Cpu.Save(),
        Vmcs01 = Vmcs01.Save(isGuests: false),
        IsGuestMode = IsGuestMode,
        Nested = Nested.Save(),
        Activity = Activity,
        Requests = _requests,
        StartUpPage = _startUpPage,
        InstructionsEmulated = _emulated,
        Event = _event == 0 ? null : new QueuedEventState { Information = _event, ErrorCode = _eventError, InstructionLength = _eventInstructionLength },
        PendingNmis = _pendingNmis,
        IsInitBlocked = _initPending,
        StepsApicAccess = _stepApicAccess,
        Apicv = Apicv.Save(),
        Apic = Apic.Save(),
        Msrs = Msrs.Save(),
        SystemManagement = SystemManagement.Save(),
        AssistPage = AssistPage.Register,
    };

    /// <summary>Takes a saved state. As after power-up before; the memory must be there already.</summary>
    /// <exception cref="InvalidStateException">A value is none that this vCPU could have.</exception>
    public void Load(VcpuState state)
    {
        InvalidStateException.ThrowUnless(Enum.IsDefined(state.Activity), "Vcpu.Activity", $"{state.Activity} is none.");
        InvalidStateException.ThrowUnless(((uint)state.Requests & ~((uint)VcpuRequest.Smi * 2 - 1)) == 0, "Vcpu.Requests", "one is unknown.");
        InvalidStateException.ThrowUnless(state.PendingNmis is >= 0 and <= 2, "Vcpu.PendingNmis", "two at most wait.");
        InvalidStateException.ThrowUnless(state.Event is not { } e || (e.Information & EventValid) != 0, "Vcpu.Event", "its valid bit is clear.");
        InvalidStateException.ThrowUnless(state.IsGuestMode || state.Activity != VcpuActivity.NestedShutdown, "Vcpu.Activity", "L1 does not shut down so.");
        CpuidAnswers.Forget();
        Cpu.Load(state.Processor);
        Msrs.Load(state.Msrs);
        Apic.Load(state.Apic);
        Apicv.Load(state.Apicv);
        InvalidStateException.ThrowUnless(Machine.Model.EnlightenedVmcs || state.AssistPage == 0, "Vcpu.AssistPage", "the processor has none.");
        AssistPage.Register = state.AssistPage;
        LoadVmcs01(state.Vmcs01);
        SystemManagement.Load(state.SystemManagement);
        InvalidStateException.ThrowUnless(!SystemManagement.IsActive || !state.IsGuestMode, "Vcpu.SystemManagement", "L2 is active.");
        Nested.Load(state.Nested, state.IsGuestMode, SystemManagement.IsActive);
        SwitchTo(state.IsGuestMode ? Nested.Vmcs02 : Vmcs01, state.IsGuestMode);
        Activity = state.Activity;
        _requests = state.Requests;
        _startUpPage = state.StartUpPage;
        _emulated = state.InstructionsEmulated;
        _event = state.Event?.Information ?? 0;
        _eventError = state.Event?.ErrorCode ?? 0;
        _eventInstructionLength = state.Event?.InstructionLength ?? 0;
        _pendingNmis = state.PendingNmis;
        _initPending = state.IsInitBlocked;
        _stepApicAccess = state.StepsApicAccess;
        // For whoever looks at the guest's memory through its page tables before it runs.
        Cpu.TakeGuestState(Vmcs);
    }

    private void LoadVmcs01(VmcsState state)
    {
        Vmcs vmcs = Vmcs01;
        var before = VmcsCatalogue.Fields.Select(entry => vmcs[entry.Field]).ToArray();
        vmcs.Load(state, isGuests: false);
        for (int k = 0; k < before.Length; k++)
        {
            VmcsFieldEntry entry = VmcsCatalogue.Fields[k];
            bool fixedByL0 = entry.Type is VmcsFieldType.Control or VmcsFieldType.Host
                && entry.Field is not (VmcsField.VirtualApicAddress or VmcsField.MsrBitmaps or VmcsField.VmreadBitmap or VmcsField.VmwriteBitmap);
            ulong differing = (before[k] ^ vmcs[entry.Field]) & ~Changing.GetValueOrDefault(entry.Field);
            InvalidStateException.ThrowUnless(!fixedByL0 || differing == 0, $"Vcpu.Vmcs01['{entry.Name}']", $"L0 never has 0x{vmcs[entry.Field]:x} there.");
        }
        // Where L0's own pages are was not saved. Those of VMCS shadowing come with L1's current VMCS.
        vmcs[VmcsField.VirtualApicAddress] = Apic.Page.HostPhysical;
        vmcs[VmcsField.MsrBitmaps] = Machine.X2ApicBitmap;

        ulong cr0 = vmcs[VmcsField.GuestCr0], cr4 = vmcs[VmcsField.GuestCr4], efer = vmcs[VmcsField.GuestEfer];
        bool longMode = (efer & Efer.Lma) != 0;
        InvalidStateException.ThrowUnless((cr0 & (Cr0.Pg | Cr0.Pe)) != Cr0.Pg, "Vcpu.Vmcs01", "paging without protection.");
        InvalidStateException.ThrowUnless(!longMode || ((cr0 & Cr0.Pg) != 0 && (cr4 & Cr4.Pae) != 0 && (efer & Efer.Lme) != 0), "Vcpu.Vmcs01", "IA-32e mode without its paging.");
        InvalidStateException.ThrowUnless((efer & ~Machine.Model.Features.EferAllowed) == 0, "Vcpu.Vmcs01", $"EFER 0x{efer:x} is not allowed.");
        InvalidStateException.ThrowUnless(vmcs[VmcsField.GuestActivityState] == (ulong)ActivityState.Active, "Vcpu.Vmcs01", "L0 keeps the activity of L1 itself.");
    }
}
