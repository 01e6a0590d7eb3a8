namespace Vmm.Machine.Boot;

/// <summary>The descriptor and page tables that a kernel is entered with (SDM volume 3, sections 3.4.5 and 4.5).</summary>
internal static class EntryTables
{
    private const ulong Code32 = 0x00CF_9B00_0000_FFFF;
    private const ulong Code64 = 0x00AF_9B00_0000_FFFF;
    private const ulong Data = 0x00CF_9300_0000_FFFF;

    /// <summary>The flat segments of Linux's boot protocol: code at 0x10, data at 0x18.</summary>
    internal const ushort CodeSelector = 0x10;

    /// <summary>See <see cref="CodeSelector"/>.</summary>
    internal const ushort DataSelector = 0x18;

    private const ulong Present = 1;
    private const ulong Writable = 2;
    private const ulong LargePage = 0x80;

    /// <summary>Writes a GDT and completes the state with it.</summary>
    internal static InitialProcessorState Protected32(BootMemory memory, ulong entry, string field)
    {
        ulong gdt = WriteGdt(memory, Code32, field);
        return new InitialProcessorState
        {
            Mode = EntryMode.Protected32,
            Rip = entry,
            GdtBase = gdt,
            GdtLimit = 31,
            CodeSelector = CodeSelector,
            DataSelector = DataSelector,
        };
    }

    /// <summary>Writes a GDT and page tables that map the first 4 GiB one to one in 2 MiB pages.</summary>
    internal static InitialProcessorState Long64(BootMemory memory, ulong entry, string field)
    {
        ulong gdt = WriteGdt(memory, Code64, field);
        ulong tables = memory.Allocate(6 * 4096, 4096, 0x1000, MemoryMap.ConventionalEnd, field, "the first page tables");
        memory.Clear(tables, 6 * 4096);
        ulong pointers = tables + 0x1000;
        memory.WriteWords(tables, [pointers | Present | Writable]);
        Span<ulong> directory = stackalloc ulong[512];
        for (ulong gigabyte = 0; gigabyte < 4; gigabyte++)
        {
            ulong at = tables + 0x2000 + gigabyte * 0x1000;
            memory.WriteWords(pointers + gigabyte * 8, [at | Present | Writable]);
            for (int i = 0; i < directory.Length; i++)
                directory[i] = gigabyte << 30 | (ulong)i << 21 | Present | Writable | LargePage;
            memory.WriteWords(at, directory);
        }
        return new InitialProcessorState
        {
            Mode = EntryMode.Long64,
            Rip = entry,
            Cr3 = tables,
            GdtBase = gdt,
            GdtLimit = 31,
            CodeSelector = CodeSelector,
            DataSelector = DataSelector,
        };
    }

    private static ulong WriteGdt(BootMemory memory, ulong code, string field)
    {
        ulong gdt = memory.Allocate(32, 16, 0x1000, MemoryMap.ConventionalEnd, field, "the first descriptor table");
        memory.WriteWords(gdt, [0, 0, code, Data]);
        return gdt;
    }
}
