using Vmm.Hypervisor;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Counting;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Machine;

/// <summary>VM exits of one kind.</summary>
/// <param name="Level">Who has exited: 1 for L1, 2 for L2.</param>
/// <param name="Owner">Who took the exit: 0 for L0, 1 for L1.</param>
/// <param name="Reason">The basic exit reason.</param>
/// <param name="Count">How many.</param>
public readonly record struct ExitCount(int Level, int Owner, ExitReason Reason, ulong Count);

/// <summary>
/// What a machine's vCPUs have done since they were made, added up. A machine that was restored begins anew. Read while the machine runs,
/// the values are of moments that lie a little apart.
/// </summary>
public sealed record MachineCounters
{
    /// <summary>Instructions of L1 and L2.</summary>
    public ulong Instructions { get; init; }

    /// <summary>Those of L2.</summary>
    public ulong InstructionsOfL2 { get; init; }

    /// <summary>Processor time of the host that executing took; where the host does not say, all time that passed meanwhile.</summary>
    public TimeSpan ProcessorTime { get; init; }

    /// <summary>For how long the machine could have executed, but had had what its limit gives it.</summary>
    public TimeSpan ThrottledTime { get; init; }

    /// <summary>VM exits, those kinds of which there were any.</summary>
    public IReadOnlyList<ExitCount> Exits { get; init; } = [];

    /// <summary>Entries of L1 into L2.</summary>
    public ulong NestedEntries { get; init; }

    /// <summary>Entries of L1 that ended with a VM-instruction error.</summary>
    public ulong NestedEntriesRefused { get; init; }

    /// <summary>Entries of L1 that ended with the exit of a failed entry.</summary>
    public ulong NestedEntriesFailed { get; init; }

    /// <summary>VMREADs of L1 that were answered without an exit.</summary>
    public ulong Vmreads { get; init; }

    /// <summary>VMWRITEs of L1 that were answered without an exit.</summary>
    public ulong Vmwrites { get; init; }

    /// <summary>External interrupts that VM entries have injected.</summary>
    public ulong InterruptsInjected { get; init; }

    /// <summary>NMIs that VM entries have injected.</summary>
    public ulong NmisInjected { get; init; }

    /// <summary>Exceptions and software events that VM entries have injected.</summary>
    public ulong ExceptionsInjected { get; init; }

    /// <summary>Interrupts that the processor has delivered without an exit.</summary>
    public ulong VirtualInterrupts { get; init; }

    /// <summary>Page walks, for want of a translation in the TLB.</summary>
    public ulong PageWalks { get; init; }

    /// <summary>Traces decoded, for want of one in the trace cache.</summary>
    public ulong TracesDecoded { get; init; }

    /// <summary>Timers that have expired.</summary>
    public ulong Timers { get; init; }

    /// <summary>How late they were served, added up, in nanoseconds of the machine's clock.</summary>
    public ulong TimerLateness { get; init; }

    /// <summary>Times that a vCPU's vmcs01 was brought into agreement with the APICv inhibits.</summary>
    public ulong ApicvUpdates { get; init; }

    /// <summary>Changes of the inhibits that a vCPU put off until L2 is left.</summary>
    public ulong ApicvDeferrals { get; init; }

    /// <summary>Changes that came while another one was put off.</summary>
    public ulong ApicvCoalesced { get; init; }

    /// <summary>vCPUs on which APICv is active just now.</summary>
    public int ApicvActiveVcpus { get; init; }

    /// <summary>vCPUs.</summary>
    public int Vcpus { get; init; }

    /// <summary>The APICv inhibits that are set just now.</summary>
    public ApicvInhibit Inhibits { get; init; }

    /// <summary>VM exits of a level that an owner took, whatever their reason.</summary>
    public ulong CountExits(int level, int owner)
    {
        ulong sum = 0;
        foreach (ExitCount exit in Exits)
            if (exit.Level == level && exit.Owner == owner)
                sum += exit.Count;
        return sum;
    }

