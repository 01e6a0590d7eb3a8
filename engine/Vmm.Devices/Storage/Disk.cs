namespace Vmm.Devices.Storage;

/// <summary>
/// The content of a disk. Calls are synchronous, on the machine's thread. None throws for what the medium does: a failure is a
/// result, which the guest sees as an I/O error.
/// </summary>
public interface IDisk : IDisposable
{
    /// <summary>The capacity in bytes, a multiple of 512.</summary>
    long Length { get; }

    /// <summary>Whether writes are refused.</summary>
    bool IsReadOnly { get; }

    /// <summary>Reads from an offset. The range lies within the capacity.</summary>
    /// <returns>False where the medium failed.</returns>
    bool TryRead(long offset, Span<byte> destination);

    /// <summary>Writes at an offset. The range lies within the capacity, and the disk is not read-only.</summary>
    /// <returns>False where the medium failed or is full.</returns>
    bool TryWrite(long offset, ReadOnlySpan<byte> source);

    /// <summary>Makes everything written before durable.</summary>
    /// <returns>False where the medium failed.</returns>
    bool TryFlush();
}

/// <summary>A disk in a raw file.</summary>
public sealed class RawFileDisk : IDisk
{
    /// <summary>The unit of a disk's capacity.</summary>
    public const int SectorSize = 512;

    private readonly Microsoft.Win32.SafeHandles.SafeFileHandle _file;

    /// <summary>Opens a file. Bytes after the last whole sector are not part of the disk.</summary>
    /// <param name="path">The file.</param>
    /// <param name="readOnly">Whether to refuse writes; the file is then shared with other readers, else it is held alone.</param>
    /// <exception cref="IOException">The file cannot be opened, or holds no whole sector.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be opened so.</exception>
    public RawFileDisk(string path, bool readOnly)
    {
        IsReadOnly = readOnly;
        _file = File.OpenHandle(path, FileMode.Open, readOnly ? FileAccess.Read : FileAccess.ReadWrite, readOnly ? FileShare.Read : FileShare.None);
        Length = RandomAccess.GetLength(_file) / SectorSize * SectorSize;
        if (Length > 0)
            return;
        _file.Dispose();
        throw new IOException($"'{path}' is shorter than a sector of {SectorSize} bytes.");
    }

    /// <inheritdoc/>
    public long Length { get; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public bool TryRead(long offset, Span<byte> destination)
    {
        try
        {
            while (!destination.IsEmpty)
            {
                int count = RandomAccess.Read(_file, destination, offset);
                // Someone else has cut the file short.
                if (count == 0)
                    return false;
                destination = destination[count..];
                offset += count;
            }
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public bool TryWrite(long offset, ReadOnlySpan<byte> source)
    {
        try
        {
            RandomAccess.Write(_file, source, offset);
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public bool TryFlush()
    {
        try
        {
            RandomAccess.FlushToDisk(_file);
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}
