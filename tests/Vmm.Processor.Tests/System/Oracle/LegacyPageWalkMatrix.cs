using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare guest in 32-bit code with 32-bit paging or PAE paging: page-table entries of every kind with every access, at levels 0 and 3, under
/// every setting that matters; with PAE paging also page-directory-pointer-table entries of every kind with everything that may load them. It
/// prints what came of each on COM1: vector, error code, CR2, EIP, EAX (what a read gave), the page-directory-pointer-table entry's low half,
/// both halves of the page-directory and the page-table entry (with 32-bit paging the entry and the one behind it), and what the two pages
/// hold that an access may have come to.
/// </summary>
internal sealed class LegacyPageWalkMatrix(bool pae)
{
    /// <summary>Where the guest is loaded and entered, in flat protected mode.</summary>
    public const uint Origin = 0x10_0000;

    /// <summary>A page of zeros that nothing uses.</summary>
    public const uint Zeros = 0x1D_0000;

    /// <summary>The columns of a line.</summary>
    public const int Columns = 11;

    /// <summary>The settings of a combination of entries, access and level; they vary fastest.</summary>
    public const int Settings = 32;

    // The harness runs in supervisor pages below 2 MiB that are mapped one to one, and sees the page table and the large page through
    // windows in there; level 3 executes it in user pages at the alias. What is tried is at Linear, by the page table to the small page or
    // as a large page. The page table is at the start of the large page, so that the same entry can mean either as CR4.PSE has it.
    private const uint Stubs = Origin + 0x800, Idt = Origin + 0xC80, Gdt = Origin + 0xE90, Registers = Gdt + 0x30, Tss = Origin + 0xF00,
        Table = Origin + 0x1000, End = 0x18_0000;
    private const uint Current = End, Stack0 = 0x19_0000, Root = 0x1A_0000, Directory = 0x1A_1000, TriedDirectory = 0x1A_2000, HarnessTable = 0x1A_3000,
        AliasTable = 0x1A_4000, Page = 0x1C_0000, LargeWindow = 0x1F_E000, TableWindow = 0x1F_F000, PageTable = 0x40_0000, LargePage = PageTable + Offset,
        Offset = 0x18_0000, Linear = 0x4000_0000 + Offset, DataOffset = 0x10;
    private const ushort Code0 = 0x08, Data0 = 0x10, Code3 = 0x1B, Data3 = 0x23, Task = 0x28;
    private const int RecordSize = 56, Vectors = 0x41;
    private const uint EferMsr = 0xC000_0080;
    private const uint Cd = 1 << 30, Wp = 1 << 16, Pg = 1u << 31, De = 1 << 3, Pse = 1 << 4, Pae = 1 << 5, Pge = 1 << 7, Smep = 1 << 20, Smap = 1 << 21;

    /// <summary>The present, accessed and page-size flags.</summary>
    public const ulong P = 1, A = 0x20, Ps = 0x80;

    private const ulong W = 2, U = 4, D = 0x40, Nx = 1UL << 63, Reserved = 1UL << 51, LargeReserved = 1 << 13;
    private const ulong Open = P | W | U, Good = TriedDirectory | P;

    private readonly uint _aliasBase = pae ? 0x20_0000u : 0x40_0000;
    private readonly int _entrySize = pae ? 8 : 4;
    private readonly uint _pde = pae ? TriedDirectory : Root + (Linear >> 22) * 4;
    private readonly uint _pte = TableWindow + (Offset >> 12) * (pae ? 8u : 4);

    /// <summary>What is tried.</summary>
    public static readonly string[] Accesses = ["read", "write", "fetch", "read, then write"];

