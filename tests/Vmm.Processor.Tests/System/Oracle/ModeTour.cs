using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare guest that goes from flat protected mode through PAE paging, 64-bit mode, compatibility mode and back to protected and
/// real mode, raises exceptions in each, and prints on COM1 what every handler was given. A line begins with the
/// mode's number, or with CR0 after a change of mode; shorter ones are filled with zeros.
/// </summary>
internal static class ModeTour
{
    public const uint Origin = 0x10_0000;

    /// <summary>Numbers on every line.</summary>
    public const int Columns = 12;

    private const uint Main64 = Origin + 0x4000, Handler32 = Origin + 0x8000, Handler64 = Origin + 0x9000, Stubs32 = Origin + 0xA000,
        Stubs64 = Origin + 0xB000, Idt32 = Origin + 0xC000, Idt64 = Origin + 0xD000, Gdt = Origin + 0xE000, Tss = Gdt + 0x200,
        Registers = Gdt + 0x400, RealImage = Origin + 0xF000, PaePointers = Origin + 0x1_1000, Directory = Origin + 0x1_2000,
        Pml4 = Origin + 0x1_3000, Pointers = Origin + 0x1_4000, End = Origin + 0x1_5000;
    private const uint Real = 0x8000, RealHandler = 0x9000, RealStubs = 0x9800, RealVectors = 0xA000 - 0x200;
    private const uint Variables = 0x6000, Stack0 = 0x7_0000, Stack3 = 0x6_8000, Ist1 = 0x6_0000, Ist2 = 0x5_C005, RealStack = 0x7800;
    private const ushort Code32 = 0x08, Data0 = 0x10, Data3 = 0x23, Code64User = 0x2B, Code32User = 0x1B, Code64 = 0x30, Small = 0x40, Absent = 0x48,
        Task = 0x50, Code16 = 0x60, Data16 = 0x68;
    private const int Vectors = 0x41, AbsentGate = 0x20, UserGate = 0x40;
    private const uint ToCompatibility = 0xC0DE_0001, ToProtected = 0xC0DE_0002, FromCompatibility = 0xC0DE_0003;
    private const uint SupervisorPage = 0x60_0000, NoExecutePage = 0x80_0000, ReadOnlyPage = 0xC0_0000, AbsentPage = 0xE0_0000;

