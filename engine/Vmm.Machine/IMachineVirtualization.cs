using Vmm.Hypervisor.Apicv;

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
}
