using Vmm.Machine.Snapshots;

namespace Vmm.Machine.Migration;

/// <summary>Pages of RAM that follow each other, counted as in <see cref="IMachineSource.TakeDirtyPages"/>.</summary>
/// <param name="First">The first.</param>
/// <param name="Count">How many.</param>
/// <param name="IsZero">Whether they are all of zeros: their bytes are left out.</param>
public readonly record struct PageRun(int First, int Count, bool IsZero);

/// <summary>Pages of RAM on their way to another process.</summary>
/// <param name="Runs">Which, in ascending order.</param>
/// <param name="Data">The bytes of those that are not zero, one after the other.</param>
/// <param name="Next">The page to go on with; as many as there are where none is left.</param>
public sealed record PageBatch(IReadOnlyList<PageRun> Runs, ReadOnlyMemory<byte> Data, int Next);

/// <summary>The source's side of a move to another process. As with every member of a machine, from any thread.</summary>
public interface IMachineSource
{
    /// <summary>
    /// Begins to log which pages of guest memory are written, by guests, devices, processors and hypervisors, and which blocks of disks:
    /// for a copy that is to keep up with them while the guest runs. Begins anew where it had begun.
    /// </summary>
    /// <exception cref="InvalidOperationException">The machine is in lockstep, and needs the log itself.</exception>
    void StartDirtyLog();

    /// <summary>Ends what <see cref="StartDirtyLog"/> began. No effect where it has not begun.</summary>
    /// <exception cref="InvalidOperationException">The machine is in lockstep, and needs the log itself.</exception>
    void StopDirtyLog();

    /// <summary>
    /// Takes the pages that were written since the log began or was last taken, at an instruction boundary. What is written afterwards is
    /// in the next answer.
    /// </summary>
    /// <returns>
    /// A bitmap: bit n % 64 of word n / 64 is page n of 4096 bytes of RAM, counted without the hole below 4 GiB: from
    /// 0xC0000000 of RAM on, pages are at 4 GiB and above.
    /// </returns>
    /// <exception cref="InvalidOperationException">No log is kept, or the machine is in lockstep and needs it itself.</exception>
    ulong[] TakeDirtyPages();

    /// <summary>Takes the blocks of a disk that were written, likewise.</summary>
    /// <param name="disk">Which, as the spec has them.</param>
    /// <returns>A bitmap: bit n % 64 of word n / 64 is block n of <see cref="LoggedDisk.BlockBytes"/> bytes; empty for a disk that is read only.</returns>
    /// <exception cref="InvalidOperationException">No log is kept.</exception>
    ulong[] TakeDirtyBlocks(int disk);

    /// <summary>
    /// Copies pages of a bitmap out, from one on and as many as a batch holds, at an instruction boundary: the guest stands for some
    /// hundred microseconds.
    /// </summary>
    /// <param name="pages">The pages that are wanted, as <see cref="TakeDirtyPages"/> has them.</param>
    /// <param name="from">The first page to look at.</param>
    PageBatch CopyPages(ulong[] pages, int from);

    /// <summary>
    /// Everything but RAM and the contents of disks, at an instruction boundary, with the guest's output up to there raised before.
    /// </summary>
    /// <exception cref="InvalidOperationException">The machine is neither running nor paused, or the call comes from one of its own callbacks.</exception>
    /// <exception cref="IOException">The state is longer than what is read again.</exception>
    SavedMachine SaveState();
}

/// <summary>
/// A machine that comes from another process: memory first, in any order and as often as the source writes to it, then the rest. Nothing
/// that comes is trusted. Not thread-safe.
/// </summary>
public interface IMachineReceiver : IDisposable
{
    /// <summary>Pages of RAM there are.</summary>
    int PageCount { get; }

    /// <summary>Takes pages.</summary>
    /// <exception cref="InvalidSnapshotException">There are no such pages, or the data are not as much as the runs say.</exception>
    void LoadPages(IReadOnlyList<PageRun> runs, ReadOnlySpan<byte> data);

    /// <summary>Whether a state would be acceptable, as far as that can be told before the machine is made. Changes nothing.</summary>
    /// <exception cref="InvalidSnapshotException">It would not.</exception>
    void Check(SavedMachine saved);

    /// <summary>Makes the machine, paused, with the disks as they are now. Once; where it fails, nothing was kept.</summary>
    /// <exception cref="InvalidSnapshotException">The state cannot be taken.</exception>
    /// <exception cref="InvalidMachineException">The spec or one of its files is not acceptable.</exception>
    IMachine Complete(SavedMachine saved);
}
