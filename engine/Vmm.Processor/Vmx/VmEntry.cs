using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Processor.Vmx;

/// <summary>The checks of VM entry and what becomes of a violation (SDM volume 3, sections 27.2, 27.3.1 and 27.8).</summary>
internal static class VmEntry
{
    /// <summary>Makes the checks that the VMCS's policy asks for. False where the entry ends here, with the reason to return.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Check(LogicalProcessor cpu, Vmcs vmcs, out ExitReason failure)
    {
        failure = default;
        return (vmcs.EntryChecks != EntryCheckPolicy.Full && (vmcs.EntryChecks == EntryCheckPolicy.None || !vmcs.ConfigurationChanged))
            || MakeChecks(cpu, vmcs, out failure);
    }

    /// <summary>A failure of the entry after the controls and host state were found good: nothing of the guest state is saved.</summary>
    public static ExitReason Fail(Vmcs vmcs, ExitReason reason, ulong qualification)
    {
        vmcs[VmcsField.ExitReason] = 1u << 31 | (uint)reason;
        vmcs[VmcsField.ExitQualification] = qualification;
        return reason;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool MakeChecks(LogicalProcessor cpu, Vmcs vmcs, out ExitReason failure)
    {
        ProcessorEnvironment environment = cpu.Environment;
        var subject = new EntrySubject(vmcs, environment.Vmx, environment.EntryLimits, environment.EntryMemory);
        EntryRule? failed = Violation(vmcs, subject);
        vmcs.FailedRule = failed;
        failure = default;
        if (failed is null)
            return true;
        if (failed.Group == EntryCheckGroup.GuestState)
        {
            failure = Fail(vmcs, ExitReason.InvalidGuestState, failed.Qualification);
            return false;
        }
        vmcs[VmcsField.VmInstructionError] = failed.InstructionError;
        failure = ExitReason.VmFailValid;
        return false;
    }

    private static EntryRule? Violation(Vmcs vmcs, in EntrySubject subject)
    {
        EntryRule? failed = vmcs.ConfigurationChanged
            ? EntryChecks.FirstViolation(EntryCheckGroup.Controls, subject) ?? EntryChecks.FirstViolation(EntryCheckGroup.HostState, subject)
            : EntryChecks.FirstViolationOfUnchanged(subject);
        if (failed is not null)
            return failed;
        vmcs.PassedVersion = vmcs.ConfigurationVersion;
        return vmcs.EntryChecks == EntryCheckPolicy.Full ? EntryChecks.FirstViolationOfGuest(subject) : null;
    }
}
