using Vmm.Registry.InMemory;
using Vmm.Worker.V1;

namespace Vmm.Worker.Storage;

/// <summary>
/// Keeps projects, tokens and the audit log of a <c>vmmd</c> that is all in one: a journal beside the worker's, in the state directory that
/// the worker has to itself.
/// </summary>
public sealed class AccessJournal : IAccessLog
{
    private const string FileName = "access.journal";

    private readonly Journal _journal;

    private AccessJournal(Journal journal) => _journal = journal;

    /// <summary>Opens or makes the journal, and has the registry take up what it has.</summary>
    /// <param name="directory">The state directory, which a <see cref="WorkerHost"/> of this process holds.</param>
    /// <param name="registry">The registry, whose changes last from here on.</param>
    /// <exception cref="DamagedJournalException">What was acknowledged cannot be read.</exception>
    /// <exception cref="IOException">The directory cannot be used.</exception>
    public static void Open(string directory, InMemoryRegistry registry)
    {
        ArgumentNullException.ThrowIfNull(registry);
        registry.KeepIn(new AccessJournal(Journal.Open(
            Path.Combine(directory, FileName),
            record => registry.Replay(record.Access, record.Request),
            () => Snapshot(registry))));
    }

    /// <inheritdoc/>
    public Task AppendAsync(IReadOnlyList<AccessRecord> records, CompletedRequest? request, Action applied)
    {
        ArgumentNullException.ThrowIfNull(applied);
        return _journal.AppendAsync(new JournalRecord { Access = { records }, Request = request }, applied);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _journal.DisposeAsync();

    private static IEnumerable<JournalRecord> Snapshot(InMemoryRegistry registry)
    {
        (IReadOnlyList<AccessRecord> records, IReadOnlyList<CompletedRequest> requests) = registry.Kept();
        return [.. records.Select(record => new JournalRecord { Access = { record } }), .. requests.Select(request => new JournalRecord { Request = request })];
    }
}
