using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>Projects, quotas, tokens and the audit log.</content>
internal abstract partial class RegistryContract
{
    private IAccessRegistry Access => Registry;

    public async Task Projects_are_made_changed_and_deleted_once()
    {
        var wanted = new Project { Name = "projects/x", DisplayName = "X", Quota = new ProjectQuota { Vms = 0 } };
        Project made = await Access.CreateProjectAsync(wanted, KeyOf("projects/x", "r1"), None);
        Assert.Equal(("X", 0, true), (made.DisplayName, made.Quota.Vms, made.Quota.HasVms));
        Assert.True(made.Etag.Length > 0 && made.CreateTime is not null && made.UpdateTime is not null);
        Assert.Equal(made, await Access.CreateProjectAsync(wanted, KeyOf("projects/x", "r1"), None));
        Assert.Equal(made, await Access.FindProjectAsync("projects/x", None));
        await RefusedAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", () => Access.CreateProjectAsync(wanted, KeyOf("projects/x", "r2"), None));
        await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Access.CreateProjectAsync(wanted, KeyOf("projects/x", "r1", 9), None));
        await RefusedAsync(StatusCode.Aborted, "ETAG_MISMATCH", () => Access.UpdateProjectAsync("projects/x", static project => project.DisplayName = "Y", "other", null, None));
        Project changed = await Access.UpdateProjectAsync("projects/x", static project => project.DisplayName = "Y", made.Etag, KeyOf("projects/x", "r3"), None);
        Assert.Equal(("Y", made.CreateTime), (changed.DisplayName, changed.CreateTime));
        Assert.NotEqual(made.Etag, changed.Etag);
        Assert.Equal(changed, await Access.UpdateProjectAsync("projects/x", static project => project.DisplayName = "Y", made.Etag, KeyOf("projects/x", "r3"), None));
        Assert.Equal([ResourceName.DefaultParent, "projects/x"], (await Access.ListProjectsAsync(None)).Select(project => project.Name));
        await Access.DeleteProjectAsync("projects/x", changed.Etag, KeyOf("projects/x", "r4"), None);
        await Access.DeleteProjectAsync("projects/x", changed.Etag, KeyOf("projects/x", "r4"), None);
        Assert.Null(await Access.FindProjectAsync("projects/x", None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Access.DeleteProjectAsync("projects/x", "", null, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Access.UpdateProjectAsync("projects/x", static _ => { }, "", null, None));
        await RefusedAsync(StatusCode.FailedPrecondition, "PROJECT_REQUIRED", () => Access.DeleteProjectAsync(ResourceName.DefaultParent, "", null, None));
    }

    public async Task A_project_is_deleted_only_when_nothing_is_in_it()
    {
        WorkerLease lease = await RegisterAsync("a");
        await Registry.PlaceVmAsync(New("one"), None);
        // It came to be with the VM, because it need not have been created.
        Assert.NotNull(await Access.FindProjectAsync(Project, None));
        await NotEmptyAsync();
        await Registry.ReportAsync(lease, [new VmReport(Made("one")), new ImageReport(new Image { Name = ResourceName.Image(Project, new string('1', 64)) }), new VmDeletedReport(Name("one"))], None);
        await NotEmptyAsync();
        await Registry.ReportAsync(lease, [new ImageDeletedReport(ResourceName.Image(Project, new string('1', 64))), new SnapshotReport(new Snapshot { Name = ResourceName.Snapshot(Project, "s") })], None);
        await NotEmptyAsync();
        await Registry.ReportAsync(lease, [new SnapshotDeletedReport(ResourceName.Snapshot(Project, "s"))], None);
        await Access.AdmitImageAsync(ResourceName.Image(Project, new string('2', 64)), None);
        await NotEmptyAsync();
        await Access.SettleImageAsync(ResourceName.Image(Project, new string('2', 64)), None);
        await Access.CreateTokenAsync(Secret("t", Project), None);
        (_, EventPosition before) = await Registry.SnapshotProjectAsync(Project, None);
        await Access.DeleteProjectAsync(Project, "", null, None);
        Assert.Null(await Access.FindTokenAsync("tokens/t", false, None));
        // Its history goes on, so that no watch takes one project for another.
        Assert.Equal(before, (await Registry.SnapshotProjectAsync(Project, None)).Position);

        Task NotEmptyAsync() => RefusedAsync(StatusCode.FailedPrecondition, "PROJECT_NOT_EMPTY", () => Access.DeleteProjectAsync(Project, "", null, None));
    }

    public async Task Concurrent_placements_never_take_more_than_a_quota()
    {
        // Each on a worker of its own, so that it is not the workers' rows that keep placements apart.
        const int atOnce = 12;
        const int rounds = 8;
        for (int i = 0; i < atOnce; i++)
            await RegisterAsync($"w{i}");
        await Access.CreateProjectAsync(new Project { Name = Project }, null, None);
        for (int round = 1; round <= rounds; round++)
        {
            await Access.UpdateProjectAsync(Project, project => project.Quota = new ProjectQuota { Vms = round, MemoryMib = 64 * 100 }, "", null, None);
            StatusCode[] outcomes = await Task.WhenAll(Enumerable.Range(0, atOnce).Select(i => Task.Run(async () =>
            {
                try
                {
                    await Registry.PlaceVmAsync(With($"vm{round}-{i}", new PlacementSpec { WorkerLabels = { ["rack"] = $"w{i}" } }), None);
                    return StatusCode.OK;
                }
                catch (RpcException exception)
                {
                    return exception.StatusCode;
                }
            })));
            Assert.Equal((1, atOnce - 1), (outcomes.Count(code => code == StatusCode.OK), outcomes.Count(code => code == StatusCode.ResourceExhausted)));
        }

        Assert.Equal(rounds, (await Registry.ListWorkersAsync(None)).Sum(worker => worker.Reserved.Vms));
        await Access.UpdateProjectAsync(Project, static project => project.Quota = new ProjectQuota { Vcpus = rounds + 1 }, "", null, None);
        await Registry.PlaceVmAsync(New("more"), None);
        Client.VmmError refused = await RefusedAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => Registry.PlaceVmAsync(New("too-many"), None));
        Assert.Contains("9 of 9 vCPUs are taken, and 1 more are needed", refused.Message, StringComparison.Ordinal);
    }

