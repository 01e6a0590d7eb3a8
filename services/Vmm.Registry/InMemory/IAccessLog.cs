using Vmm.Worker.V1;

namespace Vmm.Registry.InMemory;

/// <summary>Makes what an <see cref="InMemoryRegistry"/> knows of projects, tokens and the audit log last. Thread-safe.</summary>
public interface IAccessLog : IAsyncDisposable
{
    /// <summary>Makes changes last, all or none.</summary>
    /// <param name="records">What changes.</param>
    /// <param name="request">The request that asked for it, where it may be repeated.</param>
    /// <param name="applied">Runs once they last, and before any later ones do.</param>
    /// <exception cref="IOException">They may or may not last; nothing more is taken.</exception>
    Task AppendAsync(IReadOnlyList<AccessRecord> records, CompletedRequest? request, Action applied);
}
