using Vmm.Hypervisor.Nested;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Model;

/// <summary>
/// The processor model that a guest sees: x86-64-v2 and what a current kernel wants besides, executed in order and without
/// speculation. Immutable, and shared by the vCPUs of one machine.
/// </summary>
/// <param name="processors">How many vCPUs the machine may come to have: cores of one package.</param>
public sealed class ProcessorModel(int processors)
{
    /// <summary>
    /// The time-stamp counter's frequency, which is also the core crystal clock's and so the local APIC timers', in hertz: one
    /// count is one nanosecond of the machine's clock.
    /// </summary>
    public const uint TscFrequency = 1_000_000_000;

    /// <summary>The name in CPUID leaves 80000002H to 80000004H, at most 47 characters.</summary>
    public const string Name = "Vmm virtual processor";

    /// <summary>The most vCPUs: what the topology has room for.</summary>
    public int Processors { get; } = processors;

    /// <summary>
    /// Family, model and stepping as CPUID leaf 1 gives them: an Intel core that executes in order (06_36H), which is what this
    /// one does, so that kernels leave out their defences against speculation.
    /// </summary>
    public uint Signature => 0x0003_0661;

    /// <summary>The microcode revision in IA32_BIOS_SIGN_ID.</summary>
    public uint MicrocodeRevision => 0x10D;

    /// <summary>What the instruction set and the control registers offer.</summary>
    public ProcessorFeatures Features { get; } = new() { VmcsRevision = Vmcs12Layout.Revision };

    /// <summary>Whether the guest has VMX.</summary>
    public bool Vmx { get; init; } = true;

    /// <summary>
    /// Whether the guest is offered the enlightened VMCS of Hyper-V, and the interface around it. What that VMCS has no fields for it is
    /// not offered then.
    /// </summary>
    public bool EnlightenedVmcs { get; init; }

    /// <summary>The VMX capability MSRs that a guest sees where some of them have values of its own; see <see cref="VmxCapabilities.Restrict"/>.</summary>
    /// <param name="values">MSR numbers and values.</param>
    /// <param name="refusal">Why that cannot be; null on success.</param>
    public VmxCapabilities? RestrictVmx(IReadOnlyDictionary<uint, ulong> values, out string? refusal)
    {
        VmxCapabilities? offered = VmxCapabilities.Hardware(Features.Cr4Allowed).WithRevision(Features.VmcsRevision).Restrict(values, out refusal);
        return offered == null || !EnlightenedVmcs ? offered : EnlightenedVmcsLayout.Restrict(offered);
    }

    /// <summary>MAXPHYADDR.</summary>
    public int PhysicalAddressBits => Features.PhysicalAddressBits;
}
