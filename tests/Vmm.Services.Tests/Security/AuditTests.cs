using System.Net.Sockets;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Security;

/// <summary>Who did what.</summary>
public sealed class AuditTests : TokenTest
{
    [Fact]
    public async Task Every_change_and_every_refusal_has_its_entry_and_nothing_else_has()
    {
        await ProjectAsync("ours");
        await ProjectAsync("theirs");
        VmmConnection caller = await NewAsync("c", Role.Operator, "projects/ours");
        var creation = new CreateVmRequest { Parent = "projects/ours", VmId = "one", RequestId = "r1", Vm = new Vm { Spec = Spec() } };
        await caller.Vms.CreateVmAsync(creation);
        await caller.Vms.CreateVmAsync(creation);
        await caller.Vms.GetVmAsync(new GetVmRequest { Name = "projects/ours/vms/one" });
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", caller.Vms.PauseVmAsync(new PauseVmRequest { Name = "projects/ours/vms/one", RequestId = "r2" }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", caller.Vms.GetVmAsync(new GetVmRequest { Name = "projects/ours/vms/none" }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", caller.Vms.GetVmAsync(new GetVmRequest { Name = "projects/theirs/vms/one" }));
        await FailsAsync(StatusCode.PermissionDenied, "ROLE_REQUIRED", caller.Tokens.ListTokensAsync(new ListTokensRequest()));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", caller.Vms.StartVmAsync(new StartVmRequest { Name = new string('x', 9000), RequestId = "r3" }));
        await FailsAsync(StatusCode.Unauthenticated, "TOKEN_REQUIRED", Vms.GetVmAsync(new GetVmRequest { Name = "projects/ours/vms/one" }));
        using (AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = caller.Vms.Console(cancellationToken: Soon))
        {
            await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = "projects/ours/vms/one" } });
            Assert.True(await console.ResponseStream.MoveNext(Soon));
            AuditEntry begun = Consoles(await Admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest())).Single();
            Assert.Equal(("tokens/c", "projects/ours/vms/one", "projects/ours", "", true), (begun.Token, begun.Resource, begun.Project, begun.Code, begun.Stream.Length > 0));
            await caller.Vms.DeleteVmAsync(new DeleteVmRequest { Name = "projects/ours/vms/one", RequestId = "r4" });
        }

        List<AuditEntry> entries = [];
        await EventuallyAsync(
            () => (entries = [.. Admin.Audit.ListAuditEntries(new ListAuditEntriesRequest()).AuditEntries.Reverse()]).Count(entry => entry.Method.EndsWith("/Console", StringComparison.Ordinal)) == 2,
            "the console's last entry");
        Assert.Single(entries.Where(entry => entry.Method.EndsWith("/Console", StringComparison.Ordinal)).Select(entry => (entry.Token, entry.Resource, entry.Project, entry.Stream)).Distinct());
        Assert.All(entries, entry => Assert.Equal(entry.Method.EndsWith("/Console", StringComparison.Ordinal), entry.Stream.Length > 0));
        (string, string, string, string, string, string)[] expected =
        [
            ("tokens/admin", "ProjectService/CreateProject", "projects/ours", "projects/ours", "OK", ""),
            ("tokens/admin", "ProjectService/CreateProject", "projects/theirs", "projects/theirs", "OK", ""),
            ("tokens/admin", "TokenService/CreateToken", "tokens/c", "", "OK", ""),
            ("tokens/c", "VmService/CreateVm", "projects/ours/vms/one", "projects/ours", "OK", ""),
            ("tokens/c", "VmService/CreateVm", "projects/ours/vms/one", "projects/ours", "OK", ""),
            ("tokens/c", "VmService/PauseVm", "projects/ours/vms/one", "projects/ours", "FAILED_PRECONDITION", "ILLEGAL_STATE"),
            ("tokens/c", "VmService/GetVm", "projects/theirs/vms/one", "projects/ours", "NOT_FOUND", "NOT_FOUND"),
            ("tokens/c", "TokenService/ListTokens", "", "projects/ours", "PERMISSION_DENIED", "ROLE_REQUIRED"),
            ("tokens/c", "VmService/StartVm", new string('x', 256), "projects/ours", "INVALID_ARGUMENT", "INVALID_FIELD"),
            ("", "VmService/GetVm", "projects/ours/vms/one", "", "UNAUTHENTICATED", "TOKEN_REQUIRED"),
            ("tokens/c", "VmService/DeleteVm", "projects/ours/vms/one", "projects/ours", "OK", ""),
        ];
        Assert.Equal(expected, entries.Where(entry => !entry.Method.EndsWith("/Console", StringComparison.Ordinal)).Select(entry => (entry.Token, entry.Method["vmm.v1.".Length..], entry.Resource, entry.Project, entry.Code, entry.Reason)));
        Assert.Equal(["r1", "r1", "r2", "r3", "r4"], entries.Where(entry => entry.Token == "tokens/c" && entry.RequestId.Length is > 0 and < 5).Select(entry => entry.RequestId));
        Assert.All(entries, entry => Assert.True(entry.Peer.Length > 0 && entry.Time is not null));

        // An administrator of a project sees what is of it, and a page at a time.
        VmmConnection admin = await NewAsync("a", Role.Admin, "projects/ours");
        var page = new ListAuditEntriesRequest { PageSize = 3 };
        var seen = new List<AuditEntry>();
        do
        {
            ListAuditEntriesResponse answer = await admin.Audit.ListAuditEntriesAsync(page);
            Assert.InRange(answer.AuditEntries.Count, 1, 3);
            seen.AddRange(answer.AuditEntries);
            page.PageToken = answer.NextPageToken;
        }
        while (page.PageToken.Length > 0);
        Assert.Equal(entries.Where(entry => entry.Project == "projects/ours").Reverse(), seen);
        Assert.Equal(2, (await admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { Filter = "method = \"vmm.v1.VmService/CreateVm\" AND code = ok" })).AuditEntries.Count);
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { Parent = "projects/theirs" }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { PageToken = page.PageToken + "x" }));

        static IEnumerable<AuditEntry> Consoles(ListAuditEntriesResponse log) => log.AuditEntries.Where(entry => entry.Method.EndsWith("/Console", StringComparison.Ordinal));

        // It outlives the server.
        int count = (await Admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { PageSize = 1000 })).AuditEntries.Count;
        await Server.DisposeAsync();
        await OpenAsync();
        VmmConnection again = As((await File.ReadAllTextAsync(AdminTokenFile)).Trim());
        Assert.Equal(count, (await again.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { PageSize = 1000 })).AuditEntries.Count);
    }

    /// <summary>Whichever hears of the end first, the reader or the call: what comes of either is in <see cref="StatusInterceptorTests"/>.</summary>
    [Fact]
    public async Task Streams_of_a_connection_that_breaks_off_have_their_last_entries()
    {
        const int consoles = 3;
        await ProjectAsync("ours");
        await CreateInAsync("projects/ours", "one");
        Metadata headers = Bearer(await TokenAsync("c", Role.Operator, "projects/ours"));
        Socket? socket = null;
        using (GrpcChannel channel = GrpcChannel.ForAddress(Server.Address, new GrpcChannelOptions { HttpHandler = Connecting(made => socket = made), DisposeHttpClient = true }))
        {
            var client = new VmService.VmServiceClient(channel);
            var calls = new List<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>>();
            for (int i = 0; i < consoles; i++)
            {
                AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> call = client.Console(headers, cancellationToken: Soon);
                calls.Add(call);
                await call.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = "projects/ours/vms/one" } });
                Assert.True(await call.ResponseStream.MoveNext(Soon));
            }

            // Not an end but a reset: nothing of the streams' ends is said.
            socket!.LingerState = new LingerOption(true, 0);
            socket.Close();
            calls.ForEach(call => call.Dispose());
        }

        List<AuditEntry> ends = [];
        await EventuallyAsync(
            () => (ends = [.. Admin.Audit.ListAuditEntries(new ListAuditEntriesRequest { PageSize = 1000 }).AuditEntries.Where(entry => entry.Method == "vmm.v1.VmService/Console" && entry.Code.Length > 0)]).Count == consoles,
            "every console's last entry");
        Assert.All(ends, entry => Assert.Equal(("CANCELLED", "CANCELLED"), (entry.Code, entry.Reason)));
    }

    private static SocketsHttpHandler Connecting(Action<Socket> made) => new()
    {
        ConnectCallback = async (context, cancellation) =>
        {
            var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(context.DnsEndPoint, cancellation);
            made(socket);
            return new NetworkStream(socket, ownsSocket: true);
        },
    };

    [Fact]
    public async Task Calls_without_a_token_do_not_fill_the_log()
    {
        for (int i = 0; i < 300; i++)
            await FailsAsync(StatusCode.Unauthenticated, "TOKEN_REQUIRED", Vms.ListVmsAsync(new ListVmsRequest()));
        await Admin.Vms.DeleteVmAsync(new DeleteVmRequest { Name = $"{Project}/vms/none" }).ResponseAsync.ContinueWith(static _ => { }, TaskScheduler.Default);
        IReadOnlyList<AuditEntry> entries = (await Admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { PageSize = 1000 })).AuditEntries;
        Assert.Equal(101, entries.Count);
        Assert.Equal(200, entries[0].SuppressedCount);
    }
}

