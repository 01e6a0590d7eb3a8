using System.Text;
using System.Text.Json;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
using Vmm.Machine.Snapshots;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Oracle;
using Vmm.Testing.Guests;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>A machine that was saved and restored goes on to the same end as one that was never stopped.</summary>
public sealed class SnapshotTests
{
    [Theory]
    [InlineData(ApicvInhibit.None)]
    [InlineData(ApicvInhibit.Disable)]
    public void A_busy_guest_goes_on_the_same_from_anywhere(ApicvInhibit inhibit)
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 6), change: spec => spec with { Apicv = new(inhibit) });
        RunOutcome straight = bench.Run();
        Assert.Equal((MachineEndReason.DebugExit, 24), (straight.End.Reason, straight.Console.Length));
        Assert.NotEqual(straight.Console[..4], straight.Console[4..8]);
        // Over the whole run, and one by one through the better part of a round.
        ulong step = straight.Instructions / 40;
        bench.AssertSame(straight, Enumerable.Range(1, 39).Select(k => (ulong)k * step));
        ulong middle = straight.Instructions / 2;
        bench.AssertSame(straight, Enumerable.Range(0, 60).Select(k => middle + (ulong)k));
    }

    [Fact]
    public void Two_vcpus_go_on_the_same_from_anywhere_in_their_slices()
    {
        using var bench = new SnapshotBench(TwoVcpus.Program, cpus: 2);
        RunOutcome straight = bench.Run();
        Assert.Equal(MachineEndReason.DebugExit, straight.End.Reason);
        Assert.Contains('a', straight.Console);
        ulong step = straight.Instructions / 30;
        bench.AssertSame(straight, Enumerable.Range(1, 29).Select(k => (ulong)k * step));
    }

    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public void A_guest_hypervisor_goes_on_the_same_from_anywhere_in_it_and_in_l2(ApicvPolicy policy)
    {
        // L2 spins until the bell rings; the inhibits change while it does.
        using var bench = new SnapshotBench(NestedGuest.Image(), spec => spec with { Apicv = new(Policy: policy) })
        {
            Inputs =
            [
                Set(8_000, ApicvInhibit.BlockIrq),
                Ring(8_500, 1),
                Set(9_000, ApicvInhibit.HyperV),
                new(9_300, 0, new(MachineInputKind.ApicvInhibitCleared, Inhibit: ApicvInhibit.BlockIrq | ApicvInhibit.HyperV)),
                Ring(9_500, 1),
                Ring(9_900, 1),
            ],
        };
        var console = new StringBuilder();
        ulong end = 12_000;
        string straight;
        using (Machine machine = bench.RunTo(end, console))
            straight = Describe(bench, machine, console);
        Assert.StartsWith("12EEE", console.ToString(), StringComparison.Ordinal);

        bool sawL2 = false, sawDeferred = false;
        foreach (ulong point in Enumerable.Range(1, 45).Select(k => (ulong)k * 263))
        {
            console.Clear();
            string directory;
            using (Machine machine = bench.RunTo(point, console))
            {
                sawL2 |= machine.GetNested(0).Level == 2;
                sawDeferred |= machine.GetApicv().Vcpus[0].Update == ApicvUpdateState.Deferred;
                directory = bench.Save(machine);
            }
            using Machine restored = bench.Restore(directory, console);
            bench.ResumeTo(restored, end);
            Assert.Equal(straight, Describe(bench, restored, console));
        }
        Assert.True(sawL2);
        Assert.Equal(policy == ApicvPolicy.Deferred, sawDeferred);
    }

    [Fact]
    public void The_tour_of_the_interrupt_controllers_goes_on_the_same()
    {
        using var bench = new SnapshotBench(new InterruptTour().Image);
        RunOutcome straight = bench.Run();
        Assert.Equal(MachineEndReason.DebugExit, straight.End.Reason);
        ulong step = straight.Instructions / 24;
        bench.AssertSame(straight, Enumerable.Range(1, 23).Select(k => (ulong)k * step));
    }

    [Fact]
    public void A_machine_that_is_saved_goes_on_as_one_that_is_not()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 20));
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        using Machine machine = bench.RunTo(straight.Instructions / 7, console);
        string first = bench.Save(machine);
        string second = bench.Save(machine);
        machine.Resume();
        Assert.Equal(straight, bench.Outcome(machine, console));
        Assert.Equal(bench.Finish(first, new()).Memory, straight.Memory);
        Assert.Equal(bench.Finish(second, new()).Memory, straight.Memory);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_machine_that_is_saved_while_it_runs_goes_on_as_one_that_is_not(bool held)
    {
        // As a server does it: whenever the call comes, and held a little longer where disks are copied too.
        using var bench = new SnapshotBench(TwoVcpus.Program, cpus: 2);
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        using Machine machine = bench.RunTo(straight.Instructions / 20, console);
        // The guest may be at its end before the next one, where the host has other work.
        string last = bench.Save(machine);
        machine.Resume();
        for (int saved = 0; machine.End is null && saved < 12; saved++)
        {
            try
            {
                if (held)
                    machine.Pause();
                last = bench.Save(machine);
                if (held)
                    machine.Resume();
            }
            catch (InvalidOperationException) when (machine.End is not null)
            {
                // It was faster.
            }
        }
        Assert.Equal(straight, bench.Outcome(machine, console));
        Assert.Equal(straight.Memory, bench.Finish(last, new()).Memory);
    }

    [Fact]
    public void Machines_from_one_snapshot_do_not_touch_each_other_nor_the_file()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 6));
        RunOutcome straight = bench.Run();
        string directory;
        var console = new StringBuilder();
        using (Machine machine = bench.RunTo(straight.Instructions / 3, console))
            directory = bench.Save(machine);
        string[] files = [.. Directory.GetFiles(directory).Order()];
        Assert.Equal(3, files.Length);
        byte[][] before = [.. files.Select(File.ReadAllBytes)];

        using Machine one = bench.Restore(directory, new()), other = bench.Restore(directory, new());
        Assert.Equal(bench.DigestOf(one), bench.DigestOf(other));
        byte[] word = new byte[4];
        Assert.True(one.WriteMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, (byte[])[1, 2, 3, 4]));
        Assert.True(other.ReadMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, word));
        Assert.NotEqual([1, 2, 3, 4], word);
        one.Resume();
        RunOutcome diverged = bench.Outcome(one, new());
        other.Resume();
        RunOutcome same = bench.Outcome(other, new());
        Assert.NotEqual(straight.Memory, diverged.Memory);
        Assert.Equal(straight.Memory, same.Memory);
        Assert.All(files.Zip(before), pair => Assert.Equal(pair.Second, File.ReadAllBytes(pair.First)));
        // The names may go while the machines live.
        Directory.Delete(directory, recursive: true);
        Assert.Equal(straight.Memory, bench.DigestOf(other));
    }

    [Fact]
    public async Task In_real_time_the_clock_stands_still_between_saving_and_going_on()
    {
        var time = new ManualTimeProvider();
        // Half a second by the local timer.
        using var bench = new SnapshotBench(a =>
        {
            a.LoadInterruptTable();
            a.SetGate(0x41, () =>
            {
                a.WriteApic(ApicRegister.EndOfInterrupt, 0);
                a.iretd();
            });
            a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            a.WriteApic(ApicRegister.DivideConfiguration, 0xB);
            a.WriteApic(ApicRegister.LvtTimer, 0x41);
            a.WriteApic(ApicRegister.InitialCount, 500_000_000);
            a.sti();
            a.hlt();
            a.Print('x');
            a.Exit(0x21);
        }, change: spec => spec with { Clock = ClockMode.RealTime });
        string directory;
        using (IMachine machine = new MachineFactory().Create(bench.Spec, time))
        {
            machine.Start();
            while (machine.GetRegisters(0).Activity != "hlt")
                Thread.Yield();
            time.Advance(200_000_000);
            directory = bench.NewDirectory();
            Assert.Equal(200_000_000UL, machine.SaveSnapshot(directory).Nanoseconds);
        }
        time.Advance(10_000_000_000);
        using IMachine restored = new MachineFactory().Restore(bench.Spec, directory, time);
        time.Advance(10_000_000_000);
        restored.Resume();
        Assert.Equal("hlt", restored.GetRegisters(0).Activity);
        time.Advance(299_000_000);
        Assert.Equal("hlt", restored.GetRegisters(0).Activity);
        // What is due wakes the machine by the host's timer.
        while (time.NextDue is null)
            Thread.Yield();
        time.Advance(2_000_000);
        MachineEnd end = await restored.Completion.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal(MachineEndReason.DebugExit, end.Reason);
    }

    [Fact]
    public void A_machine_is_saved_only_where_it_can_be_and_goes_on_where_that_fails()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 6));
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        using (IMachine fresh = new MachineFactory().Create(bench.Spec, TimeProvider.System))
            Assert.Throws<InvalidOperationException>(() => fresh.SaveSnapshot(bench.NewDirectory()));
        using Machine machine = bench.RunTo(straight.Instructions / 2, console);
        string full = bench.NewDirectory();
        File.WriteAllText(Path.Combine(full, "something"), "");
        Assert.Throws<IOException>(() => machine.SaveSnapshot(full));
        Assert.ThrowsAny<IOException>(() => machine.SaveSnapshot(Path.Combine(full, "nowhere")));
        Exception? refused = null;
        machine.ConsoleOutput += _ => refused ??= Record.Exception(() => machine.SaveSnapshot(full));
        machine.Resume();
        Assert.Equal(straight, bench.Outcome(machine, console));
        Assert.IsType<InvalidOperationException>(refused);
        Assert.Throws<InvalidOperationException>(() => machine.SaveSnapshot(bench.NewDirectory()));
        Assert.Single(Directory.GetFileSystemEntries(full));
    }

    [Fact]
    public void A_spec_that_the_snapshot_contradicts_is_refused()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 6));
        string directory;
        using (Machine machine = bench.RunTo(500, new()))
            directory = bench.Save(machine);
        string longer = bench.Spec.KernelPath + "-longer";
        File.WriteAllBytes(longer, [.. File.ReadAllBytes(bench.Spec.KernelPath), 0]);
        string disk = bench.Spec.KernelPath + "-disk";
        File.WriteAllBytes(disk, new byte[4096]);
        MachineSpec[] others =
        [
            bench.Spec with { MemoryBytes = 8 << 20 }, bench.Spec with { Cpus = 2 }, bench.Spec with { MaxCpus = 2 },
            bench.Spec with { Clock = ClockMode.RealTime },
            bench.Spec with { Apicv = new(ApicvInhibit.Disable) }, bench.Spec with { Apicv = new(Policy: ApicvPolicy.Switch) }, bench.Spec with { EnlightenedVmcs = true },
            bench.Spec with { CommandLine = "x" }, bench.Spec with { KernelPath = longer }, bench.Spec with { Disks = [new(disk, ReadOnly: true)] },
        ];
        Assert.All(others, spec => Assert.Throws<InvalidSnapshotException>(() => new MachineFactory().Restore(spec, directory, TimeProvider.System)));
        using IMachine _ = new MachineFactory().Restore(bench.Spec with { Seed = 99 }, directory, TimeProvider.System);
    }

    private static string Describe(SnapshotBench bench, Machine machine, StringBuilder console) =>
        string.Join('\n', console, machine.InstructionsRetired, JsonSerializer.Serialize(machine.GetRegisters(0)), bench.DigestOf(machine),
            JsonSerializer.Serialize(machine.GetApicv()), JsonSerializer.Serialize(machine.GetNested(0)),
            JsonSerializer.Serialize(machine.EventLog.Select(input => (input.Instructions, input.Nanoseconds, input.Input.Kind)).ToArray()),
            JsonSerializer.Serialize(machine.ReadVmcs(0, VmcsOfVcpu.Vmcs12)?.Select(field => (field.Name, field.Value))),
            string.Join(' ', machine.ReadVmcs(0, VmcsOfVcpu.Vmcs01)!.Select(field => $"{field.Name}={field.Value:x}")),
            string.Join(' ', (machine.ReadVmcs(0, VmcsOfVcpu.Vmcs02) ?? []).Select(field => $"{field.Name}={field.Value:x}")));

    private static LoggedInput Set(ulong at, ApicvInhibit inhibit) => new(at, 0, new(MachineInputKind.ApicvInhibitSet, Inhibit: inhibit));

    private static LoggedInput Ring(ulong at, int value) =>
        new(at, 0, new(MachineInputKind.WriteMemory, Address: NestedGuest.Bell, Data: BitConverter.GetBytes(value)));
}
