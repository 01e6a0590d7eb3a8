using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.SavedState;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Apicv;

/// <summary>
/// The inhibits of one virtual machine. A change of the set asks every vCPU to refresh its vmcs01 before its next VM entry. On the
/// thread that runs the machine.
/// </summary>
public sealed class ApicvInhibits
{
    /// <summary>The reasons that are fixed when a machine is created.</summary>
    public const ApicvInhibit FixedReasons = ApicvInhibit.Absent | ApicvInhibit.Disable;
    private const ApicvInhibit RequestedReasons = ApicvInhibit.BlockIrq | ApicvInhibit.HyperV;
    private const ApicvInhibit DerivedReasons = ApicvInhibit.ApicIdModified | ApicvInhibit.PhysicalIdAliased
        | ApicvInhibit.LogicalIdAliased | ApicvInhibit.ApicBaseModified;

    private readonly VirtualMachine _machine;

    internal ApicvInhibits(VirtualMachine machine, ApicvOptions options)
    {
        if ((options.Fixed & ~FixedReasons) != 0)
            throw new ArgumentException($"Only {FixedReasons} can be fixed at creation, not {options.Fixed}.", nameof(options));
        _machine = machine;
        Policy = options.Policy;
        Reasons = options.Fixed;
        machine.ApicBus.IdentityChanged = Derive;
    }

    /// <summary>What is told to observers, on the thread that runs the machine.</summary>
    public event Action<ApicvEvent>? Changed;

    /// <summary>What is done with changes while L2 is active.</summary>
    public ApicvPolicy Policy { get; }

    /// <summary>The set.</summary>
    public ApicvInhibit Reasons { get; private set; }

    /// <summary>How often the set has changed.</summary>
    public ulong Generation { get; private set; }

    /// <summary>Whether nothing inhibits APICv.</summary>
    public bool AllowsApicv => Reasons == ApicvInhibit.None;

    /// <summary>Whether a reason may be set and cleared from outside at any time: not what is fixed at creation, nor what follows from the guest.</summary>
    public static bool IsChangeable(ApicvInhibit reason) => reason != 0 && (reason & ~RequestedReasons) == 0;

    /// <summary>Adds reasons to the set. Those that are in it already change nothing.</summary>
    /// <exception cref="InvalidOperationException">The reason is not a <see cref="IsChangeable">changeable</see> one.</exception>
    public void Set(ApicvInhibit reason)
    {
        Demand(reason);
        Change(Reasons | reason);
    }

    /// <summary>Takes reasons out of the set. Those that are not in it change nothing.</summary>
    /// <exception cref="InvalidOperationException">The reason is not a <see cref="IsChangeable">changeable</see> one.</exception>
    public void Clear(ApicvInhibit reason)
    {
        Demand(reason);
        Change(Reasons & ~reason);
    }

    /// <summary>Takes a saved set; asks nothing of the vCPUs, and tells nobody.</summary>
    /// <exception cref="InvalidStateException">The set has unknown reasons, or other fixed ones than this machine.</exception>
    internal void Load(ApicvInhibit reasons, ulong generation)
    {
        InvalidStateException.ThrowUnless((reasons & ~(FixedReasons | RequestedReasons | DerivedReasons)) == 0, "VirtualMachine.ApicvInhibits", "one is unknown.");
        InvalidStateException.ThrowUnless(((reasons ^ Reasons) & FixedReasons) == 0, "VirtualMachine.ApicvInhibits", "those that are fixed at creation differ.");
        Reasons = reasons;
        Generation = generation;
    }

    internal void Report(ApicvEventKind kind, Vcpu vcpu, bool active, ExitReason? endedBy = null) =>
        Changed?.Invoke(new ApicvEvent(kind, vcpu.Index, ApicvInhibit.None, Reasons, Generation, active, vcpu.InstructionsRetired) { EndedBy = endedBy });

    private static void Demand(ApicvInhibit reason)
    {
        if (!IsChangeable(reason))
            throw new InvalidOperationException($"APICv inhibit {reason} cannot be changed: it is fixed at creation or follows from the guest.");
    }

    // What the guest has made of its local APICs.
    private void Derive() => Change((Reasons & ~DerivedReasons) | ApicIdentities.Judge(_machine.ApicBus.Apics));

    private void Change(ApicvInhibit reasons)
    {
        ApicvInhibit before = Reasons;
        if (reasons == before)
            return;
        Reasons = reasons;
        Generation++;
        foreach (Vcpu vcpu in _machine.Vcpus)
            vcpu.Request(VcpuRequest.ApicvUpdate);
        if (Changed is not { } observers)
            return;
        ulong instructions = 0;
        foreach (Vcpu vcpu in _machine.Vcpus)
            instructions += vcpu.InstructionsRetired;
        Report(ApicvEventKind.InhibitSet, reasons & ~before);
        Report(ApicvEventKind.InhibitCleared, before & ~reasons);

        void Report(ApicvEventKind kind, ApicvInhibit changed)
        {
            if (changed != 0)
                observers(new ApicvEvent(kind, -1, changed, reasons, Generation, AllowsApicv, instructions));
        }
    }
}
