using Vmm.V1;

namespace Vmm.Registry;

/// <summary>How many there are of what in a fleet.</summary>
/// <param name="Vms">VMs of all projects by their state as reported last; UNSPECIFIED where the registry does not know it by itself.</param>
/// <param name="UnplacedVms">Those of them that wait for a worker.</param>
/// <param name="Workers">Workers, by their state; states that none is in are left out.</param>
public sealed record FleetCensus(IReadOnlyDictionary<VmState, long> Vms, long UnplacedVms, IReadOnlyDictionary<WorkerState, WorkerCensus> Workers);

/// <summary>The workers of one state.</summary>
/// <param name="Count">How many.</param>
/// <param name="ShortestLease">How long the one whose lease ends first may run VMs unless it renews, by the registry's clock; null where no lease ends.</param>
/// <param name="Vms">VMs: what is reserved of what they offer.</param>
/// <param name="Vcpus">vCPUs, likewise.</param>
/// <param name="MemoryMib">Guest memory in MiB, likewise.</param>
public sealed record WorkerCensus(long Count, TimeSpan? ShortestLease, Usage Vms, Usage Vcpus, Usage MemoryMib);

/// <summary>An amount and how much of it is taken.</summary>
/// <param name="Reserved">What is taken.</param>
/// <param name="Capacity">All of it.</param>
public readonly record struct Usage(double Reserved, double Capacity);

/// <summary>What a look after lost workers has come to.</summary>
/// <param name="Targets">The workers that were given VMs.</param>
/// <param name="PlacedVms">VMs that were placed again.</param>
/// <param name="LostWorkers">Workers whose lease was found to have ended.</param>
public sealed record FailoverOutcome(IReadOnlyList<WorkerAddress> Targets, int PlacedVms, int LostWorkers);
