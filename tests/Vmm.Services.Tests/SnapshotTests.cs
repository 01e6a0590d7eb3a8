using Grpc.Core;
using Vmm.Client;
using Vmm.Machine;
using Vmm.Machine.Snapshots;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>Snapshots as resources: what becomes of them, of the VMs that are restored from them, and of their files.</summary>
public sealed class SnapshotTests : ServerTest
{
    private const string One = "projects/default/vms/one";

    private string SnapshotsFolder => Path.Combine(Folder, "state", "snapshots");

    private static CreateSnapshotRequest Taking(string id = "", string vm = One, string requestId = "") =>
        new() { Parent = Project, SnapshotId = id, Snapshot = new Snapshot { Vm = vm }, RequestId = requestId };

    private static RestoreSnapshotRequest Restoring(string id, string vm = "", bool paused = false, string requestId = "") =>
        new() { Name = $"{Project}/snapshots/{id}", VmId = vm, Paused = paused, RequestId = requestId };

    private async Task<Snapshot> TakeAsync(string id = "s") => await Snapshots.CreateSnapshotAsync(Taking(id));

    private async Task<Image> PushAsync(byte[] content)
    {
        string path = Path.Combine(Folder, $"push-{Guid.NewGuid():n}");
        await File.WriteAllBytesAsync(path, content);
        return await Connection.PushImageAsync(path, Project);
    }

    [Fact]
    public async Task A_snapshot_says_of_what_it_is_and_leaves_the_vm_running()
    {
        Vm vm = await StartAsync();
        Snapshot snapshot = await TakeAsync();
        Assert.Equal($"{Project}/snapshots/s", snapshot.Name);
        Assert.Equal((One, vm.Uid, 42UL, SnapshotFormat.Version), (snapshot.Vm, snapshot.VmUid, snapshot.InstructionsRetired, snapshot.FormatVersion));
        Assert.Equal(vm.Spec, snapshot.Spec);
        Assert.True(snapshot.SizeBytes > 0 && snapshot.CreateTime is not null && snapshot.Etag.Length > 0);
        Assert.Equal(snapshot, await Snapshots.GetSnapshotAsync(new GetSnapshotRequest { Name = snapshot.Name }));

        // Held while its disks were copied, and going on.
        Assert.Equal((MachineRunState.Paused, MachineRunState.Running), (Factory.Last.StateWhenSaved, Factory.Last.RunState));
        Vm after = await Vms.GetVmAsync(new GetVmRequest { Name = One });
        Assert.Equal((VmState.Running, vm.Etag), (after.Status.State, after.Etag));
    }

    [Fact]
    public async Task A_paused_vm_stays_paused()
    {
        await StartAsync();
        await Vms.PauseVmAsync(new PauseVmRequest { Name = One });
        await TakeAsync();
        Assert.Equal(MachineRunState.Paused, Factory.Last.RunState);
    }

