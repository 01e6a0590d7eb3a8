using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare 32-bit guest that runs instructions in virtual-8086 mode, each with both values of IOPL, CR4.VME, VIF and VIP, and prints
/// on COM1 what the handler of the exception that ended it was given: vector, error code, the interrupted program's EIP, CS,
/// EFLAGS, ESP, SS and DS, its EAX, and the two words on its stack. The task's I/O bitmap has every second port below 400h open;
/// its interrupt bitmap sends vector 30h to the program itself.
/// </summary>
internal static class Virtual8086Matrix
{
    /// <summary>Where the guest is loaded and entered, in flat protected mode.</summary>
    public const uint Origin = 0x10_0000;

    /// <summary>The columns of a line.</summary>
    public const int Columns = 11;

    private const uint Stubs = Origin + 0x1000, Idt = Origin + 0x2000, Gdt = Origin + 0x2800, Registers = Gdt + 0x40,
        Tss = Origin + 0x3000, Programs = Origin + 0x4000, Table = Origin + 0x6000, Current = Origin + 0x3800;
    private const uint Stack0 = 0x21_0000, Low = 0x1_0000, LowStack = 0x2_0000, Size = 0x2000;
    private const ushort Code0 = 0x08, Data0 = 0x10, Task = 0x18, Cs = 0x1000, Ss = 0x2000, Sp = 0xFF00, Landing = 0x1FF0;
    private const int Vectors = 0x41, RecordSize = 16, Slot = 48, Map = 0x88, Redirected = 0x30, Closed = 0x32;

    /// <summary>One trial.</summary>
    public readonly record struct Trial(int Program, bool Privileged, bool Vme, bool Vif, bool Vip)
    {
        public override string ToString() => $"{s_programs[Program].Name}: IOPL {(Privileged ? 3 : 0)}, VME {Vme}, VIF {Vif}, VIP {Vip}";
    }

    private static readonly (string Name, Action<Assembler> Emit)[] s_programs =
    [
        ("cli", a => a.cli()), ("sti", a => a.sti()), ("hlt", a => a.hlt()), ("pushf", a => a.pushf()), ("pushfd", a => a.pushfd()),
        .. from image in (ushort[])[0x0002, 0x0202, 0x3202, 0x0302, 0x4002]
           select (Name: $"popf {image:x}", Emit: (Action<Assembler>)(a =>
           {
               a.push((short)image);
               a.popf();
           })),
        ("popfd", a =>
        {
            PushWide(a, 0x0003_3202);
            a.popfd();
        }),
        .. from image in (ushort[])[0x0002, 0x0202, 0x3302, 0x7002]
           select (Name: $"iret {image:x}", Emit: (Action<Assembler>)(a =>
           {
               a.push((short)image);
               a.push(unchecked((short)Cs));
               a.push((short)Landing);
               a.iret();
           })),
        ("iretd", a =>
        {
            PushWide(a, 0x0003_3202);
            PushWide(a, Cs);
            PushWide(a, Landing);
            a.iretd();
        }),
        ("int 30h", a => a.@int(Redirected)), ("int 31h", a => a.@int(0x31)), ("int 32h", a => a.@int(Closed)), ("int 3 (two bytes)", a => a.db(0xCD, 3)),
        ("int3", a => a.int3()), ("int1", a => a.db(0xF1)),
        ("into", a =>
        {
            a.mov(al, 0x7F);
            a.inc(al);
            a.into();
        }),
        ("out 80h, al", a => a.@out(0x80, al)), ("out 81h, al", a => a.@out(0x81, al)), ("out 80h, ax", a => a.@out(0x80, ax)),
        .. from port in (ushort[])[0x3FE, 0x3FF, 0x400, 0x408, 0xFFFF]
           select (Name: $"out {port:x}h, al", Emit: (Action<Assembler>)(a =>
           {
               a.mov(dx, unchecked((short)port));
               a.@out(dx, al);
           })),
        ("mov eax, cr0", a => a.mov(eax, cr0)), ("mov eax, dr7", a => a.mov(eax, dr7)), ("clts", a => a.clts()), ("lmsw", a => a.lmsw(ax)), ("smsw", a => a.smsw(ax)),
        ("lgdt", a => a.lgdt(__[0x100])), ("lldt", a => a.lldt(ax)), ("sldt", a => a.sldt(ax)), ("ltr", a => a.ltr(ax)), ("str", a => a.str(ax)),
        ("lar", a => a.lar(ax, bx)), ("verr", a => a.verr(bx)), ("arpl", a => a.arpl(ax, bx)), ("invlpg", a => a.invlpg(__[0x100])), ("wbinvd", a => a.wbinvd()),
        ("rdmsr", a => a.rdmsr()), ("ud2", a => a.ud2()),
        ("div", a =>
        {
            a.xor(bl, bl);
            a.div(bl);
        }),
        ("mov ds", a =>
        {
            a.mov(ax, 0x1234);
            a.mov(ds, ax);
        }),
        ("pop ss", a =>
        {
            a.push((short)0x1FF0);
            a.pop(ss);
        }),
        ("read over the limit", a => a.mov(ax, __word_ptr[0xFFFF])),
        ("read over the limit of 16 bits", a =>
        {
            a.mov(ebx, 0x1_0000);
            a.mov(al, __byte_ptr[ebx]);
        }),
        ("push over the limit", a =>
        {
            a.mov(sp, 1);
            a.push(ax);
        }),
        ("jmp far", a => a.db(0xEA, unchecked((byte)(Landing + 0x10)), (Landing + 0x10) >> 8 & 0xFF, unchecked((byte)(Cs - 1)), (Cs - 1) >> 8)),
        ("call far", a => a.db(0x9A, unchecked((byte)(Landing + 0x10)), (Landing + 0x10) >> 8 & 0xFF, unchecked((byte)(Cs - 1)), (Cs - 1) >> 8)),
        ("retf", a =>
        {
            a.push((short)Cs);
            a.push((short)Landing);
            a.retf();
        }),
    ];

