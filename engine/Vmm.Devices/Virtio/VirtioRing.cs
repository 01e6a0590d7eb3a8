using System.Buffers.Binary;
using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Virtio;

/// <summary>A piece of guest memory that a driver offers.</summary>
/// <param name="Address">Guest-physical.</param>
/// <param name="Length">Bytes, all of them RAM.</param>
/// <param name="IsWritable">For the device to write; else to read.</param>
public readonly record struct VirtioBuffer(ulong Address, uint Length, bool IsWritable);

/// <summary>What <see cref="VirtioRing.TryTake"/> found.</summary>
public enum RingResult
{
    /// <summary>A chain of buffers.</summary>
    Taken,

    /// <summary>Nothing is available.</summary>
    Empty,

    /// <summary>The ring breaks the rules, and the device needs a reset.</summary>
    Broken,
}

/// <summary>
/// A split virtqueue (virtio 1.2, section 2.7) with indirect descriptors and event indices, seen from the device. The driver
/// is not trusted: indices, addresses and lengths are checked, and a walk is bounded by the queue's size.
/// </summary>
/// <param name="memory">Guest RAM.</param>
/// <param name="maximumSize">The most entries, a power of two up to 32768.</param>
public sealed class VirtioRing(IGuestMemory memory, ushort maximumSize)
{
    private const int DescriptorSize = 16;
    private const ushort Next = 1;
    private const ushort Write = 2;
    private const ushort Indirect = 4;
    private const ushort NoInterrupt = 1;

    private readonly IGuestMemory _memory = memory;
    private ushort _nextAvailable;
    private ushort _nextUsed;
    private ushort _signalledUsed;
    private bool _signalledIsValid;

    /// <summary>The most entries.</summary>
    public ushort MaximumSize { get; } = maximumSize;

    /// <summary>The driver's choice of entries.</summary>
    public ushort Size { get; set; } = maximumSize;

    /// <summary>Whether the driver has turned the queue on.</summary>
    public bool Enabled { get; private set; }

    /// <summary>The descriptor table.</summary>
    public ulong DescriptorTable { get; set; }

    /// <summary>The available ring.</summary>
    public ulong AvailableRing { get; set; }

    /// <summary>The used ring.</summary>
    public ulong UsedRing { get; set; }

    /// <summary>VIRTIO_F_EVENT_IDX was negotiated.</summary>
    public bool UsesEventIndex { get; set; }

    /// <summary>VIRTIO_F_INDIRECT_DESC was negotiated.</summary>
    public bool AllowsIndirect { get; set; }

    /// <summary>Forgets everything.</summary>
    public void Reset()
    {
        Size = MaximumSize;
        Enabled = UsesEventIndex = AllowsIndirect = _signalledIsValid = false;
        DescriptorTable = AvailableRing = UsedRing = 0;
        _nextAvailable = _nextUsed = _signalledUsed = 0;
    }

    /// <summary>Turns the queue on.</summary>
    /// <returns>False where its size is no power of two or its rings are not RAM or not aligned (section 2.7).</returns>
    public bool TryEnable()
    {
        if (Size == 0 || Size > MaximumSize || (Size & Size - 1) != 0)
            return false;
        if ((DescriptorTable & 15) != 0 || (AvailableRing & 1) != 0 || (UsedRing & 3) != 0)
            return false;
        if (!_memory.IsRam(DescriptorTable, (ulong)Size * DescriptorSize)
            || !_memory.IsRam(AvailableRing, 6 + 2UL * Size)
            || !_memory.IsRam(UsedRing, 6 + 8UL * Size))
            return false;
        Enabled = true;
        return true;
    }

    private bool TryRead16(ulong address, out ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        bool ok = _memory.TryRead(address, bytes);
        value = BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        return ok;
    }

    private bool TryWrite16(ulong address, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        return _memory.TryWrite(address, bytes);
    }

    /// <summary>Takes the next chain of buffers.</summary>
    /// <param name="buffers">Filled with the chain: those to read, then those to write.</param>
    /// <param name="head">The chain's identity, for <see cref="TryReturn"/>.</param>
    public RingResult TryTake(List<VirtioBuffer> buffers, out ushort head)
    {
        head = 0;
        buffers.Clear();
        if (!Enabled)
            return RingResult.Empty;
        if (!TryRead16(AvailableRing + 2, out ushort available))
            return RingResult.Broken;
        if (available == _nextAvailable)
        {
            // Ask to be notified of the next one. None can come in between: the vCPUs stand while a device works.
            if (UsesEventIndex && !TryWrite16(UsedRing + 4 + 8UL * Size, _nextAvailable))
                return RingResult.Broken;
            return RingResult.Empty;
        }
        if ((ushort)(available - _nextAvailable) > Size)
            return RingResult.Broken;
        if (!TryRead16(AvailableRing + 4 + 2UL * (ushort)(_nextAvailable & Size - 1), out head) || head >= Size)
            return RingResult.Broken;
        _nextAvailable++;
        return WalkChain(head, buffers) ? RingResult.Taken : RingResult.Broken;
    }

