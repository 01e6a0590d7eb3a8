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
        if (!MayLeave(vcpu))
        {
            // The processor comes back before the first instruction, for what has to wait until then.
            if (vcpu.HasBlockedInit || WantsNmi(vcpu) || WantsInterrupt(vcpu))
                vcpu.Cpu.RequestAttention();
            return;
        }
        TakePostedInterrupts(vcpu);
        if (vcpu.HasBlockedInit)
        {
            // It was blocked in VMX root operation only.
            vcpu.TakeBlockedInit();
            NestedExit.Raise(vcpu, ExitReason.Init);
        }
        else if (vcpu.Activity != VcpuActivity.WaitForSipi && IsTimerExpired(vcpu))
        {
            NestedExit.Raise(vcpu, ExitReason.PreemptionTimer);
        }
        else if (WantsNmi(vcpu))
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

    /// <summary>Whether something has arrived that ends the waiting of an L2 that is halted or shut down.</summary>
    public static bool Wakes(Vcpu vcpu)
    {
        if (vcpu.HasQueuedEvent || IsTimerExpired(vcpu) || WantsNmi(vcpu) || (vcpu.HasPendingNmi && !vcpu.Nested.Has(PinControls.NmiExiting) && !BlocksNmis(vcpu)))
            return true;
        bool mayTake = vcpu.Nested.Has(PinControls.ExternalInterruptExiting) || (vcpu.Vmcs[VmcsField.GuestRflags] & Rflags.If) != 0;
        return vcpu.Activity != VcpuActivity.NestedShutdown && mayTake && vcpu.Apic.HasInterrupt;
    }

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

    /// <summary>
    /// An interrupt with the notification vector of vmcs12 is no exit: it is dismissed, and what was posted goes to L2's virtual APIC
    /// (SDM volume 3, section 30.6).
    /// </summary>
    private static void TakePostedInterrupts(Vcpu vcpu)
    {
        if (!vcpu.Nested.Has(PinControls.PostedInterrupts) || vcpu.Apic.HasExternalInterrupt)
            return;
        var notification = (int)vcpu.Nested.Vmcs12.Read32(VmcsField.PostedInterruptVector);
        while (vcpu.Apic.DeliverableVector == notification)
        {
            vcpu.Apic.AcknowledgeInterrupt();
            vcpu.Apic.EndOfInterrupt();
            vcpu.Cpu.ProcessPostedInterrupts(vcpu.Vmcs);
        }
    }

    /// <summary>What the hardware is to inject first must have been injected.</summary>
    private static bool MayLeave(Vcpu vcpu) => !vcpu.Nested.RunPending && !vcpu.HasQueuedEvent;

    private static bool WantsNmi(Vcpu vcpu) =>
        vcpu.HasPendingNmi && vcpu.Nested.Has(PinControls.NmiExiting)
        && (vcpu.Nested.Has(PinControls.VirtualNmis) || !BlocksNmis(vcpu));

    private static bool BlocksNmis(Vcpu vcpu) => (vcpu.Vmcs[VmcsField.GuestInterruptibility] & BlockedByNmi) != 0;

    private static bool IsTimerExpired(Vcpu vcpu) =>
        vcpu.Activity is VcpuActivity.Halted or VcpuActivity.NestedShutdown && vcpu.Nested.Has(PinControls.PreemptionTimer) && vcpu.Nested.Timer.IsExpired;

    private static bool WantsInterrupt(Vcpu vcpu) => vcpu.Nested.Has(PinControls.ExternalInterruptExiting) && vcpu.Apic.HasInterrupt;
}
