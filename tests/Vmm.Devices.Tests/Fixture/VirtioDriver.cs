using System.Buffers.Binary;

namespace Vmm.Devices.Tests.Fixture;

/// <summary>A driver's side of a virtio device on a test board: finds the structures, negotiates, and fills rings.</summary>
public sealed class VirtioDriver
{
    public const ulong Version1 = 1UL << 32;
    public const ulong Indirect = 1UL << 28;
    public const ulong EventIndex = 1UL << 29;

    private readonly TestBoard _board;
    private readonly int _slot;
    private readonly ulong _window;

    public VirtioDriver(TestBoard board, int slot)
    {
        _board = board;
        _slot = slot;
        _window = Config(0x10);
    }

    public ushort QueueSize { get; set; } = 16;

    private uint Config(int offset)
    {
        _board.Out32(0xCF8, 0x8000_0000 | (uint)_slot << 11 | (uint)offset & 0xFC);
        return _board.In32(0xCFC);
    }

    public void WriteConfig(int offset, uint value)
    {
        Config(offset);
        _board.Out32(0xCFC, value);
    }

    public uint ReadPciConfig(int offset) => Config(offset);

    public ulong Read(ulong offset, int size) => _board.Board.Bus.ReadMemory(_window + offset, size);

    public void Write(ulong offset, int size, ulong value) => _board.Board.Bus.WriteMemory(_window + offset, size, value);

    public byte Status
    {
        get => (byte)Read(0x14, 1);
        set => Write(0x14, 1, value);
    }

    public bool NeedsReset => (Status & 64) != 0;

    public ulong DeviceFeatures
    {
        get
        {
            Write(0, 4, 0);
            ulong low = Read(4, 4);
            Write(0, 4, 1);
            return low | Read(4, 4) << 32;
        }
    }

    public bool Negotiate(ulong features)
    {
        Status = 0;
        Status = 1;
        Status = 3;
        Write(8, 4, 0);
        Write(12, 4, (uint)features);
        Write(8, 4, 1);
        Write(12, 4, features >> 32);
        Status = 11;
        return (Status & 8) != 0;
    }

    public ulong Table(int queue) => 0x1_0000 + (ulong)queue * 0x1_0000;

    public ulong Available(int queue) => Table(queue) + 0x4000;

    public ulong Used(int queue) => Table(queue) + 0x8000;

    public void SetUpQueue(int queue)
    {
        Write(0x16, 2, (ulong)queue);
        Write(0x18, 2, QueueSize);
        Write(0x20, 4, Table(queue));
        Write(0x24, 4, 0);
        Write(0x28, 4, Available(queue));
        Write(0x2C, 4, 0);
        Write(0x30, 4, Used(queue));
        Write(0x34, 4, 0);
        Write(0x1C, 2, 1);
    }

    /// <summary>Brings the device up with all queues and the given features.</summary>
    public void Start(int queues, ulong features = Version1)
    {
        if (!Negotiate(features))
            throw new InvalidOperationException("The device refused the features.");
        for (int queue = 0; queue < queues; queue++)
            SetUpQueue(queue);
        Status = 15;
    }

    public Span<byte> Memory(ulong address, int length) => _board.Memory.Bytes.AsSpan((int)address, length);

    public void Descriptor(ulong table, int index, ulong address, uint length, ushort flags, ushort next)
    {
        Span<byte> at = Memory(table + (ulong)index * 16, 16);
        BinaryPrimitives.WriteUInt64LittleEndian(at, address);
        BinaryPrimitives.WriteUInt32LittleEndian(at[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(at[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(at[14..], next);
    }

    /// <summary>Makes a chain from the descriptor table's start and offers it.</summary>
    public void Offer(int queue, params (ulong Address, uint Length, bool Writable)[] buffers)
    {
        for (int i = 0; i < buffers.Length; i++)
        {
            bool last = i == buffers.Length - 1;
            Descriptor(Table(queue), i, buffers[i].Address, buffers[i].Length, (ushort)((last ? 0 : 1) | (buffers[i].Writable ? 2 : 0)), (ushort)(i + 1));
        }
        OfferHead(queue, 0);
    }

    public void OfferHead(int queue, ushort head)
    {
        Span<byte> index = Memory(Available(queue) + 2, 2);
        ushort at = BinaryPrimitives.ReadUInt16LittleEndian(index);
        BinaryPrimitives.WriteUInt16LittleEndian(Memory(Available(queue) + 4 + (ulong)(at % QueueSize) * 2, 2), head);
        BinaryPrimitives.WriteUInt16LittleEndian(index, (ushort)(at + 1));
    }

    public void Notify(int queue) => Write(0x3000 + (ulong)queue * 4, 2, (ulong)queue);

    public ushort UsedIndex(int queue) => BinaryPrimitives.ReadUInt16LittleEndian(Memory(Used(queue) + 2, 2));

    public (uint Head, uint Written) UsedEntry(int queue, int index)
    {
        Span<byte> at = Memory(Used(queue) + 4 + (ulong)(index % QueueSize) * 8, 8);
        return (BinaryPrimitives.ReadUInt32LittleEndian(at), BinaryPrimitives.ReadUInt32LittleEndian(at[4..]));
    }
}
