using System.Buffers.Binary;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>
/// Loads a bzImage by the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst): the 64-bit protocol where the kernel has
/// its entry point, else the 32-bit one. The kernel's real-mode part is not used.
/// </summary>
internal static class LinuxLoader
{
    private const string Kernel = nameof(MachineSpec.KernelPath);
    private const string CommandLine = nameof(MachineSpec.CommandLine);

    // Offsets in the file and in boot_params alike: "The real-mode kernel header" and "The zero page".
    private const int E820Count = 0x1E8;
    private const int SetupSectors = 0x1F1;
    private const int VideoMode = 0x1FA;
    private const int BootFlag = 0x1FE;
    private const int JumpOffset = 0x201;
    private const int HeaderMagic = 0x202;
    private const int Version = 0x206;
    private const int LoaderType = 0x210;
    private const int LoadFlags = 0x211;
    private const int Code32Start = 0x214;
    private const int RamDiskImage = 0x218;
    private const int RamDiskSize = 0x21C;
    private const int HeapEnd = 0x224;
    private const int CommandLinePointer = 0x228;
    private const int InitrdMaximum = 0x22C;
    private const int KernelAlignment = 0x230;
    private const int Relocatable = 0x234;
    private const int ExtendedLoadFlags = 0x236;
    private const int CommandLineSize = 0x238;
    private const int PreferredAddress = 0x258;
    private const int InitSize = 0x260;
    private const int AcpiRsdp = 0x070;
    private const int E820Table = 0x2D0;

    private const int HeaderStart = 0x1F1;
    private const int SmallestFile = 0x268;
    private const int E820Capacity = 128;

    private const byte LoadedHigh = 0x01;
    private const byte CanUseHeap = 0x80;
    private const ushort Entry64 = 0x0001;
    private const ushort OldestVersion = 0x0206;
    private const ulong Entry64Offset = 0x200;

    internal static bool Recognises(ReadOnlySpan<byte> file) =>
        file.Length >= SmallestFile
        && BinaryPrimitives.ReadUInt16LittleEndian(file[BootFlag..]) == 0xAA55
        && file.Slice(HeaderMagic, 4).SequenceEqual("HdrS"u8);

