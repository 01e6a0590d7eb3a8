using System.Text.Json;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine;
using Vmm.Machine.Migration;
using Vmm.Machine.Snapshots;

namespace Vmm.Services.Tests;

/// <content>Its way to another process.</content>
internal sealed partial class FakeMachine
{
    private const int PageBytes = 4096;

    private bool _logged;
    private ulong[] _dirty = [];

    /// <summary>Blocks of disks that the guest has written since they were last asked for.</summary>
    public Dictionary<int, HashSet<int>> WrittenBlocks { get; } = [];

    /// <summary>The pages that the guest writes between one round of a copy and the next.</summary>
    public int PagesWrittenPerRound { get; set; }

    public void StartDirtyLog()
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        (_logged, _dirty) = (true, new ulong[DirtySet.All(Pages).Length]);
    }

    public void StopDirtyLog() => _logged = false;

    public ulong[] TakeDirtyPages()
    {
        if (!_logged)
            throw new InvalidOperationException("no log is kept");
        ulong[] taken = _dirty;
        for (int i = 0; RunState == MachineRunState.Running && i < PagesWrittenPerRound; i++)
            taken[i / 64] |= 1UL << (i % 64);
        _dirty = new ulong[taken.Length];
        return taken;
    }

    public ulong[] TakeDirtyBlocks(int disk)
    {
        if (Spec.Disks[disk].ReadOnly)
            return [];
        var taken = new ulong[1024];
        foreach (int block in WrittenBlocks.GetValueOrDefault(disk, []))
            taken[block / 64] |= 1UL << (block % 64);
        WrittenBlocks.Clear();
        return taken;
    }

    public PageBatch CopyPages(ulong[] pages, int from)
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        var runs = new List<PageRun>();
        var data = new List<byte>();
        int at = from;
        while (runs.Count < 512 && (at = DirtySet.Next(pages, at)) >= 0)
        {
            bool isZero = at >= _memory.Length / PageBytes;
            int count = isZero ? DirtySet.RunLength(pages, at, Pages - at) : 1;
            runs.Add(new PageRun(at, count, isZero));
            if (!isZero)
                data.AddRange(_memory.AsSpan(at * PageBytes, PageBytes));
            at += count;
        }

        return new PageBatch(runs, data.ToArray(), at < 0 ? Pages : at);
    }

    public SavedMachine SaveState()
    {
        ObjectDisposedException.ThrowIf(Disposed, this);
        if (_state is not ((int)MachineRunState.Running or (int)MachineRunState.Paused))
            throw new InvalidOperationException("the machine does not run");
        SaveFailure?.Invoke();
        lock (_lock)
            return new SavedMachine("{}"u8.ToArray(), JsonSerializer.SerializeToUtf8Bytes(new Saved(Input, InstructionsRetired, _inhibits, _generation, [.. _applied], [.. _guestMode])));
    }

    /// <summary>Goes on as another one.</summary>
    public void Load(byte[] memory, SavedMachine saved)
    {
        Saved state = JsonSerializer.Deserialize<Saved>(saved.State.Span) ?? throw new InvalidSnapshotException("It is null.");
        memory.CopyTo(_memory, 0);
        lock (_lock)
        {
            _input.AddRange(System.Text.Encoding.Latin1.GetBytes(state.Input));
            (InstructionsRetired, _inhibits, _generation) = (state.Instructions, state.Inhibits, state.Generation);
            state.Applied.CopyTo(_applied, 0);
            state.GuestMode.CopyTo(_guestMode, 0);
        }
    }

    private int Pages => (int)(Spec.MemoryBytes / PageBytes);

    private void NoteWritten(ulong address, int length)
    {
        if (!_logged)
            return;
        for (ulong page = address / PageBytes; page <= (address + (ulong)length - 1) / PageBytes; page++)
            _dirty[page / 64] |= 1UL << (int)(page % 64);
    }

    private sealed record Saved(string Input, ulong Instructions, ApicvInhibit Inhibits, ulong Generation, ulong[] Applied, bool[] GuestMode);
}

/// <summary>What becomes a fake machine.</summary>
internal sealed class FakeReceiver(MachineSpec spec, FakeFactory factory) : IMachineReceiver
{
    private readonly byte[] _memory = new byte[64 << 10];

    public int PageCount => (int)(spec.MemoryBytes / 4096);

    public void LoadPages(IReadOnlyList<PageRun> runs, ReadOnlySpan<byte> data)
    {
        foreach (PageRun run in runs)
        {
            if (run.First < 0 || run.Count < 1 || run.Count > PageCount - run.First || (!run.IsZero && data.Length < run.Count * 4096))
                throw new InvalidSnapshotException("There are no such pages.");
            if (run.IsZero)
                continue;
            data[..(run.Count * 4096)].CopyTo(_memory.AsSpan(run.First * 4096));
            data = data[(run.Count * 4096)..];
        }

        if (!data.IsEmpty)
            throw new InvalidSnapshotException("There are too many bytes.");
    }

    public void Check(SavedMachine saved)
    {
        if (!saved.Manifest.Span.SequenceEqual("{}"u8))
            throw new InvalidSnapshotException("That is no manifest.");
    }

    public IMachine Complete(SavedMachine saved)
    {
        Check(saved);
        var machine = new FakeMachine(spec) { PowersOffOnButton = factory.PowersOffOnButton };
        machine.Load(_memory, saved);
        machine.Pause();
        factory.Add(machine);
        return machine;
    }

    public void Dispose()
    {
    }
}
