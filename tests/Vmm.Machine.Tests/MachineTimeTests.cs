using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

public sealed class MachineTimeTests
{
    private const byte TimerVector = 0x40;

    // Prints four hexadecimal digits of AX.
    private static void PrintHex(Assembler a)
    {
        for (int shift = 12; shift >= 0; shift -= 4)
        {
            Label digit = a.CreateLabel();
            a.mov(ecx, eax);
            a.shr(ecx, (byte)shift);
            a.and(ecx, 15);
            a.add(ecx, '0');
            a.cmp(ecx, '9');
            a.jbe(digit);
            a.add(ecx, 'a' - '9' - 1);
            a.Label(ref digit);
            a.xchg(eax, ecx);
            a.mov(dx, 0x3F8);
            a.@out(dx, al);
            a.xchg(eax, ecx);
        }
        a.Print('\n');
    }

    // Everything that could differ: time stamps, randomness, timer interrupts in the middle of a loop, input.
    private static void Restless(Assembler a)
    {
        Label loop = a.CreateLabel();
        Label quiet = a.CreateLabel();
        a.LoadInterruptTable();
        a.SetGate(TimerVector, () =>
        {
            a.pushad();
            a.mov(eax, ebx);
            PrintHex(a);
            a.rdtsc();
            PrintHex(a);
            a.rdrand(eax);
            PrintHex(a);
            a.WriteApic(ApicRegister.EndOfInterrupt, 0);
            a.popad();
            a.iretd();
        });
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.LvtTimer, TimerVector | 1 << 17);
        a.WriteApic(ApicRegister.DivideConfiguration, 0b1011);
        a.WriteApic(ApicRegister.InitialCount, 54_321);
        a.sti();
        a.Label(ref loop);
        a.inc(ebx);
        a.mov(dx, 0x3FD);
        a.@in(al, dx);
        a.test(al, 1);
        a.je(quiet);
        a.mov(dx, 0x3F8);
        a.@in(al, dx);
        a.@out(dx, al);
        a.Label(ref quiet);
        a.cmp(ebx, 300_000);
        a.jb(loop);
        a.Exit(1);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Two_runs_under_the_virtual_clock_are_the_same(int cpus)
    {
        (string Console, ulong Retired, ulong Rdx)[] runs = [.. Enumerable.Range(0, 2).Select(_ =>
        {
            using MachineBench bench = new(Restless, cpus: cpus);
            Assert.Equal(3, bench.Run().ExitCode);
            return (bench.Console, bench.Machine.InstructionsRetired, bench.Machine.GetRegisters(0).GeneralPurpose[2]);
        })];
        Assert.True(runs[0].Console.Length > 100);
        Assert.Equal(runs[0], runs[1]);
    }

    [Fact]
    public void The_seed_makes_the_difference()
    {
        using MachineBench one = new(Restless);
        using MachineBench other = new(Restless, change: spec => spec with { Seed = 2 });
        one.Run();
        other.Run();
        Assert.NotEqual(one.Console, other.Console);
    }

