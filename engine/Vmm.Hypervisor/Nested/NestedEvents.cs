using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>What arrives at a vCPU while L2 runs, and takes it to L1 (SDM volume 3, sections 26.2 and 7.9 for the order).</summary>
internal static class NestedEvents
{
    private const uint EventValid = 1u << 31, EventHasError = 1 << 11;
    private const ulong BlockedByNmi = 1 << 3;

    /// <summary>
    /// Before an entry into L2: leaves it for L1 where something that L1 wants has arrived. What the hardware is to inject first
    /// comes first.
    /// </summary>
    public static void Deliver(Vcpu vcpu)
    {
        if (vcpu.Nested.RunPending || vcpu.HasQueuedEvent)
            return;
        if (WantsNmi(vcpu))
        {
            vcpu.TakeNmi();
            NestedExit.Raise(vcpu, ExitReason.ExceptionOrNmi, 0, EventValid | (uint)EventType.Nmi << 8 | Vector.Nmi);
        }
        else if (WantsInterrupt(vcpu))
        {
            uint information = 0;
            if (vcpu.Nested.Has(VmExitControls.AcknowledgeInterrupt))
            {
                int vector = vcpu.Apic.AcknowledgeInterrupt();
                information = vector < 0 ? 0 : EventValid | (uint)EventType.ExternalInterrupt << 8 | (uint)vector;
            }
            NestedExit.Raise(vcpu, ExitReason.ExternalInterrupt, 0, information);
        }
    }

    /// <summary>Whether something has arrived that would take a waiting L2 to L1.</summary>
    public static bool IsPending(Vcpu vcpu) => WantsNmi(vcpu) || (vcpu.Activity != VcpuActivity.NestedShutdown && WantsInterrupt(vcpu));

    /// <summary>
    /// An exception that L0 raises in L2, as the processor would there. True where vmcs12 intercepts it, and L1 runs now.
    /// </summary>
    public static bool Intercept(Vcpu vcpu, uint vector, bool hasError, uint error)
    {
        Vmcs vmcs12 = vcpu.Nested.Vmcs12;
        bool intercepted = (vmcs12.Read32(VmcsField.ExceptionBitmap) >> (int)vector & 1) != 0;
        if (vector == Vector.Pf)
        {
            bool match = (error & vmcs12.Read32(VmcsField.PageFaultErrorCodeMask)) == vmcs12.Read32(VmcsField.PageFaultErrorCodeMatch);
            intercepted = intercepted == match;
        }
        if (!intercepted)
            return false;
        uint information = EventValid | (uint)EventType.HardwareException << 8 | vector | (hasError ? EventHasError : 0);
        NestedExit.Raise(vcpu, ExitReason.ExceptionOrNmi, 0, information, hasError ? error : 0);
        return true;
    }

    private static bool WantsNmi(Vcpu vcpu) =>
        vcpu.HasPendingNmi && vcpu.Nested.Has(PinControls.NmiExiting)
        && (vcpu.Nested.Has(PinControls.VirtualNmis) || (vcpu.Vmcs[VmcsField.GuestInterruptibility] & BlockedByNmi) == 0);

    private static bool WantsInterrupt(Vcpu vcpu) => vcpu.Nested.Has(PinControls.ExternalInterruptExiting) && vcpu.Apic.HasInterrupt;
}
