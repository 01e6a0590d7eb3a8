using System.Runtime.CompilerServices;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.Events;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Vcpus;

/// <content>Events: what is injected with the next entry, and when to come out for those that must wait.</content>
public sealed unsafe partial class Vcpu
{
    private const uint EventValid = 1u << 31;
    private const uint EventHasError = 1 << 11;
    private const ulong BlockedBySti = 1 << 0, BlockedByMovSs = 1 << 1, BlockedByNmi = 1 << 3;
    private const ulong PendingSingleStep = 1 << 14;

    private uint _event;
    private uint _eventError;
    private uint _eventInstructionLength;
    private int _pendingNmis;

    /// <summary>Whether a halted vCPU has something to wake for.</summary>
    private bool HasWakeEvent => IsGuestMode ? NestedEvents.Wakes(this) || (_requests & VcpuRequest.Nmi) != 0 :
        _event != 0 || _pendingNmis > 0 || Vmcs[VmcsField.GuestPendingDebugExceptions] != 0 || (_requests & VcpuRequest.Nmi) != 0
        || ((Vmcs[VmcsField.GuestRflags] & Rflags.If) != 0 && Apic.HasInterrupt);

    /// <summary>Whether an event waits to be injected with the next entry, before anything else.</summary>
    internal bool HasQueuedEvent => _event != 0;

    /// <summary>Whether a non-maskable interrupt waits.</summary>
    internal bool HasPendingNmi => _pendingNmis > 0;

    /// <summary>Takes the non-maskable interrupt that waits.</summary>
    internal void TakeNmi() => _pendingNmis--;

