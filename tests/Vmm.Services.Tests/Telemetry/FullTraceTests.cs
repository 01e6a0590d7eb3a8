using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Hypervisor.Tracing;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>VMs under full trace, by a clock that goes on when the test says so, where a sampler wants nothing recorded.</summary>
[Collection(AloneInTheProcess.Name)]
public sealed class FullTraceTests : ServerTest
{
    private const string Name = $"{Project}/vms/one";
    private static readonly TimeSpan Second = TimeSpan.FromSeconds(1);

    private readonly SpanRecorder _spans = new(drops: true);
    private int _timers;

    public override async Task DisposeAsync()
    {
        await base.DisposeAsync();
        _spans.Dispose();
    }

    [Fact]
    public async Task It_ends_by_itself_after_its_time()
    {
        FakeMachine machine = await BeginAsync(seconds: 5);
        Assert.Equal(Time.GetUtcNow().AddSeconds(5), (await EndTimeAsync(5))!.ToDateTimeOffset());
        for (int second = 0; second < 4; second++)
            await PassAsync();
        Assert.Empty(_spans.Of("vm.trace"));
        Assert.True(await IsRecordedAsync());
        await PassAsync(isLast: true);
        await EventuallyAsync(() => _spans.Of("vm.trace").Any() && machine.Traces.Count == 0, "the end");
        Assert.Equal(Name, _spans.Of("vm.trace").Single().GetTagItem("vmm.vm.name"));
        Assert.False(await IsRecordedAsync());

        // It can begin again.
        Assert.NotNull(await EndTimeAsync(5));
        Assert.Single(machine.Traces);
        Assert.True(await IsRecordedAsync());
    }

    [Fact]
    public async Task Asked_for_again_it_ends_so_long_after_that()
    {
        FakeMachine machine = await BeginAsync(seconds: 3);
        await PassAsync();
        await PassAsync();
        Assert.Equal(Time.GetUtcNow().AddSeconds(3), (await EndTimeAsync(3))!.ToDateTimeOffset());
        await PassAsync();
        await PassAsync();
        Assert.Single(machine.Traces);
        Assert.True(await IsRecordedAsync());
        await PassAsync(isLast: true);
        await EventuallyAsync(() => _spans.Of("vm.trace").Any(), "the end");
        Assert.False(await IsRecordedAsync());
    }

    [Fact]
    public async Task Exits_of_a_second_are_events_of_one_span()
    {
        FakeMachine machine = await BeginAsync(seconds: 60);
        machine.Traces.Single().Add(Record(vcpu: 0, level: 1, lost: 0), Record(vcpu: 1, level: 2, lost: 7));
        await PassAsync();
        await EventuallyAsync(() => _spans.Of("vm.exits").Any(), "the second's exits");
        Activity exits = _spans.Of("vm.exits").Single();
        Assert.Equal((Name, 7L, 1.0), (exits.GetTagItem("vmm.vm.name"), exits.GetTagItem("vmm.exits.unrecorded"), exits.GetTagItem("vmm.seconds")));
        Assert.Equal(["0 l1 vmcall", "1 l2 vmcall"], exits.Events.Select(item => item.Tags.ToDictionary()).Select(tags => $"{tags["vmm.vcpu"]} {tags["vmm.level"]} {tags["vmm.exit.reason"]}"));
        // A second without exits has no span.
        await PassAsync();
        Assert.Single(_spans.Of("vm.exits"));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name, Force = true });
        await EventuallyAsync(() => _spans.Of("vm.trace").Any(), "the end, with the VM");
    }

    private static ExitTraceRecord Record(int vcpu, int level, ulong lost) => new()
    {
        Kind = Hypervisor.Tracing.ExitTraceKind.Exit,
        Vcpu = (byte)vcpu,
        Level = (byte)level,
        Owner = ExitTraceOwner.L0,
        Reason = (uint)Vmm.Processor.Vmx.ExitReason.Vmcall,
        LostBefore = lost,
    };

    private async Task<FakeMachine> BeginAsync(int seconds)
    {
        await StartAsync();
        Assert.False(await IsRecordedAsync());
        _timers = Time.WaitingFor(Second);
        await EndTimeAsync(seconds);
        await EventuallyAsync(() => Time.WaitingFor(Second) > _timers, "the first second begins");
        return Factory.Last;
    }

    private async Task<Timestamp?> EndTimeAsync(int seconds) =>
        (await Vms.TraceVmAsync(new TraceVmRequest { Name = Name, Duration = Duration.FromTimeSpan(TimeSpan.FromSeconds(seconds)) })).EndTime;

    /// <summary>A second passes, and the next one has begun unless it was the last.</summary>
    private async Task PassAsync(bool isLast = false)
    {
        Time.Advance(Second);
        if (!isLast)
            await EventuallyAsync(() => Time.WaitingFor(Second) > _timers, "the next second begins");
    }

    /// <summary>Whether a call about the VM is recorded.</summary>
    private async Task<bool> IsRecordedAsync()
    {
        await Vms.GetVmAsync(new GetVmRequest { Name = Name });
        ActivityTraceId trace = _spans.Made.Last(span => span.OperationName == "vmm.v1.VmService/GetVm").TraceId;
        // The answer is ahead of the span's end.
        await EventuallyAsync(() => Served().Any(), "the span's end");
        return Served().Single().Recorded;

        IEnumerable<Activity> Served() => _spans.Made.Where(span => span.TraceId == trace && span.Source.Name == "Microsoft.AspNetCore");
    }
}
