using System.Buffers.Binary;
using System.Text;

namespace Vmm.Machine.Boot;

/// <summary>
/// Encodes ACPI Machine Language (ACPI 6.5, chapter 20), as much as a static DSDT takes. Each method gives the bytes of one
/// term; terms nest by passing them on.
/// </summary>
internal static class Aml
{
    private const byte ZeroOp = 0x00;
    private const byte OneOp = 0x01;
    private const byte NameOp = 0x08;
    private const byte BytePrefix = 0x0A;
    private const byte WordPrefix = 0x0B;
    private const byte DWordPrefix = 0x0C;
    private const byte StringPrefix = 0x0D;
    private const byte QWordPrefix = 0x0E;
    private const byte ScopeOp = 0x10;
    private const byte BufferOp = 0x11;
    private const byte PackageOp = 0x12;
    private const byte MethodOp = 0x14;
    private const byte DualNamePrefix = 0x2E;
    private const byte MultiNamePrefix = 0x2F;
    private const byte ExtendedPrefix = 0x5B;
    private const byte DeviceOp = 0x82;
    private const byte StoreOp = 0x70;
    private const byte IfOp = 0xA0;
    private const byte ReturnOp = 0xA4;
    private const byte NotifyOp = 0x86;
    private const byte RegionOp = 0x80;
    private const byte FieldOp = 0x81;
    private const byte PortSpace = 1;
    private const byte Arg0Op = 0x68;

    internal static byte[] Concat(params ReadOnlySpan<byte[]> parts)
    {
        int length = 0;
        foreach (byte[] part in parts)
            length += part.Length;
        byte[] all = new byte[length];
        int at = 0;
        foreach (byte[] part in parts)
        {
            part.CopyTo(all, at);
            at += part.Length;
        }
        return all;
    }

