using Vmm.Machine.Migration;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;

namespace Vmm.Machine;

/// <content>The way to another process.</content>
public sealed partial class Machine
{
    // What is copied, and what is looked at for zeros, while the guest stands.
    private const int MostPagesCopied = 256;
    private const int MostPagesSeen = 1024;

    /// <inheritdoc/>
    public void StartDirtyLog() => Invoke(() =>
    {
        RefuseInLockstep();
        _vm.Package.StartDirtyLog();
        foreach (LoggedDisk disk in _disks.OfType<LoggedDisk>())
            disk.StartLog();
        return 0;
    });

    /// <inheritdoc/>
    public void StopDirtyLog() => Invoke(() =>
    {
        RefuseInLockstep();
        _vm.Package.StopDirtyLog();
        foreach (LoggedDisk disk in _disks.OfType<LoggedDisk>())
            disk.StopLog();
        return 0;
    });

    /// <inheritdoc/>
    public ulong[] TakeDirtyPages() => Invoke(() =>
    {
        RefuseInLockstep();
        return _vm.Package.TakeDirtyPages();
    });

    /// <inheritdoc/>
    public ulong[] TakeDirtyBlocks(int disk) => Invoke(() => (_disks[disk] as LoggedDisk)?.TakeLog() ?? []);

    /// <inheritdoc/>
    public PageBatch CopyPages(ulong[] pages, int from)
    {
        ArgumentNullException.ThrowIfNull(pages);
        ArgumentOutOfRangeException.ThrowIfNegative(from);
        return Invoke(() =>
        {
            var runs = new List<PageRun>();
            byte[] data = new byte[MostPagesCopied * PhysicalMemory.PageSize];
            int copied = 0, seen = 0, at = from;
            while (copied < MostPagesCopied && seen < MostPagesSeen)
            {
                at = DirtySet.Next(pages, at);
                if (at < 0 || at >= _memory.PageCount)
                {
                    at = _memory.PageCount;
                    break;
                }
                int wanted = DirtySet.RunLength(pages, at, Math.Min(MostPagesCopied - copied, _memory.PageCount - at));
                int count = _memory.CopyPages(at, wanted, data.AsSpan(copied * PhysicalMemory.PageSize), out bool isZero);
                if (runs is [.., var last] && last.IsZero && isZero && last.First + last.Count == at)
                    runs[^1] = last with { Count = last.Count + count };
                else
                    runs.Add(new(at, count, isZero));
                copied += isZero ? 0 : count;
                seen += count;
                at += count;
            }
            return new PageBatch(runs, data.AsMemory(0, copied * PhysicalMemory.PageSize), at);
        });
    }

    /// <inheritdoc/>
    public SavedMachine SaveState()
    {
        if (_runner.IsCurrentThread)
            throw new InvalidOperationException("A machine is not saved from one of its own callbacks.");
        MachineState state = Invoke(() => WhileHeld(Capture));
        SnapshotManifest manifest = Describe(state);
        return SnapshotDocuments.Write(ref manifest, state);
    }
}
