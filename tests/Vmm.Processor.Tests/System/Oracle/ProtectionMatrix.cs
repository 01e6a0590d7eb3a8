using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>
/// A bare 32-bit guest that tries every kind of descriptor with every instruction that takes a selector, at levels 0 and 3, and
/// prints what came of each on COM1. It runs on our processor and, from a boot disk, on any PC emulator, so that the outputs
/// can be compared line by line.
/// </summary>
internal static class ProtectionMatrix
{
    /// <summary>Where the guest is loaded and entered, in flat protected mode.</summary>
    public const uint Origin = 0x10_0000;

    private const uint Gdt = 0x20_0000, Idt = 0x20_1000, MainTss = 0x20_2000, Tss32 = 0x20_3000, Ldt = 0x20_4000, Tss16 = 0x20_5000,
        Variables = 0x20_6000, Stack0 = 0x21_0000, Stack3 = 0x22_0000, Low = 0x7000;
    private const uint Current = Variables, FarPointer = Variables + 8;
    private const ushort Code0 = 0x08, Data0 = 0x10, Code3 = 0x1B, Data3 = 0x23, MainTask = 0x28, Slot = 0x30, TargetTask = 0x38;
    private const int RecordSize = 20, Vectors = 0x41;

    /// <summary>What is tried, in the order of the output's columns.</summary>
    public static readonly string[] Operations =
        ["mov ds", "mov ss", "mov fs", "jmp far", "call far", "lar", "lsl", "verr", "verw", "lldt", "ltr", "retf", "iret"];

    /// <summary>One trial.</summary>
    public readonly record struct Trial(int Operation, int Type, int Dpl, bool Present, int Rpl, int Cpl)
    {
        public override string ToString() =>
            $"{Operations[Operation]}: {(Type >= 16 ? "segment" : "system")} type {Type & 15}, DPL {Dpl}, {(Present ? "" : "not ")}present, RPL {Rpl}, CPL {Cpl}";
    }

    /// <summary>All trials in order.</summary>
    public static IReadOnlyList<Trial> Trials { get; } =
    [
        .. from operation in Enumerable.Range(0, Operations.Length)
           from type in Enumerable.Range(0, 32)
           from dpl in (int[])[0, 3]
           from present in (bool[])[true, false]
           from rpl in (int[])[0, 3]
           from cpl in (int[])[0, 3]
           select new Trial(operation, type, dpl, present, rpl, cpl),
    ];

    /// <summary>The guest, to be loaded at <see cref="Origin"/> and entered at its first byte.</summary>
    public static byte[] Build()
    {
        // Addresses of labels as immediates are known after a first pass, in which every one has four bytes already.
        var addresses = new Addresses(Origin, Origin, Origin, new uint[Vectors], new uint[Operations.Length]);
        Emit(addresses, out addresses);
        byte[] code = Emit(addresses, out addresses);
        return [.. code.AsSpan(0, (int)(addresses.Table - Origin)), .. Records(addresses.Operations)];
    }

    private readonly record struct Addresses(uint Begin, uint Table, uint Landing, uint[] Stubs, uint[] Operations);

    private static byte[] Emit(Addresses known, out Addresses found)
    {
        var a = new Assembler(32);
        Label[] operations = [.. Operations.Select(_ => a.CreateLabel())];
        Label[] stubs = [.. Enumerable.Range(0, Vectors).Select(_ => a.CreateLabel())];
        Label begin = a.CreateLabel(), landing = a.CreateLabel(), next = a.CreateLabel(), common = a.CreateLabel(), print = a.CreateLabel(), put = a.CreateLabel(), table = a.CreateLabel();
        Initialise(a, known, ref begin);
        a.jmp(next);
        EmitOperations(a, operations, ref landing);
        EmitNext(a, ref next, known.Landing, put);
        EmitHandlers(a, stubs, ref common, ref print, ref put, next);
        a.Label(ref table);
        a.nop();
        using var stream = new MemoryStream();
        AssemblerResult result = a.Assemble(new StreamCodeWriter(stream), Origin, BlockEncoderOptions.ReturnNewInstructionOffsets);
        uint Of(Label label) => (uint)result.GetLabelRIP(label);
        found = new Addresses(Of(begin), Of(table), Of(landing), [.. stubs.Select(Of)], [.. operations.Select(Of)]);
        return stream.ToArray();
    }

