using Vmm.Processor.Vmx;

namespace Vmm.Processor.Events;

/// <summary>An interrupt or exception on its way to the guest.</summary>
/// <param name="Vector">0 to 255.</param>
/// <param name="Type">What kind of event, in VMX's terms (SDM volume 3, table 25-17).</param>
/// <param name="HasError">Whether the exception has an error code (pushed in protected mode only).</param>
/// <param name="Error">The error code.</param>
/// <param name="InstructionLength">For software interrupts and exceptions: bytes from RIP to the instruction after the one that caused it.</param>
/// <param name="Injected">
/// Whether VM entry injects it: it is then not intercepted and leaves CR2 and DR6 alone (SDM volume 3, section 27.6.1).
/// </param>
public readonly record struct GuestEvent(uint Vector, EventType Type, bool HasError = false, uint Error = 0, uint InstructionLength = 0, bool Injected = false)
{
    /// <summary>
    /// What the exception leaves behind besides the stack frame: CR2 for a page fault, the new DR6 bits for a debug exception.
    /// <see cref="EventDelivery.Dispatch"/> takes it from <see cref="CpuState.FaultAddress"/>.
    /// </summary>
    internal ulong Payload { get; init; }

    /// <summary>Whether an instruction asked for the event (INT n, INT1, INT3, INTO), so that execution resumes after it.</summary>
    public bool IsSoftware => Type is EventType.SoftwareInterrupt or EventType.PrivilegedSoftwareException or EventType.SoftwareException;

    /// <summary>The exception in the fault fields of the state.</summary>
    public static unsafe GuestEvent OfFault(CpuState* s) =>
        new GuestEvent(s->FaultVector, EventType.HardwareException, s->FaultHasError, s->FaultError).Complete(s);

    /// <summary>Adds the payload; takes away the error code in real-address mode, where there is none.</summary>
    internal unsafe GuestEvent Complete(CpuState* s)
    {
        bool hasPayload = Type == EventType.HardwareException && !Injected && Vector is (State.Vector.Pf or State.Vector.Db);
        return this with { Payload = hasPayload ? s->FaultAddress : 0, HasError = HasError && (s->Cr0 & Cr0.Pe) != 0 };
    }

    /// <summary>The interruption-information format of the VMCS (SDM volume 3, section 25.9.2), valid bit set.</summary>
    public uint Information => 1u << 31 | (HasError ? 1u << 11 : 0) | (uint)Type << 8 | Vector;
}