    /// <summary>All trials in order.</summary>
    public static IReadOnlyList<Trial> Trials { get; } =
    [
        .. from program in Enumerable.Range(0, s_programs.Length)
           from setting in Enumerable.Range(0, 16)
           select new Trial(program, (setting & 1) != 0, (setting & 2) != 0, (setting & 4) != 0, (setting & 8) != 0),
    ];

    /// <summary>The name of what a trial runs.</summary>
    public static string Name(Trial trial) => s_programs[trial.Program].Name;

    /// <summary>The guest, to be loaded at <see cref="Origin"/> and entered at its first byte.</summary>
    public static byte[] Build()
    {
        var image = new GuestImage(Origin, Table - Origin + RecordSize * (uint)(Trials.Count + 1));
        var main = new Assembler(32);
        Label common = EmitMain(main);
        uint handler = image.Place(Origin, Origin, main, common)[0];
        image.StoreInterrupts32(Idt, Stubs, Vectors, Code0, handler, vector => vector is 3 or 4 or (>= Redirected and not Closed));
        image.Store(Gdt, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, SystemGuest.Descriptor(Tss, Map + 0x80, 0x89));
        image.Store(Registers, 0x1F | (ulong)Gdt << 16, 0, (Vectors * 8 - 1) | (ulong)Idt << 16);
        image.Store(Tss, (ulong)Stack0 << 32, Data0);
        // The interrupt bitmap: a one keeps a vector with the IDT.
        image.Bytes.AsSpan((int)(Tss - Origin) + Map - 32, 32).Fill(0xFF);
        image.Bytes[(int)(Tss - Origin) + Map - 32 + Redirected / 8] = 0xFE;
        image.Bytes.AsSpan((int)(Tss - Origin) + Map, 0x80).Fill(0xAA);
        image.Bytes[(int)(Tss - Origin) + Map + 0x80] = 0xFF;
        BitConverter.TryWriteBytes(image.Bytes.AsSpan((int)(Tss - Origin) + 0x66), (ushort)Map);
        for (uint k = 0; k < s_programs.Length; k++)
            image.Place(Programs + k * Slot, 16, k * Slot, a =>
            {
                s_programs[k].Emit(a);
                a.hlt();
            });
        image.Bytes[Programs - Origin + Landing] = 0xF4;
        for (int k = 0; k < Trials.Count; k++)
        {
            Trial trial = Trials[k];
            uint flags = 0x2_0202 | (trial.Privileged ? 0x3000u : 0) | (trial.Vif ? 1u << 19 : 0) | (trial.Vip ? 1u << 20 : 0);
            image.Store(Table + (uint)k * RecordSize, (uint)(trial.Program * Slot) | (ulong)flags << 32, trial.Vme ? 1u : 0);
        }
        image.Store(Table + (uint)Trials.Count * RecordSize, ulong.MaxValue);
        return image.Bytes;
    }

