using System.Text;
using Vmm.Devices.Storage;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
using Vmm.Machine.Migration;
using Vmm.Machine.Snapshots;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Snapshots;
using Vmm.Testing.Guests;

namespace Vmm.Machine.Tests;

/// <summary>Machines that go from one place to another while they run, page by page and without a file.</summary>
public sealed class MigrationTests
{
    [Fact]
    public void A_busy_guest_that_moves_while_it_runs_ends_as_one_that_never_did()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 8));
        AssertMoves(bench);
    }

    [Fact]
    public void So_does_one_with_two_vcpus()
    {
        using var bench = new SnapshotBench(TwoVcpus.Program, cpus: 2);
        AssertMoves(bench);
    }

    [Theory]
    [InlineData(ApicvPolicy.Deferred)]
    [InlineData(ApicvPolicy.Switch)]
    public void An_inhibit_that_is_deferred_at_the_move_is_applied_afterwards(ApicvPolicy policy)
    {
        using var bench = new SnapshotBench(NestedGuest.Image(), spec => spec with { Apicv = new(Policy: policy) })
        {
            Inputs =
            [
                new(8_000, 0, new(MachineInputKind.ApicvInhibitSet, Inhibit: ApicvInhibit.BlockIrq)),
                new(9_500, 0, new(MachineInputKind.WriteMemory, Address: NestedGuest.Bell, Data: BitConverter.GetBytes(1))),
            ],
        };
        const ulong end = 12_000;
        var console = new StringBuilder();
        string straight;
        using (Machine machine = bench.RunTo(end, console))
            straight = Describe(bench, machine, console);
        console.Clear();
        using Machine source = bench.RunTo(2_000, console);
        using IMachineReceiver receiver = BeginCopy(bench, source);
        bench.ResumeTo(source, 8_700);
        Assert.Equal(2, source.GetNested(0).Level);
        Assert.Equal(policy == ApicvPolicy.Deferred ? ApicvUpdateState.Deferred : ApicvUpdateState.Applied, source.GetApicv().Vcpus[0].Update);
        using Machine target = Finish(source, receiver, console);
        Assert.Equal(source.GetApicv().Generation, target.GetApicv().Generation);
        bench.ResumeTo(target, end);
        Assert.Equal(ApicvUpdateState.Applied, target.GetApicv().Vcpus[0].Update);
        Assert.Equal(straight, Describe(bench, target, console));

        static string Describe(SnapshotBench bench, Machine machine, StringBuilder console) =>
            $"{console} {machine.InstructionsRetired} {bench.DigestOf(machine)} {System.Text.Json.JsonSerializer.Serialize(machine.GetApicv())} {System.Text.Json.JsonSerializer.Serialize(machine.GetRegisters(0))}";
    }

    [Fact]
    public void The_source_of_a_move_that_is_called_off_goes_on_as_if_nothing_had_been()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 8));
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        using Machine source = bench.RunTo(straight.Instructions / 5, console);
        using (IMachineReceiver receiver = BeginCopy(bench, source))
        {
            bench.ResumeTo(source, straight.Instructions / 2);
            using Machine target = Finish(source, receiver, new StringBuilder());
        }
        source.StopDirtyLog();
        source.Resume();
        Assert.Equal(straight, bench.Outcome(source, console));
    }

    [Fact]
    public void What_is_no_page_or_no_state_is_refused_and_changes_nothing()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 8));
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        using Machine source = bench.RunTo(straight.Instructions / 2, console);
        using IMachineReceiver receiver = BeginCopy(bench, source);
        byte[] page = new byte[4096];
        foreach (PageRun run in (PageRun[])[new(-1, 1, false), new(0, 0, false), new(receiver.PageCount, 1, false), new(receiver.PageCount - 1, 2, true), new(1, int.MaxValue, true), new(0, 2, false), new(0, 1, true)])
            Assert.Throws<InvalidSnapshotException>(() => receiver.LoadPages([run], page));
        SavedMachine saved = source.SaveState();
        receiver.Check(saved);
        byte[] manifest = saved.Manifest.ToArray(), state = saved.State.ToArray();
        foreach (SavedMachine broken in (SavedMachine[])
            [new(manifest, state.AsMemory(1)), new(state, manifest), new(Array.Empty<byte>(), state), new(manifest, Array.Empty<byte>()), new(Replace(manifest, "\"memoryBytes\": 4", "\"memoryBytes\": 8"), state)])
        {
            Assert.Throws<InvalidSnapshotException>(() => receiver.Check(broken));
            Assert.Throws<InvalidSnapshotException>(() => receiver.Complete(broken));
        }

        using var target = (Machine)receiver.Complete(saved);
        Assert.Throws<InvalidOperationException>(() => receiver.Complete(saved));
        target.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        target.Resume();
        Assert.Equal(straight, bench.Outcome(target, console));
    }

    [Fact]
    public void Machines_in_lockstep_stay_where_they_are()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 2), change: spec => spec with { Engine = ExecutionEngine.Lockstep });
        Assert.Throws<InvalidMachineException>(() => TestMachines.Factory.Receive(bench.Spec, TimeProvider.System));
    }

    [Fact]
    public void The_log_of_a_disk_has_every_block_that_was_written()
    {
        string path = Path.GetTempFileName();
        File.WriteAllBytes(path, new byte[70 * LoggedDisk.BlockBytes]);
        try
        {
            using var disk = new LoggedDisk(new RawFileDisk(path, readOnly: false));
            Assert.Throws<InvalidOperationException>(disk.TakeLog);
            Assert.True(disk.TryWrite(0, new byte[512]));
            disk.StartLog();
            Assert.Equal(0, DirtySet.Count(disk.TakeLog()));
            Assert.True(disk.TryWrite(3 * LoggedDisk.BlockBytes - 512, new byte[1024]));
            Assert.True(disk.TryWrite(69 * LoggedDisk.BlockBytes, new byte[LoggedDisk.BlockBytes]));
            Assert.True(disk.TryRead(20 * LoggedDisk.BlockBytes, new byte[512]));
            ulong[] written = disk.TakeLog();
            Assert.Equal(3, DirtySet.Count(written));
            Assert.Equal((2, 2, 69, -1), (DirtySet.Next(written, 0), DirtySet.RunLength(written, 2, 64), DirtySet.Next(written, 4), DirtySet.Next(written, 70)));
            Assert.Equal(0, DirtySet.Count(disk.TakeLog()));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_guest_is_held_when_the_rest_fits_into_its_pause_and_given_up_where_it_never_does()
    {
        TimeSpan pause = TimeSpan.FromMilliseconds(300), state = TimeSpan.FromMilliseconds(50), second = TimeSpan.FromSeconds(1);
        // 100 MiB a second: 25 MiB fit into the 250 ms that the state leaves.
        var converges = new PreCopy(pause, maxRounds: 10);
        Assert.Equal(PreCopyStep.Copy, converges.After(100 << 20, second, 26 << 20, state));
        // A round that says little about the speed.
        Assert.Equal(PreCopyStep.Copy, converges.After(4096, second, 26 << 20, state));
        Assert.Equal(PreCopyStep.Hold, converges.After(4096, second, 24 << 20, state));
        Assert.Equal(3, converges.Rounds);
        var never = new PreCopy(pause, maxRounds: 3);
        Assert.Equal(PreCopyStep.Copy, never.After(100 << 20, second, 100 << 20, state));
        Assert.Equal(PreCopyStep.Copy, never.After(100 << 20, second, 100 << 20, state));
        Assert.Equal(PreCopyStep.GiveUp, never.After(100 << 20, second, 100 << 20, state));
        // Nothing is left, so nothing is predicted.
        Assert.Equal(PreCopyStep.Hold, new PreCopy(pause, 1).After(0, TimeSpan.Zero, 0, second));
    }

    private static void AssertMoves(SnapshotBench bench)
    {
        RunOutcome straight = bench.Run();
        foreach (ulong part in (ulong[])[3, 5, 8])
        {
            var console = new StringBuilder();
            using Machine source = bench.RunTo(straight.Instructions / 10, console);
            using IMachineReceiver receiver = BeginCopy(bench, source);
            for (ulong round = 2; round <= part; round++)
            {
                bench.ResumeTo(source, straight.Instructions * round / 10);
                Copy(source, source.TakeDirtyPages(), receiver);
            }
            bench.ResumeTo(source, straight.Instructions * part / 10 + 77);
            using Machine target = Finish(source, receiver, console);
            target.Resume();
            Assert.Equal(straight, bench.Outcome(target, console));
        }
    }

    // Everything, as it is at first.
    private static IMachineReceiver BeginCopy(SnapshotBench bench, Machine source)
    {
        IMachineReceiver receiver = TestMachines.Factory.Receive(bench.Spec, TimeProvider.System);
        source.StartDirtyLog();
        Copy(source, DirtySet.All(receiver.PageCount), receiver);
        return receiver;
    }

    // The source stands.
    private static Machine Finish(Machine source, IMachineReceiver receiver, StringBuilder console)
    {
        Assert.Equal(MachineRunState.Paused, source.RunState);
        Copy(source, source.TakeDirtyPages(), receiver);
        var target = (Machine)receiver.Complete(source.SaveState());
        Assert.Equal((MachineRunState.Paused, source.InstructionsRetired), (target.RunState, target.InstructionsRetired));
        target.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        return target;
    }

    private static void Copy(Machine source, ulong[] pages, IMachineReceiver receiver)
    {
        int at = 0;
        while (at < receiver.PageCount)
        {
            PageBatch batch = source.CopyPages(pages, at);
            receiver.LoadPages(batch.Runs, batch.Data.Span);
            at = batch.Next;
        }
    }

    private static byte[] Replace(byte[] text, string what, string by) => Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(text).Replace(what, by, StringComparison.Ordinal));
}
