using Google.Protobuf;
using Google.Protobuf.Reflection;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.Frontend.Access;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Security;

/// <summary>What projects keep apart, and what fits into them.</summary>
public sealed class ProjectTests : TokenTest
{
    private const string Ours = "projects/ours";
    private const string Theirs = "projects/theirs";

    public override async Task InitializeAsync()
    {
        await base.InitializeAsync();
        await ProjectAsync("ours");
        await ProjectAsync("theirs");
    }

    [Fact]
    public async Task What_is_in_another_project_does_not_exist_and_stays_as_it_is()
    {
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        Vm vm = await CreateInAsync(Theirs, "one");
        vm = await Admin.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await Admin.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Theirs, SnapshotId = "one", Snapshot = new Snapshot { Vm = vm.Name } });
        string file = Path.Combine(Folder, "image");
        await File.WriteAllTextAsync(file, "image");
        Image image = await Admin.PushImageAsync(file, Theirs);
        await TokenAsync("one", Role.Viewer, Theirs);
        string before = await StateAsync();
        foreach (Role role in (Role[])[Role.Viewer, Role.Operator, Role.Admin])
        {
            Metadata headers = Bearer(await TokenAsync($"t-{role.ToString().ToLowerInvariant()}", role, Ours));
            foreach (MethodDescriptor method in PublicApi.Methods)
            {
                MethodRule rule = MethodRule.All[PublicApi.PathOf(method)];
                VmmError there = await CallAsync(Theirs, "one"), missing = await CallAsync(Theirs, "none"), nowhere = await CallAsync("projects/nowhere", "one");
                // Nothing in an answer tells what is there from what is not.
                Assert.Equal((method.FullName, there.Code, there.Reason), (method.FullName, missing.Code, missing.Reason));
                Assert.Equal((method.FullName, there.Code, there.Reason), (method.FullName, nowhere.Code, nowhere.Reason));
                Assert.Equal(Plain(there), Plain(missing));
                bool everybody = method.Name is "ListProjects" or "ListTokens";
                Assert.True(
                    there.Code == (role < rule.Role || rule.OfFleet ? StatusCode.PermissionDenied : everybody ? StatusCode.OK : StatusCode.NotFound),
                    $"{method.FullName} answers {there} to {role} of another project");

                async Task<VmmError> CallAsync(string project, string id)
                {
                    IMessage request = RequestAbout(method, project, id);
                    if (request is GetImageRequest get && id == "one" && project == Theirs)
                        get.Name = image.Name;
                    return await RawCall.SendAsync(channel.CreateCallInvoker(), method, request, headers);
                }
            }
        }

        Assert.Equal(before, await StateAsync());

        static string Plain(VmmError error) => System.Text.RegularExpressions.Regex.Replace(error.Message, "sha256-[0-9a-f]+|/n?one\\b", "?");

        async Task<string> StateAsync() => string.Join('\n', new IMessage[]
        {
            await Admin.Vms.ListVmsAsync(new ListVmsRequest { Parent = Theirs }),
            await Admin.Images.ListImagesAsync(new ListImagesRequest { Parent = Theirs }),
            await Admin.Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = Theirs }),
            await Admin.Projects.ListProjectsAsync(new ListProjectsRequest()),
            await Admin.Tokens.ListTokensAsync(new ListTokensRequest { Filter = $"project = \"{Theirs}\"" }),
        }.Select(message => System.Text.RegularExpressions.Regex.Replace(message.ToString()!, "\"(instructionsRetired|memoryBytes|lastUseTime)\": \"[^\"]*\",? ?", "")));
    }

    [Fact]
    public async Task Who_is_of_one_project_hears_how_many_workers_were_short_and_not_which()
    {
        VmmConnection ours = await NewAsync("o", Role.Operator, Ours);
        await CreateInAsync(Ours, "source", ours);
        Snapshot snapshot = await SnapshotAsync();
        await Admin.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/local" });
        foreach (Func<VmmConnection, Task> call in (Func<VmmConnection, Task>[])
            [
                connection => CreateInAsync(Ours, "more", connection),
                async connection => await connection.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name }),
                async connection => await connection.Vms.CloneVmAsync(new CloneVmRequest { Parent = Ours, Snapshot = snapshot.Name, Count = 2 }),
            ])
        {
            VmmError told = await FailsAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => call(ours)), all = await FailsAsync(StatusCode.ResourceExhausted, "NO_WORKER", () => call(Admin));
            Assert.Equal("None of 1 worker(s) can take the VM (1 vCPU(s), 64 MiB): 1 cordoned or draining.", told.Message);
            Assert.Equal(told.Message, all.Message);
            Assert.Empty(told.Quotas);
            Assert.Equal(new VmmViolation("workers/local", "", "is cordoned"), Assert.Single(all.Quotas));
            Assert.Contains("\nworkers/local: is cordoned", all.ToText(), StringComparison.Ordinal);
        }

        async Task<Snapshot> SnapshotAsync()
        {
            await ours.Vms.StartVmAsync(new StartVmRequest { Name = $"{Ours}/vms/source" });
            return await ours.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Ours, SnapshotId = "s", Snapshot = new Snapshot { Vm = $"{Ours}/vms/source" } });
        }
    }

    [Fact]
    public async Task Lists_watches_and_request_ids_are_of_one_project()
    {
        VmmConnection ours = await NewAsync("ours", Role.Operator, Ours), theirs = await NewAsync("theirs", Role.Operator, Theirs);
        using AsyncServerStreamingCall<VmEvent> watch = ours.Vms.WatchVms(new WatchVmsRequest { Parent = Ours });
        Vm one = await CreateInAsync(Theirs, "one", theirs);
        // The same id is another request elsewhere.
        var creation = new CreateVmRequest { Parent = Ours, VmId = "one", RequestId = "r", Vm = new Vm { Spec = Spec() } };
        Vm made = await ours.Vms.CreateVmAsync(creation);
        creation.Parent = Theirs;
        creation.VmId = "two";
        Vm other = await theirs.Vms.CreateVmAsync(creation);
        Assert.NotEqual(made.Name, other.Name);
        while (await watch.ResponseStream.MoveNext(Soon))
        {
            Assert.True(watch.ResponseStream.Current.Vm is null || watch.ResponseStream.Current.Vm.Name == made.Name, watch.ResponseStream.Current.ToString());
            if (watch.ResponseStream.Current.Vm is not null)
                break;
        }

        Assert.Equal([made.Name], (await ours.Vms.ListVmsAsync(new ListVmsRequest { Parent = Ours })).Vms.Select(vm => vm.Name));
        Assert.Equal([one.Name, other.Name], (await theirs.Vms.ListVmsAsync(new ListVmsRequest { Parent = Theirs })).Vms.Select(vm => vm.Name));
        Assert.Equal([Ours], (await ours.Projects.ListProjectsAsync(new ListProjectsRequest())).Projects.Select(project => project.Name));
        // Position and page of another project's list mean nothing here.
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", ours.Vms.ListVmsAsync(new ListVmsRequest()));
    }

    [Fact]
    public async Task An_image_that_another_project_has_is_not_known_here()
    {
        string file = Path.Combine(Folder, "image");
        await File.WriteAllTextAsync(file, "image");
        Image image = await Admin.PushImageAsync(file, Theirs);
        VmmConnection ours = await NewAsync("o", Role.Operator, Ours);
        QueryImageUploadResponse query = await ours.Images.QueryImageUploadAsync(new QueryImageUploadRequest { Parent = Ours, Sha256 = image.Sha256 });
        Assert.Equal((null, 0L), (query.Image, query.ReceivedBytes));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", ours.Images.GetImageAsync(new GetImageRequest { Name = image.Name.Replace(Theirs, Ours, StringComparison.Ordinal) }));
        VmSpec spec = Spec();
        spec.Kernel = new FileSource { Image = image.Name };
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", ours.Vms.CreateVmAsync(new CreateVmRequest { Parent = Ours, Vm = new Vm { Spec = spec } }));
        Assert.Equal(image.Sha256, (await ours.PushImageAsync(file, Ours)).Sha256);
    }

    [Fact]
    public async Task Projects_are_made_changed_and_deleted_when_they_are_empty()
    {
        var creation = new CreateProjectRequest { ProjectId = "p", Project = new Project { DisplayName = "P", Quota = new ProjectQuota { Vms = 1 } }, RequestId = "r" };
        Project project = await Admin.Projects.CreateProjectAsync(creation);
        Assert.Equal(project, await Admin.Projects.CreateProjectAsync(creation));
        Assert.Equal(("projects/p", "P", 1, true), (project.Name, project.DisplayName, project.Quota.Vms, project.Quota.HasVms && !project.Quota.HasVcpus));
        await FailsAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", Admin.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = "p" }));
        Assert.Equal(["projects/default", Ours, "projects/p", Theirs], (await Admin.Projects.ListProjectsAsync(new ListProjectsRequest())).Projects.Select(each => each.Name));

        Project changed = await Admin.Projects.UpdateProjectAsync(new UpdateProjectRequest
        {
            Project = new Project { Name = project.Name, Etag = project.Etag, DisplayName = "ignored", Quota = new ProjectQuota { Streams = 5 } },
            UpdateMask = FieldMask.FromString("quota"),
        });
        Assert.Equal(("P", 5, false), (changed.DisplayName, changed.Quota.Streams, changed.Quota.HasVms));
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Admin.Projects.DeleteProjectAsync(new DeleteProjectRequest { Name = project.Name, Etag = project.Etag }));

        string token = await TokenAsync("of-p", Role.Viewer, project.Name);
        Vm vm = await CreateInAsync(project.Name, "one");
        await FailsAsync(StatusCode.FailedPrecondition, "PROJECT_NOT_EMPTY", Admin.Projects.DeleteProjectAsync(new DeleteProjectRequest { Name = project.Name }));
        await Admin.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
        await Admin.Projects.DeleteProjectAsync(new DeleteProjectRequest { Name = project.Name });
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Admin.Projects.GetProjectAsync(new GetProjectRequest { Name = project.Name }));
        await FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", As(token).Vms.ListVmsAsync(new ListVmsRequest { Parent = project.Name }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Admin.Vms.CreateVmAsync(new CreateVmRequest { Parent = project.Name, Vm = new Vm { Spec = Spec() } }));
        await FailsAsync(StatusCode.FailedPrecondition, "PROJECT_REQUIRED", Admin.Projects.DeleteProjectAsync(new DeleteProjectRequest { Name = "projects/default" }));

        // Projects outlive the server.
        await Server.DisposeAsync();
        await OpenAsync();
        VmmConnection again = As((await File.ReadAllTextAsync(AdminTokenFile)).Trim());
        Assert.Equal(["projects/default", Ours, Theirs], (await again.Projects.ListProjectsAsync(new ListProjectsRequest())).Projects.Select(each => each.Name));
        Assert.Equal(project, await again.Projects.CreateProjectAsync(creation));
    }

    [Fact]
    public async Task What_does_not_fit_the_quota_is_refused_with_each_limit()
    {
        await QuotaAsync(new ProjectQuota { Vms = 3, Vcpus = 4, MemoryMib = 200 });
        VmSpec spec = Spec();
        spec.MaxCpus = 2;
        Vm first = await CreateInAsync(Ours, "one", spec: spec);
        await CreateInAsync(Ours, "two", spec: spec);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(() => CreateInAsync(Ours, "three", spec: new VmSpec(spec) { MemoryMib = 100 }));
        Assert.Equal((StatusCode.ResourceExhausted, "QUOTA_EXCEEDED"), (refused.StatusCode, VmmError.From(refused).Reason));
        QuotaFailure failure = Google.Rpc.Status.Parser.ParseFrom(refused.Trailers.GetValueBytes("grpc-status-details-bin")).Details.Single(detail => detail.Is(QuotaFailure.Descriptor)).Unpack<QuotaFailure>();
        Assert.Equal(
            [(Ours, "4 of 4 vCPUs are taken, and 2 more are needed"), (Ours, "128 of 200 MiB of memory are taken, and 100 more are needed")],
            failure.Violations.Select(violation => (violation.Subject, violation.Description)));
        await CreateInAsync(Theirs, "three");
        await Admin.Vms.DeleteVmAsync(new DeleteVmRequest { Name = first.Name });
        await CreateInAsync(Ours, "three");
        // A snapshot's VM counts too.
        await QuotaAsync(new ProjectQuota { Vms = 2 });
        await Admin.Vms.StartVmAsync(new StartVmRequest { Name = $"{Ours}/vms/three" });
        Snapshot snapshot = await Admin.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { Parent = Ours, Snapshot = new Snapshot { Vm = $"{Ours}/vms/three" } });
        await FailsAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", Admin.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = snapshot.Name }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Admin.Projects.UpdateProjectAsync(new UpdateProjectRequest { Project = new Project { Name = Ours, Quota = new ProjectQuota { Vms = -1 } } }));
    }

    [Fact]
    public async Task Images_and_streams_have_their_limits()
    {
        await QuotaAsync(new ProjectQuota { Images = 1, Streams = 1 });
        string[] files = [Path.Combine(Folder, "a"), Path.Combine(Folder, "b")];
        foreach (string file in files)
            await File.WriteAllTextAsync(file, file);
        Image image = await Admin.PushImageAsync(files[0], Ours);
        await FailsAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => Admin.PushImageAsync(files[1], Ours));
        await Admin.PushImageAsync(files[0], Ours);
        await Admin.PushImageAsync(files[1], Theirs);
        await Admin.Images.DeleteImageAsync(new DeleteImageRequest { Name = image.Name });
        await Admin.PushImageAsync(files[1], Ours);

        using (AsyncServerStreamingCall<VmEvent> first = Admin.Vms.WatchVms(new WatchVmsRequest { Parent = Ours }))
        {
            Assert.True(await first.ResponseStream.MoveNext(Soon));
            using AsyncServerStreamingCall<VmEvent> second = Admin.Vms.WatchVms(new WatchVmsRequest { Parent = Ours });
            await FailsAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => second.ResponseStream.MoveNext(Soon));
            using AsyncServerStreamingCall<VmEvent> elsewhere = Admin.Vms.WatchVms(new WatchVmsRequest { Parent = Theirs });
            Assert.True(await elsewhere.ResponseStream.MoveNext(Soon));
        }

        // A place is free when its stream has ended, which the server hears of soon.
        for (int i = 0; ; i++)
        {
            using AsyncServerStreamingCall<VmEvent> third = Admin.Vms.WatchVms(new WatchVmsRequest { Parent = Ours });
            try
            {
                Assert.True(await third.ResponseStream.MoveNext(Soon));
                break;
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.ResourceExhausted && i < 1000)
            {
                await Task.Delay(10);
            }
        }
    }

    private async Task QuotaAsync(ProjectQuota quota)
    {
        await Admin.Projects.UpdateProjectAsync(new UpdateProjectRequest { Project = new Project { Name = Ours, Quota = quota } });
        Time.Advance(TimeSpan.FromSeconds(2));
    }
}
