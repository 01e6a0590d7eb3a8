using Iced.Intel;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Snapshots;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>A guest that brings an SMI handler of its own and calls it by the board's port.</summary>
public sealed class SystemManagementTests
{
    private const uint Handler = 0x3_8000, SaveStateMap = 0x3_8000, Eax = 0x7F5C, AutoHalt = 0x7F02;

    [Fact]
    public void The_port_calls_the_handler_and_a_machine_that_is_saved_anywhere_goes_on_the_same()
    {
        using var bench = new SnapshotBench(Program);
        RunOutcome straight = bench.Run();
        Assert.Equal((MachineEndReason.DebugExit, "s0s1s2s3s4h."), (straight.End.Reason, straight.Console));
        bench.AssertSame(straight, Enumerable.Range(0, 60).Select(k => straight.Instructions - 65 + (ulong)k));
        ulong step = straight.Instructions / 10;
        bench.AssertSame(straight, Enumerable.Range(1, 9).Select(k => (ulong)k * step));
    }

    private static void Program(Assembler a)
    {
        // The handler prints s, adds one to what EAX was, and does not go back to HLT.
        byte[] code = Assemble16(h =>
        {
            h.mov(dx, 0x3F8);
            h.mov(al, (sbyte)'s');
            h.mov(edi, (int)(SaveStateMap + AutoHalt));
            h.test(__byte_ptr[edi], 1);
            Label running = h.CreateLabel();
            h.jz(running);
            h.mov(__word_ptr[edi], 0);
            h.mov(al, (sbyte)'h');
            h.Label(ref running);
            h.@out(dx, al);
            h.mov(edi, (int)(SaveStateMap + Eax));
            h.inc(__dword_ptr[edi]);
            h.rsm();
        });
        for (int k = 0; k < code.Length; k += 4)
            a.mov(__dword_ptr[Handler + (uint)k], BitConverter.ToInt32(code.AsSpan(k, 4)));
        a.mov(dx, 0x630);
        a.mov(eax, 0x21);
        a.@out(dx, eax);
        a.mov(ebx, '0' - 1);
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.mov(eax, ebx);
        a.@out(0xB2, al);
        a.mov(ebx, eax);
        a.mov(dx, 0x3F8);
        a.@out(dx, al);
        a.cmp(eax, '4');
        a.jb(again);
        // In HLT with interrupts off, an SMI from the interval timer by pin 2 of the I/O APIC.
        a.mov(__dword_ptr[0xFEC0_0000], 0x14);
        a.mov(__dword_ptr[0xFEC0_0010], 0x200);
        a.Out(0x43, 0x30);
        a.Out(0x40, 200);
        a.Out(0x40, 0);
        a.cli();
        a.hlt();
        a.Print('.');
        a.Exit(1);
    }

    private static byte[] Assemble16(Action<Assembler> program)
    {
        var assembler = new Assembler(16);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), 0x8000);
        byte[] code = stream.ToArray();
        Array.Resize(ref code, (code.Length + 3) & ~3);
        return code;
    }
}