    /// <summary>What comes between a change of the page-directory-pointer-table entry in memory and the access.</summary>
    public static readonly (string Name, bool Loads, Action<Assembler> Emit)[] Loads =
    [
        ("nothing", false, _ => { }),
        ("MOV CR3", true, a =>
        {
            a.mov(eax, cr3);
            a.mov(cr3, eax);
        }),
        ("CR0.CD", true, a => EmitFlip(a, cr0, Cd)), ("CR0.WP", false, a => EmitFlip(a, cr0, Wp)),
        ("CR0.PG off and on", true, a =>
        {
            EmitFlip(a, cr0, Pg);
            EmitFlip(a, cr0, Pg);
        }),
        ("CR4.PGE", true, a => EmitFlip(a, cr4, Pge)), ("CR4.PSE", true, a => EmitFlip(a, cr4, Pse)), ("CR4.SMEP", true, a => EmitFlip(a, cr4, Smep)),
        ("CR4.DE", false, a => EmitFlip(a, cr4, De)),
    ];

    /// <summary>One trial. Entries of the page directory and table are without the address.</summary>
    public readonly record struct Trial(ulong Pdpte, ulong Pde, ulong Pte, int Load, int Access, int Cpl, bool Wp, bool Smep, bool Smap, bool Ac, bool Pse, bool Nxe)
    {
        public override string ToString() =>
            $"{Accesses[Access]} at CPL {Cpl}, PDPTE {Pdpte:x} and {Loads[Load].Name}, PDE {Pde:x}, PTE {Pte:x}, WP {Wp}, SMEP {Smep}, SMAP {Smap}, AC {Ac}, PSE {Pse}, NXE {Nxe}";

        /// <summary>Whether the page-directory-pointer-table entry is present.</summary>
        public bool PdpteIsPresent => (Pdpte & P) != 0;

        /// <summary>Whether the page-directory-pointer-table entry is present and has a reserved bit: bits 2:1, 8:5 and those beyond any address.</summary>
        public bool PdpteIsReserved => PdpteIsPresent && (Pdpte & 0xFFF8_0000_0000_01E6) != 0;

        /// <summary>Whether the page is beyond 4 GiB, where nothing answers.</summary>
        public bool IsHigh => Pse && s_highEntries32.Contains((Pde, Pte));
    }

    // With 32-bit paging, bits 20:13 of a large page's entry are bits 39:32 of its address (PSE-36), and bit 21 is reserved.
    private static readonly (ulong Pde, ulong Pte)[] s_entries32 =
    [
        (Open, 0), (Open, W | U | A | D), (0, Open), (W | U | A | Ps, Open),
        (Open, P), (Open, P | W), (Open, P | U), (Open, Open), (Open | A, Open | A | D), (Open | A, Open | A), (Open, Open | Ps),
        (P | U, Open), (P | W, Open), (Open | D, Open),
        (Open | Ps, Open), (P | W | Ps, Open), (P | U | Ps | A, Open), (P | Ps | D, Open), (Open | Ps | A | D, P),
        (Open | Ps | 1 << 12, Open), (Open | Ps | 1 << 21, Open), (P | W | Ps | 1 << 21, Open),
    ];

    private static readonly (ulong Pde, ulong Pte)[] s_highEntries32 = [(Open | Ps | 1 << 13, Open), (Open | Ps | A | 1 << 16, Open), (P | W | Ps | 1 << 19 | 1 << 13, Open)];

    private static readonly (ulong Pde, ulong Pte)[] s_entriesPae =
    [
        (Open, 0), (Open, Nx | Reserved | W | U | A | D), (0, Open), (Nx | W | U, Open),
        (Open, P), (Open, P | W), (Open, P | U), (Open, Open), (Open | A, Open | A), (Open, Open | Ps),
        (Open, Open | Nx), (Open, P | W | Nx), (Open | Nx, Open), (P | U, Open), (P | W, Open),
        (Open, Open | Reserved), (Open | Reserved, Open), (Open, Open | 1UL << 52), (Open | 1UL << 62, Open),
        (Open | Ps, 0), (P | W | Ps, 0), (P | U | Ps | A, 0), (P | Ps | D, 0), (Open | Ps | Nx, 0),
        (Open | Ps | LargeReserved, 0), (Open | Ps | 1UL << 57, 0),
    ];

