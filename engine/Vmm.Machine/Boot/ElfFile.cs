using System.Buffers.Binary;

namespace Vmm.Machine.Boot;

/// <summary>A PT_LOAD segment of an ELF file.</summary>
internal readonly record struct ElfSegment(ulong FileOffset, ulong FileLength, ulong VirtualAddress, ulong PhysicalAddress, ulong MemoryLength);

/// <summary>
/// An x86 ELF executable, 32 or 64 bit (System V ABI, chapters 4 and 5), with every offset and length in it checked against
/// the file.
/// </summary>
internal sealed class ElfFile
{
    private const string Field = nameof(MachineSpec.KernelPath);

    private const ushort Machine386 = 3;
    private const ushort MachineX86_64 = 62;
    private const uint LoadSegment = 1;
    private const uint NoteSegment = 4;
    private const ushort MostProgramHeaders = 1024;

    private readonly ReadOnlyMemory<byte> _file;
    private readonly List<(ulong Offset, ulong Length, ulong Alignment)> _notes = [];

    private ElfFile(ReadOnlyMemory<byte> file) => _file = file;

    /// <summary>Whether the file is for 64-bit.</summary>
    internal bool Is64 { get; private init; }

    /// <summary>The entry point, as a virtual address.</summary>
    internal ulong Entry { get; private init; }

    /// <summary>The segments to load.</summary>
    internal List<ElfSegment> Segments { get; } = [];

    internal static bool Recognises(ReadOnlySpan<byte> file) => file.StartsWith("\u007fELF"u8);

