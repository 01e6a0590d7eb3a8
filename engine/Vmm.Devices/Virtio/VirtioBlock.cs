using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Bus;
using Vmm.Devices.Storage;
using Vmm.Hypervisor.Apic;

namespace Vmm.Devices.Virtio;

/// <summary>A virtio block device (virtio 1.2, section 5.2): read, write, flush and identification, one queue.</summary>
public sealed class VirtioBlock : VirtioDevice
{
    private const ushort QueueSize = 128;

    /// <summary>Data segments of a request, as the driver is told.</summary>
    private const uint MostSegments = 62;

    /// <summary>Bytes of a segment, as the driver is told.</summary>
    private const uint SegmentLength = 64 * 1024;

    /// <summary>What these make. It bounds how long one notification can take, since requests are served at once.</summary>
    private const ulong MostBytes = (ulong)MostSegments * SegmentLength;

    private const ulong SegmentSizeFeature = 1UL << 1;
    private const ulong SegmentMaximumFeature = 1UL << 2;
    private const ulong ReadOnlyFeature = 1UL << 5;
    private const ulong BlockSizeFeature = 1UL << 6;
    private const ulong FlushFeature = 1UL << 9;

    private const uint RequestRead = 0;
    private const uint RequestWrite = 1;
    private const uint RequestFlush = 4;
    private const uint RequestIdentify = 8;

    private const byte StatusOk = 0;
    private const byte StatusError = 1;
    private const byte StatusUnsupported = 2;

    private const int HeaderSize = 16;
    private const int SerialSize = 20;
    private const int ChunkSize = 64 * 1024;

    private readonly IDisk _disk;
    private readonly byte[] _serial = new byte[SerialSize];
    private readonly byte[] _configuration = new byte[0x40];
    private readonly byte[] _chunk = new byte[ChunkSize];

    /// <summary>Makes the device; it does not own the disk.</summary>
    /// <param name="bus">The bus for its memory windows.</param>
    /// <param name="sink">The local APICs.</param>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="disk">The content.</param>
    /// <param name="serial">What it calls itself: up to 20 ASCII characters, longer ones are cut.</param>
    public VirtioBlock(SystemBus bus, IInterruptSink sink, IGuestMemory memory, IDisk disk, string serial)
        : base(bus, sink, memory, 2, 0x01_0000, Features(disk), QueueSize)
    {
        _disk = disk;
        byte[] name = Encoding.ASCII.GetBytes(serial);
        name.AsSpan(0, Math.Min(name.Length, SerialSize)).CopyTo(_serial);
        BinaryPrimitives.WriteInt64LittleEndian(_configuration, disk.Length / RawFileDisk.SectorSize);
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(8), SegmentLength);
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(12), MostSegments);
        BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(20), RawFileDisk.SectorSize);
    }

    private static ulong Features(IDisk disk) =>
        SegmentSizeFeature | SegmentMaximumFeature | BlockSizeFeature | FlushFeature | (disk.IsReadOnly ? ReadOnlyFeature : 0);

    /// <inheritdoc/>
    protected override byte ReadConfiguration(int offset) => offset < _configuration.Length ? _configuration[offset] : (byte)0;

    /// <inheritdoc/>
    protected override uint? Process(int queue, List<VirtioBuffer> buffers)
    {
        // Header first and status last, whatever the framing (section 2.7.4.2): a byte at the end of the writable part.
        Span<byte> header = stackalloc byte[HeaderSize];
        var readable = new BufferCursor(Memory, buffers, writable: false);
        var writable = new BufferCursor(Memory, buffers, writable: true);
        if (writable.Remaining < 1 || !readable.TryRead(header))
            return null;
        uint type = BinaryPrimitives.ReadUInt32LittleEndian(header);
        ulong sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        ulong room = writable.Remaining - 1;
        ulong written = 0;
        byte status;
        switch (type)
        {
            case RequestRead:
                status = Transfer(ref writable, room, sector, isWrite: false, ref written);
                break;
            case RequestWrite:
                status = _disk.IsReadOnly ? StatusError : Transfer(ref readable, readable.Remaining, sector, isWrite: true, ref written);
                break;
            case RequestFlush:
                status = _disk.TryFlush() ? StatusOk : StatusError;
                break;
            case RequestIdentify when room >= SerialSize:
                status = writable.TryWrite(_serial) ? StatusOk : StatusError;
                written = SerialSize;
                break;
            default:
                status = StatusUnsupported;
                break;
        }
        if (!writable.TrySkip(writable.Remaining - 1) || !writable.TryWrite([status]))
            return null;
        return (uint)Math.Min(written + 1, uint.MaxValue);
    }

    private byte Transfer(ref BufferCursor cursor, ulong length, ulong sector, bool isWrite, ref ulong written)
    {
        if (length % RawFileDisk.SectorSize != 0 || length > MostBytes)
            return StatusError;
        ulong sectors = (ulong)_disk.Length / RawFileDisk.SectorSize;
        if (sector > sectors || length / RawFileDisk.SectorSize > sectors - sector)
            return StatusError;
        long offset = (long)sector * RawFileDisk.SectorSize;
        while (length > 0)
        {
            Span<byte> chunk = _chunk.AsSpan(0, (int)Math.Min(length, ChunkSize));
            bool done = isWrite
                ? cursor.TryRead(chunk) && _disk.TryWrite(offset, chunk)
                : _disk.TryRead(offset, chunk) && cursor.TryWrite(chunk);
            if (!done)
                return StatusError;
            if (!isWrite)
                written += (ulong)chunk.Length;
            offset += chunk.Length;
            length -= (ulong)chunk.Length;
        }
        return StatusOk;
    }
}
