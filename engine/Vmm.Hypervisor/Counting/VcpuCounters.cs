using Vmm.Processor.Events;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Counting;

/// <summary>
/// What has happened between one vCPU and its hypervisors since it was made. Plain fields that the thread of the machine adds to; another
/// thread may read them, each as it was a moment ago. They belong to nothing that is saved.
/// </summary>
public sealed class VcpuCounters
{
    /// <summary>Basic exit reasons that are told apart; a power of two.</summary>
    public const int Reasons = 128;

    private readonly ulong[] _ofL1 = new ulong[Reasons];
    private readonly ulong[] _ofL2 = new ulong[Reasons];
    private readonly ulong[] _reflected = new ulong[Reasons];

    /// <summary>Exits of L1, which are L0's, by basic reason.</summary>
    public ReadOnlySpan<ulong> ExitsOfL1 => _ofL1;

    /// <summary>Exits of L2 that L0 has kept to itself, by basic reason.</summary>
    public ReadOnlySpan<ulong> ExitsOfL2 => _ofL2;

    /// <summary>Exits of L2 that L1 was given, the hardware's and those that L0 has found, by basic reason.</summary>
    public ReadOnlySpan<ulong> ExitsToL1 => _reflected;

    /// <summary>Instructions that L2 has executed on the processor.</summary>
    public ulong InstructionsOfL2;

    /// <summary>Entries of L1 into L2.</summary>
    public ulong NestedEntries;

    /// <summary>Entries of L1 that ended with a VM-instruction error.</summary>
    public ulong NestedEntriesRefused;

    /// <summary>Entries of L1 that ended with the exit of a failed entry.</summary>
    public ulong NestedEntriesFailed;

    /// <summary>External interrupts that entries have injected, into L1 or L2.</summary>
    public ulong InterruptsInjected;

    /// <summary>NMIs that entries have injected.</summary>
    public ulong NmisInjected;

    /// <summary>Exceptions and software events that entries have injected.</summary>
    public ulong ExceptionsInjected;

    /// <summary>Times that vmcs01 was brought into agreement with the APICv inhibits.</summary>
    public ulong ApicvUpdates;

    /// <summary>Changes of the inhibits that waited for L2 to be left, each first one.</summary>
    public ulong ApicvDeferrals;

    /// <summary>Changes that came while another one waited, and became one with it.</summary>
    public ulong ApicvCoalesced;

    /// <summary>Counts an exit that L0 handles.</summary>
    internal void CountExit(ExitReason reason, bool guestMode) => (guestMode ? _ofL2 : _ofL1)[(int)reason & (Reasons - 1)]++;

    /// <summary>Counts an exit that L1 is given.</summary>
    internal void CountReflection(uint reason) => _reflected[reason & (Reasons - 1)]++;

    /// <summary>Counts the event of an entry.</summary>
    /// <param name="information">The VM-entry interruption information, valid.</param>
    internal void CountInjection(uint information)
    {
        switch ((EventType)(information >> 8 & 7))
        {
            case EventType.ExternalInterrupt:
                InterruptsInjected++;
                break;
            case EventType.Nmi:
                NmisInjected++;
                break;
            default:
                ExceptionsInjected++;
                break;
        }
    }
}
