using System.Buffers.Binary;
using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apic;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Pci;

/// <summary>
/// The MSI-X table and pending bits of a function (PCI Local Bus Specification 3.0, section 6.8.2), in one memory window: the
/// table from its start, the pending bits from <see cref="PendingOffset"/>.
/// </summary>
public sealed class MessageSignalledInterrupts : IMemoryDevice
{
    /// <summary>The capability's identifier.</summary>
    public const byte CapabilityId = 0x11;

    /// <summary>The window's length.</summary>
    public const uint WindowLength = 0x1000;

    /// <summary>Where the pending bits are in the window.</summary>
    public const uint PendingOffset = 0x800;

    private const int EntrySize = 16;
    private const ulong LocalApicMask = 0xFFFF_FFFF_FFF0_0000;
    private const ulong LocalApicBase = 0xFEE0_0000;

    private readonly IInterruptSink _sink;
    private readonly IGuestMemory _memory;
    private readonly byte[] _table;
    private ulong _pending;

    /// <summary>Makes a table with all vectors masked.</summary>
    /// <param name="sink">The local APICs.</param>
    /// <param name="memory">Guest RAM, for messages that are addressed there.</param>
    /// <param name="count">Vectors, 1 to 64.</param>
    public MessageSignalledInterrupts(IInterruptSink sink, IGuestMemory memory, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, 64);
        _sink = sink;
        _memory = memory;
        _table = new byte[count * EntrySize];
        Count = count;
        Reset();
    }

    /// <summary>The number of vectors.</summary>
    public int Count { get; }

    /// <summary>MSI-X is on: the function must not use its interrupt pin.</summary>
    public bool Enabled { get; private set; }

    private bool FunctionMasked { get; set; }

    /// <summary>Masks and clears everything.</summary>
    public void Reset()
    {
        Array.Clear(_table);
        for (int vector = 0; vector < Count; vector++)
            _table[vector * EntrySize + 12] = 1;
        _pending = 0;
        Enabled = FunctionMasked = false;
    }

    /// <summary>Takes the message control word of the capability.</summary>
    public void SetControl(ushort control)
    {
        Enabled = (control & 0x8000) != 0;
        FunctionMasked = (control & 0x4000) != 0;
        SendPending();
    }

    private bool IsMasked(int vector) => FunctionMasked || (_table[vector * EntrySize + 12] & 1) != 0;

    /// <summary>Sends a vector's message, or remembers it while it is masked. A vector that does not exist, or with MSI-X off, does nothing.</summary>
    public void Send(int vector)
    {
        if (!Enabled || (uint)vector >= (uint)Count)
            return;
        if (IsMasked(vector))
        {
            _pending |= 1UL << vector;
            return;
        }
        Span<byte> entry = _table.AsSpan(vector * EntrySize, EntrySize);
        ulong address = BinaryPrimitives.ReadUInt64LittleEndian(entry);
        uint data = BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]);
        if ((address & LocalApicMask) != LocalApicBase)
        {
            // An MSI is a memory write; one that misses RAM as well is lost.
            _memory.TryWrite(address, entry.Slice(8, 4));
            return;
        }
        // SDM volume 3, section 12.11: destination in bits 19 to 12, destination mode in bit 2.
        bool level = (data & 1 << 15) != 0;
        _sink.Deliver(new InterruptMessage((uint)(address >> 12 & 0xFF), (address & 4) != 0, (DeliveryMode)(data >> 8 & 7), (byte)data, level));
    }

    private void SendPending()
    {
        if (!Enabled || _pending == 0)
            return;
        for (int vector = 0; vector < Count; vector++)
        {
            if ((_pending & 1UL << vector) == 0 || IsMasked(vector))
                continue;
            _pending &= ~(1UL << vector);
            Send(vector);
        }
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        if (offset + (ulong)size <= (ulong)_table.Length)
        {
            ReadOnlySpan<byte> at = _table.AsSpan((int)offset);
            return size switch
            {
                8 => BinaryPrimitives.ReadUInt64LittleEndian(at),
                4 => BinaryPrimitives.ReadUInt32LittleEndian(at),
                2 => BinaryPrimitives.ReadUInt16LittleEndian(at),
                _ => at[0],
            };
        }
        return offset - PendingOffset < 8 ? _pending >> (int)(offset - PendingOffset) * 8 : 0;
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
        // Software must access dwords and qwords, aligned; the pending bits are for reading only.
        if (size < 4 || offset % (ulong)size != 0 || offset + (ulong)size > (ulong)_table.Length)
            return;
        Span<byte> at = _table.AsSpan((int)offset);
        if (size == 8)
            BinaryPrimitives.WriteUInt64LittleEndian(at, value);
        else
            BinaryPrimitives.WriteUInt32LittleEndian(at, (uint)value);
        SendPending();
    }

    /// <summary>Its state between two accesses.</summary>
    public MessageTableState Save() => new() { Table = [.. _table], Pending = _pending, Enabled = Enabled, FunctionMasked = FunctionMasked };

    /// <summary>Takes a saved state; nothing is sent by that.</summary>
    /// <exception cref="InvalidStateException">It is none of a table of this length.</exception>
    public void Load(MessageTableState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Table, _table.Length, "MessageTable.Table");
        state.Table.CopyTo(_table, 0);
        _pending = state.Pending;
        Enabled = state.Enabled;
        FunctionMasked = state.FunctionMasked;
    }
}
