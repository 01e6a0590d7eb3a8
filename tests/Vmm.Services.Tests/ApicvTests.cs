using Grpc.Core;
using Vmm.Hypervisor.Apicv;
using Vmm.V1;
using Xunit;
using ApicvEvent = Vmm.V1.ApicvEvent;
using ApicvPolicy = Vmm.V1.ApicvPolicy;
using ApicvUpdateState = Vmm.V1.ApicvUpdateState;

namespace Vmm.Services.Tests;

/// <summary>APICv through the API, with an L0 that does what the test tells it.</summary>
public sealed class ApicvTests : ServerTest
{
    private const string Name = "projects/default/vms/one";

    private static SetApicvInhibitRequest Set(ApicvInhibitReason reason, bool wait = false, string id = "") => new() { Name = Name, Reason = reason, Wait = wait, RequestId = id };

    private static ClearApicvInhibitRequest Clear(ApicvInhibitReason reason, bool wait = false) => new() { Name = Name, Reason = reason, Wait = wait };

    private VmSpec TwoCpus()
    {
        VmSpec spec = Spec();
        spec.Cpus = 2;
        return spec;
    }

    [Fact]
    public async Task A_change_says_of_every_vcpu_whether_it_was_applied_or_deferred()
    {
        await StartAsync(spec: TwoCpus());
        Factory.Last.EnterL2(1);
        ApicvChange change = await Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Blockirq));
        Assert.Equal([ApicvInhibitReason.Blockirq], change.Reasons);
        Assert.Equal((1UL, 1L), (change.Generation, change.Run));
        Assert.Equal([(0, ApicvUpdateState.Applied, 1UL), (1, ApicvUpdateState.Deferred, 0UL)], change.Vcpus.Select(vcpu => (vcpu.Vcpu, vcpu.State, vcpu.AppliedGeneration)));

        Apicv now = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.Equal((ApicvPolicy.Deferred, 1UL), (now.Policy, now.Generation));
        Assert.Equal([(false, ApicvUpdateState.Applied), (true, ApicvUpdateState.Deferred)], now.Vcpus.Select(vcpu => (vcpu.GuestMode, vcpu.State)));
        VmcsFieldValue controls = Assert.Single(now.Vcpus[0].Vmcs01);
        Assert.Equal((0x4002U, 32, 1UL << 21), (controls.Encoding, controls.Bits, controls.Value));
        Assert.Equal(["Use TPR shadow"], controls.Decode);

        Factory.Last.LeaveL2(1);
        change = await Vms.ClearApicvInhibitAsync(Clear(ApicvInhibitReason.Blockirq));
        Assert.Empty(change.Reasons);
        Assert.All(change.Vcpus, vcpu => Assert.Equal((ApicvUpdateState.Applied, 2UL), (vcpu.State, vcpu.AppliedGeneration)));
        Assert.Equal(["set BlockIrq", "clear BlockIrq"], Factory.Last.ApicvChanges);
    }

    [Fact]
    public async Task A_wait_ends_when_every_vcpu_has_applied_it_and_holds_nobody_up()
    {
        await StartAsync(spec: TwoCpus());
        Factory.Last.EnterL2(0);
        Factory.Last.EnterL2(1);
        Task<ApicvChange> waiting = Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Hyperv, wait: true)).ResponseAsync;
        await EventuallyAsync(() => Factory.Last.ApicvChanges.Count == 1, "the change");
        Factory.Last.LeaveL2(0);
        Assert.Equal(VmState.Paused, (await Vms.PauseVmAsync(new PauseVmRequest { Name = Name })).Status.State);
        // A later change is not waited for.
        Factory.Last.LeaveL2(1);
        Factory.Last.EnterL2(1);
        await Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Blockirq));
        ApicvChange change = await waiting;
        Assert.Equal(1UL, change.Generation);
        Assert.All(change.Vcpus, vcpu => Assert.Equal(ApicvUpdateState.Applied, vcpu.State));
    }

    [Fact]
    public async Task A_wait_ends_with_its_deadline_and_with_the_run_and_the_change_stays()
    {
        await StartAsync();
        Factory.Last.EnterL2(0);
        RpcException late = await Assert.ThrowsAsync<RpcException>(async () =>
            await Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Hyperv, wait: true), deadline: DateTime.UtcNow.AddSeconds(2)));
        Assert.Equal(StatusCode.DeadlineExceeded, late.StatusCode);
        await EventuallyAsync(() => Factory.Last.ApicvChanges.Count == 1, "the change");
        Assert.Equal([ApicvInhibitReason.Hyperv], (await Vms.GetApicvAsync(new GetApicvRequest { Name = Name })).Reasons);
        Task waiting = FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.ClearApicvInhibitAsync(Clear(ApicvInhibitReason.Hyperv, wait: true)));
        await EventuallyAsync(() => Factory.Last.ApicvChanges.Count == 2, "the change");
        await Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
        await waiting;
    }

    [Fact]
    public async Task A_change_is_made_once_per_request_id_and_a_wait_does_not_outlive_its_run()
    {
        await StartAsync();
        SetApicvInhibitRequest request = Set(ApicvInhibitReason.Blockirq, wait: true, id: "once");
        ApicvChange first = await Vms.SetApicvInhibitAsync(request);
        await Vms.ClearApicvInhibitAsync(Clear(ApicvInhibitReason.Blockirq));
        Assert.Equal(first.Generation, (await Vms.SetApicvInhibitAsync(request)).Generation);
        Assert.Equal(["set BlockIrq", "clear BlockIrq"], Factory.Last.ApicvChanges);
        await Vms.StopVmAsync(new StopVmRequest { Name = Name });
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        await FailsAsync(StatusCode.FailedPrecondition, "RUN_ENDED", Vms.SetApicvInhibitAsync(request));
        Assert.Empty(Factory.Last.ApicvChanges);
    }

    [Theory]
    [InlineData(ApicvInhibitReason.Absent, StatusCode.FailedPrecondition, "APICV_INHIBIT_FIXED")]
    [InlineData(ApicvInhibitReason.Disable, StatusCode.FailedPrecondition, "APICV_INHIBIT_FIXED")]
    [InlineData(ApicvInhibitReason.Unspecified, StatusCode.InvalidArgument, "INVALID_FIELD")]
    [InlineData(ApicvInhibitReason.ApicIdModified, StatusCode.InvalidArgument, "INVALID_FIELD")]
    [InlineData(ApicvInhibitReason.ApicBaseModified, StatusCode.InvalidArgument, "INVALID_FIELD")]
    [InlineData((ApicvInhibitReason)9, StatusCode.InvalidArgument, "INVALID_FIELD")]
    public async Task Reasons_that_are_not_the_callers_to_change_are_refused(ApicvInhibitReason reason, StatusCode code, string why)
    {
        await StartAsync();
        await FailsAsync(code, why, Vms.SetApicvInhibitAsync(Set(reason)));
        await FailsAsync(code, why, Vms.ClearApicvInhibitAsync(Clear(reason)));
        Assert.Empty(Factory.Last.ApicvChanges);
    }

    [Fact]
    public async Task A_stopped_vm_has_no_apicv()
    {
        await CreateAsync();
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Hyperv)));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.GetApicvAsync(new GetApicvRequest { Name = Name }));
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.GetApicvAsync(new GetApicvRequest { Name = "projects/default/vms/none" }));
    }

    [Fact]
    public async Task Policy_fixed_inhibits_and_early_check_come_from_the_spec()
    {
        VmSpec spec = Spec();
        spec.Apicv = new ApicvSpec { Policy = ApicvPolicy.UnsafeImmediate, FixedInhibits = { ApicvInhibitReason.Disable } };
        spec.Nested = new NestedSpec { EarlyCheck = true, EnlightenedVmcs = true };
        Vm vm = await StartAsync(spec: spec);
        Assert.Equal(spec.Apicv, vm.Spec.Apicv);
        Assert.Equal(new ApicvOptions(ApicvInhibit.Disable, Hypervisor.Apicv.ApicvPolicy.UnsafeImmediate), Factory.Last.Spec.Apicv);
        Assert.True(Factory.Last.Spec.NestedEarlyCheck);
        Assert.True(Factory.Last.Spec.EnlightenedVmcs);
        Apicv apicv = await Vms.GetApicvAsync(new GetApicvRequest { Name = Name });
        Assert.Equal((ApicvPolicy.UnsafeImmediate, ApicvInhibitReason.Disable), (apicv.Policy, Assert.Single(apicv.Reasons)));

        Vm plain = await CreateAsync("plain");
        Assert.Equal(new ApicvSpec { Policy = ApicvPolicy.Deferred }, plain.Spec.Apicv);
        Assert.False(plain.Spec.Nested.EarlyCheck);
    }

    [Fact]
    public async Task The_engine_comes_from_the_spec_and_compiles_what_runs_often_where_none_is_named()
    {
        VmSpec spec = Spec();
        spec.Engine = ExecutionEngine.Interpreter;
        Vm vm = await StartAsync(spec: spec);
        Assert.Equal(ExecutionEngine.Interpreter, vm.Spec.Engine);
        Assert.Equal(Vmm.Machine.ExecutionEngine.Interpreter, Factory.Last.Spec.Engine);
        Assert.Equal(ExecutionEngine.Auto, (await CreateAsync("plain")).Spec.Engine);
        spec.Engine = (ExecutionEngine)4;
        Vmm.Client.VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(Creation("bad", spec)));
        Assert.Equal("vm.spec.engine", Assert.Single(error.Fields).Subject);
    }

    [Fact]
    public async Task Lockstep_takes_the_virtual_clock_and_disks_that_are_read_only_and_its_report_is_kept()
    {
        VmSpec spec = Spec();
        spec.Engine = ExecutionEngine.Lockstep;
        spec.Disks.Add(new Disk { Source = spec.Kernel.Clone() });
        Vmm.Client.VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(Creation("bad", spec)));
        Assert.Equal(["vm.spec.clock", "vm.spec.disks[0].read_only"], error.Fields.Select(field => field.Subject).Order());
        spec.Clock = Clock.Virtual;
        spec.Disks[0].ReadOnly = true;
        Vm vm = await StartAsync(spec: spec);
        Assert.Equal(Vmm.Machine.ExecutionEngine.Lockstep, Factory.Last.Spec.Engine);
        Assert.Null((await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.CompiledCode);
        Factory.Last.Translation = new(Installed: 3, Discarded: 1, Instructions: 40, Size: 5_000, TimeSpan.FromMilliseconds(7), Limit: 90_000);
        var code = new CompiledCode { RegionCount = 3, DiscardedRegionCount = 1, InstructionCount = 40, SizeBytes = 5_000, LimitBytes = 90_000, CompileTime = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMilliseconds(7)) };
        Assert.Equal(code, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.CompiledCode);
        Factory.Last.Finish(Vmm.Machine.MachineEndReason.Failed, 125, "They differ.", "line 1\nline 2");
        await EventuallyAsync(() => Vms.GetVm(new GetVmRequest { Name = vm.Name }).Status.State == VmState.Stopped, "the stop");
        VmStatus status = (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status;
        Assert.Equal(code, status.CompiledCode);
        VmEnd end = status.End;
        Assert.Equal((VmEndReason.Failed, "They differ.", "line 1\nline 2"), (end.Reason, end.Detail, end.Report));
    }

    [Fact]
    public async Task What_could_not_be_compiled_is_in_the_status_and_once_in_the_log()
    {
        // A server's log goes where the process's errors went when it began.
        var log = new StringWriter();
        TextWriter errors = Console.Error;
        await CloseAsync();
        Console.SetError(TextWriter.Synchronized(log));
        try
        {
            await OpenAsync();
        }
        finally
        {
            Console.SetError(errors);
        }

        VmSpec spec = Spec();
        spec.Engine = ExecutionEngine.Auto;
        Vm vm = await StartAsync("one", spec);
        var failure = new InvalidOperationException("Too many locals.");
        Factory.Last.Translation = new(3, 1, 40, 5_000, TimeSpan.Zero, 90_000) { Failed = 2, LastFailure = failure };
        for (int k = 0; k < 3; k++)
            Factory.Last.FailToCompile(failure);
        CompiledCode code = (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.CompiledCode;
        Assert.Equal((2, "InvalidOperationException: Too many locals."), (code.FailedRegionCount, code.LastFailure));
        Vm next = await StartAsync("two", spec);
        Factory.Last.FailToCompile(failure);
        await EventuallyAsync(() => Warnings(next.Name) == 1, "the second VM's warning");
        Assert.Equal(1, Warnings(vm.Name));

        int Warnings(string name) => log.ToString().Split('\n').Count(line => line.Contains(name + ": code could not be compiled", StringComparison.Ordinal)
            && line.Contains("InvalidOperationException: Too many locals.", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Vmx_capability_msrs_come_from_the_spec_and_cannot_claim_more_than_there_is()
    {
        const uint misc = 0x485, secondary = 0x48B;
        VmSpec spec = Spec();
        // Secondary controls: EPT alone.
        spec.Nested = new NestedSpec { VmxCapabilityMsrs = { [secondary] = 2UL << 32 } };
        Vm vm = await StartAsync(spec: spec);
        Assert.Equal(spec.Nested, vm.Spec.Nested);
        Assert.Equal(2UL << 32, Factory.Last.Spec.VmxCapabilityMsrs[secondary]);
        foreach ((uint msr, ulong value) in new[] { (secondary, ulong.MaxValue), (misc, 0UL), (0x10u, 0UL), (0x481u, 0UL) })
        {
            spec.Nested = new NestedSpec { VmxCapabilityMsrs = { [msr] = value } };
            Vmm.Client.VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(Creation("bad", spec)));
            Assert.Contains($"MSR {msr:x}", Assert.Single(error.Fields).Description, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("vm.spec.apicv.policy", 4)]
    [InlineData("vm.spec.apicv.fixed_inhibits[0]", 0, ApicvInhibitReason.Hyperv)]
    [InlineData("vm.spec.apicv.fixed_inhibits[0]", 0, ApicvInhibitReason.Unspecified)]
    [InlineData("vm.spec.apicv.fixed_inhibits[1]", 0, ApicvInhibitReason.Absent, ApicvInhibitReason.Absent)]
    [InlineData("vm.spec.apicv.fixed_inhibits[2]", 0, ApicvInhibitReason.Absent, ApicvInhibitReason.Disable, ApicvInhibitReason.Absent)]
    public async Task A_spec_that_fixes_the_wrong_thing_is_refused(string field, int policy, params ApicvInhibitReason[] reasons)
    {
        VmSpec spec = Spec();
        spec.Apicv = new ApicvSpec { Policy = (ApicvPolicy)policy, FixedInhibits = { reasons } };
        Vmm.Client.VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(Creation("bad", spec)));
        Assert.Contains(error.Fields, violation => violation.Subject == field);
    }

    [Fact]
    public async Task A_watch_tells_every_event_once_wherever_it_is_resumed_and_ends_with_the_vm()
    {
        await CreateAsync(spec: TwoCpus());
        using var watch = Vms.WatchApicv(new WatchApicvRequest { Name = Name });
        List<ApicvEvent> all = await TakeAsync(watch, 1);
        Assert.Equal(ApicvEvent.Types.Type.Synced, all[0].Type);
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        Factory.Last.EnterL2(1);
        await Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Hyperv));
        Factory.Last.LeaveL2(1);
        await Vms.ClearApicvInhibitAsync(Clear(ApicvInhibitReason.Hyperv));
        all.AddRange(await TakeAsync(watch, 7));
        Assert.Equal(
            ["InhibitSet -1 1 42", "UpdateApplied 0 1 8", "UpdateDeferred 1 1 7", "UpdateApplied 1 1 8", "InhibitCleared -1 2 42", "UpdateApplied 0 2 8", "UpdateApplied 1 2 8"],
            all.Skip(1).Select(item => $"{item.Type} {item.Vcpu} {item.Generation} {item.Instructions}"));
        Assert.Equal([ApicvInhibitReason.Hyperv], all[1].Changed);
        for (int at = 0; at < all.Count - 1; at++)
        {
            using var resumed = Vms.WatchApicv(new WatchApicvRequest { Name = Name, ResumeToken = all[at].ResumeToken });
            Assert.Equal(all[(at + 1)..], await TakeAsync(resumed, all.Count - at - 1));
        }

        await Vms.StopVmAsync(new StopVmRequest { Name = Name });
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        await Vms.SetApicvInhibitAsync(Set(ApicvInhibitReason.Hyperv));
        Assert.All(await TakeAsync(watch, 3), item => Assert.Equal(2, item.Run));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = Name, Force = true });
        Assert.False(await watch.ResponseStream.MoveNext(Soon));
    }

    [Fact]
    public async Task A_token_that_is_too_old_or_of_another_watch_is_refused()
    {
        await StartAsync();
        using var watch = Vms.WatchApicv(new WatchApicvRequest { Name = Name });
        string first = (await TakeAsync(watch, 1))[0].ResumeToken;
        for (int i = 0; i < 5000; i++)
            Factory.Last.RaiseApicv(new Hypervisor.Apicv.ApicvEvent(ApicvEventKind.InhibitSet, -1, ApicvInhibit.ApicBaseModified, ApicvInhibit.ApicBaseModified, (ulong)i, false, 1));
        await RefusedAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", first);
        await StartAsync("two");
        using var other = Vms.WatchApicv(new WatchApicvRequest { Name = "projects/default/vms/two" });
        await RefusedAsync(StatusCode.OutOfRange, "RESUME_TOKEN_EXPIRED", (await TakeAsync(other, 1))[0].ResumeToken);
        await RefusedAsync(StatusCode.InvalidArgument, "INVALID_FIELD", "nonsense");
        await RefusedAsync(StatusCode.InvalidArgument, "INVALID_FIELD", $"{first}x");

        Task RefusedAsync(StatusCode code, string reason, string token) => FailsAsync(code, reason, async () =>
        {
            using var call = Vms.WatchApicv(new WatchApicvRequest { Name = Name, ResumeToken = token });
            await call.ResponseStream.MoveNext(Soon);
        });
    }

    private static async Task<List<ApicvEvent>> TakeAsync(AsyncServerStreamingCall<ApicvEvent> call, int count)
    {
        var events = new List<ApicvEvent>();
        while (events.Count < count && await call.ResponseStream.MoveNext(Soon))
            events.Add(call.ResponseStream.Current);
        Assert.Equal(count, events.Count);
        return events;
    }
}
