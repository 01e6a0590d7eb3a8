using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Tracing;

namespace Vmm.Machine;

/// <summary>How far a vCPU is with the inhibits of its machine.</summary>
public enum ApicvUpdateState
{
    /// <summary>Its vmcs01 agrees with them.</summary>
    Applied,

    /// <summary>Its vmcs01 is refreshed before its next VM entry.</summary>
    Pending,

    /// <summary>L2 is active on it: its vmcs01 is refreshed on nested VM exit.</summary>
    Deferred,
}

/// <summary>A field of a VMCS.</summary>
/// <param name="Name">Its name in the manual.</param>
/// <param name="Encoding">Its encoding, as VMREAD takes it.</param>
/// <param name="Bits">Its width: 16, 32 or 64.</param>
/// <param name="Value">What it holds.</param>
/// <param name="Decode">The manual's names of the bits that are set, where it is a set of bits; without reserved ones.</param>
public sealed record VmcsFieldView(string Name, uint Encoding, int Bits, ulong Value, IReadOnlyList<string> Decode);

/// <summary>APICv on one vCPU.</summary>
/// <param name="Vcpu">The vCPU.</param>
/// <param name="IsActive">Whether the processor virtualizes L1's local APIC there, by vmcs01 as it is.</param>
/// <param name="Update">How far it is with the inhibits.</param>
/// <param name="AppliedGeneration">The generation of the inhibits that it applied last.</param>
/// <param name="IsGuestMode">Whether L2 is active.</param>
/// <param name="ApicMode">"disabled", "xapic" or "x2apic".</param>
/// <param name="Controls">Those fields of vmcs01 that APICv is about.</param>
public sealed record VcpuApicvView(
    int Vcpu, bool IsActive, ApicvUpdateState Update, ulong AppliedGeneration, bool IsGuestMode, string ApicMode, IReadOnlyList<VmcsFieldView> Controls);

/// <summary>APICv of a machine between two instructions.</summary>
/// <param name="Reasons">The inhibits.</param>
/// <param name="Policy">What is done with changes while L2 is active.</param>
/// <param name="Generation">How often the inhibits have changed.</param>
/// <param name="Vcpus">Each vCPU.</param>
public sealed record ApicvView(ApicvInhibit Reasons, ApicvPolicy Policy, ulong Generation, IReadOnlyList<VcpuApicvView> Vcpus);

/// <summary>A VMCS of a vCPU.</summary>
public enum VmcsOfVcpu
{
    /// <summary>Runs L1.</summary>
    Vmcs01,

    /// <summary>Runs L2.</summary>
    Vmcs02,

    /// <summary>L1's current VMCS, as L0 has it cached.</summary>
    Vmcs12,
}

/// <summary>A VM exit, as a VMCS has it recorded.</summary>
/// <param name="Reason">The exit-reason field.</param>
/// <param name="Name">The reason's name in the manual.</param>
/// <param name="Qualification">The exit qualification.</param>
/// <param name="Decode">What qualification and interruption information say, in words; may be empty.</param>
/// <param name="GuestLinear">The guest-linear address.</param>
/// <param name="GuestPhysical">The guest-physical address.</param>
/// <param name="InterruptionInformation">The VM-exit interruption information.</param>
/// <param name="InterruptionErrorCode">Its error code.</param>
/// <param name="IdtVectoringInformation">What was being delivered.</param>
/// <param name="InstructionLength">The length of the instruction that exited.</param>
public sealed record ExitView(
    uint Reason, string Name, ulong Qualification, string Decode, ulong GuestLinear, ulong GuestPhysical, uint InterruptionInformation,
    uint InterruptionErrorCode, uint IdtVectoringInformation, uint InstructionLength);

