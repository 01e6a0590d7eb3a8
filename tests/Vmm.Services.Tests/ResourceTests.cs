using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Client;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class ResourceTests : ServerTest
{
    [Fact]
    public async Task An_empty_parent_is_the_default_project_and_an_empty_id_is_made_up()
    {
        Vm vm = await Vms.CreateVmAsync(new CreateVmRequest { Vm = new Vm { Spec = Spec() } });
        Assert.StartsWith("projects/default/vms/vm-", vm.Name, StringComparison.Ordinal);
        Assert.Single((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);
        Assert.Empty((await Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/other" })).Vms);
    }

    [Fact]
    public async Task A_taken_name_is_refused_and_free_again_after_deletion()
    {
        Vm first = await CreateAsync();
        await FailsAsync(StatusCode.AlreadyExists, "ALREADY_EXISTS", Vms.CreateVmAsync(Creation("one")));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = first.Name });
        Vm second = await CreateAsync();
        Assert.NotEqual(first.Uid, second.Uid);
    }

    [Fact]
    public async Task Pages_cover_everything_once_though_vms_come_and_go()
    {
        for (int i = 0; i < 25; i++)
            await CreateAsync($"vm-{i:00}");
        var seen = new List<string>();
        string token = "";
        do
        {
            ListVmsResponse page = await Vms.ListVmsAsync(new ListVmsRequest { Parent = Project, PageSize = 10, PageToken = token, OrderBy = "name desc" });
            seen.AddRange(page.Vms.Select(vm => ResourceNames.Id(vm.Name)));
            token = page.NextPageToken;
            if (seen.Count == 10)
            {
                // What the token points at is gone, and something new comes before it.
                await Vms.DeleteVmAsync(new DeleteVmRequest { Name = page.Vms[^1].Name });
                await CreateAsync("vm-99");
            }
        }
        while (token.Length > 0);
        Assert.Equal([.. Enumerable.Range(0, 25).Select(i => $"vm-{i:00}").Reverse()], seen);
    }

    [Fact]
    public async Task Page_tokens_belong_to_their_list()
    {
        await CreateAsync("a");
        await CreateAsync("b");
        string token = (await Vms.ListVmsAsync(new ListVmsRequest { Parent = Project, PageSize = 1 })).NextPageToken;
        Assert.NotEmpty(token);
        foreach (ListVmsRequest other in (ListVmsRequest[])
            [
                new() { Parent = "projects/other", PageToken = token },
                new() { Parent = Project, PageToken = token, OrderBy = "state" },
                new() { Parent = Project, PageToken = token, Filter = "state = RUNNING" },
                new() { Parent = Project, PageToken = "nonsense" },
                new() { Parent = Project, PageToken = token[..^4] + "!!!!" },
            ])
        {
            VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.ListVmsAsync(other));
            Assert.Equal("page_token", error.Fields[0].Subject);
        }
    }

    [Theory]
    [InlineData("", "a b c")]
    [InlineData("state = RUNNING", "b")]
    [InlineData("state != VM_STATE_RUNNING", "a c")]
    [InlineData("labels.tier = \"web\"", "a b")]
    [InlineData("labels.tier != web", "c")]
    [InlineData("labels.tier:*", "a b")]
    [InlineData("NOT labels.tier:*", "c")]
    [InlineData("-labels.owner:eve", "b c")]
    [InlineData("labels.tier = we*", "a b")]
    [InlineData("labels.tier = web AND state = RUNNING", "b")]
    [InlineData("labels.tier = web labels.owner = eve", "a")]
    [InlineData("state = RUNNING OR labels.owner = eve", "a b")]
    // AIP-160: OR binds tighter than AND.
    [InlineData("state = STOPPED OR state = RUNNING AND labels.tier = web", "a b")]
    [InlineData("(labels.owner = eve) OR NOT (labels.tier = 'web')", "a c")]
    [InlineData("name = \"projects/default/vms/c\"", "c")]
    [InlineData("name = *c", "c")]
    public async Task Filters_select(string filter, string expected)
    {
        CreateVmRequest a = Creation("a"), b = Creation("b");
        a.Vm.Labels.Add("tier", "web");
        a.Vm.Labels.Add("owner", "eve");
        b.Vm.Labels.Add("tier", "web");
        await Vms.CreateVmAsync(a);
        await Vms.CreateVmAsync(b);
        await CreateAsync("c");
        await Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/b" });
        ListVmsResponse list = await Vms.ListVmsAsync(new ListVmsRequest { Parent = Project, Filter = filter });
        Assert.Equal(expected, string.Join(' ', list.Vms.Select(vm => ResourceNames.Id(vm.Name))));
    }

    [Theory]
    [InlineData("state")]
    [InlineData("state = FLYING")]
    [InlineData("state = 2")]
    [InlineData("colour = red")]
    [InlineData("state = RUNNING AND")]
    [InlineData("(state = RUNNING")]
    [InlineData("state = RUNNING)")]
    [InlineData("labels.a = \"open")]
    [InlineData("labels. = x")]
    [InlineData("state < RUNNING")]
    [InlineData("= x")]
    public async Task A_filter_that_cannot_be_read_is_refused_with_the_place(string filter)
    {
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.ListVmsAsync(new ListVmsRequest { Filter = filter }));
        Assert.Equal("filter", error.Fields[0].Subject);
        Assert.Contains("at character", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_filter_nested_without_end_is_refused()
    {
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.ListVmsAsync(new ListVmsRequest { Filter = new string('(', 2000) }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.ListVmsAsync(new ListVmsRequest { Filter = new string('-', 100_000) }));
    }

    [Fact]
    public async Task Lists_are_ordered()
    {
        foreach (string id in (string[])["b", "c", "a"])
        {
            await CreateAsync(id);
            Time.Advance(TimeSpan.FromSeconds(1));
        }

        await Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/c" });
        Assert.Equal("a b c", await OrderAsync(""));
        Assert.Equal("b c a", await OrderAsync("create_time"));
        Assert.Equal("a c b", await OrderAsync("create_time desc"));
        Assert.Equal("b a c", await OrderAsync("state, name desc"));
        foreach (string wrong in (string[])["colour", "name up", ",", "name name name"])
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.ListVmsAsync(new ListVmsRequest { OrderBy = wrong }));

        async Task<string> OrderAsync(string orderBy) =>
            string.Join(' ', (await Vms.ListVmsAsync(new ListVmsRequest { OrderBy = orderBy })).Vms.Select(vm => ResourceNames.Id(vm.Name)));
    }

    [Fact]
    public async Task Labels_are_updated_and_etags_guard_them()
    {
        Vm vm = await CreateAsync();
        Time.Advance(TimeSpan.FromSeconds(1));
        Vm updated = await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name, Etag = vm.Etag, Labels = { ["a"] = "1" } }, UpdateMask = FieldMask.FromString("labels") });
        Assert.Equal("1", updated.Labels["a"]);
        Assert.NotEqual(vm.Etag, updated.Etag);
        Assert.True(updated.UpdateTime > vm.UpdateTime);
        Assert.Equal(vm.CreateTime, updated.CreateTime);
        VmmError error = await FailsAsync(
            StatusCode.Aborted, "ETAG_MISMATCH", Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name, Etag = vm.Etag, Labels = { ["a"] = "2" } } }));
        Assert.Equal(updated.Etag, error.Metadata["etag"]);
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Vms.StartVmAsync(new StartVmRequest { Name = vm.Name, Etag = vm.Etag }));
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name, Etag = vm.Etag }));
        Assert.Equal(updated, await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name }));
        Vm running = await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name, Etag = updated.Etag });
        Assert.NotEqual(updated.Etag, running.Etag);
        Factory.Last.InstructionsRetired = 1000;
        Assert.Equal(running.Etag, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Etag);
        Assert.Empty((await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name } })).Labels);
        await FailsAsync(
            StatusCode.InvalidArgument, "INVALID_FIELD", Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name }, UpdateMask = FieldMask.FromString<Vm>("spec") }));
    }

    [Fact]
    public async Task A_request_with_the_same_id_is_done_once()
    {
        CreateVmRequest creation = Creation();
        creation.RequestId = "create-1";
        creation.Vm.Labels.Add("b", "2");
        creation.Vm.Labels.Add("a", "1");
        Vm vm = await Vms.CreateVmAsync(creation);
        CreateVmRequest again = creation.Clone();
        again.Vm.Labels.Clear();
        again.Vm.Labels.Add("a", "1");
        again.Vm.Labels.Add("b", "2");
        Assert.Equal(vm, await Vms.CreateVmAsync(again));
        again.Vm.Labels["a"] = "3";
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.CreateVmAsync(again));
        Assert.Equal("request_id", error.Fields[0].Subject);

        var start = new StartVmRequest { Name = vm.Name, RequestId = "start-1" };
        Vm running = await Vms.StartVmAsync(start);
        Assert.Equal(running, await Vms.StartVmAsync(start));
        Assert.Single(Factory.Made);
        var nmi = new InjectNmiRequest { Name = vm.Name, RequestId = "nmi-1" };
        await Vms.InjectNmiAsync(nmi);
        await Vms.InjectNmiAsync(nmi);
        Assert.Single(Factory.Last.Nmis);
        await FailsAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", Vms.ResetVmAsync(new ResetVmRequest { Name = vm.Name, RequestId = "start-1" }));

        // Over a restart, too; and a deleted VM does not come back.
        await CloseAsync();
        await OpenAsync();
        Assert.Equal(running, await Vms.StartVmAsync(start));
        Assert.Equal(VmState.Stopped, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.State);
        var delete = new DeleteVmRequest { Name = vm.Name, RequestId = "delete-1" };
        await Vms.DeleteVmAsync(delete);
        await Vms.DeleteVmAsync(delete);
        Assert.Equal(vm, await Vms.CreateVmAsync(creation));
        Assert.Empty((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);

        // In another project the id is another.
        creation.Parent = "projects/other";
        Assert.StartsWith("projects/other/", (await Vms.CreateVmAsync(creation)).Name, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_failed_request_leaves_its_id_unused_and_a_forgotten_one_is_free()
    {
        var start = new StartVmRequest { Name = "projects/default/vms/one", RequestId = "id" };
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.StartVmAsync(start));
        await CreateAsync();
        Assert.Equal(VmState.Running, (await Vms.StartVmAsync(start)).Status.State);
        Time.Advance(TimeSpan.FromDays(2));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.StartVmAsync(start));
    }

    [Fact]
    public async Task Many_callers_with_one_id_make_one_vm_and_with_many_ids_one_succeeds()
    {
        CreateVmRequest creation = new() { Parent = Project, Vm = new Vm { Spec = Spec() }, RequestId = "same" };
        Vm[] made = await Task.WhenAll(Enumerable.Range(0, 50).Select(_ => Vms.CreateVmAsync(creation).ResponseAsync));
        Assert.Single(made.Select(vm => vm.Uid).Distinct());
        int succeeded = 0;
        await Task.WhenAll(Enumerable.Range(0, 50).Select(async _ =>
        {
            try
            {
                await Vms.CreateVmAsync(Creation("contended"));
                Interlocked.Increment(ref succeeded);
            }
            catch (RpcException exception)
            {
                Assert.Equal(StatusCode.AlreadyExists, exception.StatusCode);
            }
        }));
        Assert.Equal(1, succeeded);
        Assert.Equal(2, (await Vms.ListVmsAsync(new ListVmsRequest())).Vms.Count);
    }

    [Fact]
    public async Task The_sdk_expands_names_and_fills_ids()
    {
        Assert.Equal("projects/default/vms/a", ResourceNames.Vm("a"));
        Assert.Equal("projects/p/vms/a", ResourceNames.Vm("vms/a", "p"));
        Assert.Equal("projects/q/vms/a", ResourceNames.Vm("projects/q/vms/a", "p"));
        Assert.Equal($"projects/default/images/sha256-{new string('0', 64)}", ResourceNames.Image(new string('0', 64)));
        CreateVmRequest request = Creation();
        await Vms.CreateVmAsync(request);
        Assert.True(Guid.TryParse(request.RequestId, out _));
    }
}
