using Google.Protobuf;
using Google.Protobuf.Reflection;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.Frontend.Access;
using Vmm.V1;
using Xunit;
using Method = Google.Protobuf.Reflection.MethodDescriptor;

namespace Vmm.Services.Tests.Security;

/// <summary>Who is let in, and what his role allows.</summary>
public sealed class TokenTests : TokenTest
{
    [Fact]
    public void Every_method_of_every_service_has_a_rule() =>
        Assert.Equal(PublicApi.Methods.Select(PublicApi.PathOf).Order(StringComparer.Ordinal), MethodRule.All.Keys.Order(StringComparer.Ordinal));

    [Fact]
    public async Task No_method_is_answered_without_a_valid_token()
    {
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        string valid = await TokenAsync("valid", Role.Admin);
        string[] wrong = [valid[..^1], valid + "0", valid.Replace("valid", "other", StringComparison.Ordinal), $"vmm_valid_{new string('0', 64)}", "vmm_", "", "\u007f", new string('a', 5000)];
        foreach (Method method in PublicApi.Methods)
        {
            IMessage request = RequestAbout(method, Project, "one");
            await RefusedAsync(null, "TOKEN_REQUIRED");
            await RefusedAsync(new Metadata { { "authorization", $"Basic {valid}" } }, "TOKEN_INVALID");
            foreach (string secret in method.Name is "CreateVm" or "WatchVms" or "UploadImage" or "Console" ? wrong : wrong[..1])
                await RefusedAsync(Bearer(secret), "TOKEN_INVALID");

            async Task RefusedAsync(Metadata? headers, string reason)
            {
                VmmError answer = await RawCall.SendAsync(channel.CreateCallInvoker(), method, request, headers);
                Assert.Equal((method.FullName, StatusCode.Unauthenticated, reason), (method.FullName, answer.Code, answer.Reason));
            }
        }

        Assert.Empty((await Admin.Vms.ListVmsAsync(new ListVmsRequest())).Vms);
        // What is public is.
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.Serving, (await new Health.HealthClient(channel).CheckAsync(new HealthCheckRequest())).Status);
    }

    [Fact]
    public async Task Each_role_allows_its_methods_and_no_others()
    {
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        foreach (Role role in (Role[])[Role.Viewer, Role.Operator, Role.Admin])
        {
            Metadata headers = Bearer(await TokenAsync($"a-{role.ToString().ToLowerInvariant()}", role));
            foreach (Method method in PublicApi.Methods)
            {
                // About what does not exist: whoever is let through hears that, and nothing is done.
                VmmError answer = await RawCall.SendAsync(channel.CreateCallInvoker(), method, method.InputType.Parser.ParseFrom([]), headers);
                bool allowed = role >= MethodRule.All[PublicApi.PathOf(method)].Role;
                Assert.True(allowed != (answer.Code == StatusCode.PermissionDenied && answer.Reason == "ROLE_REQUIRED"), $"{method.FullName} answers {answer} to {role}");
            }
        }
    }

    [Fact]
    public async Task A_viewer_sees_and_an_operator_works()
    {
        VmmConnection viewer = await NewAsync("v", Role.Viewer), worker = await NewAsync("o", Role.Operator);
        Vm vm = await CreateInAsync(Project, "one", worker);
        Assert.Equal(vm, await viewer.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name }));
        await FailsAsync(StatusCode.PermissionDenied, "ROLE_REQUIRED", viewer.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }));
        await worker.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        using VmConsole console = await VmConsole.AttachAsync(worker, new ConsoleAttach { Name = vm.Name, Write = true }, Soon);
        await console.WriteAsync("hello"u8.ToArray(), Soon);
    }

    [Fact]
    public async Task A_token_is_shown_once_and_kept_as_a_digest()
    {
        CreateTokenResponse made = await Admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer, DisplayName = "ci" } });
        Assert.Matches("^vmm_token-[0-9a-f]{10}_[0-9a-f]{64}$", made.Secret);
        Assert.Equal(("ci", "", Role.Viewer, true), (made.Token.DisplayName, made.Token.Project, made.Token.Role, made.Token.CreateTime is not null));
        Assert.Equal(made.Token, await Admin.Tokens.GetTokenAsync(new GetTokenRequest { Name = made.Token.Name }));
        await As(made.Secret).Vms.ListVmsAsync(new ListVmsRequest());
        Assert.NotNull((await Admin.Tokens.GetTokenAsync(new GetTokenRequest { Name = made.Token.Name })).LastUseTime);
        Assert.Equal(["tokens/admin", made.Token.Name], (await Admin.Tokens.ListTokensAsync(new ListTokensRequest())).Tokens.Select(token => token.Name));
        Assert.Equal(["tokens/admin"], (await Admin.Tokens.ListTokensAsync(new ListTokensRequest { Filter = "role = admin" })).Tokens.Select(token => token.Name));

        // It outlives the server, and its secret is nowhere.
        await Server.DisposeAsync();
        foreach (string path in Directory.EnumerateFiles(Folder, "*", SearchOption.AllDirectories))
            Assert.Equal(path == AdminTokenFile, System.Text.Encoding.Latin1.GetString(await File.ReadAllBytesAsync(path)).Contains("vmm_", StringComparison.Ordinal));
        await OpenAsync();
        await As(made.Secret).Vms.ListVmsAsync(new ListVmsRequest());
        await As((await File.ReadAllTextAsync(AdminTokenFile)).Trim()).Tokens.ListTokensAsync(new ListTokensRequest());
    }

    [Fact]
    public async Task A_creation_that_is_repeated_makes_the_first_secret_void()
    {
        var request = new CreateTokenRequest { TokenId = "t", Token = new Token { Role = Role.Viewer }, RequestId = "r" };
        string first = (await Admin.Tokens.CreateTokenAsync(request)).Secret;
        await As(first).Vms.ListVmsAsync(new ListVmsRequest());
        string second = (await Admin.Tokens.CreateTokenAsync(request)).Secret;
        await As(second).Vms.ListVmsAsync(new ListVmsRequest());
        await FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", As(first).Vms.ListVmsAsync(new ListVmsRequest()));
        request.Token.Role = Role.Admin;
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Admin.Tokens.CreateTokenAsync(request));
        request.RequestId = "other";
        await FailsAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", Admin.Tokens.CreateTokenAsync(request));
    }

    [Fact]
    public async Task A_revoked_token_is_void_at_once_and_its_streams_end_when_they_are_looked_at()
    {
        VmmConnection revoked = await NewAsync("r", Role.Operator), other = await NewAsync("s", Role.Operator);
        Vm vm = await CreateInAsync(Project, "one");
        await Admin.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        using AsyncServerStreamingCall<VmEvent> watch = revoked.Vms.WatchVms(new WatchVmsRequest()), kept = other.Vms.WatchVms(new WatchVmsRequest());
        while (await watch.ResponseStream.MoveNext(Soon) && watch.ResponseStream.Current.Type != VmEvent.Types.Type.Synced)
        {
        }

        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = revoked.Vms.Console(cancellationToken: Soon);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = vm.Name, Write = true } });
        Assert.True(await console.ResponseStream.MoveNext(Soon));

        await Admin.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = "tokens/r" });
        // Here at once; at another front end when what it was told is two seconds old.
        await FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", revoked.Vms.ListVmsAsync(new ListVmsRequest()));
        Task<VmmError> watching = FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", async () =>
        {
            while (await watch.ResponseStream.MoveNext(Soon))
            {
            }
        });
        Task<VmmError> reading = FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", async () =>
        {
            while (await console.ResponseStream.MoveNext(Soon))
            {
            }
        });
        Time.Advance(TokenVerifier.Freshness);
        await watching;
        await reading;
        await CreateInAsync(Project, "two");
        while (await kept.ResponseStream.MoveNext(Soon) && kept.ResponseStream.Current.Vm?.Name != $"{Project}/vms/two")
        {
        }

        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Admin.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = "tokens/r" }));
    }

    [Fact]
    public async Task A_token_is_valid_until_it_expires()
    {
        Timestamp end = Timestamp.FromDateTimeOffset(Time.GetUtcNow() + TimeSpan.FromHours(1));
        string secret = (await Admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer, ExpireTime = end } })).Secret;
        await As(secret).Vms.ListVmsAsync(new ListVmsRequest());
        Time.Advance(TimeSpan.FromHours(1));
        await FailsAsync(StatusCode.Unauthenticated, "TOKEN_INVALID", As(secret).Vms.ListVmsAsync(new ListVmsRequest()));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer, ExpireTime = end } }));
    }

    [Fact]
    public async Task An_administrator_of_a_project_makes_tokens_of_it_only()
    {
        await ProjectAsync("p");
        await ProjectAsync("q");
        await TokenAsync("of-q", Role.Viewer, "projects/q");
        VmmConnection admin = await NewAsync("of-p", Role.Admin, "projects/p");
        string made = (await admin.Tokens.CreateTokenAsync(new CreateTokenRequest { TokenId = "mine", Token = new Token { Role = Role.Operator, Project = "projects/p" } })).Secret;
        await As(made).Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/p" });
        await FailsAsync(StatusCode.PermissionDenied, "ROLE_REQUIRED", admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer } }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer, Project = "projects/q" } }));
        foreach (string other in (string[])["tokens/of-q", "tokens/admin", "tokens/none"])
        {
            await FailsAsync(StatusCode.NotFound, "NOT_FOUND", admin.Tokens.GetTokenAsync(new GetTokenRequest { Name = other }));
            await FailsAsync(StatusCode.NotFound, "NOT_FOUND", admin.Tokens.DeleteTokenAsync(new DeleteTokenRequest { Name = other }));
        }

        Assert.Equal(["tokens/mine", "tokens/of-p"], (await admin.Tokens.ListTokensAsync(new ListTokensRequest())).Tokens.Select(token => token.Name));
        Assert.Equal(4, (await Admin.Tokens.ListTokensAsync(new ListTokensRequest())).Tokens.Count);
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Admin.Tokens.CreateTokenAsync(new CreateTokenRequest { Token = new Token { Role = Role.Viewer, Project = "projects/none" } }));
    }

    [Fact]
    public void A_token_is_not_sent_where_others_can_read_it()
    {
        Assert.Throws<ArgumentException>(() => VmmConnection.Open("http://example.com:1", new VmmCredentials { Token = "t" }));
        VmmConnection.Open("https://example.com:1", new VmmCredentials { Token = "t" }).Dispose();
    }
}