    /// <summary>A disk whose boot sector loads the guest and enters it.</summary>
    public static byte[] BuildDisk() => ReferencePc.BuildDisk(Build(), Origin);

    private static void Initialise(Assembler a, Addresses known, ref Label begin)
    {
        a.cli();
        a.cld();
        ReferencePc.EmitStart(a);
        a.xor(eax, eax);
        a.mov(edi, Gdt);
        a.mov(ecx, 0x2_0000 / 4);
        a.rep.stosd();
        void Store(uint at, uint value) => a.mov(__dword_ptr[at], value);
        void StoreWide(uint at, ulong value)
        {
            Store(at, (uint)value);
            Store(at + 4, (uint)(value >> 32));
        }
        StoreWide(Gdt + 0x08, 0x00CF9B000000FFFF);
        StoreWide(Gdt + 0x10, 0x00CF93000000FFFF);
        StoreWide(Gdt + 0x18, 0x00CFFB000000FFFF);
        StoreWide(Gdt + 0x20, 0x00CFF3000000FFFF);
        StoreWide(Gdt + MainTask, SystemGuest.Descriptor(MainTss, 0x67, 0x89));
        Store(MainTss + 4, Stack0);
        Store(MainTss + 8, Data0);
        Store(MainTss + 0x64, 0x68_0000);
        // Where gates and other tasks lead: MOVZX ESP, SP; MOVZX EAX, AX; MOVZX ECX, CX; INT 40h.
        // (What a 16-bit task has in the upper halves of registers is not defined.)
        StoreWide(Low, 0xB70F_C0B7_0FE4_B70F);
        Store(Low + 8, 0xF440_CDC9);
        Store(Variables + 16, 0x3F | (Gdt << 16));
        Store(Variables + 20, Gdt >> 16);
        Store(Variables + 24, 0x7FF | (Idt << 16));
        Store(Variables + 28, Idt >> 16);
        for (int vector = 0; vector < Vectors; vector++)
        {
            a.mov(eax, known.Stubs[vector]);
            a.mov(edx, eax);
            a.and(eax, 0xFFFF);
            a.or(eax, Code0 << 16);
            a.and(edx, 0xFFFF_0000);
            a.or(edx, vector is 0x40 ? 0xEE00u : 0x8E00u);
            a.mov(__dword_ptr[Idt + (uint)vector * 8], eax);
            a.mov(__dword_ptr[Idt + (uint)vector * 8 + 4], edx);
        }
        a.lgdt(__[Variables + 16]);
        a.lidt(__[Variables + 24]);
        // CS by our own table, whatever the loader's was: RETF to what follows.
        a.mov(eax, Data0);
        a.mov(ss, eax);
        a.mov(esp, Stack0);
        a.push(Code0);
        a.push(known.Begin);
        a.retf();
        a.Label(ref begin);
        a.mov(eax, known.Table);
        a.mov(__dword_ptr[Current], eax);
    }

    private static void EmitOperations(Assembler a, Label[] operations, ref Label landing)
    {
        for (int k = 0; k < operations.Length; k++)
        {
            a.Label(ref operations[k]);
            switch (k)
            {
                case 0:
                    a.mov(ds, ebx);
                    break;
                case 1:
                    a.mov(ss, ebx);
                    a.mov(ecx, ss);
                    a.mov(ss, edx);
                    break;
                case 2:
                    a.mov(fs, ebx);
                    break;
                case 3:
                    a.jmp(__fword_ptr[FarPointer]);
                    break;
                case 4:
                    a.call(__fword_ptr[FarPointer]);
                    break;
                case 5:
                    a.lar(eax, ebx);
                    break;
                case 6:
                    a.lsl(eax, ebx);
                    break;
                case 7:
                    a.verr(bx);
                    break;
                case 8:
                    a.verw(bx);
                    break;
                case 9:
                    a.lldt(bx);
                    break;
                case 10:
                    a.ltr(bx);
                    break;
                case 11:
                    a.retf();
                    break;
                default:
                    // The frame is one of RETF; IRET needs flags between selector and stack.
                    a.pop(esi);
                    a.pop(edi);
                    a.push(2);
                    a.push(edi);
                    a.push(esi);
                    a.iretd();
                    break;
            }
            a.@int(0x40);
        }
        a.Label(ref landing);
        a.@int(0x40);
    }

