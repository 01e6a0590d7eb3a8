using System.Buffers.Binary;
using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>
/// A bare guest in flat protected mode that raises interrupts in every way a PC has and prints, a line for each trial, its number,
/// how many values it noted, and those: vectors in the order in which their handlers ran, registers of the controllers, how far
/// an instruction stream got. No time is printed, so that the lines are the same on every PC.
/// </summary>
internal sealed partial class InterruptTour
{
    /// <summary>Where the guest is loaded and entered, in flat 32-bit protected mode.</summary>
    public const uint Origin = 0x10_0000;

    /// <summary>Numbers on every line: the trial, how many values it noted, and those, filled with zeros.</summary>
    public const int Columns = 2 + Values;

    private const int Values = 14;
    private const uint Handler = Origin + 0x400, Stubs = Origin + 0x1000, Idt = Origin + 0x2000, Gdt = Origin + 0x2800, Main = Origin + 0x3000;
    private const uint Actions = 0x20_0000, Number = 0x20_1000, Next = 0x20_1004, Base = 0x20_1008, Abort = 0x20_100C, Log = 0x20_1100,
        Pointers = 0x20_1080, Stack = 0x21_0000;
    private const ushort Code0 = 0x08, Data0 = 0x10;
    private const uint ApicBase = 0xFEE0_0000, IoApicSelect = 0xFEC0_0000, IoApicWindow = 0xFEC0_0010;

    /// <summary>What a vector's handler does after it has noted its vector, in this order.</summary>
    [Flags]
    private enum Handling : uint
    {
        None = 0,
        NoteDistance = 1,
        NoteProcessorPriority = 2,
        NoteInService = 4,
        NoteTriggerMode = 8,
        LowerLine = 0x10,
        SendNmi = 0x20,
        Nest = 0x40,
        Breakpoint = 0x80,
        ReadRtc = 0x100,
        NotePics = 0x200,
        EndSlave = 0x400,
        EndMaster = 0x800,
        EndApic = 0x1000,
        GiveUp = 0x2000,
    }

    private readonly Assembler _a = new(32);
    private readonly List<string> _trials = [];
    private Label _begin, _finish, _settle, _note, _print, _put;

    public InterruptTour()
    {
        _begin = _a.CreateLabel();
        _finish = _a.CreateLabel();
        _settle = _a.CreateLabel();
        _note = _a.CreateLabel();
        _print = _a.CreateLabel();
        _put = _a.CreateLabel();
        Image = Build();
    }

    /// <summary>What is tried, in order.</summary>
    public IReadOnlyList<string> Trials => _trials;

    /// <summary>The guest, to be loaded at <see cref="Origin"/>. It carries a Multiboot header.</summary>
    public byte[] Image { get; }