    internal static BootImage Load(BootRequest request, BootMemory memory)
    {
        ReadOnlySpan<byte> file = request.Kernel.Span;
        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(file[Version..]);
        if (version < OldestVersion)
            throw new InvalidMachineException(Kernel, $"The kernel speaks boot protocol {version >> 8}.{version & 0xFF:d2}; 2.06 is the oldest that is supported.");
        if ((file[LoadFlags] & LoadedHigh) == 0)
            throw new InvalidMachineException(Kernel, "The kernel is a zImage, which loads below 640 KiB; build a bzImage.");
        int setupSectors = file[SetupSectors] == 0 ? 4 : file[SetupSectors];
        int payload = (setupSectors + 1) * 512;
        if (payload >= file.Length)
            throw new InvalidMachineException(Kernel, $"The kernel file is truncated: its header says that the code begins at byte {payload}, and the file has {file.Length}.");
        ReadOnlySpan<byte> code = file[payload..];

        // Since 2.10: where the kernel wants to be and how much room it takes to decompress.
        ulong length = (ulong)code.Length;
        ulong address = 0x10_0000;
        if (version >= 0x020A)
        {
            length = Math.Max(length, BinaryPrimitives.ReadUInt32LittleEndian(file[InitSize..]));
            ulong preferred = BinaryPrimitives.ReadUInt64LittleEndian(file[PreferredAddress..]);
            uint alignment = BinaryPrimitives.ReadUInt32LittleEndian(file[KernelAlignment..]);
            if (alignment == 0 || (alignment & alignment - 1) != 0 || alignment > 0x4000_0000)
                throw new InvalidMachineException(Kernel, $"The kernel's header asks for an alignment of 0x{alignment:x}, which is no power of two up to 1 GiB.");
            if (preferred is < 0x10_0000 or > uint.MaxValue)
                throw new InvalidMachineException(Kernel, $"The kernel's header asks for address 0x{preferred:x}; it must lie between 1 MiB and 4 GiB.");
            // A relocatable kernel that is loaded below its preferred address moves itself up there, so nothing is won by that.
            address = preferred;
        }
        if (address + length > memory.LowSize && address + length <= PhysicalMemory.LowLimit)
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), $"This kernel decompresses to 0x{address:x} to 0x{address + length - 1:x} and so needs at least {(address + length + 0xF_FFFF) >> 20} MiB of memory, without what an initial RAM disk takes; the machine has {memory.LowSize >> 20} MiB.");
        memory.Reserve(address, length, Kernel, "The kernel with its room to decompress");

        ushort extendedFlags = version >= 0x020C ? BinaryPrimitives.ReadUInt16LittleEndian(file[ExtendedLoadFlags..]) : (ushort)0;
        bool is64 = (extendedFlags & Entry64) != 0;
        if (is64 && (ulong)code.Length <= Entry64Offset)
            throw new InvalidMachineException(Kernel, "The kernel file is truncated before its 64-bit entry point.");

        byte[] commandLine = EncodeCommandLine(request.CommandLine, BinaryPrimitives.ReadUInt32LittleEndian(file[CommandLineSize..]));
        ulong parametersAt = memory.Allocate(4096, 4096, 0x1000, MemoryMap.ConventionalEnd, Kernel, "boot_params");
        ulong commandLineAt = memory.Allocate((ulong)commandLine.Length, 16, 0x2_0000, uint.MaxValue, CommandLine, "The command line");
        InitialProcessorState processor = is64
            ? EntryTables.Long64(memory, address + Entry64Offset, Kernel)
            : EntryTables.Protected32(memory, address, Kernel);
        (ulong Address, ulong Length)? initrd = PlaceInitrd(request, memory, file, address + length);

        byte[] parameters = new byte[4096];
        // The header ends where the jump at its start leads (boot.rst, "The zero page", step 1).
        int headerEnd = Math.Min(HeaderMagic + file[JumpOffset], E820Table);
        file[HeaderStart..headerEnd].CopyTo(parameters.AsSpan(HeaderStart));
        BinaryPrimitives.WriteUInt64LittleEndian(parameters.AsSpan(AcpiRsdp), request.RsdpAddress);
        parameters[LoaderType] = 0xFF;
        parameters[LoadFlags] = (byte)(file[LoadFlags] | CanUseHeap);
        BinaryPrimitives.WriteUInt16LittleEndian(parameters.AsSpan(HeapEnd), 0xDE00);
        BinaryPrimitives.WriteUInt16LittleEndian(parameters.AsSpan(VideoMode), 0xFFFF);
        BinaryPrimitives.WriteUInt32LittleEndian(parameters.AsSpan(Code32Start), (uint)address);
        BinaryPrimitives.WriteUInt32LittleEndian(parameters.AsSpan(CommandLinePointer), (uint)commandLineAt);
        if (initrd is { } disk)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(parameters.AsSpan(RamDiskImage), (uint)disk.Address);
            BinaryPrimitives.WriteUInt32LittleEndian(parameters.AsSpan(RamDiskSize), (uint)disk.Length);
        }
        WriteE820(parameters, memory.Map);

        memory.WriteSegment(address, code, length);
        memory.Write(commandLineAt, commandLine);
        memory.Write(parametersAt, parameters);
        return new BootImage
        {
            Format = KernelFormat.LinuxBzImage,
            Processor = processor with { Rsi = parametersAt },
            KernelAddress = address,
            KernelLength = length,
            Modules = initrd is { } placed ? [placed] : [],
            CommandLineAddress = commandLineAt,
        };
    }

    private static byte[] EncodeCommandLine(string text, uint limit)
    {
        byte[] bytes = BootMemory.EncodeString(text, CommandLine);
        // A header may claim anything; no kernel takes more than 64 KiB, and 255 is what every kernel takes.
        uint most = Math.Clamp(limit, 255, 0xFFFF);
        if (bytes.Length - 1 > most)
            throw new InvalidMachineException(CommandLine, $"The command line has {bytes.Length - 1} bytes; this kernel takes {most}.");
        return bytes;
    }

    private static (ulong Address, ulong Length)? PlaceInitrd(BootRequest request, BootMemory memory, ReadOnlySpan<byte> file, ulong kernelEnd)
    {
        if (request.Modules.Count > 1)
            throw new InvalidMachineException(request.Modules[1].Field, "A Linux kernel takes one initial RAM disk and no further modules; concatenate the archives.");
        if (request.Modules.Count == 0 || request.Modules[0].Content.IsEmpty)
            return null;
        BootModule module = request.Modules[0];
        ulong length = (ulong)module.Content.Length;
        ulong below = Math.Min((ulong)BinaryPrimitives.ReadUInt32LittleEndian(file[InitrdMaximum..]) + 1, uint.MaxValue);
        // As high as the kernel allows: what lies low is what it wants for itself.
        ulong address = memory.AllocateTop(length, 4096, kernelEnd, below, module.Field, "The initial RAM disk");
        memory.Write(address, module.Content.Span);
        return (address, length);
    }

    private static void WriteE820(Span<byte> parameters, IReadOnlyList<MemoryRegion> map)
    {
        int count = Math.Min(map.Count, E820Capacity);
        parameters[E820Count] = (byte)count;
        for (int i = 0; i < count; i++)
        {
            Span<byte> entry = parameters.Slice(E820Table + i * 20, 20);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[i].Base);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[i].Type);
        }
    }
}
