using System.Buffers.Binary;

namespace Vmm.Machine.Boot;

/// <summary>
/// Loads a kernel by the Multiboot Specification, version 0.6.96: 32-bit and 64-bit ELF files by their physical addresses, or
/// any file by the addresses in its header. Entered in 32-bit protected mode with EAX the magic number and EBX the
/// information structure.
/// </summary>
internal static class MultibootLoader
{
    private const string Kernel = nameof(MachineSpec.KernelPath);
    private const uint HeaderMagic = 0x1BAD_B002;
    private const uint LoaderMagic = 0x2BAD_B002;
    private const int HeaderWindow = 8192;

    private const uint AddressesValid = 1 << 16;

    /// <summary>Bits 0 to 2: page-aligned modules, memory information, video mode. The last is a wish that goes unanswered.</summary>
    private const uint KnownRequirements = 0x0007;
    private const uint Requirements = 0xFFFF;

    private const int InfoSize = 120;
    private const int ModuleSize = 16;
    private const int MapEntrySize = 24;

    private const uint HasMemory = 1 << 0;
    private const uint HasCommandLine = 1 << 2;
    private const uint HasModules = 1 << 3;
    private const uint HasMap = 1 << 6;
    private const uint HasLoaderName = 1 << 9;

    /// <summary>The header's offset in the file, or -1 (section 3.1: within the first 8192 bytes, on a 4-byte boundary).</summary>
    internal static int FindHeader(ReadOnlySpan<byte> file)
    {
        int end = Math.Min(file.Length, HeaderWindow) - 12;
        for (int at = 0; at <= end; at += 4)
        {
            if (BinaryPrimitives.ReadUInt32LittleEndian(file[at..]) != HeaderMagic)
                continue;
            uint flags = BinaryPrimitives.ReadUInt32LittleEndian(file[(at + 4)..]);
            uint checksum = BinaryPrimitives.ReadUInt32LittleEndian(file[(at + 8)..]);
            if (unchecked(HeaderMagic + flags + checksum) == 0)
                return at;
        }
        return -1;
    }