    /// <summary>An integer in its shortest encoding.</summary>
    internal static byte[] Integer(ulong value)
    {
        switch (value)
        {
            case 0:
                return [ZeroOp];
            case 1:
                return [OneOp];
            case <= byte.MaxValue:
                return [BytePrefix, (byte)value];
            case <= ushort.MaxValue:
                return [WordPrefix, (byte)value, (byte)(value >> 8)];
        }
        bool isLong = value > uint.MaxValue;
        byte[] bytes = new byte[isLong ? 9 : 5];
        bytes[0] = isLong ? QWordPrefix : DWordPrefix;
        if (isLong)
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(1), value);
        else
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(1), (uint)value);
        return bytes;
    }

    /// <summary>A string, which must be ASCII.</summary>
    internal static byte[] Text(string text) => [StringPrefix, .. Encoding.ASCII.GetBytes(text), 0];

    /// <summary>An identifier such as PNP0A03, packed as EISA does: three letters of five bits and four hexadecimal digits.</summary>
    internal static byte[] EisaId(string id)
    {
        uint packed = (uint)(id[0] - '@') << 26 | (uint)(id[1] - '@') << 21 | (uint)(id[2] - '@') << 16 | Convert.ToUInt16(id[3..], 16);
        return Integer(BinaryPrimitives.ReverseEndianness(packed));
    }

    /// <summary>A name string: an optional root, and segments of up to four characters with dots between.</summary>
    internal static byte[] Path(string path)
    {
        var bytes = new List<byte>();
        if (path.StartsWith('\\'))
        {
            bytes.Add((byte)'\\');
            path = path[1..];
        }
        string[] segments = path.Split('.');
        if (segments.Length == 2)
            bytes.Add(DualNamePrefix);
        else if (segments.Length > 2)
            bytes.AddRange([MultiNamePrefix, (byte)segments.Length]);
        foreach (string segment in segments)
            bytes.AddRange(Encoding.ASCII.GetBytes(segment.PadRight(4, '_')));
        return [.. bytes];
    }

    internal static byte[] Name(string path, byte[] value) => Concat([NameOp], Path(path), value);

    internal static byte[] Scope(string path, params ReadOnlySpan<byte[]> terms) => Concat([ScopeOp], Sized(Concat(Path(path), Concat(terms))));

    internal static byte[] Device(string path, params ReadOnlySpan<byte[]> terms) => Concat([ExtendedPrefix, DeviceOp], Sized(Concat(Path(path), Concat(terms))));

    /// <param name="path">The method's name.</param>
    /// <param name="arguments">0 to 7.</param>
    /// <param name="terms">Its body.</param>
    internal static byte[] Method(string path, int arguments, params ReadOnlySpan<byte[]> terms) =>
        Concat([MethodOp], Sized(Concat(Path(path), [(byte)arguments], Concat(terms))));

    internal static byte[] Package(params ReadOnlySpan<byte[]> elements) => Concat([PackageOp], Sized(Concat([(byte)elements.Length], Concat(elements))));

    internal static byte[] Buffer(byte[] bytes) => Concat([BufferOp], Sized(Concat(Integer((ulong)bytes.Length), bytes)));

    internal static byte[] If(byte[] predicate, params ReadOnlySpan<byte[]> terms) => Concat([IfOp], Sized(Concat(predicate, Concat(terms))));

    internal static byte[] Return(byte[] value) => Concat([ReturnOp], value);

    internal static byte[] Store(byte[] source, byte[] target) => Concat([StoreOp], source, target);

    internal static byte[] Notify(string device, ulong value) => Concat([NotifyOp], Path(device), Integer(value));

    /// <summary>Names a range of I/O ports for fields.</summary>
    internal static byte[] PortRegion(string name, ushort first, ushort length) =>
        Concat([ExtendedPrefix, RegionOp], Path(name), [PortSpace], Integer(first), Integer(length));

    /// <summary>Names bits of a region, which is accessed in dwords; a write has zeros for the bits that it is not about.</summary>
    /// <param name="region">The region.</param>
    /// <param name="firstBit">Bits before the first one that is named, less than 64.</param>
    /// <param name="names">A name of four characters for each bit.</param>
    internal static byte[] BitField(string region, int firstBit, IEnumerable<string> names)
    {
        const byte dwordAccess = 3, writeAsZeros = 2 << 5;
        byte[] gap = firstBit == 0 ? [] : [0, (byte)firstBit];
        byte[] bits = [.. names.SelectMany(name => Encoding.ASCII.GetBytes(name).Append((byte)1))];
        return Concat([ExtendedPrefix, FieldOp], Sized(Concat(Path(region), [dwordAccess | writeAsZeros], gap, bits)));
    }

    internal static byte[] Argument(int number) => [(byte)(Arg0Op + number)];

    /// <summary>Puts the package length before its content; the length counts itself (section 20.2.4).</summary>
    private static byte[] Sized(byte[] content)
    {
        int length = content.Length;
        if (length + 1 <= 0x3F)
            return [(byte)(length + 1), .. content];
        int extra = length + 2 <= 0xFFF ? 1 : length + 3 <= 0xF_FFFF ? 2 : 3;
        int total = length + 1 + extra;
        byte[] all = new byte[total];
        all[0] = (byte)(extra << 6 | total & 0x0F);
        for (int i = 0; i < extra; i++)
            all[1 + i] = (byte)(total >> 4 + 8 * i);
        content.CopyTo(all, 1 + extra);
        return all;
    }

    /// <summary>A buffer of resource descriptors with the end tag behind them.</summary>
    internal static byte[] Resources(params ReadOnlySpan<byte[]> descriptors) =>
        // A checksum of zero says that there is none.
        Buffer(Concat(Concat(descriptors), [0x79, 0x00]));

    /// <summary>A fixed range of I/O ports, decoded with 16 bits (section 6.4.2.5).</summary>
    internal static byte[] Ports(ushort first, byte count) =>
        [0x47, 0x01, (byte)first, (byte)(first >> 8), (byte)first, (byte)(first >> 8), 1, count];

    /// <summary>An edge-triggered interrupt of the ISA bus (section 6.4.2.1).</summary>
    internal static byte[] Irq(int irq) => [0x22, (byte)(1 << irq), (byte)(1 << irq >> 8)];

    /// <summary>A fixed range of 32-bit memory (section 6.4.3.4).</summary>
    internal static byte[] FixedMemory(uint address, uint length)
    {
        byte[] bytes = new byte[12];
        bytes[0] = 0x86;
        bytes[1] = 9;
        bytes[3] = 1;
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), address);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), length);
        return bytes;
    }

    /// <summary>A range of bus numbers that a bridge passes on (section 6.4.3.5.3).</summary>
    internal static byte[] BusNumbers(ushort first, ushort last) => WordWindow(2, 0, first, last);

    /// <summary>A range of I/O ports that a bridge passes on.</summary>
    internal static byte[] PortWindow(ushort first, ushort last) => WordWindow(1, 0x03, first, last);

    private static byte[] WordWindow(byte type, byte typeFlags, ushort first, ushort last)
    {
        byte[] bytes = new byte[16];
        bytes[0] = 0x88;
        bytes[1] = 13;
        bytes[3] = type;
        // Positive decode; both ends fixed.
        bytes[4] = 0x0C;
        bytes[5] = typeFlags;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(8), first);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(10), last);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(14), (ushort)(last - first + 1));
        return bytes;
    }

    /// <summary>A range of 32-bit memory, read-write and not cached, that a bridge passes on (section 6.4.3.5.2).</summary>
    internal static byte[] MemoryWindow(uint first, uint last)
    {
        byte[] bytes = new byte[26];
        bytes[0] = 0x87;
        bytes[1] = 23;
        bytes[4] = 0x0C;
        bytes[5] = 0x01;
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(10), first);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(14), last);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(22), last - first + 1);
        return bytes;
    }
}