    [Fact]
    public async Task A_log_replays_to_the_same_console_and_count()
    {
        string console;
        ulong retired;
        IReadOnlyList<LoggedInput> log;
        using (MachineBench bench = new(Restless))
        {
            // Looking and holding leave no trace.
            Task held = bench.Machine.PauseAt(400_000);
            bench.Machine.Start();
            await held;
            bench.Machine.WriteConsole("hello"u8);
            bench.Machine.GetRegisters(0);
            bench.Machine.WriteConsole("again"u8);
            // The guest ends by itself: it is held for what must come before that.
            held = bench.Machine.PauseAt(900_000);
            bench.Machine.Resume();
            await held;
            bench.Machine.WriteMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, [1, 2, 3]);
            bench.Machine.SetApicvInhibit(ApicvInhibit.HyperV);
            bench.Machine.Resume();
            bench.WaitForEnd();
            console = bench.Console;
            retired = bench.Machine.InstructionsRetired;
            log = bench.Machine.EventLog;
        }
        Assert.Contains(log, input => input.Input.Kind == MachineInputKind.ConsoleInput);
        Assert.Contains(log, input => input.Input.Kind == MachineInputKind.WriteMemory);
        Assert.Contains(log, input => input.Input is { Kind: MachineInputKind.ApicvInhibitSet, Inhibit: ApicvInhibit.HyperV });
        using MachineBench replay = new(Restless);
        replay.Machine.Replay(log);
        replay.Run();
        Assert.Equal(console, replay.Console);
        Assert.Equal(retired, replay.Machine.InstructionsRetired);
        Assert.Equal(ApicvInhibit.HyperV, replay.Machine.GetApicv().Reasons);
        Assert.Equal(log.Select(l => (l.Instructions, l.Nanoseconds, l.Input.Kind)), replay.Machine.EventLog.Select(l => (l.Instructions, l.Nanoseconds, l.Input.Kind)));
    }

    [Fact]
    public void Replay_is_for_machines_under_the_virtual_clock_that_have_not_started()
    {
        using MachineBench real = new(Restless, ClockMode.RealTime);
        Assert.Throws<InvalidOperationException>(() => real.Machine.Replay([]));
        using MachineBench started = new(Restless);
        started.Machine.Start();
        Assert.Throws<InvalidOperationException>(() => started.Machine.Replay([]));
    }

    // Counts timer interrupts of one millisecond in memory, and waits in HLT between them.
    private static void Ticking(Assembler a)
    {
        Label loop = a.CreateLabel();
        a.mov(__dword_ptr[GuestProgram.Data], 0);
        a.LoadInterruptTable();
        a.SetGate(TimerVector, () =>
        {
            a.inc(__dword_ptr[GuestProgram.Data]);
            a.WriteApic(ApicRegister.EndOfInterrupt, 0);
            a.iretd();
        });
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.LvtTimer, TimerVector | 1 << 17);
        a.WriteApic(ApicRegister.DivideConfiguration, 0b1011);
        a.WriteApic(ApicRegister.InitialCount, 1_000_000);
        a.sti();
        a.Label(ref loop);
        a.hlt();
        a.jmp(loop);
    }

    private static uint TicksOf(MachineBench bench)
    {
        byte[] bytes = new byte[4];
        Assert.True(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, bytes));
        return BitConverter.ToUInt32(bytes);
    }

    [Fact]
    public void An_idle_guest_in_real_time_sleeps_until_its_timer_is_due()
    {
        var time = new ManualTimeProvider();
        using MachineBench bench = new(Ticking, ClockMode.RealTime, time: time);
        bench.Machine.Start();
        for (uint tick = 1; tick <= 5; tick++)
        {
            bench.WaitForHalt();
            SpinWait.SpinUntil(() => time.NextDue != null);
            ulong retired = bench.Machine.GetRegisters(0).InstructionsRetired;
            Assert.Equal(time.GetTimestamp() + 1_000_000, time.NextDue);
            // Nothing happens without time: the guest is where it was.
            Assert.Equal(retired, bench.Machine.GetRegisters(0).InstructionsRetired);
            Assert.Equal(tick - 1, TicksOf(bench));
            time.Advance(1_000_000);
            SpinWait.SpinUntil(() => TicksOf(bench) == tick);
        }
    }

    [Fact]
    public void Real_time_stands_still_for_a_machine_that_is_held()
    {
        var time = new ManualTimeProvider();
        using MachineBench bench = new(Ticking, ClockMode.RealTime, time: time);
        bench.Machine.Start();
        bench.WaitForHalt();
        bench.Machine.Pause();
        ulong before = bench.Machine.GetRegisters(0).Msrs["TSC"];
        time.Advance(3_000_000_000);
        Assert.Equal(before, bench.Machine.GetRegisters(0).Msrs["TSC"]);
        Assert.Equal(0u, TicksOf(bench));
        bench.Machine.Resume();
        time.Advance(1_000_000);
        SpinWait.SpinUntil(() => TicksOf(bench) == 1);
        Assert.Equal(before + 1_000_000, bench.Machine.GetRegisters(0).Msrs["TSC"]);
    }

    [Fact]
    public void An_idle_guest_under_the_virtual_clock_does_not_run_ahead_of_the_host()
    {
        var time = new ManualTimeProvider();
        using MachineBench bench = new(Ticking, time: time);
        bench.Machine.Start();
        bench.WaitForHalt();
        SpinWait.SpinUntil(() => time.NextDue != null);
        Assert.InRange(TicksOf(bench), 0u, 2u);
        // A second of the host's allows a second of the guest's, at once.
        time.Advance(1_000_000_000);
        SpinWait.SpinUntil(() => TicksOf(bench) >= 999);
        bench.WaitForHalt();
        Assert.InRange(TicksOf(bench), 999u, 1001u);
    }

    [Fact]
    public void A_machine_without_timers_waits_for_ever_without_any()
    {
        var time = new ManualTimeProvider();
        using MachineBench bench = new(a =>
        {
            // Firmware's tick: a counter without a count stands still.
            a.Out(0x43, 0x30);
            a.cli();
            a.hlt();
        }, ClockMode.RealTime, time: time);
        bench.Machine.Start();
        bench.WaitForHalt();
        Assert.Null(time.NextDue);
    }
}
