using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare guest in 64-bit mode with 4-level or 5-level paging that tries page-table entries of every kind with every access, at levels 0 and
/// 3, under every setting that matters to page-access rights, and prints what came of each on COM1: vector, error code, CR2, RIP,
/// and the page-directory and page-table entry afterwards.
/// </summary>
internal static class PageWalkMatrix
{
    /// <summary>Where the guest is loaded and entered, in flat protected mode.</summary>
    public const uint Origin = 0x10_0000;

    /// <summary>A page of zeros that nothing uses.</summary>
    public const uint Zeros = 0x3A_0000;

    /// <summary>The columns of a line.</summary>
    public const int Columns = 6;

    // The harness runs in supervisor pages that are mapped one to one; level 3 executes it in a user page at Alias. The page that is
    // tried is at Linear, by a page table at Page, or by a 2 MiB page that has Page at the same offset.
    private const uint Code = Origin + 0x200, Table = Origin + 0x2000, Gdt = 0x20_0000, Idt = 0x20_1000, Tss = 0x20_2000, Variables = 0x20_3000,
        Stack0 = 0x21_0000, Pml4 = 0x30_0000, Pdpt = 0x30_1000, Directory = 0x30_2000, PageTable = 0x30_3000, Pml5 = 0x30_4000, Page = 0x38_0000,
        LargePage = 0x20_0000, Alias = 0x40_0000, Linear = 0x80_0000 + (Page - LargePage), DataOffset = 0x10;
    private const uint Pde = Directory + 4 * 8, Pte = PageTable + (Linear >> 12 & 0x1FF) * 8;
    private const ushort Code0 = 0x08, Data0 = 0x10, Code3 = 0x1B, Data3 = 0x23, Task = 0x28;
    private const int RecordSize = 48, Vectors = 0x41;
    private const uint EferMsr = 0xC000_0080;

    /// <summary>The accessed flag, and the page-size flag of a page-directory entry.</summary>
    public const ulong A = 0x20, Ps = 0x80;

    private const ulong P = 1, W = 2, U = 4, D = 0x40, Nx = 1UL << 63, Reserved = 1UL << 51, LargeReserved = 1 << 13;
    private const ulong Open = P | W | U;

    /// <summary>What is tried.</summary>
    public static readonly string[] Accesses = ["read", "write", "fetch", "read, then write"];

    /// <summary>One trial. Flags of the two entries are without the address.</summary>
    public readonly record struct Trial(ulong Pde, ulong Pte, int Access, int Cpl, bool Wp, bool Smep, bool Smap, bool Ac, bool Nxe)
    {
        public override string ToString() =>
            $"{Accesses[Access]} at CPL {Cpl}, PDE {Pde:x}, PTE {Pte:x}, WP {Wp}, SMEP {Smep}, SMAP {Smap}, AC {Ac}, NXE {Nxe}";
    }

    private static readonly (ulong Pde, ulong Pte)[] s_entries =
    [
        (Open, 0), (Open, Nx | Reserved | W | U | A | D), (0, Open), (Nx | W | U, Open),
        (Open, P), (Open, P | W), (Open, P | U), (Open, Open), (Open | A, Open | A | D), (Open | A, Open | A), (Open, Open | Ps),
        (Open, Open | Nx), (Open, P | W | Nx), (Open | Nx, Open), (P | U, Open), (P | W, Open),
        (Open, Open | Reserved), (Open | Reserved, Open), (Open | Reserved, 0),
        (Open | Ps, 0), (P | W | Ps, 0), (P | U | Ps | A, 0), (P | Ps | D, 0), (Open | Ps | Nx, 0), (Open | Ps | A | D, 0),
        (Open | Ps | LargeReserved, 0), (Open | Ps | Reserved, 0),
    ];

    /// <summary>All trials in order.</summary>
    public static IReadOnlyList<Trial> Trials { get; } =
    [
        .. from entry in s_entries
           from access in Enumerable.Range(0, Accesses.Length)
           from cpl in (int[])[0, 3]
           from setting in Enumerable.Range(0, 32)
           select new Trial(entry.Pde, entry.Pte, access, cpl, (setting & 1) != 0, (setting & 2) != 0, (setting & 4) != 0, (setting & 8) != 0, (setting & 16) != 0),
    ];