    private bool WalkChain(ushort head, List<VirtioBuffer> buffers)
    {
        Span<byte> descriptor = stackalloc byte[DescriptorSize];
        ulong table = DescriptorTable;
        uint tableSize = Size;
        uint index = head;
        bool isIndirect = false;
        bool seenWritable = false;
        ulong total = 0;
        // A chain is never longer than the queue (section 2.7.5.3.1), which bounds loops too.
        for (int steps = 0; steps <= Size; steps++)
        {
            if (index >= tableSize || !_memory.TryRead(table + index * DescriptorSize, descriptor))
                return false;
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor);
            uint length = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]);
            ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[12..]);
            if ((flags & Indirect) != 0)
            {
                // No table within a table, none followed by a descriptor, none of odd length (section 2.7.5.3).
                if (!AllowsIndirect || isIndirect || (flags & Next) != 0 || length == 0 || length % DescriptorSize != 0)
                    return false;
                if (!_memory.IsRam(address, length))
                    return false;
                table = address;
                tableSize = length / DescriptorSize;
                index = 0;
                isIndirect = true;
                continue;
            }
            bool writable = (flags & Write) != 0;
            if (seenWritable && !writable || buffers.Count >= Size)
                return false;
            seenWritable |= writable;
            total += length;
            if (total > uint.MaxValue || !_memory.IsRam(address, length))
                return false;
            if (length > 0)
                buffers.Add(new(address, length, writable));
            if ((flags & Next) == 0)
                return true;
            index = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[14..]);
        }
        return false;
    }

    /// <summary>Gives a chain back.</summary>
    /// <param name="head">Its identity.</param>
    /// <param name="written">The bytes that the device wrote to it.</param>
    /// <returns>False where the used ring is not RAM.</returns>
    public bool TryReturn(ushort head, uint written)
    {
        Span<byte> element = stackalloc byte[8];
        BinaryPrimitives.WriteUInt32LittleEndian(element, head);
        BinaryPrimitives.WriteUInt32LittleEndian(element[4..], written);
        if (!_memory.TryWrite(UsedRing + 4 + 8UL * (ushort)(_nextUsed & Size - 1), element))
            return false;
        _nextUsed++;
        return TryWrite16(UsedRing + 2, _nextUsed);
    }

    /// <summary>Whether the driver wants an interrupt for what was returned since the last one (section 2.7.7.2).</summary>
    public bool NeedsInterrupt()
    {
        ushort old = _signalledUsed;
        bool wasValid = _signalledIsValid;
        if (wasValid && old == _nextUsed)
            return false;
        _signalledUsed = _nextUsed;
        _signalledIsValid = true;
        if (!UsesEventIndex)
            return TryRead16(AvailableRing, out ushort flags) && (flags & NoInterrupt) == 0;
        if (!TryRead16(AvailableRing + 4 + 2UL * Size, out ushort wanted))
            return false;
        return !wasValid || (ushort)(_nextUsed - wanted - 1) < (ushort)(_nextUsed - old);
    }

    /// <summary>Its state between two chains.</summary>
    public VirtioRingState Save() => new()
    {
        Size = Size,
        Enabled = Enabled,
        DescriptorTable = DescriptorTable,
        AvailableRing = AvailableRing,
        UsedRing = UsedRing,
        UsesEventIndex = UsesEventIndex,
        AllowsIndirect = AllowsIndirect,
        NextAvailable = _nextAvailable,
        NextUsed = _nextUsed,
        SignalledUsed = _signalledUsed,
        SignalledIsValid = _signalledIsValid,
    };

    /// <summary>Takes a saved state.</summary>
    /// <exception cref="InvalidStateException">It is on, but could not have been turned on.</exception>
    public void Load(VirtioRingState state)
    {
        Size = state.Size;
        DescriptorTable = state.DescriptorTable;
        AvailableRing = state.AvailableRing;
        UsedRing = state.UsedRing;
        UsesEventIndex = state.UsesEventIndex;
        AllowsIndirect = state.AllowsIndirect;
        Enabled = false;
        InvalidStateException.ThrowUnless(!state.Enabled || TryEnable(), "VirtioRing.Enabled", "its rings are not aligned, not in memory or of no legal size.");
        _nextAvailable = state.NextAvailable;
        _nextUsed = state.NextUsed;
        _signalledUsed = state.SignalledUsed;
        _signalledIsValid = state.SignalledIsValid;
    }
}
