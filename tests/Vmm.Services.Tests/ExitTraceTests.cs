using Grpc.Core;
using Vmm.Client;
using Vmm.Hypervisor.Tracing;
using Vmm.V1;
using Xunit;
using ExitTraceKind = Vmm.V1.ExitTraceKind;

namespace Vmm.Services.Tests;

/// <summary>Traces of VM exits through the API, with records that the test makes.</summary>
public sealed class ExitTraceTests : ServerTest
{
    private const string Name = "projects/default/vms/one";

    private async Task<(AsyncServerStreamingCall<TraceExitsResponse> Call, FakeTrace Trace)> TraceAsync(TraceExitsRequest? request = null)
    {
        request ??= new TraceExitsRequest();
        request.Name = Name;
        AsyncServerStreamingCall<TraceExitsResponse> call = Vms.TraceExits(request);
        Assert.True(await call.ResponseStream.MoveNext(Soon));
        Assert.Equal(new TraceExitsResponse(), call.ResponseStream.Current);
        return (call, Factory.Last.Traces[^1]);
    }

    private static ExitTraceRecord Record(ulong instructions) => new() { Level = 1, Reason = 10, Instructions = instructions };

    [Fact]
    public async Task A_record_has_what_its_reason_has_and_says_what_was_lost_before()
    {
        await StartAsync("one");
        (AsyncServerStreamingCall<TraceExitsResponse> call, FakeTrace trace) = await TraceAsync();
        trace.Add(
            new ExitTraceRecord
            {
                Kind = Hypervisor.Tracing.ExitTraceKind.Exit,
                Owner = ExitTraceOwner.L1,
                Vcpu = 0,
                Level = 2,
                Instructions = 5,
                Rip = 0x1000,
                Reason = 48,
                Qualification = 0x182,
                Physical = 0xFEE0_0000,
                Linear = 0x7000,
                LostBefore = 3,
            },
            new ExitTraceRecord { Kind = Hypervisor.Tracing.ExitTraceKind.Entry, Level = 1, Reason = ExitTraceRecord.NoReason, Interruption = 0x8000_0020, Physical = 1, Linear = 1 });
        Assert.True(await call.ResponseStream.MoveNext(Soon));
        TracedExit exit = call.ResponseStream.Current.Records[0], entry = call.ResponseStream.Current.Records[1];
        Assert.Equal((ExitTraceKind.Exit, ExitOwner.L1, 2, 5UL, 0x1000UL), (exit.Kind, exit.Owner, exit.Level, exit.Instructions, exit.GuestRip));
        Assert.Equal((48U, "EPT violation", 0x182UL, 3UL), (exit.Reason, exit.ReasonName, exit.Qualification, exit.LostBefore));
        Assert.Equal("write, page not present, of the translated address", exit.Decode);
        Assert.Equal((0xFEE0_0000UL, 0x7000UL), (exit.GuestPhysicalAddress, exit.GuestLinearAddress));
        Assert.Equal((ExitTraceKind.Entry, false, false, false), (entry.Kind, entry.HasReason, entry.HasGuestPhysicalAddress, entry.HasGuestLinearAddress));
        Assert.Equal("external interrupt 0x20", entry.Decode);
    }

    [Fact]
    public async Task The_run_ends_a_trace_after_its_last_record()
    {
        await StartAsync("one");
        (AsyncServerStreamingCall<TraceExitsResponse> call, FakeTrace trace) = await TraceAsync();
        trace.LostAtEnd = 11;
        trace.Add(Record(1));
        await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        Assert.True(await call.ResponseStream.MoveNext(Soon));
        Assert.Equal(1UL, Assert.Single(call.ResponseStream.Current.Records).Instructions);
        Assert.True(await call.ResponseStream.MoveNext(Soon));
        Assert.Equal((VmEndReason.Stopped, 11UL), (call.ResponseStream.Current.RunEnded.Reason, call.ResponseStream.Current.Lost));
        Assert.False(await call.ResponseStream.MoveNext(Soon));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", async () => await TraceAsync());
    }

    [Fact]
    public async Task Filters_are_each_traces_own_and_one_that_goes_away_frees_everything()
    {
        await StartAsync("one");
        var traces = new List<(AsyncServerStreamingCall<TraceExitsResponse> Call, FakeTrace Trace)>();
        for (int i = 0; i < 15; i++)
            traces.Add(await TraceAsync());
        traces.Add(await TraceAsync(new TraceExitsRequest { Level = 2, Vcpus = { 0 }, Owner = ExitOwner.L1, Kinds = { ExitTraceKind.EntryFailure, ExitTraceKind.Exit }, Reasons = { "cpuid", "48", "preemption timer" } }));
        Assert.Equal(ExitTraceFilter.Everything, traces[0].Trace.Filter);
        Assert.Equal(
            new ExitTraceFilter { Vcpus = 1, Levels = 0b100, Owners = 0b10, Kinds = 0b1001, Reasons = UInt128.One << 10 | UInt128.One << 48 | UInt128.One << 52 },
            traces[^1].Trace.Filter);
        await FailsAsync(StatusCode.ResourceExhausted, "TOO_MANY_TRACES", async () => await TraceAsync());
        foreach ((AsyncServerStreamingCall<TraceExitsResponse> call, _) in traces)
            call.Dispose();
        await EventuallyAsync(() => Factory.Last.Traces.Count == 0, "the traces to be gone");
        await TraceAsync();
    }

    [Fact]
    public async Task A_limit_ends_the_trace()
    {
        await StartAsync("one");
        (AsyncServerStreamingCall<TraceExitsResponse> call, FakeTrace trace) = await TraceAsync(new TraceExitsRequest { Limit = 300 });
        trace.Add([.. Enumerable.Range(0, 1000).Select(n => Record((ulong)n))]);
        var seen = new List<TracedExit>();
        while (await call.ResponseStream.MoveNext(Soon))
            seen.AddRange(call.ResponseStream.Current.Records);
        Assert.Equal(Enumerable.Range(0, 300).Select(n => (ulong)n), seen.Select(record => record.Instructions));
        await EventuallyAsync(() => Factory.Last.Traces.Count == 0, "the trace to be gone");
    }

    [Theory]
    [InlineData("reasons[0]", "window")]
    [InlineData("reasons[0]", "")]
    [InlineData("reasons[0]", "35")]
    [InlineData("reasons[0]", "warp drive")]
    public async Task A_reason_that_means_none_or_several_is_refused(string field, string reason)
    {
        await StartAsync("one");
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () => await TraceAsync(new TraceExitsRequest { Reasons = { reason } }));
        Assert.Equal(field, Assert.Single(error.Fields).Subject);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", async () => await TraceAsync(new TraceExitsRequest { Vcpus = { 1 } }));
        Assert.Empty(Factory.Last.Traces);
    }
}
