using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Events;

/// <summary>An interrupt or exception on its way to the guest.</summary>
/// <param name="Vector">The vector.</param>
/// <param name="Type">Its type, as in the interruption-information fields.</param>
/// <param name="HasError">Whether an error code is pushed.</param>
/// <param name="Error">The error code.</param>
/// <param name="InstructionLength">For software interrupts and exceptions: what to add to RIP for the return address.</param>
/// <param name="Injected">Whether VM entry injects it: the exception bitmap does not apply.</param>
public readonly record struct GuestEvent(uint Vector, EventType Type, bool HasError = false, uint Error = 0, uint InstructionLength = 0, bool Injected = false);

/// <summary>Delivery of interrupts and exceptions.</summary>
public static unsafe class EventDelivery
{
    /// <summary>Delivers an event, or exits. False after a VM exit.</summary>
    public static bool Dispatch(LogicalProcessor cpu, in GuestEvent e)
    {
        VmExit.Record(cpu.State, ExitReason.TripleFault);
        return false;
    }
}