    // Present with a flag that is there or ignored (PWT, PCD, bits 11:9), with one that is reserved, and not present.
    private static readonly ulong[] s_pdptes =
    [
        Good | 0x18, Good | 0xE00, 0, Good & ~P | 0x1E6 | Nx,
        .. from bit in (int[])[1, 2, 5, 6, 7, 8, 51, 52, 62, 63]
           select Good | 1UL << bit,
    ];

    /// <summary>The trials of page-directory and page-table entries; those of page-directory-pointer-table entries come behind them.</summary>
    public int EntryTrials { get; } = (pae ? s_entriesPae.Length * Accesses.Length
        : s_entries32.Length * Accesses.Length + s_highEntries32.Length * 2) * 2 * Settings;

    /// <summary>All trials in order.</summary>
    public IReadOnlyList<Trial> Trials { get; } =
    [
        .. from entry in pae ? s_entriesPae : s_entries32
           from access in Enumerable.Range(0, Accesses.Length)
           from trial in UnderEverySetting(pae, entry, access)
           select trial,
        // Nothing answers there, and what a processor fetches from nothing is not the page walk's matter.
        .. from entry in pae ? [] : s_highEntries32
           from access in (int[])[0, 1]
           from trial in UnderEverySetting(pae, entry, access)
           select trial,
        .. from pdpte in pae ? s_pdptes : []
           from load in Enumerable.Range(0, Loads.Length)
           select new Trial(pdpte, Open, Open, load, 0, 0, false, false, false, false, false, false),
    ];

    // EFER.NXE changes nothing with 32-bit paging, nor CR4.PSE with PAE paging; there they follow another setting.
    private static IEnumerable<Trial> UnderEverySetting(bool pae, (ulong Pde, ulong Pte) entry, int access) =>
        from cpl in (int[])[0, 3]
        from setting in Enumerable.Range(0, Settings)
        let wp = (setting & 1) != 0
        let last = (setting & 16) != 0
        select new Trial(Good, entry.Pde, entry.Pte, 0, access, cpl, wp, (setting & 2) != 0, (setting & 4) != 0, (setting & 8) != 0, pae ? wp : last, pae ? last : wp);

    /// <summary>The guest, to be loaded at <see cref="Origin"/> and entered at its first byte.</summary>
    public byte[] Build()
    {
        var image = new GuestImage(Origin, Table - Origin + (uint)(Trials.Count + 1) * RecordSize);
        var a = new Assembler(32);
        Label[] accesses = [.. Accesses.Select(_ => a.CreateLabel())], loads = [.. Loads.Select(_ => a.CreateLabel())];
        Label common = a.CreateLabel(), next = a.CreateLabel(), enter = a.CreateLabel(), put = a.CreateLabel();
        EmitStart(a);
        EmitNext(a, ref next, ref enter, put);
        EmitTried(a, accesses, loads, enter);
        EmitHandler(a, ref common, ref put, next);
        uint[] places = image.Place(Origin, Origin, a, [common, .. accesses, .. loads]);
        image.StoreInterrupts32(Idt, Stubs, Vectors, Code0, places[0], vector => vector == 0x40);
        image.Store(Gdt, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, SystemGuest.Descriptor(Tss, 0x67, 0x89));
        image.Store(Registers, 0x2F | (ulong)Gdt << 16, 0, (Vectors * 8 - 1) | (ulong)Idt << 16);
        image.Store(Tss, (ulong)Stack0 << 32, Data0);
        for (int k = 0; k < Trials.Count; k++)
        {
            Trial trial = Trials[k];
            uint cr4 = (pae ? Pae : 0) | (trial.Smep ? Smep : 0) | (trial.Smap ? Smap : 0) | (trial.Pse ? Pse : 0);
            bool user = trial.Cpl == 3;
            image.Store(Table + (uint)k * RecordSize, trial.Pde | PageTable, trial.Pte | Page, trial.Pdpte,
                cr4 | (trial.Nxe ? 0x800UL : 0) << 32,
                (trial.Wp ? Wp : 0) | (ulong)(2u | (trial.Ac ? 1u << 18 : 0)) << 32,
                (places[1 + trial.Access] + (user ? _aliasBase : 0)) | (ulong)(user ? Code3 : Code0) << 32,
                (user ? Data3 : Data0) | (ulong)places[1 + Accesses.Length + trial.Load] << 32);
        }
        image.Store(Table + (uint)Trials.Count * RecordSize, ulong.MaxValue);
        return image.Bytes;
    }