    [Fact]
    public async Task Only_a_vm_that_executes_can_be_saved()
    {
        await CreateAsync();
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Snapshots.CreateSnapshotAsync(Taking("s")));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Snapshots.CreateSnapshotAsync(Taking("s", "projects/default/vms/none")));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Snapshots.CreateSnapshotAsync(Taking("s", "projects/other/vms/one")));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Snapshots.CreateSnapshotAsync(Taking("S!")));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest()));

        // The name was not taken by what failed.
        await Vms.StartVmAsync(new StartVmRequest { Name = One });
        await TakeAsync();
        await FailsAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", Snapshots.CreateSnapshotAsync(Taking("s")));
        Assert.StartsWith($"{Project}/snapshots/snapshot-", (await Snapshots.CreateSnapshotAsync(Taking())).Name, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_disk_that_is_full_leaves_nothing_behind()
    {
        await StartAsync();
        Factory.Last.SaveFailure = () => throw new IOException("No space left on device");
        await FailsAsync(StatusCode.ResourceExhausted, "STORAGE_FAILED", Snapshots.CreateSnapshotAsync(Taking("s")));
        Assert.Empty(Directory.EnumerateFileSystemEntries(SnapshotsFolder));
        Assert.Equal(MachineRunState.Running, Factory.Last.RunState);
        Factory.Last.SaveFailure = null;
        await TakeAsync();
    }

    [Fact]
    public async Task A_vm_that_ends_while_it_is_saved_says_so()
    {
        await StartAsync();
        FakeMachine machine = Factory.Last;
        machine.SaveFailure = () =>
        {
            machine.Finish(MachineEndReason.PowerOff);
            throw new InvalidOperationException("the machine has ended");
        };
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Snapshots.CreateSnapshotAsync(Taking("s")));
        Assert.Empty(Directory.EnumerateFileSystemEntries(SnapshotsFolder));
    }

    [Fact]
    public async Task Many_vms_come_from_one_snapshot()
    {
        await StartAsync();
        Snapshot snapshot = await TakeAsync();
        RestoreSnapshotRequest request = Restoring("s", "two");
        request.Labels["tier"] = "web";
        Vm two = await Snapshots.RestoreSnapshotAsync(request);
        Assert.Equal(("projects/default/vms/two", VmState.Running, 1L, "web"), (two.Name, two.Status.State, two.Status.RunCount, two.Labels["tier"]));
        Assert.Equal(snapshot.Spec, two.Spec);
        Assert.NotEqual(snapshot.VmUid, two.Uid);
        FakeMachine machine = Factory.Last;
        Assert.Equal((MachineRunState.Running, Path.Combine(SnapshotsFolder, snapshot.Uid, "machine")), (machine.RunState, machine.RestoredFrom));

        Vm three = await Snapshots.RestoreSnapshotAsync(Restoring("s", "three", paused: true));
        Assert.Equal((VmState.Paused, MachineRunState.Paused), (three.Status.State, Factory.Last.RunState));
        await Vms.ResumeVmAsync(new ResumeVmRequest { Name = three.Name });
        Assert.Equal(MachineRunState.Running, Factory.Last.RunState);

        Vm[] more = await Task.WhenAll(Enumerable.Range(0, 10).Select(_ => Snapshots.RestoreSnapshotAsync(Restoring("s")).ResponseAsync));
        Assert.Equal(10, more.Select(vm => vm.Name).Distinct().Count());
        await FailsAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", Snapshots.RestoreSnapshotAsync(Restoring("s", "two")));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Snapshots.RestoreSnapshotAsync(Restoring("none", "four")));
    }

    [Fact]
    public async Task A_restored_vm_is_watched_stopped_and_then_boots_like_any_other()
    {
        await StartAsync();
        await TakeAsync();
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project });
        do
            Assert.True(await watch.ResponseStream.MoveNext(Soon));
        while (watch.ResponseStream.Current.Type != VmEvent.Types.Type.Synced);
        Vm two = await Snapshots.RestoreSnapshotAsync(Restoring("s", "two"));
        Assert.True(await watch.ResponseStream.MoveNext(Soon));
        Assert.Equal((VmEvent.Types.Type.Added, VmState.Running), (watch.ResponseStream.Current.Type, watch.ResponseStream.Current.Vm.Status.State));

        using VmConsole console = await VmConsole.AttachAsync(Connection, new ConsoleAttach { Name = two.Name }, Soon);
        Factory.Last.Print("still here");
        Vm stopped = await Vms.StopVmAsync(new StopVmRequest { Name = two.Name });
        Assert.Equal(VmEndReason.PowerOff, stopped.Status.End.Reason);
        Vm again = await Vms.StartVmAsync(new StartVmRequest { Name = two.Name });
        Assert.Equal((2L, (string?)null), (again.Status.RunCount, Factory.Last.RestoredFrom));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = two.Name, Force = true });
    }

    [Fact]
    public async Task A_damaged_snapshot_is_data_loss_and_makes_no_vm()
    {
        await StartAsync();
        Snapshot snapshot = await TakeAsync();
        File.Delete(Path.Combine(SnapshotsFolder, snapshot.Uid, "machine", SnapshotFormat.ManifestFile));
        await FailsAsync(StatusCode.DataLoss, "SNAPSHOT_DAMAGED", Snapshots.RestoreSnapshotAsync(Restoring("s", "two")));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.GetVmAsync(new GetVmRequest { Name = "projects/default/vms/two" }));
        Assert.Empty(Directory.EnumerateDirectories(Path.Combine(Folder, "state", "vms")));
        await CreateAsync("two");
    }

    [Fact]
    public async Task A_request_is_done_once_over_a_restart_too()
    {
        await StartAsync();
        Snapshot snapshot = await Snapshots.CreateSnapshotAsync(Taking(requestId: "take"));
        Assert.Equal(snapshot, await Snapshots.CreateSnapshotAsync(Taking(requestId: "take")));
        RestoreSnapshotRequest restore = Restoring(ResourceNames.Id(snapshot.Name), requestId: "restore");
        Vm vm = await Snapshots.RestoreSnapshotAsync(restore);
        Assert.Equal(vm, await Snapshots.RestoreSnapshotAsync(restore));
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Snapshots.CreateSnapshotAsync(Taking("other", requestId: "take")));
        await CloseAsync();
        await OpenAsync();
        Assert.Equal(snapshot, await Snapshots.CreateSnapshotAsync(Taking(requestId: "take")));
        Assert.Equal(vm, await Snapshots.RestoreSnapshotAsync(restore));
        Assert.Equal(2, (await Vms.ListVmsAsync(new ListVmsRequest())).Vms.Count);
        Assert.Single((await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest())).Snapshots);
    }

    [Fact]
    public async Task A_restart_keeps_snapshots_and_removes_half_written_ones()
    {
        await StartAsync();
        Snapshot snapshot = await TakeAsync();
        string half = Path.Combine(SnapshotsFolder, Guid.NewGuid().ToString());
        Directory.CreateDirectory(Path.Combine(half, "machine"));
        await File.WriteAllTextAsync(Path.Combine(half, "machine", "memory"), "half");
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = One, Force = true });
        await CloseAsync();
        await OpenAsync();
        Assert.False(Directory.Exists(half));
        Assert.Equal([snapshot], (await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest())).Snapshots);
        Assert.Equal(VmState.Running, (await Snapshots.RestoreSnapshotAsync(Restoring("s", "one"))).Status.State);
    }

    [Fact]
    public async Task A_snapshot_can_be_deleted_while_vms_of_it_run()
    {
        await StartAsync();
        Snapshot snapshot = await TakeAsync();
        Vm two = await Snapshots.RestoreSnapshotAsync(Restoring("s", "two"));
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = snapshot.Name, Etag = "other" }));
        await Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = snapshot.Name, Etag = snapshot.Etag });
        Assert.Empty(Directory.EnumerateFileSystemEntries(SnapshotsFolder));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Snapshots.GetSnapshotAsync(new GetSnapshotRequest { Name = snapshot.Name }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = snapshot.Name }));
        Assert.Equal(VmState.Running, (await Vms.GetVmAsync(new GetVmRequest { Name = two.Name })).Status.State);
        await TakeAsync();
    }

    [Fact]
    public async Task Images_are_pinned_by_snapshots()
    {
        Image kernel = await PushAsync("kernel image"u8.ToArray());
        VmSpec spec = Spec();
        spec.Kernel = new FileSource { Image = kernel.Name };
        await StartAsync(spec: spec);
        Snapshot snapshot = await TakeAsync();
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = One, Force = true });
        for (int i = 0; i < 2; i++)
        {
            VmmError error = await FailsAsync(StatusCode.FailedPrecondition, "IMAGE_IN_USE", Images.DeleteImageAsync(new DeleteImageRequest { Name = kernel.Name }));
            Assert.Contains(snapshot.Name, error.ToText(), StringComparison.Ordinal);
            await CloseAsync();
            await OpenAsync();
        }

        await Snapshots.DeleteSnapshotAsync(new DeleteSnapshotRequest { Name = snapshot.Name });
        await Images.DeleteImageAsync(new DeleteImageRequest { Name = kernel.Name });
    }

    [Fact]
    public async Task Each_restored_vm_has_the_disks_of_that_moment_for_itself()
    {
        byte[] content = new byte[3 << 20];
        content[1 << 20] = 1;
        Image image = await PushAsync(content);
        string byPath = Path.Combine(Folder, "allowed", "disk");
        await File.WriteAllBytesAsync(byPath, content);
        VmSpec spec = Spec();
        spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name } });
        spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name }, ReadOnly = true });
        spec.Disks.Add(new Disk { Source = new FileSource { Path = byPath } });
        await StartAsync(spec: spec);
        DiskSpec[] original = [.. Factory.Last.Spec.Disks];
        content[7] = 7;
        await File.WriteAllBytesAsync(original[0].Path, content);
        await File.WriteAllBytesAsync(byPath, content);
        Snapshot snapshot;
        // As the engine holds a disk that its guest writes.
        using (new FileStream(original[0].Path, FileMode.Open, FileAccess.ReadWrite, FileShare.None))
            snapshot = await TakeAsync();
        content[8] = 8;
        await File.WriteAllBytesAsync(byPath, content);
        content[8] = 0;

        await Snapshots.RestoreSnapshotAsync(Restoring("s", "two"));
        DiskSpec[] two = [.. Factory.Last.Spec.Disks];
        await Snapshots.RestoreSnapshotAsync(Restoring("s", "three"));
        DiskSpec[] three = [.. Factory.Last.Spec.Disks];
        Assert.Equal(original[1], two[1]);
        Assert.Equal(5, new[] { original[0].Path, two[0].Path, three[0].Path, two[2].Path, three[2].Path }.Distinct().Count());
        foreach (string path in (string[])[two[0].Path, two[2].Path, three[0].Path, three[2].Path])
            Assert.Equal(content, await File.ReadAllBytesAsync(path));
        // Most of the disk is a hole, wherever the file system knows those.
        Assert.True(snapshot.SizeBytes < 4 << 20, $"{snapshot.SizeBytes} bytes");

        // Its own copies are what the restored VM boots with later.
        await Vms.StopVmAsync(new StopVmRequest { Name = "projects/default/vms/two", Force = true });
        await Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/two" });
        Assert.Equal(two, Factory.Last.Spec.Disks);
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = "projects/default/vms/two", Force = true });
        Assert.False(File.Exists(two[0].Path));
    }

    [Fact]
    public async Task Lists_are_filtered_ordered_and_paged()
    {
        await StartAsync();
        await StartAsync("two");
        foreach (string id in (string[])["b", "a", "c"])
            await TakeAsync(id);
        await Snapshots.CreateSnapshotAsync(Taking("d", "projects/default/vms/two"));
        var seen = new List<string>();
        var request = new ListSnapshotsRequest { Parent = Project, PageSize = 1, OrderBy = "name desc", Filter = $"vm = \"{One}\"" };
        do
        {
            ListSnapshotsResponse page = await Snapshots.ListSnapshotsAsync(request);
            seen.AddRange(page.Snapshots.Select(snapshot => ResourceNames.Id(snapshot.Name)));
            request.PageToken = page.NextPageToken;
        }
        while (request.PageToken.Length > 0);

        Assert.Equal(["c", "b", "a"], seen);
        Assert.Empty((await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = "projects/other" })).Snapshots);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { OrderBy = "spec" }));
    }
}