    /// <summary>The guest, to be loaded at <see cref="Origin"/> and entered at its first byte in flat 32-bit protected mode.</summary>
    public static byte[] Build()
    {
        var image = new byte[End - Origin];
        void Place(uint at, int bits, uint address, Action<Assembler> emit)
        {
            var a = new Assembler(bits);
            emit(a);
            using var stream = new MemoryStream();
            a.Assemble(new StreamCodeWriter(stream), address);
            stream.ToArray().CopyTo(image, at - Origin);
        }
        void Store(uint at, params ulong[] values)
        {
            for (int k = 0; k < values.Length; k++)
                BitConverter.TryWriteBytes(image.AsSpan((int)(at - Origin) + 8 * k), values[k]);
        }
        Place(Origin, 32, Origin, EmitMain32);
        Place(Main64, 64, Main64, EmitMain64);
        Place(Handler32, 32, Handler32, a => EmitHandler(a, 32));
        Place(Handler64, 64, Handler64, a => EmitHandler(a, 64));
        Place(RealImage, 16, Real, EmitMain16);
        Place(RealImage + RealHandler - Real, 16, RealHandler, a => EmitHandler(a, 16));
        for (uint vector = 0; vector < Vectors; vector++)
        {
            bool error = vector is 8 or (>= 10 and <= 14) or 17;
            Place(Stubs32 + vector * 16, 32, Stubs32 + vector * 16, a => EmitStub(a, vector, error, Handler32));
            Place(Stubs64 + vector * 16, 64, Stubs64 + vector * 16, a => EmitStub(a, vector, error, Handler64));
            Place(RealImage + RealStubs - Real + vector * 16, 16, RealStubs + vector * 16, a => EmitStub(a, vector, false, RealHandler));
            uint rights = vector == AbsentGate ? 0x0E00u : vector == UserGate ? 0xEE00u : 0x8E00u;
            uint target = Stubs32 + vector * 16;
            Store(Idt32 + vector * 8, (target & 0xFFFF) | Code32 << 16 | (ulong)((target & 0xFFFF_0000) | rights) << 32);
            target = Stubs64 + vector * 16;
            uint ist = vector is 0 or 12 ? 1u : vector == 3 ? 2u : 0;
            Store(Idt64 + vector * 16, (target & 0xFFFF) | Code64 << 16 | (ulong)((target & 0xFFFF_0000) | rights | ist) << 32, 0);
            BitConverter.TryWriteBytes(image.AsSpan((int)(RealImage - Origin + RealVectors - Real + vector * 4)), RealStubs + vector * 16);
        }
        Store(Gdt, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0x00AF9B000000FFFF,
            0x00CF93000000FFFF, 0x0040930000000FFF, 0x00CF13000000FFFF, SystemGuest.Descriptor(Tss, 0x67, 0x89), 0, 0x00009B000000FFFF, 0x000093000000FFFF);
        Store(Tss + 4, Stack0 - 0x1000);
        Store(Tss + 0x24, Ist1, Ist2);
        Store(Registers, 0x6F | (ulong)Gdt << 16, 0, (Vectors * 8 - 1) | (ulong)Idt32 << 16, 0, (Vectors * 16 - 1) | (ulong)Idt64 << 16, 0, 0x3FF);
        Store(PaePointers, Directory | 1);
        Store(Pml4, Pointers | 7);
        Store(Pointers, Directory | 7);
        for (uint page = 0; page < AbsentPage; page += 0x20_0000)
            Store(Directory + (page >> 21) * 8, page | (page == SupervisorPage ? 0x83u : page == ReadOnlyPage ? 0x85u : 0x87u));
        return image;
    }

    private static void EmitStub(Assembler a, uint vector, bool error, uint handler)
    {
        if (!error)
            a.push(-1);
        a.push((int)vector);
        a.jmp(handler);
    }

