using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;

namespace Vmm.Devices.Platform;

/// <summary>The fixed items of fw_cfg, by selector.</summary>
public static class FirmwareItem
{
    /// <summary>"QEMU": there is a fw_cfg.</summary>
    public const ushort Signature = 0x00;

    /// <summary>Bit 0: port interface; bit 1: DMA interface.</summary>
    public const ushort InterfaceVersion = 0x01;

    /// <summary>RAM in bytes, 64 bits.</summary>
    public const ushort RamSize = 0x03;

    /// <summary>Present processors, 16 bits.</summary>
    public const ushort CpuCount = 0x05;

    /// <summary>Where the kernel is, 32 bits.</summary>
    public const ushort KernelAddress = 0x07;

    /// <summary>The kernel's length, 32 bits.</summary>
    public const ushort KernelSize = 0x08;

    /// <summary>Where the initial RAM disk is, 32 bits.</summary>
    public const ushort InitrdAddress = 0x0A;

    /// <summary>The initial RAM disk's length, 32 bits.</summary>
    public const ushort InitrdSize = 0x0B;

    /// <summary>Processors that there may be, 16 bits.</summary>
    public const ushort MaximumCpuCount = 0x0F;

    /// <summary>The kernel's entry point, 32 bits.</summary>
    public const ushort KernelEntry = 0x10;

    /// <summary>The kernel file.</summary>
    public const ushort KernelData = 0x11;

    /// <summary>The initial RAM disk.</summary>
    public const ushort InitrdData = 0x12;

    /// <summary>Where the command line is, 32 bits.</summary>
    public const ushort CommandLineAddress = 0x13;

    /// <summary>The command line's length with its zero, 32 bits.</summary>
    public const ushort CommandLineSize = 0x14;

    /// <summary>The command line with its zero.</summary>
    public const ushort CommandLineData = 0x15;

    /// <summary>The file directory.</summary>
    public const ushort Directory = 0x19;

    /// <summary>The first file.</summary>
    public const ushort FirstFile = 0x20;
}

/// <summary>
/// The firmware configuration device of QEMU's PCs, as its specification (docs/specs/fw_cfg) describes it: items that are
/// selected at port 0x510 and read byte by byte at 0x511, or copied by DMA through 0x514 and 0x518. All items are read-only.
/// </summary>
public sealed class FirmwareConfiguration : IDevice, IPortDevice
{
    private const ushort SelectorPort = 0x510;
    private const ushort DataPort = 0x511;
    private const ushort AddressHighPort = 0x514;
    private const ushort AddressLowPort = 0x518;

    private const int LongestName = 55;
    private const ulong MostZeros = 1 << 20;
    private const ulong DmaSignature = 0x5145_4D55_2043_4647;

    private const uint DmaError = 1;
    private const uint DmaRead = 2;
    private const uint DmaSkip = 4;
    private const uint DmaSelect = 8;
    private const uint DmaWrite = 16;

    private readonly IGuestMemory _memory;
    private readonly Dictionary<ushort, ReadOnlyMemory<byte>> _items = [];
    private readonly SortedDictionary<string, ReadOnlyMemory<byte>> _files = new(StringComparer.Ordinal);
    private readonly byte[] _chunk = new byte[4096];
    private ReadOnlyMemory<byte> _selected;
    private ushort _selector;
    private uint _offset;
    private uint _addressHigh;

    /// <summary>Puts the device on the bus.</summary>
    public FirmwareConfiguration(SystemBus bus, IGuestMemory memory)
    {
        _memory = memory;
        bus.AddPorts(this, SelectorPort, 2, 2);
        bus.AddPorts(this, AddressHighPort, 8, 4);
        Clear();
    }

    /// <summary>Removes all items but the signature and the version.</summary>
    public void Clear()
    {
        _items.Clear();
        _files.Clear();
        SetItem(FirmwareItem.Signature, "QEMU"u8.ToArray());
        SetItem(FirmwareItem.InterfaceVersion, 3);
        BuildDirectory();
        Reset();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _addressHigh = 0;
        Select(0);
    }

    /// <summary>Sets a fixed item's bytes.</summary>
    public void SetItem(ushort selector, ReadOnlyMemory<byte> content) => _items[selector] = content;

    /// <summary>Sets a fixed item of 16 bits.</summary>
    public void SetItem(ushort selector, ushort value) => SetItem(selector, new[] { (byte)value, (byte)(value >> 8) });

    /// <summary>Sets a fixed item of 32 bits.</summary>
    public void SetItem(ushort selector, uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        SetItem(selector, bytes);
    }

    /// <summary>Sets a fixed item of 64 bits.</summary>
    public void SetItem(ushort selector, ulong value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        SetItem(selector, bytes);
    }