    /// <summary>The guest, to be loaded at <see cref="Origin"/> and entered at its first byte.</summary>
    public static byte[] Build(bool fiveLevels = false)
    {
        var start = new Assembler(32);
        EmitStart(start, fiveLevels);
        using var first = new MemoryStream();
        start.Assemble(new StreamCodeWriter(first), Origin);
        var a = new Assembler(64);
        Label[] accesses = [.. Accesses.Select(_ => a.CreateLabel())];
        Label[] stubs = [.. Enumerable.Range(0, Vectors).Select(_ => a.CreateLabel())];
        Label next = a.CreateLabel(), put = a.CreateLabel();
        Initialise(a, stubs);
        EmitNext(a, ref next, put, fiveLevels ? Pml5 : Pml4);
        EmitAccesses(a, accesses);
        EmitHandlers(a, stubs, ref put, next);
        using var second = new MemoryStream();
        AssemblerResult result = a.Assemble(new StreamCodeWriter(second), Code, BlockEncoderOptions.ReturnNewInstructionOffsets);
        if (first.Length > Code - Origin || second.Length > Table - Code)
            throw new InvalidOperationException("The guest has outgrown its layout.");
        byte[] records = Records([.. accesses.Select(each => (uint)result.GetLabelRIP(each))], fiveLevels);
        var image = new byte[Table - Origin + records.Length];
        first.ToArray().CopyTo(image, 0);
        second.ToArray().CopyTo(image, (int)(Code - Origin));
        records.CopyTo(image, (int)(Table - Origin));
        return image;
    }

    /// <summary>From flat protected mode to 64-bit mode.</summary>
    private static void EmitStart(Assembler a, bool fiveLevels)
    {
        a.cli();
        a.cld();
        a.xor(eax, eax);
        foreach (uint area in (uint[])[Gdt, Pml4])
        {
            a.mov(edi, area);
            a.mov(ecx, 0x1_0000 / 4);
            a.rep.stosd();
        }
        void Store(uint at, ulong value)
        {
            a.mov(__dword_ptr[at], (uint)value);
            a.mov(__dword_ptr[at + 4], (uint)(value >> 32));
        }
        Store(Gdt + Code0, 0x00AF9B000000FFFF);
        Store(Gdt + Data0, 0x00CF93000000FFFF);
        Store(Gdt + (Code3 & ~7u), 0x00AFFB000000FFFF);
        Store(Gdt + (Data3 & ~7u), 0x00CFF3000000FFFF);
        Store(Gdt + Task, SystemGuest.Descriptor(Tss, 0x67, 0x89));
        Store(Tss + 4, Stack0);
        Store(Variables + 16, 0x37 | (ulong)Gdt << 16);
        Store(Pml5, Pml4 | Open | A);
        Store(Pml4, Pdpt | Open | A);
        Store(Pdpt, Directory | Open | A);
        Store(Directory, P | W | A | D | Ps);
        Store(Directory + 8, 0x20_0000 | P | W | A | D | Ps);
        Store(Directory + Alias / 0x20_0000 * 8, Open | A | D | Ps);
        // What a fetch finds: INT 40h.
        a.mov(__dword_ptr[Page], 0x40CD);
        a.lgdt(__[Variables + 16]);
        a.mov(eax, fiveLevels ? Pml5 : Pml4);
        a.mov(cr3, eax);
        a.mov(eax, fiveLevels ? 0x1020 : 0x20);
        a.mov(cr4, eax);
        a.mov(ecx, EferMsr);
        a.mov(eax, 0x100);
        a.xor(edx, edx);
        a.wrmsr();
        a.mov(eax, cr0);
        a.or(eax, 0x8000_0000);
        a.mov(cr0, eax);
        // JMP far to Code0:Code
        a.db(0xEA, unchecked((byte)Code), (byte)(Code >> 8 & 0xFF), (byte)(Code >> 16 & 0xFF), (byte)(Code >> 24), (byte)Code0, 0);
    }

    // R15 is zero throughout, as the base of absolute addresses.
    private static void Initialise(Assembler a, Label[] stubs)
    {
        a.xor(r15d, r15d);
        a.mov(eax, Data0);
        a.mov(ss, eax);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(esp, Stack0);
        ReferencePc.EmitStart(a);
        for (int vector = 0; vector < Vectors; vector++)
        {
            a.lea(rax, __[stubs[vector]]);
            a.movzx(ecx, ax);
            a.or(ecx, Code0 << 16);
            a.mov(__dword_ptr[r15 + (Idt + vector * 16)], ecx);
            a.and(eax, 0xFFFF_0000);
            a.or(eax, vector is 0x40 ? 0xEE00u : 0x8E00u);
            a.mov(__dword_ptr[r15 + (Idt + vector * 16 + 4)], eax);
        }
        a.mov(__word_ptr[r15 + (Variables + 32)], Vectors * 16 - 1);
        a.mov(__dword_ptr[r15 + (Variables + 34)], Idt);
        a.lidt(__[r15 + (Variables + 32)]);
        a.mov(eax, Task);
        a.ltr(ax);
        a.mov(eax, Table);
        a.mov(__qword_ptr[r15 + Variables], rax);
    }

