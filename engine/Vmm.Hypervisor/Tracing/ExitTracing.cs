using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Tracing;

/// <summary>
/// What those who trace a machine are told. There is one only while somebody traces: without it, an exit costs a look at whether there
/// is one. On the thread that runs the machine.
/// </summary>
internal sealed class ExitTracing(ExitTraceRing[] rings)
{
    /// <summary>The traces.</summary>
    public ReadOnlySpan<ExitTraceRing> Rings => rings;

    /// <summary>The same with one more.</summary>
    public static ExitTracing With(ExitTracing? tracing, ExitTraceRing ring) => new(tracing == null ? [ring] : [.. tracing.Rings, ring]);

    /// <summary>The same without one; null where none is left.</summary>
    public static ExitTracing? Without(ExitTracing? tracing, ExitTraceRing ring)
    {
        ExitTraceRing[] left = tracing == null ? [] : [.. tracing.Rings.ToArray().Where(other => other != ring)];
        return left.Length == 0 ? null : new(left);
    }

    /// <summary>The processor is about to be entered.</summary>
    public void Entering(Vcpu vcpu)
    {
        Vmcs vmcs = vcpu.Vmcs;
        uint injected = vmcs.Read32(VmcsField.VmEntryInterruptionInformation);
        byte level = LevelOf(vcpu);
        // An entry that goes on where L0 had wanted the processor back is none in the guest's eyes.
        if (vcpu.ContinuedLevel == level && injected == 0)
            return;
        Write(new ExitTraceRecord
        {
            Kind = ExitTraceKind.Entry,
            Owner = vcpu.IsGuestMode && vcpu.Nested.RunPending ? ExitTraceOwner.L1 : ExitTraceOwner.L0,
            Vcpu = (byte)vcpu.Index,
            Level = level,
            Instructions = vcpu.InstructionsRetired,
            Rip = vmcs[VmcsField.GuestRip],
            Reason = ExitTraceRecord.NoReason,
            Interruption = injected,
            InterruptionError = injected == 0 ? 0 : vmcs.Read32(VmcsField.VmEntryExceptionErrorCode),
        });
    }

    /// <summary>The processor has come back.</summary>
    public void Exited(Vcpu vcpu, ExitReason reason)
    {
        byte level = LevelOf(vcpu);
        bool continues = reason == ExitReason.BudgetExhausted;
        vcpu.ContinuedLevel = continues ? level : (byte)0;
        if (continues)
            return;
        ExitTraceOwner owner = vcpu.IsGuestMode && NestedExitOwner.IsL1(vcpu, reason) ? ExitTraceOwner.L1 : ExitTraceOwner.L0;
        Write(Recorded(vcpu, vcpu.Vmcs, ExitTraceKind.Exit, owner, level));
    }

    /// <summary>vmcs12 has an exit recorded, and L1 is about to be given it.</summary>
    public void Reflected(Vcpu vcpu) => Write(Recorded(vcpu, vcpu.Nested.Vmcs12, ExitTraceKind.Reflection, ExitTraceOwner.L1, 2));

    /// <summary>vmcs12 has an entry failure recorded, and L1 is about to be given it.</summary>
    public void EntryFailed(Vcpu vcpu) => Write(
        // Such an exit leaves the interruption information as it was (SDM volume 3, section 27.8).
        Recorded(vcpu, vcpu.Nested.Vmcs12, ExitTraceKind.EntryFailure, ExitTraceOwner.L1, 2) with { Interruption = 0, InterruptionError = 0 });

    /// <summary>L1's entry ends with a VM-instruction error.</summary>
    public void EntryRefused(Vcpu vcpu, VmInstructionError error) => Write(new ExitTraceRecord
    {
        Kind = ExitTraceKind.EntryFailure,
        Owner = ExitTraceOwner.L1,
        Vcpu = (byte)vcpu.Index,
        Level = 2,
        Instructions = vcpu.InstructionsRetired,
        Rip = vcpu.Nested.Vmcs12[VmcsField.GuestRip],
        Reason = ExitTraceRecord.NoReason,
        InstructionError = (uint)error,
    });

    private static byte LevelOf(Vcpu vcpu) => vcpu.IsGuestMode ? (byte)2 : (byte)1;

    private static ExitTraceRecord Recorded(Vcpu vcpu, Vmcs vmcs, ExitTraceKind kind, ExitTraceOwner owner, byte level) => new()
    {
        Kind = kind,
        Owner = owner,
        Vcpu = (byte)vcpu.Index,
        Level = level,
        Instructions = vcpu.InstructionsRetired,
        Rip = vmcs[VmcsField.GuestRip],
        Reason = vmcs.Read32(VmcsField.ExitReason),
        Qualification = vmcs[VmcsField.ExitQualification],
        Physical = vmcs[VmcsField.GuestPhysicalAddress],
        Linear = vmcs[VmcsField.GuestLinearAddress],
        Interruption = vmcs.Read32(VmcsField.VmExitInterruptionInformation),
        InterruptionError = vmcs.Read32(VmcsField.VmExitInterruptionErrorCode),
    };

    private void Write(in ExitTraceRecord record)
    {
        foreach (ExitTraceRing ring in rings)
            ring.Write(record);
    }
}