    /// <summary>Whether the guest runs 64-bit code.</summary>
    public bool IsLongCode
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => (Vmcs[VmcsField.GuestEfer] & Efer.Lma) != 0 && (Vmcs.Read32(VmcsField.GuestCsAccessRights) & SegmentRights.Long) != 0;
    }

    /// <summary>Queues an exception without an error code for the next entry.</summary>
    public void InjectException(uint vector)
    {
        if (!IsGuestMode || !NestedEvents.Intercept(this, vector, hasError: false, 0))
            QueueException(vector);
    }

    private void QueueException(uint vector)
    {
        _event = EventValid | (uint)EventType.HardwareException << 8 | vector;
        Vmcs[VmcsField.GuestRflags] |= Rflags.Rf;
        // A guest that only raises such exceptions must come to the end of its budget, too.
        CountEmulated();
    }

    /// <summary>Queues an exception with an error code for the next entry.</summary>
    public void InjectException(uint vector, uint error)
    {
        if (IsGuestMode && NestedEvents.Intercept(this, vector, hasError: true, error))
            return;
        QueueException(vector);
        // In real mode no exception pushes an error code (SDM volume 3, section 21.2).
        if ((Vmcs[VmcsField.GuestCr0] & Cr0.Pe) == 0)
            return;
        _event |= EventHasError;
        _eventError = error;
    }

    /// <summary>Queues an event for the next entry as it is.</summary>
    internal void Inject(in GuestEvent e)
    {
        _event = EventValid | (uint)e.Type << 8 | e.Vector | (e.HasError ? EventHasError : 0);
        _eventError = e.Error;
        _eventInstructionLength = e.InstructionLength;
    }

    /// <summary>Queues what vmcs12 injects.</summary>
    internal void InjectForEntry(uint information, uint error, uint instructionLength)
    {
        _event = information;
        _eventError = error;
        _eventInstructionLength = instructionLength;
    }

    /// <summary>Counts an instruction that L0 has executed in the guest's stead.</summary>
    internal void CountEmulated() => _emulated++;

    /// <summary>Moves RIP past the instruction that exited: it counts as executed.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void SkipInstruction()
    {
        Vmcs vmcs = Vmcs;
        ulong rip = vmcs[VmcsField.GuestRip] + vmcs[VmcsField.VmExitInstructionLength];
        vmcs[VmcsField.GuestRip] = IsLongCode ? rip : (uint)rip;
        vmcs[VmcsField.GuestInterruptibility] &= ~(BlockedBySti | BlockedByMovSs);
        ulong rflags = vmcs[VmcsField.GuestRflags];
        vmcs[VmcsField.GuestRflags] = rflags & ~Rflags.Rf;
        if ((rflags & Rflags.Tf) != 0)
            vmcs[VmcsField.GuestPendingDebugExceptions] |= PendingSingleStep;
        CountEmulated();
    }

    /// <summary>
    /// Before an entry: fills the event-injection field with what comes first, and asks for an exit as soon as the guest can
    /// take what must wait (SDM volume 3, sections 6.9, 26.3.1.5 and 26.6).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void PrepareEntry()
    {
        if (IsGuestMode)
            NestedEvents.Deliver(this);
        if (IsGuestMode && Nested.Has(PinControls.PreemptionTimer))
            Vmcs[VmcsField.PreemptionTimerValue] = Nested.Timer.Remaining;
        Vmcs vmcs = Vmcs;
        uint injected = _event;
        if (injected != 0)
        {
            vmcs[VmcsField.VmEntryExceptionErrorCode] = _eventError;
            vmcs[VmcsField.VmEntryInstructionLength] = _eventInstructionLength;
            _event = 0;
        }
        else
        {
            injected = TakeAsynchronousEvent();
        }
        vmcs[VmcsField.VmEntryInterruptionInformation] = injected;
        if (injected != 0)
            Counters.CountInjection(injected);
        if (DeliversVirtually)
            Apicv.PrepareEntry();

        ProcControls controls = (ProcControls)vmcs.Read32(VmcsField.ProcessorBasedControls);
        ProcControls wanted = controls & ~(ProcControls.InterruptWindowExiting | ProcControls.NmiWindowExiting);
        if (IsGuestMode)
            wanted |= (ProcControls)Nested.Vmcs12.Read32(VmcsField.ProcessorBasedControls) & (ProcControls.InterruptWindowExiting | ProcControls.NmiWindowExiting);
        if (_pendingNmis > 0)
            wanted |= ProcControls.NmiWindowExiting;
        if (HasInterruptToInject)
            wanted |= ProcControls.InterruptWindowExiting;
        if (wanted != controls)
            vmcs[VmcsField.ProcessorBasedControls] = (uint)wanted;
    }

    // What L1 intercepts is never L2's, also while an entry of L1 is under way and cannot be left yet.
    private bool IsForL1(PinControls exiting) => IsGuestMode && Nested.Has(exiting);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private uint TakeAsynchronousEvent()
    {
        ulong interruptibility = Vmcs[VmcsField.GuestInterruptibility];
        // A pending debug exception comes first, and would be lost with an entry that injects something else.
        if (Vmcs[VmcsField.GuestPendingDebugExceptions] != 0 && (interruptibility & BlockedByMovSs) == 0)
            return 0;
        if (_pendingNmis > 0 && (interruptibility & (BlockedByNmi | BlockedByMovSs | BlockedBySti)) == 0 && !IsForL1(PinControls.NmiExiting))
        {
            _pendingNmis--;
            return EventValid | (uint)EventType.Nmi << 8 | Vector.Nmi;
        }
        if ((Vmcs[VmcsField.GuestRflags] & Rflags.If) == 0 || (interruptibility & (BlockedBySti | BlockedByMovSs)) != 0
            || IsForL1(PinControls.ExternalInterruptExiting))
            return 0;
        int vector = HasInterruptToInject ? Apic.AcknowledgeInterrupt() : -1;
        return vector < 0 ? 0 : EventValid | (uint)EventType.ExternalInterrupt << 8 | (uint)vector;
    }

    /// <summary>After an exit: takes back an event whose delivery the exit interrupted, to be injected again (SDM volume 3, section 28.2.4).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void CompleteExit()
    {
        Vmcs vmcs = Vmcs;
        vmcs[VmcsField.VmEntryInterruptionInformation] = 0;
        uint vectoring = vmcs.Read32(VmcsField.IdtVectoringInformation);
        if ((vectoring & EventValid) != 0)
            TakeBack(vmcs, vectoring);
    }

    private void TakeBack(Vmcs vmcs, uint vectoring)
    {
        _event = vectoring & (EventValid | 0xFFF);
        _eventError = vmcs.Read32(VmcsField.IdtVectoringErrorCode);
        _eventInstructionLength = vmcs.Read32(VmcsField.VmExitInstructionLength);
        // An NMI whose delivery did not complete is not in service.
        if ((EventType)(vectoring >> 8 & 7) == EventType.Nmi)
            vmcs[VmcsField.GuestInterruptibility] &= ~BlockedByNmi;
    }

    /// <summary>Drops the event that was taken back: the exit's handler has delivered it itself (a task switch).</summary>
    internal void DropEvent() => _event = 0;

    /// <summary>Two NMIs at most are remembered: one in delivery and one pending (SDM volume 3, section 6.7.1).</summary>
    private void NoteNmi()
    {
        bool blocked = (Vmcs[VmcsField.GuestInterruptibility] & BlockedByNmi) != 0;
        _pendingNmis = Math.Min(_pendingNmis + 1, blocked ? 1 : 2);
    }

    private void ClearEvents()
    {
        _event = 0;
        _eventError = 0;
        _eventInstructionLength = 0;
        _pendingNmis = 0;
    }
}
