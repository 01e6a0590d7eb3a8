using Vmm.Machine.Boot;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Migration;

/// <summary>Memory that fills, and what then becomes a machine with it.</summary>
internal sealed class MachineReceiver : IMachineReceiver
{
    private readonly MachineSpec _spec;
    private readonly Func<ISavedMachine, IMachine> _build;
    private readonly ulong[] _touched;
    private PhysicalMemory? _memory;

    /// <summary>Reserves the memory.</summary>
    /// <param name="spec">Validated.</param>
    /// <param name="build">Makes the machine; takes the memory on before anything can fail.</param>
    /// <exception cref="IOException">The host has no room for it.</exception>
    public MachineReceiver(MachineSpec spec, Func<ISavedMachine, IMachine> build)
    {
        _spec = spec;
        _build = build;
        _memory = new PhysicalMemory(spec.MemoryBytes);
        _touched = new ulong[(_memory.PageCount + 63) / 64];
    }

    /// <inheritdoc/>
    public int PageCount => checked((int)(_spec.MemoryBytes / PhysicalMemory.PageSize));

    /// <inheritdoc/>
    public void LoadPages(IReadOnlyList<PageRun> runs, ReadOnlySpan<byte> data)
    {
        ArgumentNullException.ThrowIfNull(runs);
        PhysicalMemory memory = Memory();
        long bytes = 0;
        foreach (PageRun run in runs)
        {
            if (run.First < 0 || run.Count < 1 || run.Count > PageCount - run.First)
                throw new InvalidSnapshotException($"Pages {run.First} and {run.Count - 1L} more are not all pages of the machine, which has {PageCount}.");
            bytes += run.IsZero ? 0 : (long)run.Count * PhysicalMemory.PageSize;
        }
        if (bytes != data.Length)
            throw new InvalidSnapshotException($"There are {data.Length} bytes for pages of {bytes}.");
        foreach (PageRun run in runs)
        {
            if (run.IsZero)
            {
                Clear(memory, run);
                continue;
            }
            int length = run.Count * PhysicalMemory.PageSize;
            memory.LoadPages(run.First, data[..length]);
            data = data[length..];
            for (int page = run.First; page < run.First + run.Count; page++)
                _touched[page / 64] |= 1UL << (page % 64);
        }
    }

    /// <inheritdoc/>
    public void Check(SavedMachine saved)
    {
        ArgumentNullException.ThrowIfNull(saved);
        (SnapshotManifest manifest, _) = SnapshotDocuments.Read(saved.Manifest.Span, () => saved.State.ToArray());
        SnapshotFacts.Check(manifest, _spec, BootLoader.Read(_spec));
    }

    /// <inheritdoc/>
    public IMachine Complete(SavedMachine saved)
    {
        ArgumentNullException.ThrowIfNull(saved);
        _ = Memory();
        (SnapshotManifest manifest, MachineState state) = SnapshotDocuments.Read(saved.Manifest.Span, () => saved.State.ToArray());
        return _build(new Received(this, manifest, state));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _memory?.Dispose();
        _memory = null;
    }

    // A page that nothing came for is zero, and stays the host's as long as nobody looks at it.
    private void Clear(PhysicalMemory memory, PageRun run)
    {
        for (int page = run.First; page < run.First + run.Count; page++)
        {
            if ((_touched[page / 64] >> (page % 64) & 1) == 0)
                continue;
            memory.ClearPages(page, 1);
            _touched[page / 64] &= ~(1UL << (page % 64));
        }
    }

    private PhysicalMemory Memory() => _memory ?? throw new InvalidOperationException("The machine was made already, or will not be.");

    private sealed class Received(MachineReceiver receiver, SnapshotManifest manifest, MachineState state) : ISavedMachine
    {
        public SnapshotManifest Manifest => manifest;

        public MachineState State => state;

        public PhysicalMemory TakeMemory()
        {
            PhysicalMemory memory = receiver.Memory();
            receiver._memory = null;
            return memory;
        }
    }
}