    private void EmitStart(Assembler a)
    {
        a.cli();
        a.cld();
        a.mov(esp, Stack0);
        ReferencePc.EmitStart(a);
        GuestImage.EmitOwnSegments(a, Registers, Code0, Data0);
        a.mov(eax, Data3);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(eax, Task);
        a.ltr(ax);
        a.mov(__dword_ptr[Current], Table);
        a.xor(eax, eax);
        // Above the page table are those that a large page's entry names where it is not one.
        foreach ((uint at, uint size) in ((uint, uint)[])[(Root, 0x5000), (PageTable, 0x3000), (PageTable | 1 << 16, 0x1000), (PageTable | 1 << 19 | 1 << 13, 0x1000), (PageTable | 1 << 21, 0x1000)])
        {
            a.mov(edi, at);
            a.mov(ecx, size / 4);
            a.rep.stosd();
        }
        Label page = a.CreateLabel();
        a.mov(edx, (uint)(P | W | A | D));
        a.mov(edi, HarnessTable);
        a.Label(ref page);
        a.mov(__dword_ptr[edi], edx);
        a.mov(__dword_ptr[edi + (AliasTable - HarnessTable)], edx);
        a.or(__byte_ptr[edi + (AliasTable - HarnessTable)], (int)U);
        a.add(edx, 0x1000);
        a.add(edi, _entrySize);
        a.cmp(edx, 0x20_0000);
        a.jb(page);
        foreach ((uint window, uint at) in ((uint, uint)[])[(LargeWindow, LargePage), (TableWindow, PageTable)])
            a.mov(__dword_ptr[HarnessTable + (window >> 12) * (uint)_entrySize], at | (uint)(P | W | A | D));
        uint directory = pae ? Directory : Root;
        a.mov(__dword_ptr[directory], HarnessTable | (uint)(P | W | A));
        a.mov(__dword_ptr[directory + (uint)_entrySize], AliasTable | (uint)(Open | A));
        if (pae)
        {
            a.mov(__dword_ptr[Root], Directory | (uint)P);
            a.mov(eax, Pae);
            a.mov(cr4, eax);
            a.mov(__dword_ptr[Root + 8], (uint)Good);
        }
        a.mov(eax, Root);
        a.mov(cr3, eax);
        EmitFlip(a, cr0, Pg);
        // CR0 is shown; loaders leave NE either way.
        a.mov(eax, cr0);
        a.or(eax, 0x20);
        a.mov(cr0, eax);
        // What a fetch finds: INT 40h.
        a.mov(__dword_ptr[Page], 0x40CD);
        a.mov(__dword_ptr[LargeWindow], 0x40CD);
    }

