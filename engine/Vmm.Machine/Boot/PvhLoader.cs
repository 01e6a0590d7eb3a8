using System.Buffers.Binary;

namespace Vmm.Machine.Boot;

/// <summary>
/// Loads an ELF kernel with the note XEN_ELFNOTE_PHYS32_ENTRY by the PVH direct boot ABI (Xen's docs/misc/pvh.pandoc and
/// start_info.h): entered in 32-bit protected mode with EBX pointing to hvm_start_info.
/// </summary>
internal static class PvhLoader
{
    private const string Kernel = nameof(MachineSpec.KernelPath);
    private const uint Physical32Entry = 18;
    private const uint StartMagic = 0x336E_C578;
    private const int StartInfoSize = 56;
    private const int ModuleSize = 32;
    private const int MapEntrySize = 24;

    internal static bool Recognises(ElfFile elf) => !elf.FindNote("Xen"u8, Physical32Entry).IsEmpty;

    internal static BootImage Load(BootRequest request, BootMemory memory, ElfFile elf)
    {
        ReadOnlySpan<byte> note = elf.FindNote("Xen"u8, Physical32Entry);
        ulong entry = note.Length switch
        {
            >= 8 => BinaryPrimitives.ReadUInt64LittleEndian(note),
            >= 4 => BinaryPrimitives.ReadUInt32LittleEndian(note),
            _ => throw new InvalidMachineException(Kernel, $"The kernel's PVH entry note has {note.Length} bytes; 4 or 8 make an address."),
        };
        elf.CheckEntry(entry);
        (ulong start, ulong end) = elf.LoadSegments(memory);
        (ulong Address, ulong Length)[] modules = ModulePlacement.Place(request.Modules, memory, end);

        int count = modules.Length;
        int mapAt = StartInfoSize + count * ModuleSize;
        byte[] info = new byte[mapAt + memory.Map.Count * MapEntrySize];
        ulong infoAt = memory.Allocate((ulong)info.Length, 16, 0x6000, uint.MaxValue, Kernel, "hvm_start_info");
        ulong commandLineAt = memory.WriteString(request.CommandLine, nameof(MachineSpec.CommandLine), "The command line");

        Span<byte> at = info;
        BinaryPrimitives.WriteUInt32LittleEndian(at, StartMagic);
        BinaryPrimitives.WriteUInt32LittleEndian(at[4..], 1);
        BinaryPrimitives.WriteUInt32LittleEndian(at[12..], (uint)count);
        BinaryPrimitives.WriteUInt64LittleEndian(at[16..], count == 0 ? 0 : infoAt + StartInfoSize);
        BinaryPrimitives.WriteUInt64LittleEndian(at[24..], commandLineAt);
        BinaryPrimitives.WriteUInt64LittleEndian(at[32..], request.RsdpAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(at[40..], infoAt + (ulong)mapAt);
        BinaryPrimitives.WriteUInt32LittleEndian(at[48..], (uint)memory.Map.Count);
        for (int i = 0; i < count; i++)
        {
            Span<byte> module = at.Slice(StartInfoSize + i * ModuleSize, ModuleSize);
            BinaryPrimitives.WriteUInt64LittleEndian(module, modules[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(module[8..], modules[i].Length);
            string text = request.Modules[i].CommandLine;
            BinaryPrimitives.WriteUInt64LittleEndian(module[16..], text.Length == 0 ? 0 : memory.WriteString(text, request.Modules[i].Field, "A module's command line"));
        }
        for (int i = 0; i < memory.Map.Count; i++)
        {
            Span<byte> region = at.Slice(mapAt + i * MapEntrySize, MapEntrySize);
            BinaryPrimitives.WriteUInt64LittleEndian(region, memory.Map[i].Base);
            BinaryPrimitives.WriteUInt64LittleEndian(region[8..], memory.Map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(region[16..], (uint)memory.Map[i].Type);
        }
        memory.Write(infoAt, info);
        return new BootImage
        {
            Format = KernelFormat.Pvh,
            Processor = EntryTables.Protected32(memory, entry, Kernel) with { Rbx = infoAt },
            KernelAddress = start,
            KernelLength = end - start,
            Modules = modules,
            CommandLineAddress = commandLineAt,
        };
    }
}

/// <summary>Places modules behind a kernel, each on a page of its own.</summary>
internal static class ModulePlacement
{
    /// <exception cref="InvalidMachineException">One is empty or does not fit.</exception>
    internal static (ulong Address, ulong Length)[] Place(IReadOnlyList<BootModule> modules, BootMemory memory, ulong kernelEnd)
    {
        var placed = new (ulong Address, ulong Length)[modules.Count];
        for (int i = 0; i < placed.Length; i++)
        {
            BootModule module = modules[i];
            if (module.Content.IsEmpty)
                throw new InvalidMachineException(module.Field, $"Module {i} is an empty file.");
            ulong length = (ulong)module.Content.Length;
            ulong address = memory.Allocate(length, 4096, Math.Max(kernelEnd, 0x10_0000), uint.MaxValue, module.Field, $"Module {i}");
            memory.Write(address, module.Content.Span);
            placed[i] = (address, length);
        }
        return placed;
    }
}
