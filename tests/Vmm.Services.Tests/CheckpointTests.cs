using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Server;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>Checkpoints in one server: when they are taken, what is kept of them, and what a VM goes on from.</summary>
public sealed class CheckpointTests : ServerTest
{
    private const string Name = $"{Project}/vms/one";

    /// <summary>As nothing else in the server takes.</summary>
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(37);

    private string Shared => Path.Combine(Folder, "shared");

    protected override ServerOptions Options => base.Options with { SharedSnapshotDirectory = Shared };

    private string[] Chunks => Directory.GetFiles(Path.Combine(Shared, "chunks"), "*", SearchOption.AllDirectories);

    private string[] Contents => [.. Directory.GetFiles(Path.Combine(Shared, "contents")).Select(path => Path.GetFileName(path))];

    private VmSpec Saved()
    {
        VmSpec spec = Spec();
        (spec.RestartPolicy, spec.CheckpointInterval) = (RestartPolicy.FromLastCheckpoint, Duration.FromTimeSpan(Interval));
        return spec;
    }

    private async Task<Vm> GetAsync() => await Vms.GetVmAsync(new GetVmRequest { Name = Name });

    private async Task<Vm> BeginAsync()
    {
        Vm vm = await StartAsync("one", Saved());
        Factory.Last.SavesState = true;
        return vm;
    }

    /// <summary>Lets one interval pass, and waits until every VM is done with what is due then, the first VM with a checkpoint or without.</summary>
    private async Task<Checkpoint?> PassAsync(int vms = 1)
    {
        await EventuallyAsync(() => Time.WaitingFor(Interval) == vms, "the VMs wait for their turns");
        Time.Advance(Interval);
        await EventuallyAsync(() => Time.WaitingFor(Interval) == vms, "the VMs have had their turns");
        return (await GetAsync()).Status.Checkpoint;
    }

    /// <summary>As <see cref="PassAsync"/>, and a checkpoint came of it.</summary>
    private async Task<Checkpoint> SaveAsync(int vms = 1)
    {
        Checkpoint? before = (await GetAsync()).Status.Checkpoint;
        Checkpoint now = Assert.IsType<Checkpoint>(await PassAsync(vms));
        Assert.NotEqual(before?.Uid, now.Uid);
        Assert.Contains(now.Uid, Contents);
        Assert.DoesNotContain(before?.Uid, Contents);
        return now;
    }