    internal static BootImage Load(BootRequest request, BootMemory memory, int header)
    {
        ReadOnlySpan<byte> file = request.Kernel.Span;
        uint flags = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 4)..]);
        if ((flags & Requirements & ~KnownRequirements) != 0)
            throw new InvalidMachineException(Kernel, $"The kernel's Multiboot header requires features 0x{flags & Requirements & ~KnownRequirements:x} that the specification does not know.");

        (ulong entry, ulong start, ulong end) = (flags & AddressesValid) != 0
            ? LoadByHeader(file, header, memory)
            : LoadElf(request, memory);

        (ulong Address, ulong Length)[] modules = ModulePlacement.Place(request.Modules, memory, end);
        string commandLine = request.CommandLine.Length == 0 ? request.KernelName : $"{request.KernelName} {request.CommandLine}";
        ulong commandLineAt = memory.WriteString(commandLine, nameof(MachineSpec.CommandLine), "The command line");
        ulong infoAt = WriteInformation(request, memory, modules, commandLineAt);
        return new BootImage
        {
            Format = KernelFormat.Multiboot,
            Processor = EntryTables.Protected32(memory, entry, Kernel) with { Rax = LoaderMagic, Rbx = infoAt },
            KernelAddress = start,
            KernelLength = end - start,
            Modules = modules,
            CommandLineAddress = commandLineAt,
        };
    }

    private static (ulong Entry, ulong Start, ulong End) LoadElf(BootRequest request, BootMemory memory)
    {
        if (!ElfFile.Recognises(request.Kernel.Span))
            throw new InvalidMachineException(Kernel, "The kernel has a Multiboot header without load addresses, and is not an ELF file that would give them.");
        ElfFile elf = ElfFile.Parse(request.Kernel);
        ulong entry = elf.ToPhysical(elf.Entry);
        elf.CheckEntry(entry);
        (ulong start, ulong end) = elf.LoadSegments(memory);
        return (entry, start, end);
    }

    /// <summary>Section 3.1.3, the address fields of the header: for files that are not ELF.</summary>
    private static (ulong Entry, ulong Start, ulong End) LoadByHeader(ReadOnlySpan<byte> file, int header, BootMemory memory)
    {
        if (file.Length < header + 32)
            throw new InvalidMachineException(Kernel, "The kernel's Multiboot header is cut off before its load addresses.");
        uint headerAddress = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 12)..]);
        uint loadAddress = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 16)..]);
        uint loadEnd = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 20)..]);
        uint bssEnd = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 24)..]);
        uint entry = BinaryPrimitives.ReadUInt32LittleEndian(file[(header + 28)..]);
        if (headerAddress < loadAddress || headerAddress - loadAddress > (uint)header)
            throw new InvalidMachineException(Kernel, $"The kernel's Multiboot header says that it is at 0x{headerAddress:x} of an image at 0x{loadAddress:x}, and it is at byte 0x{header:x} of the file.");
        int offset = header - (int)(headerAddress - loadAddress);
        uint available = (uint)(file.Length - offset);
        if (loadEnd != 0 && loadEnd < loadAddress)
            throw new InvalidMachineException(Kernel, "The kernel's Multiboot header ends its image before it begins.");
        uint length = loadEnd == 0 ? available : loadEnd - loadAddress;
        if (length > available)
            throw new InvalidMachineException(Kernel, $"The kernel file is truncated: its Multiboot header loads 0x{length:x} bytes, and 0x{available:x} are there.");
        ulong end = Math.Max((ulong)loadAddress + length, bssEnd);
        if (entry < loadAddress || entry >= end)
            throw new InvalidMachineException(Kernel, $"The kernel's entry point 0x{entry:x} lies outside its image.");
        memory.Reserve(loadAddress, end - loadAddress, Kernel, "The kernel");
        memory.WriteSegment(loadAddress, file.Slice(offset, (int)length), end - loadAddress);
        return (entry, loadAddress, end);
    }

    /// <summary>Section 3.3, the boot information: the structure, the modules' list and the memory map in one block.</summary>
    private static ulong WriteInformation(BootRequest request, BootMemory memory, (ulong Address, ulong Length)[] modules, ulong commandLineAt)
    {
        int modulesAt = InfoSize;
        int mapAt = modulesAt + modules.Length * ModuleSize;
        byte[] info = new byte[mapAt + memory.Map.Count * MapEntrySize];
        ulong infoAt = memory.Allocate((ulong)info.Length, 16, 0x9000, uint.MaxValue, Kernel, "The Multiboot information");
        ulong nameAt = memory.WriteString("vmm", Kernel, "The boot loader's name");

        void Put(int offset, ulong value) => BinaryPrimitives.WriteUInt32LittleEndian(info.AsSpan(offset), (uint)value);
        Put(0, HasMemory | HasCommandLine | HasModules | HasMap | HasLoaderName);
        Put(4, MemoryMap.ConventionalEnd / 1024);
        Put(8, (memory.LowSize - Math.Min(memory.LowSize, 0x10_0000)) / 1024);
        Put(16, commandLineAt);
        Put(20, (ulong)modules.Length);
        Put(24, infoAt + (ulong)modulesAt);
        Put(44, (ulong)(memory.Map.Count * MapEntrySize));
        Put(48, infoAt + (ulong)mapAt);
        Put(64, nameAt);
        for (int i = 0; i < modules.Length; i++)
        {
            int at = modulesAt + i * ModuleSize;
            Put(at, modules[i].Address);
            Put(at + 4, modules[i].Address + modules[i].Length);
            Put(at + 8, memory.WriteString(request.Modules[i].CommandLine, request.Modules[i].Field, "A module's command line"));
        }
        for (int i = 0; i < memory.Map.Count; i++)
        {
            int at = mapAt + i * MapEntrySize;
            // The size of an entry does not count itself.
            Put(at, MapEntrySize - 4);
            BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(at + 4), memory.Map[i].Base);
            BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(at + 12), memory.Map[i].Length);
            Put(at + 20, (ulong)memory.Map[i].Type);
        }
        memory.Write(infoAt, info);
        return infoAt;
    }
}