    /// <summary>Starts the next trial.</summary>
    private void EmitNext(Assembler a, ref Label next, ref Label enter, Label put)
    {
        Label finish = a.CreateLabel();
        a.Label(ref next);
        a.mov(esp, Stack0);
        a.mov(ebp, __dword_ptr[Current]);
        a.cmp(__dword_ptr[ebp], -1);
        a.je(finish);
        a.mov(ecx, EferMsr);
        a.mov(eax, __dword_ptr[ebp + 28]);
        a.xor(edx, edx);
        a.wrmsr();
        a.mov(__dword_ptr[Page + DataOffset], 0xA);
        a.mov(__dword_ptr[LargeWindow + DataOffset], 0xB);
        if (pae)
        {
            a.mov(__dword_ptr[Root + 8], (uint)Good);
            a.mov(__dword_ptr[Root + 12], 0);
        }
        foreach ((uint at, int offset) in ((uint, int)[])[(_pde, 0), (_pte, 8)])
        {
            for (int k = 0; k < _entrySize; k += 4)
            {
                a.mov(eax, __dword_ptr[ebp + offset + k]);
                a.mov(__dword_ptr[at + (uint)k], eax);
            }
        }
        a.mov(eax, cr0);
        a.and(eax, ~(Wp | Cd));
        a.or(eax, __dword_ptr[ebp + 32]);
        a.mov(cr0, eax);
        a.mov(eax, __dword_ptr[ebp + 24]);
        a.mov(cr4, eax);
        a.mov(eax, Root);
        a.mov(cr3, eax);
        if (pae)
        {
            for (int k = 0; k < 8; k += 4)
            {
                a.mov(eax, __dword_ptr[ebp + 16 + k]);
                a.mov(__dword_ptr[Root + 8 + (uint)k], eax);
            }
        }
        a.xor(eax, eax);
        a.mov(cr2, eax);
        a.jmp(__dword_ptr[ebp + 52]);
        a.Label(ref enter);
        a.mov(edi, Linear + DataOffset);
        a.mov(eax, 7);
        // To level 0 IRET leaves the last two where they are.
        a.push(__dword_ptr[ebp + 48]);
        a.push(Stack0 - 256);
        foreach (int offset in (int[])[36, 44, 40])
            a.push(__dword_ptr[ebp + offset]);
        a.iretd();
        a.Label(ref finish);
        ReferencePc.EmitEnd(a, put);
    }

    private static void EmitTried(Assembler a, Label[] accesses, Label[] loads, Label enter)
    {
        for (int k = 0; k < accesses.Length; k++)
        {
            a.Label(ref accesses[k]);
            if (k is 0 or 3)
                a.mov(eax, __dword_ptr[edi]);
            if (k is 3)
                a.inc(eax);
            if (k is 1 or 3)
                a.mov(__dword_ptr[edi], eax);
            if (k is 2)
            {
                a.sub(edi, (int)DataOffset);
                a.jmp(edi);
            }
            a.@int(0x40);
        }
        for (int k = 0; k < loads.Length; k++)
        {
            a.Label(ref loads[k]);
            Loads[k].Emit(a);
            a.jmp(enter);
        }
    }

    private void EmitHandler(Assembler a, ref Label common, ref Label put, Label next)
    {
        Label print = a.CreateLabel();
        // Frame: EAX, vector, error code, EIP.
        a.Label(ref common);
        a.push(eax);
        a.mov(ebp, esp);
        foreach (int offset in (int[])[4, 8])
        {
            a.mov(eax, __dword_ptr[ebp + offset]);
            a.call(print);
        }
        a.mov(eax, cr2);
        a.call(print);
        foreach (int offset in (int[])[12, 0])
        {
            a.mov(eax, __dword_ptr[ebp + offset]);
            a.call(print);
        }
        a.mov(eax, __dword_ptr[Root + 8]);
        a.call(print);
        if (pae)
        {
            a.mov(__dword_ptr[Root + 8], (uint)Good);
            a.mov(__dword_ptr[Root + 12], 0);
        }
        // Paging is off where it was refused.
        a.mov(eax, cr0);
        a.or(eax, Pg);
        a.mov(cr0, eax);
        foreach (uint at in (uint[])[_pde, _pde + 4, _pte, _pte + 4])
        {
            a.mov(eax, __dword_ptr[at]);
            a.call(print);
        }
        a.mov(eax, __dword_ptr[Page + DataOffset]);
        a.shl(eax, 16);
        a.or(eax, __dword_ptr[LargeWindow + DataOffset]);
        a.call(print);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.add(__dword_ptr[Current], RecordSize);
        a.jmp(next);
        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    private static void EmitFlip(Assembler a, AssemblerRegisterCR register, uint flag)
    {
        a.mov(eax, register);
        a.xor(eax, flag);
        a.mov(register, eax);
    }
}