    // PUSH of 32 bits in 16-bit code.
    private static void PushWide(Assembler a, uint value) =>
        a.db(0x66, 0x68, (byte)value, (byte)(value >> 8), (byte)(value >> 16), (byte)(value >> 24));

    /// <summary>Returns where the stubs lead.</summary>
    private static Label EmitMain(Assembler a)
    {
        a.cli();
        a.cld();
        a.mov(esp, Stack0);
        ReferencePc.EmitStart(a);
        GuestImage.EmitOwnSegments(a, Registers, Code0, Data0);
        // SMSW shows it.
        a.mov(eax, cr0);
        a.or(eax, 0x20);
        a.mov(cr0, eax);
        a.mov(eax, Task);
        a.ltr(ax);
        a.mov(esi, Programs);
        a.mov(edi, Low);
        a.mov(ecx, Size / 4);
        a.rep.movsd();
        // Where interrupts of virtual-8086 mode's own lead.
        for (uint vector = Redirected; vector < Vectors; vector++)
            a.mov(__dword_ptr[vector * 4], Landing | Cs << 16);
        a.mov(__dword_ptr[Current], Table);

        // The next trial.
        Label next = a.CreateLabel(), finish = a.CreateLabel(), common = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel();
        a.Label(ref next);
        a.mov(esp, Stack0);
        a.mov(ebp, __dword_ptr[Current]);
        a.mov(eax, __dword_ptr[ebp]);
        a.cmp(eax, -1);
        a.je(finish);
        a.mov(ecx, __dword_ptr[ebp + 8]);
        a.mov(cr4, ecx);
        a.mov(__dword_ptr[LowStack + Sp], 0x5A5A_5A5A);
        foreach (uint selector in (uint[])[0, 0, 0x3000, 0, Ss, Sp])
            a.push(selector);
        a.push(__dword_ptr[ebp + 4]);
        a.push(Cs);
        a.push(eax);
        a.mov(eax, 0x1234_5678);
        a.mov(ebx, 0x0000_0010);
        a.xor(ecx, ecx);
        a.xor(edx, edx);
        a.iretd();
        a.Label(ref finish);
        ReferencePc.EmitEnd(a, put);

        // Frame: EAX, vector, error code, EIP, CS, EFLAGS, ESP, SS, ES, DS.
        a.Label(ref common);
        a.push(eax);
        a.mov(ebp, esp);
        a.mov(eax, Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        foreach (int offset in (int[])[4, 8, 12, 16])
        {
            a.mov(eax, __dword_ptr[ebp + offset]);
            a.call(print);
        }
        // Without the arithmetic flags.
        a.mov(eax, __dword_ptr[ebp + 20]);
        a.and(eax, 0x1F_7700);
        a.call(print);
        foreach (int offset in (int[])[24, 28, 36])
        {
            a.mov(eax, __dword_ptr[ebp + offset]);
            a.call(print);
        }
        a.mov(eax, __dword_ptr[ebp]);
        a.call(print);
        for (int k = 0; k < 2; k++)
        {
            a.movzx(esi, __word_ptr[ebp + 28]);
            a.shl(esi, 4);
            a.movzx(eax, __word_ptr[ebp + 24]);
            a.movzx(eax, __word_ptr[esi + eax * 1 + k * 2]);
            // Arithmetic flags may be in a word that was pushed.
            a.and(eax, 0xF72A);
            a.call(print);
        }
        a.mov(al, (byte)'\n');
        a.call(put);
        a.add(__dword_ptr[Current], RecordSize);
        a.jmp(next);
        ReferencePc.EmitPrinter(a, ref print, ref put);
        return common;
    }
}
