using Vmm.Devices.Storage;

namespace Vmm.Devices.Tests.Fixture;

/// <summary>A disk in an array.</summary>
public sealed class MemoryDisk(int length) : IDisk
{
    public byte[] Bytes { get; } = new byte[length];

    public long Length => Bytes.Length;

    public bool IsReadOnly => false;

    public bool TryRead(long offset, Span<byte> destination)
    {
        Bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        return true;
    }

    public bool TryWrite(long offset, ReadOnlySpan<byte> source)
    {
        source.CopyTo(Bytes.AsSpan((int)offset));
        return true;
    }

    public bool TryFlush() => true;

    public void Dispose()
    {
    }
}