    /// <summary>Adds up what only grows; what is of a moment, as the vCPUs, is that of the left side.</summary>
    public static MachineCounters operator +(MachineCounters left, MachineCounters right) => left with
    {
        Instructions = left.Instructions + right.Instructions,
        InstructionsOfL2 = left.InstructionsOfL2 + right.InstructionsOfL2,
        ProcessorTime = left.ProcessorTime + right.ProcessorTime,
        ThrottledTime = left.ThrottledTime + right.ThrottledTime,
        Exits = [.. left.Exits.Concat(right.Exits).GroupBy(exit => (exit.Level, exit.Owner, exit.Reason)).Select(kind => kind.First() with { Count = kind.Aggregate(0UL, (sum, exit) => sum + exit.Count) })],
        NestedEntries = left.NestedEntries + right.NestedEntries,
        NestedEntriesRefused = left.NestedEntriesRefused + right.NestedEntriesRefused,
        NestedEntriesFailed = left.NestedEntriesFailed + right.NestedEntriesFailed,
        Vmreads = left.Vmreads + right.Vmreads,
        Vmwrites = left.Vmwrites + right.Vmwrites,
        InterruptsInjected = left.InterruptsInjected + right.InterruptsInjected,
        NmisInjected = left.NmisInjected + right.NmisInjected,
        ExceptionsInjected = left.ExceptionsInjected + right.ExceptionsInjected,
        VirtualInterrupts = left.VirtualInterrupts + right.VirtualInterrupts,
        PageWalks = left.PageWalks + right.PageWalks,
        TracesDecoded = left.TracesDecoded + right.TracesDecoded,
        Timers = left.Timers + right.Timers,
        TimerLateness = left.TimerLateness + right.TimerLateness,
        ApicvUpdates = left.ApicvUpdates + right.ApicvUpdates,
        ApicvDeferrals = left.ApicvDeferrals + right.ApicvDeferrals,
        ApicvCoalesced = left.ApicvCoalesced + right.ApicvCoalesced,
    };

    internal static MachineCounters Of(VirtualMachine machine, ulong timers, ulong timerLateness)
    {
        IReadOnlyList<Vcpu> vcpus = machine.Vcpus;
        ulong Sum(Func<VcpuCounters, ulong> value) => vcpus.Aggregate(0UL, (sum, vcpu) => sum + value(vcpu.Counters));
        ulong SumOfProcessors(Func<ProcessorCounters, ulong> value) => vcpus.Aggregate(0UL, (sum, vcpu) => sum + value(vcpu.Cpu.Counters));
        var exits = new List<ExitCount>();
        for (int k = 0; k < VcpuCounters.Reasons; k++)
        {
            ulong ofL1 = 0, ofL2 = 0, toL1 = 0;
            foreach (Vcpu vcpu in vcpus)
            {
                ofL1 += vcpu.Counters.ExitsOfL1[k];
                ofL2 += vcpu.Counters.ExitsOfL2[k];
                toL1 += vcpu.Counters.ExitsToL1[k];
            }

            Add(1, 0, k, ofL1);
            Add(2, 0, k, ofL2);
            Add(2, 1, k, toL1);
        }
        return new MachineCounters
        {
            InstructionsOfL2 = Sum(counters => counters.InstructionsOfL2),
            Exits = exits,
            NestedEntries = Sum(counters => counters.NestedEntries),
            NestedEntriesRefused = Sum(counters => counters.NestedEntriesRefused),
            NestedEntriesFailed = Sum(counters => counters.NestedEntriesFailed),
            Vmreads = SumOfProcessors(counters => counters.Vmreads),
            Vmwrites = SumOfProcessors(counters => counters.Vmwrites),
            InterruptsInjected = Sum(counters => counters.InterruptsInjected),
            NmisInjected = Sum(counters => counters.NmisInjected),
            ExceptionsInjected = Sum(counters => counters.ExceptionsInjected),
            VirtualInterrupts = SumOfProcessors(counters => counters.VirtualInterrupts),
            PageWalks = SumOfProcessors(counters => counters.PageWalks),
            TracesDecoded = machine.Package.Code.Decoded,
            Timers = timers,
            TimerLateness = timerLateness,
            ApicvUpdates = Sum(counters => counters.ApicvUpdates),
            ApicvDeferrals = Sum(counters => counters.ApicvDeferrals),
            ApicvCoalesced = Sum(counters => counters.ApicvCoalesced),
            ApicvActiveVcpus = vcpus.Count(vcpu => vcpu.Apicv.IsActive),
            Vcpus = vcpus.Count,
            Inhibits = machine.Apicv.Reasons,
        };

        void Add(int level, int owner, int reason, ulong count)
        {
            if (count > 0)
                exits.Add(new ExitCount(level, owner, (ExitReason)reason, count));
        }
    }
}
