using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

public sealed class MachineInterruptTests
{
    private const int Ticks = 10;
    private const byte TimerVector = 0x40;

    // Waits in HLT until the handlers have counted to Ticks, then ends with the code that Ticks gives.
    private static void WaitForTicks(Assembler a)
    {
        Label loop = a.CreateLabel();
        Label done = a.CreateLabel();
        a.Label(ref loop);
        a.cli();
        a.mov(eax, __dword_ptr[GuestProgram.Data]);
        a.cmp(eax, Ticks);
        a.jae(done);
        a.sti();
        a.hlt();
        a.jmp(loop);
        a.Label(ref done);
        a.Exit();
    }

    private static void Count(Assembler a, Action endOfInterrupt)
    {
        a.push(eax);
        a.push(edx);
        a.@lock.inc(__dword_ptr[GuestProgram.Data]);
        endOfInterrupt();
        a.pop(edx);
        a.pop(eax);
        a.iretd();
    }

    private static void Prepare(Assembler a, Action endOfInterrupt)
    {
        a.mov(__dword_ptr[GuestProgram.Data], 0);
        a.LoadInterruptTable();
        a.SetGate(TimerVector, () => Count(a, endOfInterrupt));
    }

    private static void EnablePit(Assembler a, ushort divisor)
    {
        // Channel 0, rate generator.
        a.Out(0x43, 0x34);
        a.Out(0x40, (byte)divisor);
        a.Out(0x40, (byte)(divisor >> 8));
    }

    [Theory]
    [InlineData(ClockMode.Virtual)]
    [InlineData(ClockMode.RealTime)]
    public void The_interval_timer_comes_through_the_8259_in_virtual_wire_mode(ClockMode clock)
    {
        using MachineBench bench = new(a =>
        {
            Prepare(a, () => a.Out(0x20, 0x20));
            foreach ((ushort port, byte value) in ((ushort, byte)[])[(0x20, 0x11), (0x21, TimerVector), (0x21, 4), (0x21, 1), (0x21, 0xFE)])
                a.Out(port, value);
            EnablePit(a, 1193);
            WaitForTicks(a);
        }, clock);
        Assert.Equal(Ticks << 1 | 1, bench.Run().ExitCode);
    }

    [Fact]
    public void The_interval_timer_comes_through_the_io_apic()
    {
        using MachineBench bench = new(a =>
        {
            Prepare(a, () => a.WriteApic(ApicRegister.EndOfInterrupt, 0));
            a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            a.mov(__dword_ptr[0xFEC0_0000], 0x14);
            a.mov(__dword_ptr[0xFEC0_0010], TimerVector);
            EnablePit(a, 1193);
            WaitForTicks(a);
        });
        Assert.Equal(Ticks << 1 | 1, bench.Run().ExitCode);
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(1u << 17)]
    public void The_local_timer_interrupts_once_or_for_ever(uint mode)
    {
        using MachineBench bench = new(a =>
        {
            Prepare(a, () =>
            {
                a.WriteApic(ApicRegister.EndOfInterrupt, 0);
                if (mode == 0)
                    a.WriteApic(ApicRegister.InitialCount, 100_000);
            });
            a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            a.WriteApic(ApicRegister.LvtTimer, TimerVector | mode);
            a.WriteApic(ApicRegister.DivideConfiguration, 0b1011);
            a.WriteApic(ApicRegister.InitialCount, 100_000);
            WaitForTicks(a);
        });
        Assert.Equal(Ticks << 1 | 1, bench.Run().ExitCode);
        // Ten periods of 100 µs, and nothing else to do: virtual time is exact.
        Assert.InRange(bench.Machine.GetRegisters(0).Msrs["TSC"], 1_000_000UL, 1_010_000UL);
    }

    [Fact]
    public void A_tsc_deadline_is_met_to_the_instruction()
    {
        using MachineBench bench = new(a =>
        {
            Label loop = a.CreateLabel();
            a.LoadInterruptTable();
            a.SetGate(TimerVector, () =>
            {
                // How late: the counter now, less the deadline.
                a.rdtsc();
                a.sub(eax, ebx);
                a.Exit();
            });
            a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            a.WriteApic(ApicRegister.LvtTimer, TimerVector | 2 << 17);
            a.rdtsc();
            a.add(eax, 12_345);
            a.mov(ebx, eax);
            a.mov(ecx, 0x6E0);
            a.xor(edx, edx);
            a.wrmsr();
            a.sti();
            a.Label(ref loop);
            a.jmp(loop);
        });
        Assert.InRange(bench.Run().ExitCode >> 1, 0, 8);
    }

