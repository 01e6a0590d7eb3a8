using Grpc.Core;
using Vmm.Client;
using Vmm.Testing;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Tokens, projects and the audit log of a fleet, which are the same at every front end.</summary>
[Collection(PostgresTests.Name)]
public sealed class FleetAccessTests(SharedPostgres postgres) : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-access-").FullName;
    private readonly List<FleetProcess> _processes = [];

    private string AdminToken => Path.Combine(_folder, "admin-token");

    public void Dispose()
    {
        foreach (FleetProcess process in _processes)
            process.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_token_that_is_revoked_at_one_front_end_is_void_at_the_other_and_its_streams_end_there()
    {
        string registry = await postgres.NewSchemaAsync();
        FleetProcess one = await FrontendAsync(registry, "f1", "--admin-token", AdminToken), two = await FrontendAsync(registry, "f2", "--tokens");
        var admin = new VmmCredentials { Token = (await File.ReadAllTextAsync(AdminToken)).Trim() };
        using VmmConnection atOne = one.Connect(admin), atTwo = two.Connect(admin);
        await atOne.Projects.CreateProjectAsync(new CreateProjectRequest { ProjectId = "p" });
        string secret = (await atTwo.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = "t", Token = new Token { Role = Role.Viewer, Project = "projects/p" } })).Secret;
        using VmmConnection callerAtOne = one.Connect(new VmmCredentials { Token = secret }), callerAtTwo = two.Connect(new VmmCredentials { Token = secret });
        await callerAtOne.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/p" });
        using AsyncServerStreamingCall<VmEvent> watch = callerAtTwo.Vms.WatchVms(new WatchVmsRequest { Parent = "projects/p" });
        Assert.True(await watch.ResponseStream.MoveNext(CancellationToken.None));

        await atOne.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = "tokens/t" });
        RpcException ended = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await watch.ResponseStream.MoveNext(new CancellationTokenSource(TimeSpan.FromMinutes(1)).Token))
            {
            }
        });
        Assert.Equal((StatusCode.Unauthenticated, "TOKEN_INVALID"), (ended.StatusCode, VmmError.From(ended).Reason));
        foreach (VmmConnection caller in (VmmConnection[])[callerAtOne, callerAtTwo])
            Assert.Equal(StatusCode.Unauthenticated, (await Assert.ThrowsAsync<RpcException>(async () => await caller.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/p" }))).StatusCode);

        // What was done at either is in the one log.
        Assert.Equal(
            ["DeleteToken", "CreateToken", "CreateProject"],
            (await atTwo.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { Filter = "token = \"tokens/admin\"" })).AuditEntries.Select(entry => entry.Method.Split('/')[1]));
    }

    private async Task<FleetProcess> FrontendAsync(string registry, string id, params string[] options)
    {
        FleetProcess process = await FleetProcess.StartAsync("vmmd.dll", ["frontend", "--listen", $"unix:{Path.Combine(_folder, id)}", "--registry", registry, .. options]);
        _processes.Add(process);
        return process;
    }
}
