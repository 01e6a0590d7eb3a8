using Vmm.Devices.Storage;

namespace Vmm.Machine.Migration;

/// <summary>A disk that notes which of its blocks are written, while a log is kept. On the machine's thread.</summary>
public sealed class LoggedDisk : IDisk
{
    /// <summary>The size of a block in bytes.</summary>
    public const int BlockBytes = 64 << 10;

    private const int WordBits = 64;

    private readonly IDisk _disk;
    private ulong[]? _written;

    /// <summary>Logs a disk's writes.</summary>
    /// <param name="disk">The disk, disposed of with this one.</param>
    public LoggedDisk(IDisk disk) => _disk = disk;

    /// <inheritdoc/>
    public long Length => _disk.Length;

    /// <inheritdoc/>
    public bool IsReadOnly => _disk.IsReadOnly;

    /// <summary>Begins with an empty log.</summary>
    public void StartLog() => _written = new ulong[(Length + (long)BlockBytes * WordBits - 1) / ((long)BlockBytes * WordBits)];

    /// <summary>Keeps no log any more.</summary>
    public void StopLog() => _written = null;

    /// <summary>The blocks that were written, of which none is noted afterwards, as in <see cref="DirtySet"/>.</summary>
    /// <exception cref="InvalidOperationException">No log is kept.</exception>
    public ulong[] TakeLog()
    {
        ulong[] written = _written ?? throw new InvalidOperationException("Writes to disks are not logged.");
        StartLog();
        return written;
    }

    /// <inheritdoc/>
    public bool TryRead(long offset, Span<byte> destination) => _disk.TryRead(offset, destination);

    /// <inheritdoc/>
    public bool TryWrite(long offset, ReadOnlySpan<byte> source)
    {
        bool written = _disk.TryWrite(offset, source);
        // One that failed may have written a part.
        if (_written is { } log)
        {
            for (long block = offset / BlockBytes; block <= (offset + source.Length - 1) / BlockBytes; block++)
                log[block / WordBits] |= 1UL << (int)(block % WordBits);
        }
        return written;
    }

    /// <inheritdoc/>
    public bool TryFlush() => _disk.TryFlush();

    /// <inheritdoc/>
    public void Dispose() => _disk.Dispose();
}
