using System.Numerics;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Lockstep;

/// <summary>
/// The last moment at which two machines agreed, as a snapshot in a directory of its own that follows them: its memory is brought up to date
/// page by page, the rest is written when it is asked for.
/// </summary>
internal sealed unsafe class AgreedMoment : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("vmm-lockstep-");
    private readonly FileStream? _memory;
    private readonly Machine _reference;
    private MachineState _state;

    /// <summary>Begins with a machine that does not run.</summary>
    /// <exception cref="IOException">There is no room for a copy of its memory.</exception>
    public AgreedMoment(Machine reference)
    {
        _reference = reference;
        _state = reference.Capture();
        try
        {
            _memory = new FileStream(Path.Combine(_directory.FullName, SnapshotFormat.MemoryFile), FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0);
            reference.Memory.Save(_memory.SafeFileHandle);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Instructions that all vCPUs together had executed.</summary>
    public ulong Instructions => _state.Scheduler.InstructionsRetired;

    /// <summary>Goes on to a later moment.</summary>
    /// <param name="state">The state then.</param>
    /// <param name="memory">RAM then.</param>
    /// <param name="pages">Pages that may be others than before, as <see cref="Migration.IMachineSource.TakeDirtyPages"/> has them.</param>
    /// <param name="morePages">The same.</param>
    /// <exception cref="IOException">The memory cannot be written.</exception>
    public void Advance(MachineState state, PhysicalMemory memory, ulong[] pages, ulong[] morePages)
    {
        _state = state;
        foreach (int index in PagesOf(pages, morePages))
        {
            byte* page = memory.Page(memory.PageAddress(index));
            if (page != null)
                RandomAccess.Write(_memory!.SafeFileHandle, new ReadOnlySpan<byte>(page, PhysicalMemory.PageSize), (long)index * PhysicalMemory.PageSize);
        }
    }

    /// <summary>The snapshot. Once; this moment does not go on from there.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    public SnapshotFiles Open()
    {
        _memory!.Dispose();
        SnapshotFiles.WriteState(_directory.FullName, _reference.Describe(_state), _state);
        return SnapshotFiles.Read(_directory.FullName);
    }

    /// <summary>The pages that are in either of two bitmaps.</summary>
    public static IEnumerable<int> PagesOf(ulong[] pages, ulong[] morePages)
    {
        for (int word = 0; word < pages.Length; word++)
        {
            for (ulong left = pages[word] | morePages[word]; left != 0; left &= left - 1)
                yield return word * 64 + BitOperations.TrailingZeroCount(left);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _memory?.Dispose();
        _directory.Delete(recursive: true);
    }
}
