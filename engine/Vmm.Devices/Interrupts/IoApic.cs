using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apic;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Interrupts;

/// <summary>
/// An I/O APIC with 24 inputs (82093AA data sheet 290566, and ICH9 data sheet section 13.5 for version 0x20, which adds the
/// EOI register). Inputs are logical levels: what the polarity bit says about the wire's voltage has no meaning here.
/// </summary>
public sealed class IoApic : IDevice, IMemoryDevice, IEndOfInterruptListener
{
    /// <summary>The number of inputs.</summary>
    public const int PinCount = 24;

    /// <summary>Where the registers are.</summary>
    public const ulong DefaultAddress = 0xFEC0_0000;

    private const byte Version = 0x20;
    private const ulong DeliveryStatus = 1UL << 12;
    private const ulong RemoteIrr = 1UL << 14;
    private const ulong LevelTriggered = 1UL << 15;
    private const ulong Masked = 1UL << 16;
    private const ulong ReadOnlyBits = DeliveryStatus | RemoteIrr;
    private const ulong WritableBits = 0xFF00_0000_0001_AFFF;

    private readonly IInterruptSink _sink;
    private readonly byte _resetId;
    private readonly ulong[] _entries = new ulong[PinCount];
    private uint _lines;
    private byte _select;
    private byte _id;

    /// <summary>Called after a write that may have changed what <see cref="IgnoresEdge"/> says.</summary>
    public Action? Programmed { get; set; }

    /// <summary>Puts the I/O APIC on the bus.</summary>
    public IoApic(SystemBus bus, IInterruptSink sink, byte id, ulong address = DefaultAddress)
    {
        _sink = sink;
        _resetId = id;
        bus.AddMemory(this, address, 0x1000, 4);
        Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        Array.Fill(_entries, Masked);
        _select = 0;
        _id = _resetId;
    }

    /// <summary>
    /// Sets an input. An edge on a masked pin is lost, as the data sheet says of the mask bit; a level is remembered.
    /// </summary>
    public void SetInput(int pin, bool asserted)
    {
        uint bit = 1u << pin;
        bool was = (_lines & bit) != 0;
        if (asserted == was)
            return;
        _lines ^= bit;
        if (!asserted)
            return;
        if (IsLevel(_entries[pin]))
            ServiceLevel(pin);
        else if ((_entries[pin] & Masked) == 0)
            Send(pin);
    }

    /// <summary>Whether an edge on a pin is lost: it is masked.</summary>
    public bool IgnoresEdge(int pin) => (_entries[pin] & Masked) != 0;

    /// <summary>Only fixed and lowest-priority interrupts can be level-triggered (data sheet, the delivery mode field).</summary>
    private static bool IsLevel(ulong entry) =>
        (entry & LevelTriggered) != 0 && (DeliveryMode)(entry >> 8 & 7) is DeliveryMode.Fixed or DeliveryMode.LowestPriority;

    private void ServiceLevel(int pin)
    {
        ulong entry = _entries[pin];
        if (IsLevel(entry) && (entry & (Masked | RemoteIrr)) == 0 && (_lines & 1u << pin) != 0 && Send(pin))
            _entries[pin] |= RemoteIrr;
    }

    private bool Send(int pin)
    {
        ulong entry = _entries[pin];
        return _sink.Deliver(new InterruptMessage(
            (uint)(entry >> 56), (entry & 1 << 11) != 0, (DeliveryMode)(entry >> 8 & 7), (byte)entry, IsLevel(entry)));
    }

    /// <inheritdoc/>
    public void EndOfInterrupt(byte vector)
    {
        for (int pin = 0; pin < PinCount; pin++)
        {
            if ((_entries[pin] & (LevelTriggered | RemoteIrr)) != (LevelTriggered | RemoteIrr) || (byte)_entries[pin] != vector)
                continue;
            _entries[pin] &= ~RemoteIrr;
            ServiceLevel(pin);
        }
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        uint value = (offset & ~3UL) switch
        {
            0x00 => _select,
            0x10 => ReadRegister(),
            _ => 0,
        };
        return value >> (int)(offset & 3) * 8;
    }

    private uint ReadRegister()
    {
        switch (_select)
        {
            case 0x00:
            case 0x02:
                return (uint)_id << 24;
            case 0x01:
                return (PinCount - 1) << 16 | Version;
        }
        int pin = (_select - 0x10) >> 1;
        if (_select < 0x10 || pin >= PinCount)
            return 0;
        return (uint)(_entries[pin] >> (_select & 1) * 32);
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
        switch (offset)
        {
            case 0x00:
                _select = (byte)value;
                break;
            // The window takes whole dwords only; a part of one would have no meaning to the indirect register.
            case 0x10 when size == 4:
                WriteRegister((uint)value);
                break;
            case 0x40:
                EndOfInterrupt((byte)value);
                break;
        }
    }

    private void WriteRegister(uint value)
    {
        if (_select == 0)
        {
            _id = (byte)(value >> 24 & 0x0F);
            return;
        }
        int pin = (_select - 0x10) >> 1;
        if (_select < 0x10 || pin >= PinCount)
            return;
        int shift = (_select & 1) * 32;
        ulong writable = WritableBits & 0xFFFF_FFFFUL << shift;
        ulong entry = _entries[pin];
        entry = entry & ~writable | (ulong)value << shift & writable;
        // The remote IRR belongs to a level-triggered interrupt; guests clear a stuck one by a trip through edge mode.
        if (!IsLevel(entry))
            entry &= ~ReadOnlyBits;
        _entries[pin] = entry;
        ServiceLevel(pin);
        Programmed?.Invoke();
    }

    /// <summary>Its state between two accesses.</summary>
    public IoApicState Save() => new() { Entries = [.. _entries], Lines = _lines, Select = _select, Id = _id };

    /// <summary>Takes a saved state; nothing is delivered by that.</summary>
    /// <exception cref="InvalidStateException">It is none of an I/O APIC.</exception>
    public void Load(IoApicState state)
    {
        InvalidStateException.ThrowUnlessLength(state.Entries, PinCount, "IoApic.Entries");
        foreach (ulong entry in state.Entries)
            InvalidStateException.ThrowUnless((entry & ~(WritableBits | ReadOnlyBits)) == 0, "IoApic.Entries", "a reserved bit of an entry is set.");
        InvalidStateException.ThrowUnless(state.Lines < 1u << PinCount, "IoApic.Lines", $"there are {PinCount} inputs.");
        state.Entries.CopyTo(_entries, 0);
        _lines = state.Lines;
        _select = state.Select;
        _id = state.Id;
    }
}