    /// <summary>Real mode goes without an error code; 16-bit frames have words.</summary>
    private static void EmitHandler(Assembler a, int bits)
    {
        Label print = a.CreateLabel(), put = a.CreateLabel();
        int word = bits / 8;
        if (bits == 64)
            a.mov(rbp, rsp);
        else
        {
            if (bits == 16)
                a.movzx(esp, sp);
            a.mov(ebp, esp);
        }
        a.mov(edi, ss);
        a.mov(eax, bits == 16 ? 0 : Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.cld();
        a.mov(esi, Variables);
        if (bits == 64)
            a.mov(eax, __dword_ptr[rsi + 16]);
        else
            a.mov(eax, __dword_ptr[esi + 16]);
        a.call(print);
        // Vector, error code, CS:RIP, RFLAGS without the arithmetic flags, and in 64-bit mode RSP and SS.
        for (int k = 0; k < (bits == 64 ? 7 : 5); k++)
        {
            if (bits == 64)
                a.mov(rax, __qword_ptr[rbp + k * word]);
            else if (bits == 32)
                a.mov(eax, __dword_ptr[ebp + k * word]);
            else
                a.movzx(eax, __word_ptr[ebp + k * word]);
            if (k == 3)
                a.and(eax, 0xFFFF);
            if (k == 4)
                a.and(eax, 0x3_7700);
            a.call(print);
        }
        if (bits == 64)
            a.mov(rax, rbp);
        else
            a.mov(eax, ebp);
        a.call(print);
        a.movzx(eax, di);
        a.call(print);
        if (bits == 64)
            a.mov(rax, cr2);
        else
            a.mov(eax, cr2);
        a.call(print);
        if (bits == 64)
            a.mov(rax, dr6);
        else
            a.mov(eax, dr6);
        a.and(eax, 0xE00F);
        a.call(print);
        for (int k = 0; bits != 64 && k < 2; k++)
        {
            a.xor(eax, eax);
            a.call(print);
        }
        a.mov(eax, 0xFFFF_0FF0);
        if (bits == 64)
            a.mov(dr6, rax);
        else
            a.mov(dr6, eax);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.mov(eax, bits == 16 ? 0 : Data0);
        a.mov(ss, eax);
        a.mov(esp, bits == 16 ? RealStack : Stack0);
        a.mov(ecx, 1);
        if (bits == 64)
        {
            a.push(2);
            a.popfq();
            a.push(__qword_ptr[rsi + 8]);
            a.push(__qword_ptr[rsi]);
            a.db(0x48, 0xCB);
        }
        else if (bits == 32)
        {
            a.push(2);
            a.popfd();
            a.push(__dword_ptr[esi + 8]);
            a.push(__dword_ptr[esi]);
            a.retf();
        }
        else
        {
            a.push((short)2);
            a.popf();
            a.push(__word_ptr[esi + 8]);
            a.push(__word_ptr[esi]);
            a.retf();
        }
        EmitPrint(a, bits, ref print, ref put);
    }

    private static void EmitPrint(Assembler a, int bits, ref Label print, ref Label put)
    {
        Label digit = a.CreateLabel(), skip = a.CreateLabel(), emit = a.CreateLabel(), wait = a.CreateLabel();
        void Shifted()
        {
            if (bits == 64)
            {
                a.mov(rax, rbx);
                a.shr(rax, cl);
            }
            else
            {
                a.mov(eax, ebx);
                a.shr(eax, cl);
            }
        }
        a.Label(ref print);
        if (bits == 64)
            a.mov(rbx, rax);
        else
            a.mov(ebx, eax);
        a.mov(ecx, bits == 64 ? 64 : 32);
        a.Label(ref skip);
        a.sub(ecx, 4);
        a.jz(digit);
        Shifted();
        a.test(eax, eax);
        a.jz(skip);
        a.Label(ref digit);
        Shifted();
        a.and(eax, 15);
        a.cmp(al, 10);
        a.jb(emit);
        a.add(al, 'a' - '0' - 10);
        a.Label(ref emit);
        a.add(al, (byte)'0');
        a.call(put);
        a.sub(ecx, 4);
        a.jns(digit);
        a.mov(al, (byte)' ');
        a.Label(ref put);
        a.mov(ah, al);
        a.mov(edx, 0x3FD);
        a.Label(ref wait);
        a.@in(al, dx);
        a.test(al, 0x20);
        a.jz(wait);
        a.mov(al, ah);
        a.mov(edx, 0x3F8);
        a.@out(dx, al);
        a.ret();
    }

    /// <summary>Notes where the next trial's handler returns to, with ECX = 1; returns with ECX = 0.</summary>
    private static void EmitMark(Assembler a, int bits, ref Label mark)
    {
        a.Label(ref mark);
        a.mov(esi, Variables);
        a.mov(ecx, cs);
        if (bits == 64)
        {
            a.mov(rax, __qword_ptr[rsp]);
            a.mov(__qword_ptr[rsi], rax);
            a.mov(__qword_ptr[rsi + 8], rcx);
        }
        else
        {
            if (bits == 16)
            {
                a.movzx(esp, sp);
                a.movzx(eax, __word_ptr[esp]);
            }
            else
                a.mov(eax, __dword_ptr[esp]);
            a.mov(__dword_ptr[esi], eax);
            a.mov(__dword_ptr[esi + 4], 0);
            a.mov(__dword_ptr[esi + 8], ecx);
            a.mov(__dword_ptr[esi + 12], 0);
        }
        a.xor(ecx, ecx);
        a.ret();
    }

    private static void Try(Assembler a, Label mark, Action body)
    {
        Label done = a.CreateLabel();
        a.call(mark);
        a.test(ecx, ecx);
        a.jnz(done);
        body();
        a.@int(UserGate);
        a.Label(ref done);
    }

    private static void SetMode(Assembler a, uint mode)
    {
        a.mov(esi, Variables);
        if (a.Bitness == 64)
            a.mov(__dword_ptr[rsi + 16], mode);
        else
            a.mov(__dword_ptr[esi + 16], mode);
    }

    /// <summary>CR0, CR4.PAE, EFER and what LAR and LSL say of CS, as the vector, one each, of a line.</summary>
    private static void EmitState(Assembler a, Label print, Label put)
    {
        if (a.Bitness == 64)
            a.mov(rax, cr0);
        else
            a.mov(eax, cr0);
        a.and(eax, 0x8001_0001);
        a.call(print);
        if (a.Bitness == 64)
            a.mov(rax, cr4);
        else
            a.mov(eax, cr4);
        a.and(eax, 0x20);
        a.call(print);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.and(eax, 0xD01);
        a.call(print);
        if (a.Bitness != 16)
        {
            a.mov(ecx, cs);
            a.lar(eax, ecx);
            a.and(eax, 0xF0_FF00);
            a.call(print);
            a.mov(ecx, cs);
            a.lsl(eax, ecx);
            a.call(print);
        }
        for (int k = a.Bitness == 16 ? 3 : 5; k < Columns; k++)
        {
            a.xor(eax, eax);
            a.call(print);
        }
        a.mov(al, (byte)'\n');
        a.call(put);
    }

    private static void EmitCommonTrials(Assembler a, Label mark)
    {
        Try(a, mark, () =>
        {
            a.xor(edx, edx);
            a.mov(eax, 1);
            a.div(ecx);
        });
        Try(a, mark, a.int3);
        Try(a, mark, () => a.db(0xF1));
        Try(a, mark, a.ud2);
        Try(a, mark, () => a.db(0xF0, 0x90));
        Try(a, mark, () => a.@int(0x30));
        Try(a, mark, () => a.db(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90));
        // Single step: the instruction after POPF ends with #DB.
        Try(a, mark, () =>
        {
            a.db(0x9C);
            a.db(0x58);
            a.or(eax, 0x100);
            a.db(0x50);
            a.db(0x9D);
            a.nop();
            a.nop();
        });
        if (a.Bitness != 64)
        {
            Try(a, mark, () =>
            {
                a.mov(al, 0x7F);
                a.add(al, 1);
                a.into();
            });
            Try(a, mark, () =>
            {
                a.mov(esi, Variables + 32);
                a.mov(__dword_ptr[esi], 0);
                a.mov(__dword_ptr[esi + 4], 0);
                a.mov(eax, 1);
                a.bound(eax, __qword_ptr[esi]);
            });
        }
        else
            Try(a, mark, () => a.db(0xCE));
        if (a.Bitness == 16)
            return;
        Try(a, mark, () => a.@int(0x50));
        Try(a, mark, () => a.@int(AbsentGate));
        foreach (int selector in (int[])[Absent, 0x7F8, 0x7FC, Task])
        {
            Try(a, mark, () =>
            {
                a.mov(eax, selector);
                a.mov(ds, eax);
            });
            Try(a, mark, () =>
            {
                a.mov(eax, selector);
                a.mov(ss, eax);
            });
        }
        Try(a, mark, () =>
        {
            a.mov(eax, 0x7F8);
            a.ltr(ax);
        });
        Try(a, mark, () =>
        {
            a.mov(eax, Absent);
            a.lldt(ax);
        });
    }

    private static void EmitTrials32(Assembler a, Label mark)
    {
        EmitCommonTrials(a, mark);
        Try(a, mark, () =>
        {
            a.mov(eax, Small);
            a.mov(ds, eax);
            a.mov(eax, 0xFFD);
            a.mov(eax, __dword_ptr[eax]);
        });
        Try(a, mark, () =>
        {
            a.mov(eax, Small);
            a.mov(ss, eax);
            a.mov(esp, 0x800);
            a.mov(ebp, 0xFFD);
            a.mov(eax, __dword_ptr[ebp]);
        });
        Try(a, mark, () =>
        {
            a.xor(eax, eax);
            a.mov(ds, eax);
            a.mov(eax, __dword_ptr[eax]);
        });
    }

    private static void EmitPageTrials32(Assembler a, Label mark)
    {
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage + 8);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage - 2);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, ReadOnlyPage + 4);
            a.inc(__dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage + 3);
            a.jmp(esi);
        });
    }

    private static void Far(Assembler a, uint offset, ushort selector) =>
        a.db(0xEA, (byte)offset, (byte)(offset >> 8), (byte)(offset >> 16), (byte)(offset >> 24), (byte)selector, (byte)(selector >> 8));

    private static void SetEfer(Assembler a, uint value)
    {
        a.mov(ecx, 0xC000_0080);
        a.xor(edx, edx);
        a.mov(eax, value);
        a.wrmsr();
    }

    private static void EmitMain32(Assembler a)
    {
        Label mark = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), compatibility = a.CreateLabel(), back = a.CreateLabel();
        a.cmp(ebp, ToCompatibility);
        a.je(compatibility);
        a.cmp(ebp, ToProtected);
        a.je(back);
        a.cli();
        a.cld();
        a.mov(edx, 0x3FB);
        a.mov(al, 3);
        a.@out(dx, al);
        // The 8259s masked: user code runs with IF set.
        a.mov(al, 0xFF);
        a.@out(0x21, al);
        a.@out(0xA1, al);
        a.lgdt(__[Registers]);
        a.lidt(__[Registers + 16]);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss, fs, gs])
        {
            a.mov(eax, Data0);
            a.mov(segment, eax);
        }
        a.mov(esp, Stack0);
        a.mov(esi, RealImage);
        a.mov(edi, Real);
        a.mov(ecx, 0x800);
        a.rep.movsd();
        // Our own GDT's CS: what follows is at the return address of this CALL.
        Label here = a.CreateLabel(), go = a.CreateLabel();
        a.call(here);
        a.jmp(go);
        a.Label(ref here);
        a.pop(eax);
        a.push(Code32);
        a.push(eax);
        a.retf();
        a.Label(ref go);
        a.mov(eax, cr0);
        a.or(eax, 0x1_0001);
        a.mov(cr0, eax);
        SetMode(a, 1);
        EmitState(a, print, put);
        EmitTrials32(a, mark);
        // PAE paging.
        a.mov(eax, cr4);
        a.or(eax, 0x20);
        a.mov(cr4, eax);
        a.mov(eax, PaePointers);
        a.mov(cr3, eax);
        a.mov(eax, cr0);
        a.or(eax, 0x8000_0000);
        a.mov(cr0, eax);
        SetMode(a, 2);
        EmitState(a, print, put);
        EmitTrials32(a, mark);
        EmitPageTrials32(a, mark);
        // LME cannot change while paging is on.
        Try(a, mark, () => SetEfer(a, 0x100));
        a.mov(eax, cr0);
        a.and(eax, 0x7FFF_FFFF);
        a.mov(cr0, eax);
        SetEfer(a, 0x901);
        EmitState(a, print, put);
        a.mov(eax, Pml4);
        a.mov(cr3, eax);
        a.mov(eax, cr0);
        a.or(eax, 0x8000_0000);
        a.mov(cr0, eax);
        EmitState(a, print, put);
        a.lidt(__[Registers + 32]);
        Far(a, Main64, Code64);

        a.Label(ref compatibility);
        SetMode(a, 4);
        EmitState(a, print, put);
        EmitTrials32(a, mark);
        EmitPageTrials32(a, mark);
        a.mov(ebp, FromCompatibility);
        Far(a, Main64, Code64);

        // Compatibility mode, to leave IA-32e mode from.
        a.Label(ref back);
        a.mov(eax, cr0);
        a.and(eax, 0x7FFF_FFFF);
        a.mov(cr0, eax);
        EmitState(a, print, put);
        SetEfer(a, 0);
        a.lidt(__[Registers + 16]);
        a.mov(eax, cr4);
        a.and(eax, ~0x20);
        a.mov(cr4, eax);
        SetMode(a, 6);
        EmitState(a, print, put);
        EmitTrials32(a, mark);
        a.lidt(__[Registers + 48]);
        a.mov(eax, Data16);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss, fs, gs])
            a.mov(segment, eax);
        Far(a, Real, Code16);
        EmitMark(a, 32, ref mark);
        EmitPrint(a, 32, ref print, ref put);
    }

    private static void EmitMain16(Assembler a)
    {
        Label mark = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), real = a.CreateLabel(), drain = a.CreateLabel();
        a.mov(eax, cr0);
        a.and(eax, ~1);
        a.mov(cr0, eax);
        a.xor(eax, eax);
        a.push(ax);
        a.pop(ax);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(ss, eax);
        a.mov(fs, eax);
        a.mov(gs, eax);
        a.mov(esp, RealStack);
        a.push(ax);
        a.call(real);
        a.nop();
        Label on = a.CreateLabel();
        a.jmp(on);
        // CS is still the protected-mode selector: RETF with 0.
        a.Label(ref real);
        a.retf();
        a.Label(ref on);
        a.mov(esi, RealVectors);
        a.xor(edi, edi);
        a.mov(ecx, Vectors);
        a.rep.movsd();
        SetMode(a, 7);
        EmitState(a, print, put);
        EmitCommonTrials(a, mark);
        Try(a, mark, () =>
        {
            a.mov(esi, 0xFFFD);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(ebp, 0xFFFD);
            a.mov(eax, __dword_ptr[ebp]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, 0x1_0000);
            a.mov(al, __byte_ptr[esi]);
        });
        // A slow UART may lose what is still in it when the machine ends.
        a.mov(ecx, 64);
        a.Label(ref drain);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.dec(ecx);
        a.jnz(drain);
        // QEMU's isa-debug-exit, Bochs's shutdown port, and HLT for us.
        a.xor(eax, eax);
        a.@out(0xF4, al);
        a.mov(edx, 0x8900);
        foreach (char c in "Shutdown")
        {
            a.mov(al, (byte)c);
            a.@out(dx, al);
        }
        a.hlt();
        EmitMark(a, 16, ref mark);
        EmitPrint(a, 16, ref print, ref put);
    }

    private static void EmitMain64(Assembler a)
    {
        Label mark = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), again = a.CreateLabel(), call = a.CreateLabel();
        a.mov(esp, Stack0);
        a.cmp(ebp, FromCompatibility);
        a.je(again);
        a.mov(eax, Task);
        a.ltr(ax);
        foreach ((uint register, uint high, uint low) in ((uint, uint, uint)[])[(0xC000_0081, 0x1B_0000 | Code64, 0), (0xC000_0084, 0, 0x700)])
        {
            a.mov(ecx, register);
            a.mov(edx, high);
            a.mov(eax, low);
            a.wrmsr();
        }
        a.mov(ecx, 0xC000_0082);
        a.xor(edx, edx);
        a.lea(rax, __[call]);
        a.wrmsr();
        // Execute-disable for one page.
        a.mov(esi, Directory + (NoExecutePage >> 21) * 8 + 4);
        a.mov(__dword_ptr[rsi], 0x8000_0000);
        a.mov(rax, cr3);
        a.mov(cr3, rax);
        SetMode(a, 3);
        EmitState(a, print, put);
        EmitTrials64(a, mark);
        EmitUserTrials(a, mark);
        a.mov(ebp, ToCompatibility);
        a.push(Code32);
        a.push((int)Origin);
        a.db(0x48, 0xCB);
        a.Label(ref again);
        SetMode(a, 5);
        EmitState(a, print, put);
        EmitTrials64(a, mark);
        a.mov(ebp, ToProtected);
        a.push(Code32);
        a.push((int)Origin);
        a.db(0x48, 0xCB);
        // SYSCALL: the frame of the interrupt shows CS, SS, RSP and the masked flags.
        a.Label(ref call);
        a.@int(0x31);
        EmitMark(a, 64, ref mark);
        EmitPrint(a, 64, ref print, ref put);
    }

    private static void EmitTrials64(Assembler a, Label mark)
    {
        EmitCommonTrials(a, mark);
        foreach (int misalignment in (int[])[1, 8, 15])
            Try(a, mark, () =>
            {
                a.sub(rsp, misalignment);
                a.@int(0x32);
            });
        foreach (uint page in (uint[])[AbsentPage + 8, AbsentPage - 2])
            Try(a, mark, () =>
            {
                a.mov(esi, page);
                a.mov(eax, __dword_ptr[rsi]);
            });
        Try(a, mark, () =>
        {
            a.mov(esi, ReadOnlyPage + 4);
            a.inc(__dword_ptr[rsi]);
        });
        foreach (uint page in (uint[])[AbsentPage + 3, NoExecutePage + 5])
            Try(a, mark, () =>
            {
                a.mov(esi, page);
                a.jmp(rsi);
            });
        foreach (ulong address in (ulong[])[0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 0x7FFF_FFFF_FFFD])
        {
            Try(a, mark, () =>
            {
                a.mov(rsi, address);
                a.mov(eax, __dword_ptr[rsi]);
            });
            Try(a, mark, () =>
            {
                a.mov(rbp, address);
                a.mov(eax, __dword_ptr[rbp]);
            });
        }
        Try(a, mark, () =>
        {
            a.mov(rsi, 0x8000_0000_0000);
            a.jmp(rsi);
        });
        Try(a, mark, () =>
        {
            a.mov(rax, cr4);
            a.and(rax, ~0x20);
            a.mov(cr4, rax);
        });
        Try(a, mark, () =>
        {
            a.mov(rax, cr0);
            a.and(eax, 0x7FFF_FFFF);
            a.mov(cr0, rax);
        });
        Try(a, mark, () =>
        {
            a.mov(eax, 0x10);
            a.mov(cr8, rax);
        });
        Try(a, mark, () =>
        {
            a.mov(ecx, 0xC000_0082);
            // Canonical neither with 48 nor with 57 bits, which the processor may go by.
            a.mov(edx, 0x8000_0000);
            a.wrmsr();
        });
        foreach (int selector in (int[])[0, Data0, Absent, 0x7F8, Code64User])
        {
            Try(a, mark, () =>
            {
                a.push(selector);
                a.push((int)Origin);
                a.db(0x48, 0xCB);
            });
            Try(a, mark, () =>
            {
                a.push(Data0);
                a.push((int)Stack0);
                a.push(2);
                a.push(selector);
                a.push((int)Origin);
                a.iretq();
            });
        }
    }

    private static void EmitUserTrials(Assembler a, Label mark)
    {
        void User(ushort selector, Action body) => Try(a, mark, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rax, __[user]);
            a.push(Data3);
            a.push((int)Stack3 - 3);
            a.push(0x602);
            a.push(selector);
            a.push(rax);
            a.iretq();
            a.Label(ref user);
            body();
        });
        foreach (ushort selector in (ushort[])[Code64User, Code32User])
        {
            User(selector, () => a.@int(UserGate));
            User(selector, a.int3);
            User(selector, () => a.@int(0x33));
            User(selector, a.hlt);
            User(selector, a.cli);
            User(selector, a.ud2);
            User(selector, () =>
            {
                a.xor(ecx, ecx);
                a.div(ecx);
            });
            User(selector, () =>
            {
                a.mov(esi, SupervisorPage + 6);
                a.mov(eax, __dword_ptr[rsi]);
            });
            User(selector, () =>
            {
                a.mov(esi, ReadOnlyPage + 6);
                a.add(__dword_ptr[rsi], eax);
            });
        }
        User(Code64User, a.syscall);
        Try(a, mark, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rcx, __[user]);
            a.mov(r11d, 0x3_0602);
            a.sysretq();
            a.Label(ref user);
        });
        Try(a, mark, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rcx, __[user]);
            a.mov(r11d, 0x0002);
            a.sysret();
            a.Label(ref user);
        });
    }
}
