using System.Text;
using System.Text.Json;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
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
        ulong step = straight.Instructions / 60;
        bench.AssertSame(straight, Enumerable.Range(1, 59).Select(k => (ulong)k * step));
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
        foreach (ulong point in Enumerable.Range(1, 70).Select(k => (ulong)k * 169))
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
        ulong step = straight.Instructions / 40;
        bench.AssertSame(straight, Enumerable.Range(1, 39).Select(k => (ulong)k * step));
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