    /// <summary>Restores what the last trial may have left behind and starts the next.</summary>
    private static void EmitNext(Assembler a, ref Label next, uint landing, Label put)
    {
        Label user = a.CreateLabel(), finish = a.CreateLabel(), go = a.CreateLabel();
        a.Label(ref next);
        a.mov(eax, Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(ss, eax);
        a.mov(esp, Stack0);
        a.push(2);
        a.popfd();
        a.clts();
        a.xor(eax, eax);
        a.mov(fs, eax);
        a.mov(gs, eax);
        a.lldt(ax);
        a.mov(__byte_ptr[Gdt + MainTask + 5], 0x89);
        a.mov(eax, MainTask);
        a.ltr(ax);
        EmitTask(a);
        a.mov(ebp, __dword_ptr[Current]);
        a.mov(eax, __dword_ptr[ebp]);
        a.mov(ecx, __dword_ptr[ebp + 4]);
        a.cmp(ecx, -1);
        a.je(finish);
        a.mov(__dword_ptr[Gdt + Slot], eax);
        a.mov(__dword_ptr[Gdt + Slot + 4], ecx);
        a.mov(ebx, __dword_ptr[ebp + 8]);
        a.mov(esi, __dword_ptr[ebp + 16]);
        a.mov(eax, landing);
        a.mov(__dword_ptr[FarPointer], eax);
        a.mov(__dword_ptr[FarPointer + 4], ebx);
        // Both stacks carry what RETF pops: offset, selector, and the outer stack by the selector's RPL.
        a.mov(edi, Data0);
        a.test(ebx, 3);
        a.jz(go);
        a.mov(edi, Data3);
        a.Label(ref go);
        foreach (uint stack in (uint[])[Stack0, Stack3])
        {
            a.mov(__dword_ptr[stack - 32], eax);
            a.mov(__dword_ptr[stack - 28], ebx);
            a.mov(__dword_ptr[stack - 24], Stack3 - 64);
            a.mov(__dword_ptr[stack - 20], edi);
        }
        a.mov(eax, 0x1111_1111);
        a.xor(ecx, ecx);
        a.cmp(__dword_ptr[ebp + 12], 0);
        a.jne(user);
        a.mov(edx, Data0);
        a.mov(esp, Stack0 - 32);
        a.jmp(esi);
        a.Label(ref user);
        a.mov(edx, Data3);
        a.mov(ds, edx);
        a.mov(es, edx);
        a.push(Data3);
        a.push(Stack3 - 32);
        a.push(2);
        a.push(Code3);
        a.push(esi);
        a.iretd();
        a.Label(ref finish);
        ReferencePc.EmitEnd(a, put);
    }

    /// <summary>Fresh images of the two tasks that a trial may switch to, and the descriptor that task gates name.</summary>
    private static void EmitTask(Assembler a)
    {
        void Store(uint at, uint value) => a.mov(__dword_ptr[at], value);
        ulong descriptor = SystemGuest.Descriptor(Tss32, 0x67, 0x89);
        Store(Gdt + TargetTask, (uint)descriptor);
        Store(Gdt + TargetTask + 4, (uint)(descriptor >> 32));
        Store(Tss32, 0);
        Store(Tss32 + 0x20, Low);
        Store(Tss32 + 0x24, 2);
        Store(Tss32 + 0x28, 0x2222_2222);
        Store(Tss32 + 0x38, 0x6F00);
        foreach (uint k in (uint[])[0, 2, 3])
            Store(Tss32 + 0x48 + k * 4, Data0);
        Store(Tss32 + 0x4C, Code0);
        Store(Tss16, 0);
        Store(Tss16 + 0x0C, Low << 16);
        Store(Tss16 + 0x10, 2 | 0x2222u << 16);
        Store(Tss16 + 0x18, 0x6F00u << 16);
        Store(Tss16 + 0x20, Data0 << 16);
        Store(Tss16 + 0x24, Code0 | (uint)Data0 << 16);
        Store(Tss16 + 0x28, Data0);
    }

    private static void EmitHandlers(Assembler a, Label[] stubs, ref Label common, ref Label print, ref Label put, Label next)
    {
        for (int vector = 0; vector < Vectors; vector++)
        {
            a.Label(ref stubs[vector]);
            if (!GuestImage.HasErrorCode((uint)vector))
                a.push(-1);
            a.push(vector);
            a.jmp(common);
        }
        // Frame: FS, DS, eight registers, vector, error, EIP, CS, EFLAGS, and from level 3 ESP and SS.
        a.Label(ref common);
        a.pushad();
        a.push(ds);
        a.push(fs);
        a.mov(eax, Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.mov(ebp, esp);
        a.movzx(eax, __byte_ptr[ebp + 40]);
        a.call(print);
        foreach (int offset in (int[])[44, 48])
        {
            a.mov(eax, __dword_ptr[ebp + offset]);
            a.call(print);
        }
        a.movzx(eax, __word_ptr[ebp + 52]);
        a.call(print);
        // ZF, TF, IF, NT, RF, VM; other arithmetic flags are what the harness left.
        a.mov(eax, __dword_ptr[ebp + 56]);
        a.and(eax, 0x3_4340);
        a.call(print);
        a.mov(eax, __dword_ptr[ebp + 8 + 28]);
        a.call(print);
        a.mov(eax, __dword_ptr[ebp + 8 + 24]);
        a.call(print);
        a.movzx(eax, __word_ptr[ebp + 4]);
        a.call(print);
        a.movzx(eax, __word_ptr[ebp]);
        a.call(print);
        a.str(eax);
        a.call(print);
        a.sldt(eax);
        a.call(print);
        foreach (uint at in (uint[])[Gdt + Slot + 4, Gdt + TargetTask + 4, Gdt + MainTask + 4, Tss32])
        {
            a.mov(eax, __dword_ptr[at]);
            a.call(print);
        }
        a.mov(eax, cr0);
        a.and(eax, 8);
        a.call(print);
        a.xor(eax, eax);
        Label inner = a.CreateLabel();
        a.test(__byte_ptr[ebp + 52], 3);
        a.jz(inner);
        a.movzx(eax, __word_ptr[ebp + 64]);
        a.Label(ref inner);
        a.call(print);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.add(__dword_ptr[Current], RecordSize);
        a.jmp(next);

        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    private static byte[] Records(uint[] operations)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        foreach (Trial trial in Trials)
        {
            writer.Write(DescriptorOf(trial));
            writer.Write((uint)(Slot | trial.Rpl));
            writer.Write((uint)trial.Cpl);
            writer.Write(operations[trial.Operation]);
        }
        writer.Write(ulong.MaxValue);
        writer.Write(new byte[RecordSize]);
        writer.Flush();
        return stream.ToArray();
    }

    private static ulong DescriptorOf(Trial trial)
    {
        uint rights = (uint)(trial.Type & 15) | (trial.Type >= 16 ? 0x10u : 0) | (uint)trial.Dpl << 5 | (trial.Present ? 0x80u : 0);
        if (trial.Type >= 16)
            return SystemGuest.Descriptor(0, 0xFFFFF, rights | 0xC000);
        return trial.Type switch
        {
            1 or 3 => SystemGuest.Descriptor(Tss16, 0x2B, rights),
            2 => SystemGuest.Descriptor(Ldt, 0xFF, rights),
            9 or 11 => SystemGuest.Descriptor(Tss32, 0x67, rights),
            5 => SystemGuest.Gate(0, TargetTask, 5, trial.Dpl, trial.Present),
            _ => SystemGuest.Gate(Low, Code0, trial.Type, trial.Dpl, trial.Present),
        };
    }
}
