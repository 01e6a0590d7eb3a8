using Grpc.Core;
using Vmm.Client;
using Vmm.V1;
using Xunit;
using Type = Vmm.V1.VmEvent.Types.Type;

namespace Vmm.Services.Tests;

public sealed class WatchTests : ServerTest
{
    private static async Task<List<VmEvent>> TakeAsync(AsyncServerStreamingCall<VmEvent> call, int count)
    {
        var events = new List<VmEvent>();
        while (events.Count < count && await call.ResponseStream.MoveNext(Soon))
            events.Add(call.ResponseStream.Current);
        Assert.Equal(count, events.Count);
        return events;
    }

    private static string Text(VmEvent item) => item.Vm is null ? $"{item.Type}" : $"{item.Type} {ResourceNames.Id(item.Vm.Name)} {item.Vm.Status.State}";

    [Fact]
    public async Task A_watch_tells_what_is_and_then_every_change()
    {
        await CreateAsync("a");
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project });
        Assert.Equal(["Added a Stopped", "Synced"], (await TakeAsync(watch, 2)).Select(Text));
        await StartAsync("b");
        await Vms.PauseVmAsync(new PauseVmRequest { Name = "projects/default/vms/b" });
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = "projects/default/vms/b", Force = true });
        List<VmEvent> events = await TakeAsync(watch, 6);
        Assert.Equal(["Added b Stopped", "Modified b Starting", "Modified b Running", "Modified b Paused", "Modified b Stopped", "Removed b Stopped"], events.Select(Text));
        Assert.Equal(Enumerable.Range(0, 6).Select(i => events[0].Sequence + (ulong)i), events.Select(item => item.Sequence));
    }

    [Fact]
    public async Task A_watch_resumes_at_every_event_without_loss_or_repetition()
    {
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project });
        List<VmEvent> all = await TakeAsync(watch, 1);
        for (int i = 0; i < 5; i++)
            await StartAsync($"vm-{i}");
        all.AddRange(await TakeAsync(watch, 15));
        for (int at = 0; at < all.Count - 1; at++)
        {
            using var resumed = Vms.WatchVms(new WatchVmsRequest { Parent = Project, ResumeToken = all[at].ResumeToken });
            Assert.Equal(all[(at + 1)..], await TakeAsync(resumed, all.Count - at - 1));
        }
    }

    [Fact]
    public async Task A_filtered_watch_adds_and_removes_as_vms_come_to_match_and_cease_to()
    {
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project, Filter = "state = RUNNING" });
        Assert.Equal(Type.Synced, (await TakeAsync(watch, 1))[0].Type);
        Vm vm = await StartAsync("a");
        await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name, Labels = { ["x"] = "1" } } });
        await Vms.PauseVmAsync(new PauseVmRequest { Name = vm.Name });
        await Vms.ResumeVmAsync(new ResumeVmRequest { Name = vm.Name });
        Assert.Equal(["Added a Running", "Modified a Running", "Removed a Running", "Added a Running"], (await TakeAsync(watch, 4)).Select(Text));
    }

    [Fact]
    public async Task Tokens_that_are_too_old_or_of_another_life_or_not_tokens_are_refused()
    {
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project });
        VmEvent first = (await TakeAsync(watch, 1))[0];
        Vm vm = await CreateAsync();
        for (int i = 0; i < 100; i++)
            await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = vm.Name, Labels = { ["i"] = $"{i}" } } });
        VmEvent last = (await TakeAsync(watch, 101))[^1];
        await FailsAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", () => FirstAsync(first.ResumeToken, ""));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => FirstAsync(last.ResumeToken, "state = RUNNING"));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => FirstAsync("nonsense", ""));
        await CloseAsync();
        await OpenAsync();
        await FailsAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", () => FirstAsync(last.ResumeToken, ""));

        async Task FirstAsync(string token, string filter)
        {
            using var call = Vms.WatchVms(new WatchVmsRequest { Parent = Project, ResumeToken = token, Filter = filter });
            await call.ResponseStream.MoveNext(Soon);
        }
    }

    [Fact]
    public async Task A_watch_tells_apicv_of_one_vm_too_and_resumes_in_both()
    {
        Vm vm = await CreateAsync("a");
        await CreateAsync("b");
        using var watch = Vms.WatchVms(new WatchVmsRequest { Parent = Project, Filter = "state = PAUSED", ApicvVm = vm.Name });
        List<VmEvent> all = await TakeAsync(watch, 1);
        await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = vm.Name, Reason = ApicvInhibitReason.Hyperv });
        all.AddRange(await TakeAsync(watch, 2));
        await Vms.PauseVmAsync(new PauseVmRequest { Name = vm.Name });
        all.AddRange(await TakeAsync(watch, 1));
        await Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = vm.Name, Reason = ApicvInhibitReason.Hyperv });
        all.AddRange(await TakeAsync(watch, 2));
        Assert.Equal(
            ["Synced", "InhibitSet", "UpdateApplied", "Added a Paused", "InhibitCleared", "UpdateApplied"],
            all.Select(item => item.Type == Type.Apicv ? $"{item.Apicv.Type}" : Text(item)));
        for (int at = 0; at < all.Count - 1; at++)
        {
            var again = new WatchVmsRequest { Parent = Project, Filter = "state = PAUSED", ApicvVm = vm.Name, ResumeToken = all[at].ResumeToken };
            using var resumed = Vms.WatchVms(again);
            List<VmEvent> rest = await TakeAsync(resumed, all.Count - at - 1);
            // Each of the two histories is in its order; which of them is first is nobody's promise.
            foreach (bool apicv in new[] { false, true })
                Assert.Equal(
                    all.Skip(at + 1).Where(item => item.Type == Type.Apicv == apicv).Select(item => (item.Vm, item.Apicv)),
                    rest.Where(item => item.Type == Type.Apicv == apicv).Select(item => (item.Vm, item.Apicv)));
            again.ApicvVm = "";
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () =>
            {
                using var other = Vms.WatchVms(again);
                await other.ResponseStream.MoveNext(Soon);
            });
        }

        // The VMs are told of on when the one with APICv events is gone.
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name, Force = true });
        await Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/b" });
        await Vms.PauseVmAsync(new PauseVmRequest { Name = "projects/default/vms/b" });
        Assert.Equal(["Removed a Paused", "Added b Paused"], (await TakeAsync(watch, 2)).Select(Text));
        foreach ((string name, StatusCode code, string reason) in new[] { ("projects/other/vms/a", StatusCode.InvalidArgument, "INVALID_FIELD"), ("projects/default/vms/none", StatusCode.NotFound, "NOT_FOUND") })
            await FailsAsync(code, reason, async () =>
            {
                using var refused = Vms.WatchVms(new WatchVmsRequest { Parent = Project, ApicvVm = name });
                await refused.ResponseStream.MoveNext(Soon);
            });
    }

    [Fact]
    public async Task The_sdk_watches_over_a_restart()
    {
        await CreateAsync("a");
        string address = Server.Address;
        using var ending = new CancellationTokenSource(TimeSpan.FromMinutes(2));
        var seen = new List<string>();
        int resyncs = 0;
        using VmmConnection own = VmmConnection.Open(address);
        Task watching = Task.Run(async () =>
        {
            await foreach (VmEvent item in own.WatchVmsAsync(Project, onResync: () => Interlocked.Increment(ref resyncs), cancellation: ending.Token))
            {
                lock (seen)
                    seen.Add(Text(item));
                if (item.Vm?.Name.EndsWith("/last", StringComparison.Ordinal) == true)
                    return;
            }
        });
        await EventuallyAsync(() => Seen() == 2, "the snapshot");
        await CloseAsync();
        _listen = new Uri(address).Authority;
        await OpenAsync();
        await EventuallyAsync(() => Seen() >= 4, "the second snapshot");
        await CreateAsync("last");
        await watching;
        Assert.Equal(1, resyncs);
        Assert.Equal(["Added a Stopped", "Synced", "Added a Stopped", "Synced", "Added last Stopped"], seen);

        int Seen()
        {
            lock (seen)
                return seen.Count;
        }
    }

    private string _listen = "127.0.0.1:0";

    protected override Vmm.Server.ServerOptions Options => base.Options with { Listen = _listen };
}
