using System.Globalization;
using System.Text;

namespace Vmm.Guests;

/// <summary>
/// Writes a cpio archive in the "newc" format, the one that Linux unpacks as an initial RAM file system (kernel documentation,
/// <c>driver-api/early-userspace/buffer-format</c>). Times are zero and inode numbers count up, so that the same entries give
/// the same bytes on every host.
/// </summary>
public sealed class CpioWriter(Stream output) : IDisposable
{
    private const int RegularFile = 0x8000;
    private const int Directory = 0x4000;
    private const int SymbolicLink = 0xA000;
    private const int CharacterDevice = 0x2000;

    private readonly HashSet<string> _names = new(StringComparer.Ordinal);
    private uint _inode = 1;
    private long _written;
    private bool _closed;

    /// <summary>Adds a directory, and those above it that are not there yet. Adding one twice is no error.</summary>
    /// <param name="path">Without a leading slash, as <c>lib/modules</c>.</param>
    public void AddDirectory(string path)
    {
        if (_names.Contains(path))
            return;
        AddParents(path);
        WriteEntry(path, Directory | 0b111_101_101, [], 0, 0);
    }

    /// <summary>Adds a regular file, and the directories above it.</summary>
    /// <param name="path">Without a leading slash.</param>
    /// <param name="content">Its bytes.</param>
    /// <param name="executable">Mode 0755 if set, 0644 otherwise.</param>
    public void AddFile(string path, ReadOnlySpan<byte> content, bool executable = false)
    {
        AddParents(path);
        WriteEntry(path, RegularFile | (executable ? 0b111_101_101 : 0b110_100_100), content, 0, 0);
    }

    /// <summary>Adds a symbolic link.</summary>
    /// <param name="path">Without a leading slash.</param>
    /// <param name="target">What it points at.</param>
    public void AddSymbolicLink(string path, string target)
    {
        AddParents(path);
        WriteEntry(path, SymbolicLink | 0b111_111_111, Encoding.UTF8.GetBytes(target), 0, 0);
    }

    /// <summary>Adds a character device, as <c>dev/console</c> with numbers 5 and 1, which the kernel opens before it runs <c>/init</c>.</summary>
    public void AddCharacterDevice(string path, uint major, uint minor)
    {
        AddParents(path);
        WriteEntry(path, CharacterDevice | 0b110_000_000, [], major, minor);
    }

    /// <summary>Writes the trailer. The stream stays open: it is the caller's.</summary>
    public void Dispose()
    {
        if (_closed)
            return;
        _closed = true;
        WriteRecord("TRAILER!!!", 0, 0, [], 0, 0);
        Pad(512);
        output.Flush();
    }

    private void AddParents(string path)
    {
        for (var slash = path.IndexOf('/', StringComparison.Ordinal); slash > 0; slash = path.IndexOf('/', slash + 1))
        {
            var parent = path[..slash];
            if (!_names.Contains(parent))
                WriteEntry(parent, Directory | 0b111_101_101, [], 0, 0);
        }
    }

    private void WriteEntry(string path, int mode, ReadOnlySpan<byte> content, uint major, uint minor)
    {
        ObjectDisposedException.ThrowIf(_closed, this);
        if (path.Length == 0 || path[0] == '/' || path[^1] == '/')
            throw new ArgumentException($"'{path}' is not a relative path.", nameof(path));
        if (!_names.Add(path))
            throw new ArgumentException($"'{path}' is in the archive already.", nameof(path));
        WriteRecord(path, _inode++, mode, content, major, minor);
    }

    private void WriteRecord(string path, uint inode, int mode, ReadOnlySpan<byte> content, uint major, uint minor)
    {
        var name = Encoding.UTF8.GetBytes(path + '\0');
        var links = (mode & 0xF000) == Directory ? 2 : 1;
        // Field order and the eight hexadecimal digits of each are the format's: ino, mode, uid, gid, nlink, mtime, filesize,
        // devmajor, devminor, rdevmajor, rdevminor, namesize, check.
        var header = string.Create(
            CultureInfo.InvariantCulture,
            $"070701{inode:X8}{mode:X8}{0:X8}{0:X8}{links:X8}{0:X8}{content.Length:X8}{0:X8}{0:X8}{major:X8}{minor:X8}{name.Length:X8}{0:X8}");
        Write(Encoding.ASCII.GetBytes(header));
        Write(name);
        Pad(4);
        Write(content);
        Pad(4);
    }

    private void Write(ReadOnlySpan<byte> bytes)
    {
        output.Write(bytes);
        _written += bytes.Length;
    }

    private void Pad(int alignment)
    {
        var rest = (int)(_written % alignment);
        if (rest != 0)
            Write(new byte[alignment - rest]);
    }
}