    [Fact]
    public void The_task_priority_in_cr8_and_memory_is_one()
    {
        using MachineBench bench = new(a =>
        {
            Label wrong = a.CreateLabel();
            a.LoadInterruptTable();
            a.SetGate(TimerVector, () =>
            {
                // Too early unless EBX says that it may.
                a.mov(eax, ebx);
                a.Exit();
            });
            a.xor(ebx, ebx);
            a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            a.WriteApic(ApicRegister.TaskPriority, 0x50);
            a.sti();
            a.WriteApic(ApicRegister.CommandLow, 1 << 18 | TimerVector);
            a.nop();
            a.mov(eax, __dword_ptr[0xFEE0_0000 + ApicRegister.Request + 0x20]);
            a.cmp(eax, 1);
            a.jne(wrong);
            a.mov(ebx, 7);
            a.WriteApic(ApicRegister.TaskPriority, 0);
            a.jmp(wrong);
            a.Label(ref wrong);
            a.Exit(99);
        });
        Assert.Equal(15, bench.Run().ExitCode);
    }

    // The application processor's code in real mode at 0x8000: counts itself in, and waits.
    private static void CopyTrampoline(Assembler a, Action<Assembler> program)
    {
        var inner = new Assembler(16);
        program(inner);
        using var code = new MemoryStream();
        inner.Assemble(new StreamCodeWriter(code), 0);
        byte[] bytes = code.ToArray();
        for (int i = 0; i < bytes.Length; i++)
            a.mov(__byte_ptr[0x8000 + i], (sbyte)bytes[i]);
    }

    private static void StartOthers(Assembler a)
    {
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.CommandLow, 3 << 18 | 1 << 14 | 5 << 8);
        a.WriteApic(ApicRegister.CommandLow, 3 << 18 | 1 << 14 | 6 << 8 | 8);
        // The second message of the usual three finds them started.
        a.WriteApic(ApicRegister.CommandLow, 3 << 18 | 1 << 14 | 6 << 8 | 8);
    }

    [Theory]
    [InlineData(2, ClockMode.Virtual)]
    [InlineData(16, ClockMode.Virtual)]
    [InlineData(4, ClockMode.RealTime)]
    public void Application_processors_start_by_init_and_sipi(int cpus, ClockMode clock)
    {
        using MachineBench bench = new(a =>
        {
            Label wait = a.CreateLabel();
            a.mov(__word_ptr[0x500], 0);
            CopyTrampoline(a, b =>
            {
                b.xor(ax, ax);
                b.mov(ds, ax);
                b.@lock.inc(__word_ptr[0x500]);
                b.cli();
                b.hlt();
            });
            StartOthers(a);
            a.Label(ref wait);
            a.pause();
            a.movzx(eax, __word_ptr[0x500]);
            a.cmp(eax, cpus - 1);
            a.jb(wait);
            a.Exit();
        }, clock, cpus);
        Assert.Equal("wait-for-sipi", bench.Machine.GetRegisters(1).Activity);
        Assert.Equal(cpus - 1 << 1 | 1, bench.Run().ExitCode);
        VcpuRegisters other = bench.Machine.GetRegisters(cpus - 1);
        Assert.Equal(0x800, other.Segments[1].Selector);
        Assert.Equal(0x8000UL, other.Segments[1].Base);
    }

    [Fact]
    public void An_interprocessor_interrupt_wakes_its_target_only()
    {
        using MachineBench bench = new(a =>
        {
            Label ready = a.CreateLabel();
            Label wait = a.CreateLabel();
            a.mov(__dword_ptr[0x500], 0);
            // The real-mode vector 2 of the others: lock inc word [0x502]; cli; hlt at 0x8080.
            a.mov(__word_ptr[2 * 4], 0x80);
            a.mov(__word_ptr[2 * 4 + 2], 0x800);
            byte[] handler = [0xF0, 0xFF, 0x06, 0x02, 0x05, 0xFA, 0xF4];
            for (int i = 0; i < handler.Length; i++)
                a.mov(__byte_ptr[0x8080 + i], (sbyte)handler[i]);
            CopyTrampoline(a, b =>
            {
                Label again = b.CreateLabel();
                b.xor(ax, ax);
                b.mov(ds, ax);
                b.mov(ss, ax);
                b.mov(sp, 0x7000);
                b.@lock.inc(__word_ptr[0x500]);
                b.sti();
                b.Label(ref again);
                b.hlt();
                b.jmp(again);
            });
            StartOthers(a);
            a.Label(ref ready);
            a.pause();
            a.cmp(__word_ptr[0x500], 2);
            a.jb(ready);
            // A fixed interrupt is lost on an APIC that is not switched on, as theirs are not; an NMI comes through.
            a.WriteApic(ApicRegister.CommandHigh, 2 << 24);
            a.WriteApic(ApicRegister.CommandLow, 0x41);
            a.WriteApic(ApicRegister.CommandHigh, 1 << 24);
            a.WriteApic(ApicRegister.CommandLow, 4 << 8);
            a.Label(ref wait);
            a.pause();
            a.cmp(__word_ptr[0x502], 0);
            a.je(wait);
            a.movzx(eax, __word_ptr[0x502]);
            a.Exit();
        }, cpus: 3);
        Assert.Equal(3, bench.Run().ExitCode);
        Assert.Equal(0x87UL, bench.Machine.GetRegisters(1).Rip);
        Assert.True(bench.Machine.GetRegisters(2).Rip < 0x80);
    }
}