    private byte[] Build()
    {
        byte[] main = Assemble(Main, _ =>
        {
            EmitStart();
            EmitTrials();
            EmitRoutines();
        }, _a);
        var image = new byte[Main - Origin + main.Length];
        void Place(uint at, ReadOnlySpan<byte> bytes) => bytes.CopyTo(image.AsSpan((int)(at - Origin)));
        Place(Main, main);
        Place(Handler, Assemble(Handler, EmitHandler, new Assembler(32)));
        // JMP Main, then a Multiboot header that says where all this goes.
        image[0] = 0xE9;
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(1), Main - Origin - 5);
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), Origin + 8, Origin, 0, 0, Origin];
        for (int k = 0; k < header.Length; k++)
            BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(8 + k * 4), header[k]);
        for (uint vector = 0; vector < 256; vector++)
        {
            uint stub = Stubs + vector * 16;
            Place(stub, Assemble(stub, a =>
            {
                a.push(vector);
                a.jmp(Handler);
            }, new Assembler(32)));
            BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan((int)(Idt - Origin + vector * 8)),
                (stub & 0xFFFF) | Code0 << 16 | (ulong)((stub & 0xFFFF_0000) | 0x8E00) << 32);
        }
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan((int)(Gdt - Origin + Code0)), 0x00CF9B000000FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan((int)(Gdt - Origin + Data0)), 0x00CF93000000FFFF);
        return image;
    }

    private static byte[] Assemble(uint at, Action<Assembler> emit, Assembler a)
    {
        emit(a);
        using var stream = new MemoryStream();
        a.Assemble(new StreamCodeWriter(stream), at);
        return stream.ToArray();
    }

    private void EmitStart()
    {
        Label here = _a.CreateLabel(), go = _a.CreateLabel();
        _a.cli();
        _a.cld();
        ReferencePc.EmitStart(_a);
        _a.mov(esp, Stack);
        _a.xor(eax, eax);
        _a.mov(edi, Actions);
        _a.mov(ecx, 0x2000 / 4);
        _a.rep.stosd();
        Store(Pointers, 0x17 | Gdt << 16);
        Store(Pointers + 4, Gdt >> 16);
        Store(Pointers + 8, 0x7FF | Idt << 16);
        Store(Pointers + 12, Idt >> 16);
        _a.lgdt(__[Pointers]);
        _a.lidt(__[Pointers + 8]);
        // Our own GDT's CS: what follows is at the return address of this CALL.
        _a.call(here);
        _a.jmp(go);
        _a.Label(ref here);
        _a.pop(eax);
        _a.push(Code0);
        _a.push(eax);
        _a.retf();
        _a.Label(ref go);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss, fs, gs])
        {
            _a.mov(eax, Data0);
            _a.mov(segment, eax);
        }
    }

    /// <summary>The routines that trials call.</summary>
    private void EmitRoutines()
    {
        Label end = _a.CreateLabel(), loop = _a.CreateLabel(), empty = _a.CreateLabel(), pad = _a.CreateLabel();
        _a.jmp(end);

        // Everything as a trial finds it; what was pending is taken, and forgotten.
        _a.Label(ref _begin);
        SetIer(0);
        _a.Label(ref empty);
        In(0x3FD);
        _a.and(al, 0x60);
        _a.cmp(al, 0x60);
        _a.jne(empty);
        In(0x3FA);
        Out(0x3FC, 0x0B);
        for (uint vector = 0; vector < 256; vector++)
            SetAction((byte)vector, vector is 2 or 3 or 0xFF ? Handling.None : vector is 8 or 9 ? Handling.EndApic
                : vector < 32 ? Handling.GiveUp : vector < 0x28 ? Handling.EndMaster : vector < 0x30 ? Handling.EndSlave | Handling.EndMaster : Handling.EndApic);
        InitialisePics(autoEnd: false);
        Cmos(0x0B, 0x02);
        ReadCmos(0x0C);
        for (uint pin = 0; pin < 24; pin++)
            Redirect(pin, 0x1_0000);
        WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        WriteApic(ApicRegister.InitialCount, 0);
        foreach (uint register in (uint[])[ApicRegister.LvtTimer, ApicRegister.LvtLint0, ApicRegister.LvtLint1, ApicRegister.LvtError])
            WriteApic(register, 0x1_0000);
        WriteApic(ApicRegister.TaskPriority, 0);
        WriteApic(ApicRegister.DestinationFormat, 0xFFFF_FFFF);
        WriteApic(ApicRegister.LogicalDestination, 0x0100_0000);
        WriteApic(ApicRegister.CommandHigh, 0);
        WriteApic(ApicRegister.ErrorStatus, 0);
        for (int k = 0; k < 16; k++)
            WriteApic(ApicRegister.EndOfInterrupt, 0);
        _a.sti();
        _a.call(_settle);
        _a.cli();
        Store(Next, Log);
        _a.ret();

        _a.Label(ref _settle);
        for (int k = 0; k < 24; k++)
        {
            Label next = _a.CreateLabel();
            _a.jmp(next);
            _a.Label(ref next);
            _a.nop();
        }
        _a.ret();

        _a.Label(ref _note);
        EmitNote(_a);
        _a.ret();

        _a.Label(ref _finish);
        SetIer(0);
        _a.mov(eax, __dword_ptr[Number]);
        _a.call(_print);
        _a.mov(eax, __dword_ptr[Next]);
        _a.sub(eax, Log);
        _a.shr(eax, 2);
        _a.call(_print);
        _a.mov(esi, Log);
        _a.Label(ref loop);
        _a.xor(eax, eax);
        _a.cmp(esi, __dword_ptr[Next]);
        _a.jae(pad);
        _a.mov(eax, __dword_ptr[esi]);
        _a.Label(ref pad);
        _a.call(_print);
        _a.add(esi, 4);
        _a.cmp(esi, Log + 4 * Values);
        _a.jb(loop);
        _a.mov(al, (byte)'\n');
        _a.call(_put);
        _a.ret();

        ReferencePc.EmitPrinter(_a, ref _print, ref _put);
        _a.Label(ref end);
        _a.cli();
        ReferencePc.EmitEnd(_a, _put);
    }

    /// <summary>Notes EAX. Clobbers EDI.</summary>
    private static void EmitNote(Assembler a)
    {
        a.mov(edi, __dword_ptr[Next]);
        a.mov(__dword_ptr[edi], eax);
        // Four on, unless the room is used up.
        a.cmp(edi, Log + 0x400);
        a.sbb(edi, edi);
        a.and(edi, 4);
        a.add(__dword_ptr[Next], edi);
    }

    private static void EmitHandler(Assembler a)
    {
        void When(Handling handling, Action action)
        {
            Label not = a.CreateLabel();
            a.test(ecx, (uint)handling);
            a.jz(not);
            action();
            a.Label(ref not);
            a.nop();
        }
        void NoteApic(uint register) => When(register == ApicRegister.InService ? Handling.NoteInService : Handling.NoteTriggerMode, () =>
        {
            a.mov(eax, ebx);
            a.shr(eax, 5);
            a.shl(eax, 4);
            a.mov(eax, __dword_ptr[eax + (ApicBase + register)]);
            EmitNote(a);
        });
        Label send = a.CreateLabel(), sent = a.CreateLabel();
        a.pushad();
        a.mov(ebx, __dword_ptr[esp + 32]);
        a.mov(ecx, __dword_ptr[ebx * 8 + Actions]);
        a.mov(esi, __dword_ptr[ebx * 8 + (Actions + 4)]);
        a.mov(eax, ebx);
        EmitNote(a);
        When(Handling.GiveUp, () =>
        {
            a.mov(esp, Stack);
            a.jmp(__dword_ptr[Abort]);
        });
        When(Handling.NoteDistance, () =>
        {
            a.mov(eax, __dword_ptr[esp + 36]);
            a.sub(eax, __dword_ptr[Base]);
            EmitNote(a);
        });
        When(Handling.NoteProcessorPriority, () =>
        {
            a.mov(eax, __dword_ptr[ApicBase + ApicRegister.ProcessorPriority]);
            EmitNote(a);
        });
        NoteApic(ApicRegister.InService);
        NoteApic(ApicRegister.TriggerMode);
        When(Handling.LowerLine, () =>
        {
            a.mov(edx, 0x3F9);
            a.xor(eax, eax);
            a.@out(dx, al);
        });
        // Interrupts to oneself, a vector in each byte.
        a.Label(ref send);
        a.mov(eax, esi);
        a.and(eax, 0xFF);
        a.jz(sent);
        a.or(eax, 0x4_0000);
        a.mov(__dword_ptr[ApicBase + ApicRegister.CommandLow], eax);
        a.shr(esi, 8);
        a.jmp(send);
        a.Label(ref sent);
        // The next one's handler does nothing.
        When(Handling.SendNmi, () =>
        {
            a.mov(__dword_ptr[ebx * 8 + Actions], 0);
            a.mov(__dword_ptr[ApicBase + ApicRegister.CommandLow], 0x400);
        });
        void Settle()
        {
            for (int k = 0; k < 16; k++)
            {
                Label next = a.CreateLabel();
                a.jmp(next);
                a.Label(ref next);
                a.nop();
            }
        }
        When(Handling.Nest, () =>
        {
            a.sti();
            Settle();
            a.cli();
        });
        When(Handling.SendNmi, Settle);
        When(Handling.Breakpoint, () =>
        {
            a.int3();
            Settle();
        });
        When(Handling.Nest | Handling.SendNmi | Handling.Breakpoint, () =>
        {
            a.lea(eax, __[ebx + 0xE000]);
            EmitNote(a);
        });
        When(Handling.ReadRtc, () =>
        {
            a.mov(al, 0x0C);
            a.@out(0x70, al);
            a.@in(al, 0x71);
        });
        When(Handling.NotePics, () =>
        {
            foreach (byte pic in (byte[])[0xA0, 0x20])
            {
                a.mov(al, 0x0B);
                a.@out(pic, al);
                a.xor(eax, eax);
                a.@in(al, pic);
                EmitNote(a);
            }
        });
        foreach ((Handling handling, byte port) in ((Handling, byte)[])[(Handling.EndSlave, 0xA0), (Handling.EndMaster, 0x20)])
            When(handling, () =>
            {
                a.mov(al, 0x20);
                a.@out(port, al);
            });
        When(Handling.EndApic, () => a.mov(__dword_ptr[ApicBase + ApicRegister.EndOfInterrupt], 0));
        a.popad();
        a.add(esp, 4);
        a.iretd();
    }
}