/// <summary>What must not be found anywhere.</summary>
public sealed class SecretTests
{
    [Fact]
    public async Task No_secret_is_in_what_a_server_writes()
    {
        string folder = Directory.CreateTempSubdirectory("vmmd-secrets-").FullName;
        try
        {
            string file = Path.Combine(folder, "admin-token"), kernel = Path.Combine(folder, "kernel");
            await File.WriteAllTextAsync(kernel, "kernel");
            (Daemon daemon, VmmConnection anybody) = await Daemon.StartAsync(folder, $"--verbose --allow-path {folder} --admin-token {file}");
            var secrets = new List<string> { (await File.ReadAllTextAsync(file)).Trim() };
            using (daemon)
            using (anybody)
            using (VmmConnection admin = VmmConnection.Open(anybody.Address, new VmmCredentials { Token = secrets[0] }))
            {
                for (int i = 0; i < 3; i++)
                    secrets.Add((await admin.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = $"t{i}", Token = new Token { Role = (Role)(i + 1) } })).Secret);
                foreach (string secret in (string[])[.. secrets, secrets[1][..^2] + "00", $"vmm_none_{new string('a', 64)}"])
                {
                    using VmmConnection connection = VmmConnection.Open(anybody.Address, new VmmCredentials { Token = secret });
                    await TryAsync(async () => await connection.Vms.ListVmsAsync(new ListVmsRequest()));
                    await TryAsync(async () => await connection.Vms.CreateVmAsync(new CreateVmRequest { Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } }));
                    // Where it does not belong, it is a value like any other, and no error says all of it.
                    await TryAsync(async () => await connection.Tokens.GetTokenAsync(new GetTokenRequest { Name = $"tokens/{secret}" }));
                    await TryAsync(async () => await connection.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = "tokens/t2" }));
                }

                ListAuditEntriesResponse audit = await admin.Audit.ListAuditEntriesAsync(new ListAuditEntriesRequest { PageSize = 1000 });
                Assert.NotEmpty(audit.AuditEntries);
                Assert.Equal(0, await daemon.TerminateAsync());
                Assert.DoesNotContain("vmm_", daemon.Output, StringComparison.Ordinal);
            }

            foreach (string path in Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).Where(path => path != file))
                Assert.DoesNotContain("vmm_", System.Text.Encoding.Latin1.GetString(await File.ReadAllBytesAsync(path)), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        static async Task TryAsync(Func<Task> call)
        {
            try
            {
                await call();
            }
            catch (RpcException exception)
            {
                Assert.DoesNotMatch("vmm_[a-z0-9]+_[0-9a-f]{64}", exception.ToString());
            }
        }
    }
}
