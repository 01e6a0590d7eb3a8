using Vmm.V1;

namespace Vmm.Cli.Output;

/// <summary>How often what happened in a trace.</summary>
internal sealed class ExitSummary
{
    private readonly Dictionary<Key, long> _counts = [];
    private ulong _lost;

    /// <summary>What is counted together.</summary>
    /// <param name="Level">Who ran: 1 or 2.</param>
    /// <param name="Kind">What happened.</param>
    /// <param name="Owner">Who took or made it.</param>
    /// <param name="Reason">The exit reason's name; of an entry what it injected, empty for nothing.</param>
    public readonly record struct Key(int Level, ExitTraceKind Kind, ExitOwner Owner, string Reason);

    /// <summary>Counts a record.</summary>
    public void Add(TracedExit record)
    {
        _lost += record.LostBefore;
        string reason = record.HasReason ? record.ReasonName
            : record.VmInstructionError != 0 ? $"VM-instruction error {record.VmInstructionError}"
            : record.Decode.Length > 0 ? $"injects {record.Decode}" : "";
        var key = new Key(record.Level, record.Kind, record.Owner, reason);
        _counts[key] = _counts.GetValueOrDefault(key) + 1;
    }

    /// <summary>Counts records that did not come.</summary>
    public void Lose(ulong records) => _lost += records;

    /// <summary>Prints it, the most frequent first.</summary>
    public void Print(Printer printer) => printer.ExitSummary(
        [.. _counts.OrderByDescending(entry => entry.Value).ThenBy(entry => $"{entry.Key}", StringComparer.Ordinal).Select(entry => (entry.Key, entry.Value))], _lost);
}
