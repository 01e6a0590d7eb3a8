using Iced.Intel;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

public sealed class MachineLifecycleTests
{
    private static void Spin(Assembler a)
    {
        Label loop = a.CreateLabel();
        a.Label(ref loop);
        a.jmp(loop);
    }

    [Fact]
    public void Hello_on_com1_and_the_debug_exit_code()
    {
        using MachineBench bench = new(a =>
        {
            a.Print("Hello");
            a.Exit(0x21);
        });
        Assert.Equal(MachineRunState.Created, bench.Machine.RunState);
        Assert.Equal(new MachineEnd(MachineEndReason.DebugExit, 0x43), bench.Run());
        Assert.Equal("Hello", bench.Console);
        Assert.Equal(MachineRunState.Ended, bench.Machine.RunState);
        Assert.True(bench.Machine.Completion.IsCompletedSuccessfully);
        Assert.True(bench.Machine.InstructionsRetired > 15);
    }

    [Fact]
    public void The_debug_console_is_heard_too()
    {
        using MachineBench bench = new(a =>
        {
            a.Out(0xE9, (byte)'E');
            a.Exit(0);
        });
        Assert.Equal(1, bench.Run().ExitCode);
        Assert.Equal("E", bench.Console);
    }

    [Fact]
    public void An_exception_without_a_handler_is_a_triple_fault()
    {
        using MachineBench bench = new(a =>
        {
            a.push(0);
            a.push(0);
            a.lidt(__[esp]);
            a.ud2();
        });
        MachineEnd end = bench.Run();
        Assert.Equal((MachineEndReason.TripleFault, 126), (end.Reason, end.ExitCode));
        Assert.Equal("shutdown", bench.Machine.GetRegisters(0).Activity);
    }

    [Fact]
    public void Acpi_soft_off_ends_with_code_0()
    {
        using MachineBench bench = new(a =>
        {
            a.mov(dx, 0x604);
            a.mov(ax, 0x2000);
            a.@out(dx, ax);
            Spin(a);
        });
        Assert.Equal(new MachineEnd(MachineEndReason.PowerOff, 0), bench.Run());
    }

    [Theory]
    [InlineData(0x64, 0xFE)]
    [InlineData(0xCF9, 0x06)]
    [InlineData(0x92, 0x01)]
    public void The_guest_can_reset_the_machine(ushort port, byte value)
    {
        int resets = 0;
        using MachineBench bench = new(a =>
        {
            Label second = a.CreateLabel();
            a.cmp(__dword_ptr[GuestProgram.Data], 0x1234);
            a.je(second);
            a.Print('1');
            a.mov(__dword_ptr[GuestProgram.Data], 0x1234);
            a.Out(port, value);
            Spin(a);
            a.Label(ref second);
            a.Print('2');
            a.Exit(2);
        });
        bench.Machine.GuestReset += () => Interlocked.Increment(ref resets);
        Assert.Equal(5, bench.Run().ExitCode);
        Assert.Equal("12", bench.Console);
        Assert.Equal(1, resets);
    }

    [Fact]
    public void Reset_from_outside_starts_the_kernel_again()
    {
        using MachineBench bench = new(a =>
        {
            a.Print('S');
            // The kernel must be fresh after the reset, whatever it did to itself.
            a.mov(__byte_ptr[GuestProgram.CodeAddress + 5], 0xCC);
            Spin(a);
        });
        bench.Machine.Reset();
        bench.Machine.Start();
        bench.WaitForConsole("S");
        bench.Machine.Reset();
        bench.WaitForConsole("SS");
        bench.Machine.Pause();
        bench.Machine.Reset();
        Assert.Equal(MachineRunState.Paused, bench.Machine.RunState);
        Assert.Equal(GuestProgram.CodeAddress, bench.Machine.GetRegisters(0).Rip);
        bench.Machine.Resume();
        bench.WaitForConsole("SSS");
    }

    [Fact]
    public void Paused_machines_stand_still_and_go_on()
    {
        using MachineBench bench = new(a =>
        {
            a.Print('R');
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(ebx);
            a.jmp(loop);
        });
        bench.Machine.Pause();
        Assert.Equal(MachineRunState.Created, bench.Machine.RunState);
        bench.Machine.Start();
        Assert.Throws<InvalidOperationException>(bench.Machine.Start);
        bench.WaitForConsole("R");
        bench.Machine.Pause();
        bench.Machine.Pause();
        Assert.Equal(MachineRunState.Paused, bench.Machine.RunState);
        VcpuRegisters first = bench.Machine.GetRegisters(0);
        VcpuRegisters second = bench.Machine.GetRegisters(0);
        Assert.Equal(first.InstructionsRetired, second.InstructionsRetired);
        Assert.Equal(first.GeneralPurpose, second.GeneralPurpose);
        bench.Machine.Resume();
        ulong retired = first.InstructionsRetired;
        SpinWait.SpinUntil(() => bench.Machine.GetRegisters(0).InstructionsRetired > retired);
        Assert.Equal(MachineRunState.Running, bench.Machine.RunState);
    }