    /// <summary>Sets a file, such as "etc/e820" or "opt/org.example/name".</summary>
    /// <exception cref="ArgumentException">The name is empty, longer than 55 characters or not printable ASCII.</exception>
    public void SetFile(string name, ReadOnlyMemory<byte> content)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        if (name.Length > LongestName || name.AsSpan().ContainsAnyExceptInRange(' ', '~'))
            throw new ArgumentException($"'{name}' is no name of a fw_cfg file: 1 to {LongestName} printable ASCII characters.", nameof(name));
        _files[name] = content;
        BuildDirectory();
    }

    /// <summary>The files' selectors follow the order of their names, and are told big-endian.</summary>
    private void BuildDirectory()
    {
        byte[] directory = new byte[4 + _files.Count * 64];
        BinaryPrimitives.WriteUInt32BigEndian(directory, (uint)_files.Count);
        ushort selector = FirmwareItem.FirstFile;
        int at = 4;
        foreach ((string name, ReadOnlyMemory<byte> content) in _files)
        {
            Span<byte> entry = directory.AsSpan(at, 64);
            BinaryPrimitives.WriteUInt32BigEndian(entry, (uint)content.Length);
            BinaryPrimitives.WriteUInt16BigEndian(entry[4..], selector);
            Encoding.ASCII.GetBytes(name, entry[8..]);
            _items[selector++] = content;
            at += 64;
        }
        _items[FirmwareItem.Directory] = directory;
    }

    private void Select(ushort selector)
    {
        _selector = selector;
        _selected = _items.GetValueOrDefault(selector);
        _offset = 0;
    }

    private byte ReadByte() => _offset < (uint)_selected.Length ? _selected.Span[(int)_offset++] : (byte)0;

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (port == DataPort && size == 1)
            return ReadByte();
        if (port == SelectorPort)
            return size == 2 ? _selector : (byte)_selector;
        if (port < AddressHighPort)
            return uint.MaxValue;
        // The DMA address register reads as a signature, big-endian.
        uint value = 0;
        for (int i = 0; i < size; i++)
            value |= (uint)(byte)(DmaSignature >> 56 - 8 * (port - AddressHighPort + i)) << i * 8;
        return value;
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        switch (port, size)
        {
            case (SelectorPort, 2):
                Select((ushort)value);
                break;
            case (AddressHighPort, 4):
                _addressHigh = BinaryPrimitives.ReverseEndianness(value);
                break;
            case (AddressLowPort, 4):
                ulong address = (ulong)_addressHigh << 32 | BinaryPrimitives.ReverseEndianness(value);
                _addressHigh = 0;
                Transfer(address);
                break;
        }
    }

    /// <summary>One DMA command: control, length and address, big-endian, answered in its control word.</summary>
    private void Transfer(ulong command)
    {
        Span<byte> access = stackalloc byte[16];
        if (!_memory.TryRead(command, access))
            return;
        uint control = BinaryPrimitives.ReadUInt32BigEndian(access);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(access[4..]);
        ulong address = BinaryPrimitives.ReadUInt64BigEndian(access[8..]);
        if ((control & DmaSelect) != 0)
            Select((ushort)(control >> 16));
        bool ok = true;
        if ((control & DmaRead) != 0)
            ok = Copy(address, length);
        else if ((control & DmaWrite) != 0)
            ok = false;
        else if ((control & DmaSkip) != 0)
            _offset = (uint)Math.Min((ulong)_offset + length, uint.MaxValue);
        BinaryPrimitives.WriteUInt32BigEndian(access, ok ? 0 : DmaError);
        _memory.TryWrite(command, access[..4]);
    }

    private bool Copy(ulong address, uint length)
    {
        // Behind an item's end come zeros, but nobody has a use for more of them than this.
        ulong item = _offset < (uint)_selected.Length ? (ulong)_selected.Length - _offset : 0;
        if (length > item + MostZeros || !_memory.IsRam(address, length))
            return false;
        while (length > 0)
        {
            Span<byte> chunk = _chunk.AsSpan(0, (int)Math.Min(length, (uint)_chunk.Length));
            int rest = _offset < (uint)_selected.Length ? Math.Min(chunk.Length, _selected.Length - (int)_offset) : 0;
            if (rest > 0)
                _selected.Span.Slice((int)_offset, rest).CopyTo(chunk);
            chunk[rest..].Clear();
            _offset += (uint)rest;
            if (!_memory.TryWrite(address, chunk))
                return false;
            address += (ulong)chunk.Length;
            length -= (uint)chunk.Length;
        }
        return true;
    }

    /// <summary>Its state between two accesses, without the items: the guest cannot change them.</summary>
    public FirmwareConfigurationState Save() => new() { Selector = _selector, Offset = _offset, AddressHigh = _addressHigh };

    /// <summary>Takes a saved state. The items must be there already.</summary>
    public void Load(FirmwareConfigurationState state)
    {
        Select(state.Selector);
        _offset = state.Offset;
        _addressHigh = state.AddressHigh;
    }
}