    /// <exception cref="InvalidMachineException">The file is not an x86 executable or is damaged.</exception>
    internal static ElfFile Parse(ReadOnlyMemory<byte> content)
    {
        ReadOnlySpan<byte> file = content.Span;
        if (file.Length < 52)
            throw Damaged("it ends within its header");
        bool is64 = file[4] switch
        {
            1 => false,
            2 when file.Length >= 64 => true,
            _ => throw Damaged("its class is neither 32 nor 64 bit"),
        };
        if (file[5] != 1)
            throw Damaged("it is not little-endian");
        ushort machine = BinaryPrimitives.ReadUInt16LittleEndian(file[18..]);
        if (machine is not (Machine386 or MachineX86_64))
            throw new InvalidMachineException(Field, $"The ELF file is for machine type {machine}, not for x86.");

        ulong headers = is64 ? BinaryPrimitives.ReadUInt64LittleEndian(file[32..]) : BinaryPrimitives.ReadUInt32LittleEndian(file[28..]);
        int entrySize = BinaryPrimitives.ReadUInt16LittleEndian(file[(is64 ? 54 : 42)..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(file[(is64 ? 56 : 44)..]);
        if (count == 0)
            throw Damaged("it has no program headers, so it is not an executable");
        if (entrySize < (is64 ? 56 : 32) || count > MostProgramHeaders)
            throw Damaged($"it has {count} program headers of {entrySize} bytes");
        if (headers > (ulong)file.Length || (ulong)(entrySize * count) > (ulong)file.Length - headers)
            throw Damaged("its program headers lie outside the file");

        var elf = new ElfFile(content)
        {
            Is64 = is64,
            Entry = is64 ? BinaryPrimitives.ReadUInt64LittleEndian(file[24..]) : BinaryPrimitives.ReadUInt32LittleEndian(file[24..]),
        };
        for (int i = 0; i < count; i++)
            elf.AddHeader(file.Slice((int)headers + i * entrySize, entrySize), i);
        return elf;
    }

    private void AddHeader(ReadOnlySpan<byte> header, int index)
    {
        uint type = BinaryPrimitives.ReadUInt32LittleEndian(header);
        if (type is not (LoadSegment or NoteSegment))
            return;
        ulong Word(ReadOnlySpan<byte> at, int offset64, int offset32) => Is64
            ? BinaryPrimitives.ReadUInt64LittleEndian(at[offset64..])
            : BinaryPrimitives.ReadUInt32LittleEndian(at[offset32..]);
        ulong offset = Word(header, 8, 4);
        ulong fileLength = Word(header, 32, 16);
        if (offset > (ulong)_file.Length || fileLength > (ulong)_file.Length - offset)
            throw Damaged($"segment {index} lies at bytes 0x{offset:x} to 0x{offset + fileLength:x} of a file of 0x{_file.Length:x}");
        if (type == NoteSegment)
        {
            _notes.Add((offset, fileLength, Word(header, 48, 28)));
            return;
        }
        ulong memoryLength = Word(header, 40, 20);
        if (memoryLength < fileLength)
            throw Damaged($"segment {index} is longer in the file than in memory");
        if (memoryLength > 0)
            Segments.Add(new(offset, fileLength, Word(header, 16, 8), Word(header, 24, 12), memoryLength));
    }

    private static InvalidMachineException Damaged(string how) => new(Field, $"The kernel is a damaged ELF file: {how}.");

    /// <summary>The content of a note, or an empty span.</summary>
    internal ReadOnlySpan<byte> FindNote(ReadOnlySpan<byte> name, uint type)
    {
        foreach ((ulong offset, ulong length, ulong alignment) in _notes)
        {
            ReadOnlySpan<byte> notes = _file.Span.Slice((int)offset, (int)length);
            // Notes are aligned to 4 bytes, whatever the 64-bit ABI once said, except where the segment says 8.
            int align = alignment == 8 ? 8 : 4;
            while (notes.Length >= 12)
            {
                uint nameLength = BinaryPrimitives.ReadUInt32LittleEndian(notes);
                uint contentLength = BinaryPrimitives.ReadUInt32LittleEndian(notes[4..]);
                uint noteType = BinaryPrimitives.ReadUInt32LittleEndian(notes[8..]);
                long contentAt = Align(12 + (long)nameLength, align);
                long next = Align(contentAt + contentLength, align);
                if (contentAt + contentLength > notes.Length)
                    break;
                if (noteType == type && notes.Slice(12, (int)nameLength).TrimEnd((byte)0).SequenceEqual(name))
                    return notes.Slice((int)contentAt, (int)contentLength);
                if (next >= notes.Length)
                    break;
                notes = notes[(int)next..];
            }
        }
        return default;
    }

    private static long Align(long value, int alignment) => value + alignment - 1 & -alignment;

    /// <summary>
    /// The physical address of a virtual one: kernels that are linked high give their entry point so. One outside every
    /// segment is taken as physical.
    /// </summary>
    internal ulong ToPhysical(ulong address)
    {
        foreach (ElfSegment segment in Segments)
        {
            if (address - segment.VirtualAddress < segment.MemoryLength)
                return address - segment.VirtualAddress + segment.PhysicalAddress;
        }
        return address;
    }

    /// <summary>Puts the segments at their physical addresses.</summary>
    /// <returns>The range from the lowest to the highest.</returns>
    /// <exception cref="InvalidMachineException">There are none, or they do not fit.</exception>
    internal (ulong Start, ulong End) LoadSegments(BootMemory memory)
    {
        if (Segments.Count == 0)
            throw Damaged("it has nothing to load");
        ulong start = ulong.MaxValue;
        ulong end = 0;
        // All are taken before any is written, so that a bad file changes nothing.
        for (int i = 0; i < Segments.Count; i++)
        {
            ElfSegment segment = Segments[i];
            memory.Reserve(segment.PhysicalAddress, segment.MemoryLength, Field, $"Segment {i} of the kernel");
            start = Math.Min(start, segment.PhysicalAddress);
            end = Math.Max(end, segment.PhysicalAddress + segment.MemoryLength);
        }
        foreach (ElfSegment segment in Segments)
            memory.WriteSegment(segment.PhysicalAddress, _file.Span.Slice((int)segment.FileOffset, (int)segment.FileLength), segment.MemoryLength);
        return (start, end);
    }

    /// <summary>Checks that an entry point lies in what was loaded.</summary>
    /// <exception cref="InvalidMachineException">It does not, or it is not below 4 GiB.</exception>
    internal void CheckEntry(ulong entry)
    {
        if (entry > uint.MaxValue)
            throw new InvalidMachineException(Field, $"The kernel's entry point 0x{entry:x} is not below 4 GiB, where a 32-bit entry must be.");
        foreach (ElfSegment segment in Segments)
        {
            if (entry - segment.PhysicalAddress < segment.MemoryLength)
                return;
        }
        throw new InvalidMachineException(Field, $"The kernel's entry point 0x{entry:x} lies in none of its segments.");
    }
}