    [Fact]
    public void Stop_is_at_once_and_final()
    {
        using MachineBench bench = new(Spin);
        bench.Machine.Start();
        bench.Machine.Stop();
        Assert.Equal(MachineEndReason.Stopped, bench.Machine.End?.Reason);
        Assert.True(bench.Machine.Completion.IsCompletedSuccessfully);
        bench.Machine.Stop();
        bench.Machine.Resume();
        bench.Machine.Reset();
        bench.Machine.PressPowerButton();
        bench.Machine.InjectNmi(0);
        Assert.Equal(0, bench.Machine.WriteConsole("x"u8));
        Assert.Equal(MachineRunState.Ended, bench.Machine.RunState);
        Assert.Throws<InvalidOperationException>(bench.Machine.Start);
        // The dead can be examined.
        Assert.True(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, 0x10_0000, new byte[16]));
    }

    [Fact]
    public void A_machine_that_never_started_can_be_stopped_and_disposed()
    {
        MachineBench bench = new(Spin);
        bench.Machine.Stop();
        Assert.Equal(MachineEndReason.Stopped, bench.Machine.End?.Reason);
        bench.Dispose();
        bench.Machine.Dispose();
        Assert.Throws<ObjectDisposedException>(() => bench.Machine.GetRegisters(0));
    }

    [Fact]
    public void Memory_can_be_read_and_written_and_code_in_it_changes()
    {
        using MachineBench bench = new(a =>
        {
            a.mov(__dword_ptr[GuestProgram.Data], 0x11223344);
            a.Print('M');
            Spin(a);
        });
        bench.Machine.Start();
        bench.WaitForConsole("M");
        byte[] bytes = new byte[4];
        Assert.True(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, bytes));
        Assert.Equal(0x11223344u, BitConverter.ToUInt32(bytes));
        Assert.False(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, (4 << 20) - 2, bytes));
        Assert.False(bench.Machine.WriteMemory(MemoryAddressing.Physical, 0, (4 << 20) - 2, bytes));
        Assert.False(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, ulong.MaxValue - 1, bytes));
        Assert.False(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, 0xA_0000, bytes));
        ulong rip = bench.Machine.GetRegisters(0).Rip;
        // mov eax, 7; mov dx, 0xF4; out dx, eax: in place of the loop that runs.
        byte[] patch = [0xB8, 7, 0, 0, 0, 0x66, 0xBA, 0xF4, 0, 0xEF];
        Assert.True(bench.Machine.WriteMemory(MemoryAddressing.Virtual, 0, rip, patch));
        Assert.Equal(15, bench.WaitForEnd().ExitCode);
    }

    [Fact]
    public void Virtual_addresses_go_through_the_page_tables()
    {
        const uint directory = 0x2_0000;
        using MachineBench bench = new(a =>
        {
            // 4 MiB pages: the first where it is, the second, too, is the first.
            a.mov(__dword_ptr[directory], 0x83);
            a.mov(__dword_ptr[directory + 4], 0x83);
            a.mov(eax, 0x10);
            a.mov(cr4, eax);
            a.mov(eax, (int)directory);
            a.mov(cr3, eax);
            a.mov(eax, cr0);
            a.or(eax, unchecked((int)0x8000_0000));
            a.mov(cr0, eax);
            a.mov(__dword_ptr[0x40_0000 + GuestProgram.Data], 0x5566_7788);
            a.Print('P');
            Spin(a);
        });
        bench.Machine.Start();
        bench.WaitForConsole("P");
        byte[] bytes = new byte[4];
        Assert.True(bench.Machine.ReadMemory(MemoryAddressing.Virtual, 0, 0x40_0000 + GuestProgram.Data, bytes));
        Assert.Equal(0x5566_7788u, BitConverter.ToUInt32(bytes));
        Assert.False(bench.Machine.ReadMemory(MemoryAddressing.Virtual, 0, 0x80_0000, bytes));
        Assert.False(bench.Machine.WriteMemory(MemoryAddressing.Virtual, 0, 0x7F_FFFE, bytes));
        Assert.True(bench.Machine.WriteMemory(MemoryAddressing.Virtual, 0, 0x40_0000 + GuestProgram.Data, [1, 2, 3, 4]));
        Assert.True(bench.Machine.ReadMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, bytes));
        Assert.Equal([1, 2, 3, 4], bytes);
    }

    [Fact]
    public void Console_input_is_echoed_in_order_whatever_its_size()
    {
        using MachineBench bench = new(a =>
        {
            Label wait = a.CreateLabel();
            Label done = a.CreateLabel();
            a.Print('>');
            a.Label(ref wait);
            a.mov(dx, 0x3FD);
            a.@in(al, dx);
            a.test(al, 1);
            a.je(wait);
            a.mov(dx, 0x3F8);
            a.@in(al, dx);
            a.cmp(al, (sbyte)'!');
            a.je(done);
            a.@out(dx, al);
            a.jmp(wait);
            a.Label(ref done);
            a.Exit(1);
        });
        bench.Machine.Start();
        bench.WaitForConsole(">");
        using var drained = new AutoResetEvent(false);
        bench.Machine.ConsoleInputDrained += () => drained.Set();
        var random = new Random(1);
        byte[] input = new byte[50_000];
        for (int i = 0; i < input.Length; i++)
            input[i] = (byte)('a' + random.Next(26));
        input[^1] = (byte)'!';
        for (int sent = 0; sent < input.Length;)
        {
            int count = bench.Machine.WriteConsole(input.AsSpan(sent));
            sent += count;
            if (sent < input.Length && count == 0)
                Assert.True(drained.WaitOne(TimeSpan.FromSeconds(60)));
        }
        Assert.Equal(3, bench.WaitForEnd().ExitCode);
        Assert.Equal(">" + System.Text.Encoding.ASCII.GetString(input.AsSpan(0, input.Length - 1)), bench.Console);
    }

    [Fact]
    public void The_power_button_reaches_the_guest()
    {
        using MachineBench bench = new(a =>
        {
            Label wait = a.CreateLabel();
            a.Print('B');
            a.Label(ref wait);
            a.mov(dx, 0x600);
            a.@in(ax, dx);
            a.test(ax, 0x100);
            a.je(wait);
            a.Exit(4);
        });
        bench.Machine.Start();
        bench.WaitForConsole("B");
        bench.Machine.PressPowerButton();
        Assert.Equal(9, bench.WaitForEnd().ExitCode);
    }

    [Fact]
    public void An_nmi_wakes_a_halted_vcpu_with_interrupts_off()
    {
        using MachineBench bench = new(a =>
        {
            a.LoadInterruptTable();
            a.SetGate(2, () => a.Exit(9));
            a.Print('N');
            a.cli();
            a.hlt();
            a.Exit(1);
        });
        bench.Machine.Start();
        bench.WaitForConsole("N");
        bench.WaitForHalt();
        Assert.Throws<ArgumentOutOfRangeException>(() => bench.Machine.InjectNmi(1));
        bench.Machine.InjectNmi(0);
        Assert.Equal(19, bench.WaitForEnd().ExitCode);
    }

    [Fact]
    public void A_failing_engine_ends_its_machine_and_not_the_process()
    {
        using MachineBench bench = new(a => a.Print('F'));
        bench.Machine.ConsoleOutput += _ => throw new InvalidTimeZoneException("on purpose");
        MachineEnd end = bench.Run();
        Assert.Equal(MachineEndReason.Failed, end.Reason);
        Assert.Contains("on purpose", end.Detail);
        Assert.Equal(0, bench.Machine.GetRegisters(0).Vcpu);
    }

    [Theory]
    [InlineData(nameof(MachineSpec.MemoryBytes))]
    [InlineData(nameof(MachineSpec.Cpus))]
    [InlineData(nameof(MachineSpec.KernelPath))]
    [InlineData(nameof(MachineSpec.InitrdPath))]
    [InlineData(nameof(MachineSpec.Disks))]
    public void Specs_are_checked_and_the_field_is_named(string field)
    {
        var fault = Assert.Throws<InvalidMachineException>(() => new MachineBench(Spin, change: spec => field switch
        {
            nameof(MachineSpec.MemoryBytes) => spec with { MemoryBytes = 12345 },
            nameof(MachineSpec.Cpus) => spec with { Cpus = 17 },
            nameof(MachineSpec.KernelPath) => spec with { KernelPath = "/nonexistent/kernel" },
            nameof(MachineSpec.InitrdPath) => spec with { InitrdPath = "/nonexistent/initrd" },
            _ => spec with { Disks = [new("/nonexistent/disk", true)] },
        }));
        Assert.Equal(field, fault.Field);
    }
}
