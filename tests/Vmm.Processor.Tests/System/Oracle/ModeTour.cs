using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare guest that goes from flat protected mode through PAE paging, 64-bit mode, compatibility mode and back to protected and
/// real mode, raises exceptions in each, and prints on COM1 what every handler was given. A line begins with the
/// mode's number, or with CR0 after a change of mode; shorter ones are filled with zeros.
/// </summary>
/// <param name="omitted">The rules whose trials are left out, for a judge that does not know them.</param>
internal sealed partial class ModeTour(ModeTour.Rules omitted)
{
    public const uint Origin = 0x10_0000;

    /// <summary>Rules that not every emulator has.</summary>
    [Flags]
    public enum Rules
    {
        /// <summary>Every emulator has the others.</summary>
        None = 0,

        /// <summary>An access beyond a segment's limit, or through a null selector, faults (SDM volume 3, section 5.3).</summary>
        SegmentLimits = 1,

        /// <summary>INT1 (volume 2).</summary>
        Int1 = 2,

        /// <summary>Addresses, targets of jumps and MSRs that take an address are canonical; #SS by the stack (volume 1, section 3.3.7.1).</summary>
        CanonicalAddresses = 4,

        /// <summary>CR0.PG, CR4.PAE and EFER.LME change in an order only (volume 3, section 9.8.5).</summary>
        ModeChanges = 8,

        /// <summary>CR8 has four bits; SYSRET leaves RF and VM clear (volume 2).</summary>
        ReservedBits = 16,
    }

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
    public byte[] Build()
    {
        var image = new GuestImage(Origin, End - Origin);
        image.Place(Origin, 32, Origin, EmitMain32);
        image.Place(Main64, 64, Main64, EmitMain64);
        image.Place(Handler32, 32, Handler32, a => EmitHandler(a, 32));
        image.Place(Handler64, 64, Handler64, a => EmitHandler(a, 64));
        image.Place(RealImage, 16, Real, EmitMain16);
        image.Place(RealImage + RealHandler - Real, 16, RealHandler, a => EmitHandler(a, 16));
        for (uint vector = 0; vector < Vectors; vector++)
        {
            bool error = GuestImage.HasErrorCode(vector);
            image.Place(Stubs32 + vector * 16, 32, Stubs32 + vector * 16, a => EmitStub(a, vector, error, Handler32));
            image.Place(Stubs64 + vector * 16, 64, Stubs64 + vector * 16, a => EmitStub(a, vector, error, Handler64));
            image.Place(RealImage + RealStubs - Real + vector * 16, 16, RealStubs + vector * 16, a => EmitStub(a, vector, false, RealHandler));
            uint rights = vector == AbsentGate ? 0x0E00u : vector == UserGate ? 0xEE00u : 0x8E00u;
            uint target = Stubs32 + vector * 16;
            image.Store(Idt32 + vector * 8, (target & 0xFFFF) | Code32 << 16 | (ulong)((target & 0xFFFF_0000) | rights) << 32);
            target = Stubs64 + vector * 16;
            uint ist = vector is 0 or 12 ? 1u : vector == 3 ? 2u : 0;
            image.Store(Idt64 + vector * 16, (target & 0xFFFF) | Code64 << 16 | (ulong)((target & 0xFFFF_0000) | rights | ist) << 32, 0);
            BitConverter.TryWriteBytes(image.Bytes.AsSpan((int)(RealImage - Origin + RealVectors - Real + vector * 4)), RealStubs + vector * 16);
        }
        image.Store(Gdt, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0x00AF9B000000FFFF,
            0x00CF93000000FFFF, 0x0040930000000FFF, 0x00CF13000000FFFF, SystemGuest.Descriptor(Tss, 0x67, 0x89), 0, 0x00009B000000FFFF, 0x000093000000FFFF);
        image.Store(Tss + 4, Stack0 - 0x1000);
        image.Store(Tss + 0x24, Ist1, Ist2);
        image.Store(Registers, 0x6F | (ulong)Gdt << 16, 0, (Vectors * 8 - 1) | (ulong)Idt32 << 16, 0, (Vectors * 16 - 1) | (ulong)Idt64 << 16, 0, 0x3FF);
        image.Store(PaePointers, Directory | 1);
        image.Store(Pml4, Pointers | 7);
        image.Store(Pointers, Directory | 7);
        for (uint page = 0; page < AbsentPage; page += 0x20_0000)
            image.Store(Directory + (page >> 21) * 8, page | (page == SupervisorPage ? 0x83u : page == ReadOnlyPage ? 0x85u : 0x87u));
        return image.Bytes;
    }

    private void EmitMain32(Assembler a)
    {
        Label mark = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), compatibility = a.CreateLabel(), back = a.CreateLabel();
        a.cmp(ebp, ToCompatibility);
        a.je(compatibility);
        a.cmp(ebp, ToProtected);
        a.je(back);
        a.cli();
        a.cld();
        ReferencePc.EmitStart(a);
        a.mov(esp, Stack0);
        GuestImage.EmitOwnSegments(a, Registers, Code32, Data0);
        a.mov(esi, RealImage);
        a.mov(edi, Real);
        a.mov(ecx, 0x800);
        a.rep.movsd();
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
        Try(a, mark, Rules.ModeChanges, () => SetEfer(a, 0x100));
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
        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    private void EmitMain16(Assembler a)
    {
        Label mark = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), real = a.CreateLabel();
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
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.mov(esi, 0xFFFD);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.mov(ebp, 0xFFFD);
            a.mov(eax, __dword_ptr[ebp]);
        });
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.mov(esi, 0x1_0000);
            a.mov(al, __byte_ptr[esi]);
        });
        ReferencePc.EmitEnd(a, put);
        EmitMark(a, 16, ref mark);
        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    private void EmitMain64(Assembler a)
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
        ReferencePc.EmitPrinter(a, ref print, ref put);
    }
}
