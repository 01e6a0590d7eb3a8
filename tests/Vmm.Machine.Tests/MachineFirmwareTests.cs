using Iced.Intel;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>What the firmware leaves behind for guests that go on in real mode: vectors, tick, BIOS data, and the way through the reset vector.</summary>
public sealed class MachineFirmwareTests
{
    private const uint RealCode = 0x1000;
    private const uint Visits = 0x2008;
    private const uint Table = 0x3000;

    /// <summary>Stores 16-bit code at <see cref="RealCode"/>.</summary>
    private static void StoreRealCode(Assembler a, Action<Assembler> program)
    {
        var real = new Assembler(16);
        program(real);
        using var code = new MemoryStream();
        real.Assemble(new StreamCodeWriter(code), RealCode);
        byte[] bytes = [.. code.ToArray(), 0, 0, 0];
        for (int i = 0; i + 4 <= bytes.Length; i += 4)
            a.mov(__dword_ptr[RealCode + (uint)i], BitConverter.ToInt32(bytes, i));
    }

    /// <summary>Goes to the code at <see cref="RealCode"/>, still in protected mode but with 16-bit segments.</summary>
    private static void EnterRealCode(Assembler a)
    {
        a.mov(__dword_ptr[Table + 8], 0x0000_FFFF);
        a.mov(__dword_ptr[Table + 12], 0x0000_9B00);
        a.mov(__dword_ptr[Table + 16], 0x0000_FFFF);
        a.mov(__dword_ptr[Table + 20], 0x0000_9300);
        a.push((int)Table);
        a.push(0x0017_0000);
        a.lgdt(__[esp + 2]);
        a.db([0xEA, (byte)(RealCode & 0xFF), (byte)(RealCode >> 8), 0, 0, 8, 0]);
    }

    /// <summary>Leaves protected mode, for segments and stack at 0.</summary>
    private static void LeaveProtectedMode(Assembler a)
    {
        a.mov(ax, 16);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss])
            a.mov(segment, ax);
        a.mov(eax, cr0);
        a.and(al, unchecked((sbyte)0xFE));
        a.mov(cr0, eax);
        // A far return to segment 0, behind the return itself: 6 bytes from the label.
        Label here = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ss, ax);
        a.mov(sp, 0x7000);
        a.push(ax);
        a.call(here);
        a.Label(ref here);
        a.pop(bx);
        a.add(bx, 6);
        a.push(bx);
        a.retf();
        a.mov(ds, ax);
    }

    [Fact]
    public void The_tick_wakes_a_real_mode_HLT()
    {
        using MachineBench bench = new(a =>
        {
            StoreRealCode(a, r =>
            {
                LeaveProtectedMode(r);
                r.mov(bx, __word_ptr[0x46C]);
                r.sti();
                r.hlt();
                r.hlt();
                r.cli();
                r.xor(eax, eax);
                r.mov(ax, __word_ptr[0x46C]);
                r.sub(ax, bx);
                r.Exit();
            });
            EnterRealCode(a);
        });
        Assert.Equal(5, bench.Run().ExitCode);
    }

    [Fact]
    public void Every_interrupt_without_a_driver_returns()
    {
        using MachineBench bench = new(a =>
        {
            StoreRealCode(a, r =>
            {
                LeaveProtectedMode(r);
                r.mov(cx, sp);
                r.@int(0x06);
                r.@int(0x0D);
                r.@int(0x10);
                r.@int(0x76);
                r.@int(0xFF);
                r.xor(eax, eax);
                r.mov(ax, sp);
                r.sub(ax, cx);
                // COM1, the equipment, kilobytes of memory, as the BIOS data area tells them.
                r.add(ax, __word_ptr[0x400]);
                r.add(ax, __word_ptr[0x410]);
                r.add(ax, __word_ptr[0x413]);
                r.Exit();
            });
            EnterRealCode(a);
        });
        Assert.Equal((0x3F8 + 0x802 + 639) << 1 | 1, bench.Run().ExitCode);
    }

    /// <summary>Port 0 stands for an INIT message from the processor to itself.</summary>
    /// <param name="port">Where the guest resets.</param>
    /// <param name="value">What it writes there.</param>
    /// <param name="code">The shutdown code in CMOS memory.</param>
    /// <param name="printed">Start; the resume code with the first 8259's interrupts in service; the second start with bit 0 of port 0x92.</param>
    [Theory]
    [InlineData(0x64, 0xFE, 0x0A, "SR1S0")]
    [InlineData(0x64, 0xFE, 0x05, "SR0S0")]
    [InlineData(0x92, 0x01, 0x0A, "SR1S1")]
    [InlineData(0xCF9, 0x04, 0x0A, "SR1S0")]
    [InlineData(0, 0, 0x0A, "SR1S0")]
    [InlineData(0, 0, 0x00, "SS0")]
    [InlineData(0xCF9, 0x06, 0x0A, "SS0")]
    public void A_soft_reset_goes_on_where_the_guest_said(int port, byte value, byte code, string printed)
    {
        int resets = 0;
        using MachineBench bench = new(a =>
        {
            Label second = a.CreateLabel();
            a.Print('S');
            a.cmp(__dword_ptr[GuestProgram.Data], 0x1234);
            a.je(second);
            a.mov(__dword_ptr[GuestProgram.Data], 0x1234);
            StoreRealCode(a, r =>
            {
                // Through CS, whose type does not count in real mode.
                r.inc(__byte_ptr.cs[Visits]);
                r.Print('R');
                r.Out(0x20, 0x0B);
                r.@in(al, 0x20);
                r.add(al, (sbyte)'0');
                r.mov(dx, 0x3F8);
                r.@out(dx, al);
                r.db([0xEA, 0x00, 0x00, 0xFF, 0xFF]);
            });
            a.mov(__dword_ptr[0x467], (int)RealCode);
            a.Out(0x70, 0x0F);
            a.Out(0x71, code);
            // A tick that is in service: the polled 8259 takes it without the processor.
            a.Out(0x43, 0x30);
            a.Out(0x40, 1);
            a.Out(0x40, 0);
            Label poll = a.CreateLabel();
            a.Label(ref poll);
            a.Out(0x20, 0x0C);
            a.@in(al, 0x20);
            a.test(al, 0x80);
            a.je(poll);
            if (port == 0)
                a.WriteApic(0x300, 0x4_4500);
            else
                a.Out((ushort)port, value);
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.jmp(loop);
            a.Label(ref second);
            a.@in(al, 0x92);
            a.and(al, 1);
            a.add(al, (sbyte)'0');
            a.mov(dx, 0x3F8);
            a.@out(dx, al);
            a.movzx(eax, __byte_ptr[Visits]);
            a.Exit();
        }, cpus: 2);
        bench.Machine.GuestReset += () => Interlocked.Increment(ref resets);
        MachineEnd end = bench.Run();
        Assert.Equal(printed, bench.Console);
        Assert.Equal(printed.Contains('R') ? 3 : 1, end.ExitCode);
        Assert.Equal(1, resets);
    }
}