/// <summary>L1's VMX operation on one vCPU.</summary>
/// <param name="Vcpu">The vCPU.</param>
/// <param name="Level">Who runs: 1 for L1, 2 for L2.</param>
/// <param name="IsOn">Whether L1 is in VMX operation.</param>
/// <param name="VmxonPointer">The VMXON region, or null outside VMX operation.</param>
/// <param name="CurrentPointer">The current VMCS, or null for none.</param>
/// <param name="IsLaunched">Whether the current VMCS is launched.</param>
/// <param name="IsShadow">Whether the current VMCS is a shadow VMCS.</param>
/// <param name="IsRunPending">Whether L1 has entered L2 and the hardware has not yet.</param>
/// <param name="LastExit">The exit that vmcs12 has recorded: the last one that L1 was given from this VMCS. Null without a current VMCS.</param>
/// <param name="LastHardwareExit">The exit that the VMCS has recorded on which the vCPU runs.</param>
/// <param name="InstructionsRetired">Instructions that the vCPU has retired.</param>
public sealed record VcpuNestedView(
    int Vcpu, int Level, bool IsOn, ulong? VmxonPointer, ulong? CurrentPointer, bool IsLaunched, bool IsShadow, bool IsRunPending,
    ExitView? LastExit, ExitView LastHardwareExit, ulong InstructionsRetired);

/// <summary>A trace that is under way. For one reader, on any thread.</summary>
public interface IExitTrace : IDisposable
{
    /// <summary>Takes the oldest records out, as many as there are and find room. Never waits.</summary>
    int Read(Span<ExitTraceRecord> destination);

    /// <summary>Records that were lost behind the last one. To be read when the machine has ended or is held.</summary>
    ulong LostAtEnd { get; }
}

/// <summary>What may be asked of a machine about its L0. As with <see cref="IMachine"/>, from any thread.</summary>
public interface IMachineVirtualization
{
    /// <summary>What happens to APICv. Called on the machine's thread: must not block and must not throw. Subscribe before <see cref="IMachine.Start"/>.</summary>
    event Action<ApicvEvent>? ApicvChanged;

    /// <summary>
    /// Adds a reason to the inhibits, and has every vCPU apply that at once, or put it off where L2 is active and the policy says so.
    /// An input as any other: under the virtual clock it is in the event log.
    /// </summary>
    /// <param name="reason">One or more <see cref="ApicvInhibits.IsChangeable">changeable</see> reasons.</param>
    /// <returns>APICv afterwards.</returns>
    /// <exception cref="ArgumentException">The reason is fixed at creation or follows from the guest.</exception>
    ApicvView SetApicvInhibit(ApicvInhibit reason);

    /// <summary>Takes a reason out of the inhibits; otherwise as <see cref="SetApicvInhibit"/>.</summary>
    /// <exception cref="ArgumentException">The reason is fixed at creation or follows from the guest.</exception>
    ApicvView ClearApicvInhibit(ApicvInhibit reason);

    /// <summary>APICv as it is.</summary>
    ApicvView GetApicv();

    /// <summary>
    /// Begins to trace VM exits, entries and reflections. Several may trace at once, each with a filter of its own; none slows the guest
    /// by more than the writing of its records.
    /// </summary>
    /// <param name="filter">What is of interest.</param>
    /// <param name="capacity">How many records wait for a reader who is slow; those beyond are lost, which the trace tells.</param>
    /// <param name="available">
    /// Called on the machine's thread, after a slice in which there were records: must not block and must not throw.
    /// </param>
    /// <returns>The trace, which ends when it is disposed of.</returns>
    IExitTrace TraceExits(ExitTraceFilter filter, int capacity, Action available);

    /// <summary>L1's VMX operation on a vCPU.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    VcpuNestedView GetNested(int vcpu);

    /// <summary>L1's VMX operation on a vCPU in the binary form of Linux: see <see cref="NestedStateImage"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    byte[] GetNestedState(int vcpu);

    /// <summary>
    /// Puts such a state into a vCPU of a machine that is held. An input as any other: under the virtual clock it is in the event log.
    /// </summary>
    /// <param name="vcpu">The vCPU.</param>
    /// <param name="state">The state.</param>
    /// <returns>Why it was refused, in a sentence, with nothing changed; null for success.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    /// <exception cref="InvalidOperationException">The machine is not held.</exception>
    string? SetNestedState(int vcpu, ReadOnlyMemory<byte> state);

    /// <summary>
    /// Every field of a VMCS that exists by the capability MSRs, the hardware's or, of vmcs12, those that L1 sees; in the order of
    /// their encodings' groups. Null where L1 has no current VMCS, and another than vmcs01 is asked for.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    IReadOnlyList<VmcsFieldView>? ReadVmcs(int vcpu, VmcsOfVcpu which);
}