    /// <summary>Starts the next trial.</summary>
    private static void EmitNext(Assembler a, ref Label next, Label put, uint root)
    {
        Label finish = a.CreateLabel();
        a.Label(ref next);
        a.mov(rbp, __qword_ptr[r15 + Variables]);
        a.mov(rax, __qword_ptr[rbp]);
        a.cmp(rax, -1);
        a.je(finish);
        a.mov(__qword_ptr[r15 + Pde], rax);
        a.mov(rax, __qword_ptr[rbp + 8]);
        a.mov(__qword_ptr[r15 + Pte], rax);
        a.mov(ecx, EferMsr);
        a.mov(eax, __dword_ptr[rbp + 20]);
        a.xor(edx, edx);
        a.wrmsr();
        a.mov(rax, cr0);
        a.and(eax, 0xFFFE_FFFF);
        a.or(eax, __dword_ptr[rbp + 24]);
        a.mov(cr0, rax);
        a.mov(eax, __dword_ptr[rbp + 16]);
        a.mov(cr4, rax);
        a.mov(eax, root);
        a.mov(cr3, rax);
        a.xor(eax, eax);
        a.mov(cr2, rax);
        a.mov(edi, Linear + DataOffset);
        a.mov(esp, Stack0);
        a.mov(eax, __dword_ptr[rbp + 40]);
        a.push(rax);
        a.push((int)Stack0 - 256);
        foreach (int offset in (int[])[28, 36, 32])
        {
            a.mov(eax, __dword_ptr[rbp + offset]);
            a.push(rax);
        }
        a.iretq();
        a.Label(ref finish);
        ReferencePc.EmitEnd(a, put);
    }

    private static void EmitAccesses(Assembler a, Label[] accesses)
    {
        for (int k = 0; k < accesses.Length; k++)
        {
            a.Label(ref accesses[k]);
            if (k is 0 or 3)
                a.mov(eax, __dword_ptr[rdi]);
            if (k is 1 or 3)
                a.mov(__dword_ptr[rdi], eax);
            if (k is 2)
            {
                a.sub(rdi, (int)DataOffset);
                a.jmp(rdi);
            }
            a.@int(0x40);
        }
    }

    private static void EmitHandlers(Assembler a, Label[] stubs, ref Label put, Label next)
    {
        Label common = a.CreateLabel(), print = a.CreateLabel();
        for (int vector = 0; vector < Vectors; vector++)
        {
            a.Label(ref stubs[vector]);
            if (!GuestImage.HasErrorCode((uint)vector))
                a.push(-1);
            a.push(vector);
            a.jmp(common);
        }
        // Frame: vector, error, RIP.
        a.Label(ref common);
        a.mov(rbp, rsp);
        a.mov(rax, __qword_ptr[rbp]);
        a.call(print);
        a.mov(eax, __dword_ptr[rbp + 8]);
        a.call(print);
        a.mov(rax, cr2);
        a.call(print);
        a.mov(rax, __qword_ptr[rbp + 16]);
        a.call(print);
        foreach (uint at in (uint[])[Pde, Pte])
        {
            a.mov(rax, __qword_ptr[r15 + at]);
            a.call(print);
        }
        a.mov(al, (byte)'\n');
        a.call(put);
        a.add(__qword_ptr[r15 + Variables], RecordSize);
        a.jmp(next);

        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    private static byte[] Records(uint[] accesses, bool fiveLevels)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        foreach (Trial trial in Trials)
        {
            writer.Write(trial.Pde | ((trial.Pde & Ps) != 0 ? LargePage : PageTable));
            writer.Write(trial.Pte | Page);
            writer.Write(0x20u | (fiveLevels ? 0x1000u : 0) | (trial.Smep ? 1u << 20 : 0) | (trial.Smap ? 1u << 21 : 0));
            writer.Write(0x500u | (trial.Nxe ? 0x800u : 0));
            writer.Write(trial.Wp ? 0x1_0000u : 0);
            writer.Write(2u | (trial.Ac ? 1u << 18 : 0));
            writer.Write(accesses[trial.Access] + (trial.Cpl == 3 ? Alias : 0));
            writer.Write((uint)(trial.Cpl == 3 ? Code3 : Code0));
            writer.Write((uint)(trial.Cpl == 3 ? Data3 : Data0));
            writer.Write(0u);
        }
        writer.Write(ulong.MaxValue);
        writer.Write(new byte[RecordSize]);
        writer.Flush();
        return stream.ToArray();
    }
}
