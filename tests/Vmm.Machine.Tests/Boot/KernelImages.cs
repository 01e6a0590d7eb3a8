using System.Buffers.Binary;

namespace Vmm.Machine.Tests.Boot;

/// <summary>Small kernel files of every format, for loaders to take apart.</summary>
internal static class KernelImages
{
    internal const int BzSetupBytes = 5 * 512;

    private static void Put16(byte[] file, int at, int value) => BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(at), (ushort)value);

    private static void Put32(byte[] file, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(at), value);

    private static void Put64(byte[] file, int at, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(at), value);

    /// <summary>A bzImage of protocol 2.15 that loads at 16 MiB and takes 2 MiB.</summary>
    internal static byte[] BzImage(bool has64BitEntry = true, int codeLength = 0x1000)
    {
        byte[] file = new byte[BzSetupBytes + codeLength];
        file[0x1F1] = 4;
        Put16(file, 0x1FE, 0xAA55);
        file[0x200] = 0xEB;
        file[0x201] = 0x6A;
        "HdrS"u8.CopyTo(file.AsSpan(0x202));
        Put16(file, 0x206, 0x020F);
        file[0x211] = 0x01;
        Put32(file, 0x214, 0x10_0000);
        Put32(file, 0x22C, 0x7FFF_FFFF);
        Put32(file, 0x230, 0x20_0000);
        file[0x234] = 1;
        Put16(file, 0x236, has64BitEntry ? 0x3F : 0);
        Put32(file, 0x238, 2047);
        Put64(file, 0x258, 0x100_0000);
        Put32(file, 0x260, 0x20_0000);
        for (int i = BzSetupBytes; i < file.Length; i++)
            file[i] = (byte)(i * 7);
        return file;
    }

    internal readonly record struct Segment(ulong Physical, ulong Virtual, byte[] Content, ulong MemoryLength);

    /// <summary>An ELF executable; a note, if any, is in a PT_NOTE segment of its own.</summary>
    internal static byte[] Elf(bool is64, ulong entry, byte[]? note, params Segment[] segments)
    {
        int headerSize = is64 ? 64 : 52;
        int entrySize = is64 ? 56 : 32;
        int count = segments.Length + (note == null ? 0 : 1);
        int at = headerSize + entrySize * count;
        byte[] file = new byte[at + segments.Sum(s => s.Content.Length) + (note?.Length ?? 0)];
        "\u007fELF"u8.CopyTo(file);
        file[4] = (byte)(is64 ? 2 : 1);
        file[5] = 1;
        file[6] = 1;
        Put16(file, 16, 2);
        Put16(file, 18, is64 ? 62 : 3);
        Put32(file, 20, 1);
        if (is64)
        {
            Put64(file, 24, entry);
            Put64(file, 32, (ulong)headerSize);
        }
        else
        {
            Put32(file, 24, (uint)entry);
            Put32(file, 28, (uint)headerSize);
        }
        Put16(file, is64 ? 52 : 40, headerSize);
        Put16(file, is64 ? 54 : 42, entrySize);
        Put16(file, is64 ? 56 : 44, count);
        int header = headerSize;
        foreach (Segment segment in segments)
        {
            Header(1, segment.Virtual, segment.Physical, segment.Content, segment.MemoryLength);
            header += entrySize;
        }
        if (note != null)
            Header(4, 0, 0, note, (ulong)note.Length);
        return file;

        void Header(uint type, ulong virtualAddress, ulong physical, byte[] content, ulong memoryLength)
        {
            Put32(file, header, type);
            if (is64)
            {
                Put64(file, header + 8, (ulong)at);
                Put64(file, header + 16, virtualAddress);
                Put64(file, header + 24, physical);
                Put64(file, header + 32, (ulong)content.Length);
                Put64(file, header + 40, memoryLength);
                Put64(file, header + 48, 4);
            }
            else
            {
                Put32(file, header + 4, (uint)at);
                Put32(file, header + 8, (uint)virtualAddress);
                Put32(file, header + 12, (uint)physical);
                Put32(file, header + 16, (uint)content.Length);
                Put32(file, header + 20, (uint)memoryLength);
                Put32(file, header + 28, 4);
            }
            content.CopyTo(file, at);
            at += content.Length;
        }
    }

    /// <summary>The note XEN_ELFNOTE_PHYS32_ENTRY, behind another note that must be passed over.</summary>
    internal static byte[] PvhNote(ulong entry, int size = 8)
    {
        byte[] note = new byte[12 + 4 + 4 + 12 + 4 + size];
        Put32(note, 0, 3);
        Put32(note, 4, 3);
        Put32(note, 8, 6);
        "GNU"u8.CopyTo(note.AsSpan(12));
        Put32(note, 20, 4);
        Put32(note, 24, (uint)size);
        Put32(note, 28, 18);
        "Xen"u8.CopyTo(note.AsSpan(32));
        if (size >= 8)
            Put64(note, 36, entry);
        else if (size >= 4)
            Put32(note, 36, (uint)entry);
        return note;
    }

    internal static byte[] Content(int length, byte first = 1)
    {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++)
            bytes[i] = (byte)(first + i * 3);
        return bytes;
    }

    /// <summary>A PVH kernel at 1 MiB with a zeroed tail.</summary>
    internal static byte[] Pvh() => Elf(true, 0xFFFF_FFFF_8100_0000, PvhNote(0x10_0010), new Segment(0x10_0000, 0xFFFF_FFFF_8100_0000, Content(0x300), 0x1000));

    /// <summary>A segment's content that begins with a Multiboot header.</summary>
    internal static byte[] MultibootContent(uint flags, int length, params uint[] addresses)
    {
        byte[] content = Content(length);
        Put32(content, 0, 0x1BAD_B002);
        Put32(content, 4, flags);
        Put32(content, 8, unchecked(0u - 0x1BAD_B002 - flags));
        for (int i = 0; i < addresses.Length; i++)
            Put32(content, 12 + i * 4, addresses[i]);
        return content;
    }

    internal static byte[] MultibootElf(bool is64, uint flags = 3) =>
        Elf(is64, is64 ? 0xFFFF_8000_0010_0020 : 0xC010_0020, null,
            new Segment(0x10_0000, is64 ? 0xFFFF_8000_0010_0000 : 0xC010_0000, MultibootContent(flags, 0x200), 0x4000));

    /// <summary>A flat binary with its addresses in the header, which is not at its start.</summary>
    internal static byte[] MultibootFlat(uint loadEnd = 0, uint bssEnd = 0x11_0000, uint entry = 0x10_0044)
    {
        const int HeaderAt = 0x40;
        byte[] header = MultibootContent(1 << 16, 0x200, 0x10_0000 + HeaderAt - 0x20, 0x10_0000, loadEnd, bssEnd, entry);
        return [.. new byte[HeaderAt], .. header];
    }
}