    public async Task Images_count_from_the_moment_they_are_announced()
    {
        WorkerLease lease = await RegisterAsync("a");
        await Access.CreateProjectAsync(new Project { Name = Project, Quota = new ProjectQuota { Images = 2 } }, null, None);
        string[] images = [.. Enumerable.Range(1, 3).Select(i => ResourceName.Image(Project, new string((char)('0' + i), 64)))];
        await Access.AdmitImageAsync(images[0], None);
        await Access.AdmitImageAsync(images[0], None);
        await Access.AdmitImageAsync(images[1], None);
        await RefusedAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => Access.AdmitImageAsync(images[2], None));
        await Registry.ReportAsync(lease, [new ImageReport(new Image { Name = images[0] })], None);
        await Access.SettleImageAsync(images[0], None);
        await RefusedAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => Access.AdmitImageAsync(images[2], None));
        // One that never came leaves its place.
        await Access.SettleImageAsync(images[1], None);
        await Access.AdmitImageAsync(images[2], None);
        await Access.AdmitImageAsync(ResourceName.Image("projects/q", new string('1', 64)), None);
    }

    public async Task Tokens_are_known_until_they_are_deleted()
    {
        Assert.Null(await Access.FindTokenAsync("tokens/t", true, None));
        StoredToken wanted = Secret("t", "");
        Token made = await Access.CreateTokenAsync(wanted, None);
        Assert.NotNull(made.CreateTime);
        KnownToken known = (await Access.FindTokenAsync("tokens/t", true, None))!;
        Assert.Equal((made, wanted.SecretSha256, false), (known.Token, known.SecretSha256, known.IsExpired));
        Assert.NotNull((await Access.FindTokenAsync("tokens/t", false, None))!.Token.LastUseTime);
        await RefusedAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", () => Access.CreateTokenAsync(Secret("t", ""), None));

        StoredToken repeated = Secret("u", "");
        (repeated.RequestId, repeated.Fingerprint) = ("r", ByteString.CopyFrom(1));
        await Access.CreateTokenAsync(repeated, None);
        repeated.SecretSha256 = ByteString.CopyFrom(7);
        await Access.CreateTokenAsync(repeated, None);
        Assert.Equal(repeated.SecretSha256, (await Access.FindTokenAsync("tokens/u", false, None))!.SecretSha256);
        repeated.Fingerprint = ByteString.CopyFrom(2);
        await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Access.CreateTokenAsync(repeated, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Access.CreateTokenAsync(Secret("v", "projects/none"), None));

        StoredToken first = Secret("admin", "");
        await Access.PutTokenAsync(first, None);
        first.SecretSha256 = ByteString.CopyFrom(8);
        await Access.PutTokenAsync(first, None);
        Assert.Equal(first.SecretSha256, (await Access.FindTokenAsync("tokens/admin", false, None))!.SecretSha256);
        Assert.Equal(["tokens/admin", "tokens/t", "tokens/u"], (await Access.ListTokensAsync(None)).Select(token => token.Name));

        StoredToken expired = Secret("old", "");
        expired.Token.ExpireTime = Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(new DateTimeOffset(2001, 1, 1, 0, 0, 0, TimeSpan.Zero));
        await Access.CreateTokenAsync(expired, None);
        Assert.True((await Access.FindTokenAsync("tokens/old", false, None))!.IsExpired);
        await Access.DeleteTokenAsync("tokens/t", None);
        Assert.Null(await Access.FindTokenAsync("tokens/t", false, None));
        await RefusedAsync(StatusCode.NotFound, "NOT_FOUND", () => Access.DeleteTokenAsync("tokens/t", None));
    }

    public async Task The_audit_log_is_read_backwards_in_parts()
    {
        await Access.AppendAuditAsync([.. Enumerable.Range(0, 10).Select(i => new AuditEntry { Method = $"m{i}", Project = i % 2 == 0 ? Project : "" })], None);
        IReadOnlyList<AuditEntry> all = await Access.ReadAuditAsync(null, long.MaxValue, 100, None);
        Assert.Equal(Enumerable.Range(0, 10).Reverse().Select(i => $"m{i}"), all.Select(entry => entry.Method));
        Assert.All(all, entry => Assert.NotNull(entry.Time));
        Assert.Equal(10, all.Select(entry => entry.Name).Distinct().Count());
        IReadOnlyList<AuditEntry> part = await Access.ReadAuditAsync(null, AuditNames.NumberOf(all[3]), 2, None);
        Assert.Equal(all.Skip(4).Take(2), part);
        Assert.Equal(["m8", "m6", "m4", "m2", "m0"], (await Access.ReadAuditAsync(Project, long.MaxValue, 100, None)).Select(entry => entry.Method));
    }

    private static StoredToken Secret(string id, string project) =>
        new() { Token = new Token { Name = $"tokens/{id}", Role = Role.Viewer, Project = project }, SecretSha256 = ByteString.CopyFromUtf8(id) };

    private static RequestKey KeyOf(string project, string id, byte fingerprint = 1) => new(project, id, ByteString.CopyFrom(fingerprint));
}