    [Fact]
    public async Task A_vm_is_saved_every_interval_and_the_last_checkpoint_is_kept()
    {
        Vm begun = await BeginAsync();
        Assert.Null(begun.Status.Checkpoint);
        Factory.Last.InstructionsRetired = 1000;
        Checkpoint first = await SaveAsync();
        Assert.Equal((1000UL, 64), (first.InstructionsRetired, first.ContentSha256.Length));
        Checkpoint second = await SaveAsync();
        Assert.True(second.CreateTime.ToDateTimeOffset() >= first.CreateTime.ToDateTimeOffset() + Interval);
        // It stands while it is written, as for any snapshot, and is no change of the VM.
        Assert.Equal((Vmm.Machine.MachineRunState.Paused, Vmm.Machine.MachineRunState.Running), (Factory.Last.StateWhenSaved, Factory.Last.RunState));
        Vm now = await GetAsync();
        Assert.Equal((begun.Etag, begun.UpdateTime, VmState.Running), (now.Etag, now.UpdateTime, now.Status.State));
        Assert.Empty((await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = Project })).Snapshots);
        Assert.Empty(Directory.GetDirectories(Path.Combine(Folder, "state", "replicas")));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name, Force = true });
        await EventuallyAsync(() => Contents.Length == 0 && Chunks.Length == 0, "the checkpoint goes");
    }

    [Fact]
    public async Task A_vm_goes_on_from_its_checkpoint_when_its_server_is_back_and_boots_where_there_is_none()
    {
        await BeginAsync();
        Factory.Last.WriteConsole("saved"u8);
        Checkpoint checkpoint = await SaveAsync();
        Factory.Last.WriteConsole(" and lost"u8);
        await StartAsync("fresh", Saved());
        await CloseAsync();
        Assert.Equal([checkpoint.Uid], Contents);
        await OpenAsync();
        Vm now = await GetAsync();
        Assert.Equal((VmState.Running, 2L, checkpoint), (now.Status.State, now.Status.RunCount, now.Status.Checkpoint));
        FakeMachine restored = Assert.Single(Factory.Made, machine => machine.RestoredFrom is not null);
        Assert.Equal(("saved", Vmm.Machine.MachineRunState.Running), (restored.Input, restored.RunState));
        Assert.Equal((VmState.Running, null), await StateAsync("fresh"));
        Assert.Equal([checkpoint.Uid], Contents);
        Assert.Empty(Directory.GetDirectories(Path.Combine(Folder, "state", "replicas")));
        Assert.NotEqual(checkpoint.Uid, (await SaveAsync(vms: 2)).Uid);
    }

    [Fact]
    public async Task A_run_that_somebody_ends_or_begins_leaves_no_checkpoint()
    {
        await BeginAsync();
        await SaveAsync();
        Vm stopped = await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        Assert.Null(stopped.Status.Checkpoint);
        await EventuallyAsync(() => Contents.Length == 0 && Chunks.Length == 0, "the checkpoint goes");
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        Assert.Equal((VmState.Running, null), await StateAsync("one"));
        await CloseAsync();
        await OpenAsync();
        Assert.Equal((VmState.Running, null), await StateAsync("one"));
        Assert.DoesNotContain(Factory.Made, machine => machine.RestoredFrom is not null);
    }

    [Fact]
    public async Task A_checkpoint_that_cannot_be_kept_leaves_the_one_before_and_the_vm_running()
    {
        await BeginAsync();
        Checkpoint kept = await SaveAsync();
        string contents = Path.Combine(Shared, "contents");
        int tries = 0;
        Factory.Last.SaveFailure = () => tries++;
        Directory.Move(contents, contents + ".away");
        Assert.Equal(kept, await PassAsync());
        Directory.Move(contents + ".away", contents);
        // Likewise where the machine cannot be saved.
        Factory.Last.SaveFailure = () => throw new IOException($"no space at try {tries++}");
        Assert.Equal(kept, await PassAsync());
        Factory.Last.SaveFailure = null;
        Assert.InRange(tries, 2, 4);
        Assert.Equal((VmState.Running, kept), await StateAsync("one"));
        Assert.Equal([kept.Uid], Contents);
        Assert.NotEqual(kept.Uid, (await SaveAsync()).Uid);
    }

    [Fact]
    public async Task A_damaged_checkpoint_starts_nothing_and_the_vm_can_be_booted()
    {
        await BeginAsync();
        Checkpoint checkpoint = await SaveAsync();
        await CloseAsync();
        foreach (string chunk in Chunks)
            await File.WriteAllTextAsync(chunk, "damaged");
        await OpenAsync();
        Assert.Equal((VmState.Stopped, checkpoint), await StateAsync("one"));
        Assert.Equal(VmEndReason.Interrupted, (await GetAsync()).Status.End.Reason);
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        Assert.Equal((VmState.Running, null), await StateAsync("one"));
        await EventuallyAsync(() => Contents.Length == 0, "the checkpoint goes");
    }

    [Fact]
    public async Task What_nobody_names_any_more_goes_after_an_hour()
    {
        await BeginAsync();
        Checkpoint checkpoint = await SaveAsync();
        await CloseAsync();
        string contents = Path.Combine(Shared, "contents");
        string orphan = Guid.NewGuid().ToString(), young = Guid.NewGuid().ToString();
        foreach (string uid in (string[])[orphan, young])
            File.Copy(Path.Combine(contents, checkpoint.Uid), Path.Combine(contents, uid));
        // The server's time is the test's, the files' is the host's.
        foreach (string uid in (string[])[orphan, checkpoint.Uid])
            File.SetLastWriteTimeUtc(Path.Combine(contents, uid), Time.GetUtcNow().UtcDateTime.AddHours(-2));
        File.SetLastWriteTimeUtc(Path.Combine(contents, young), Time.GetUtcNow().UtcDateTime);
        await OpenAsync();
        Assert.Equal(((string[])[checkpoint.Uid, young]).Order(), Contents.Order());
        Assert.Equal((VmState.Running, checkpoint), await StateAsync("one"));
    }

    private async Task<(VmState, Checkpoint?)> StateAsync(string id)
    {
        VmStatus status = (await Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/{id}" })).Status;
        return (status.State, status.Checkpoint);
    }
}

/// <summary>Without a directory for them.</summary>
public sealed class NoCheckpointTests : ServerTest
{
    [Fact]
    public async Task A_server_without_a_snapshot_store_takes_no_vm_that_needs_checkpoints()
    {
        VmSpec spec = Spec();
        spec.RestartPolicy = RestartPolicy.FromLastCheckpoint;
        await FailsAsync(StatusCode.FailedPrecondition, "NO_SNAPSHOT_STORE", async () => await Vms.CreateVmAsync(Creation("one", spec)));
        await CreateAsync("one");
    }
}
