using System.Diagnostics;
using System.Text;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Services.Tests.Fleet;
using Vmm.Testing;
using Vmm.Testing.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Telemetry;

/// <summary>What a fleet of processes and its client export, as a receiver sees it that is none of them.</summary>
[Collection(PostgresTests.Name)]
public sealed class FleetTelemetryTests(SharedPostgres postgres) : IAsyncLifetime
{
    private const string Printed = "the-guest-said-this";
    private const string Typed = "the-user-typed-this";
    private const string Name = "projects/default/vms/one";

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-telemetry-").FullName;
    private OtlpReceiver _receiver = null!;

    public async Task InitializeAsync() => _receiver = await OtlpReceiver.StartAsync();

    public async Task DisposeAsync()
    {
        await _receiver.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_call_is_one_trace_over_all_processes_and_no_console_or_secret_is_in_it()
    {
        string registry = await postgres.NewSchemaAsync(), tokenFile = Path.Combine(_folder, "token");
        Dictionary<string, string> environment = _receiver.Environment();
        using FleetProcess frontend = await FleetProcess.StartAsync("vmmd.dll", environment,
            "frontend", "--registry", registry, "--listen", $"unix:{_folder}/frontend", "--admin-token", tokenFile, "--verbose", "--log-format", "json");
        using FleetProcess worker = await FleetProcess.StartAsync("vmmd.dll", environment,
            "worker", "--registry", registry, "--state", $"{_folder}/state", "--listen", $"unix:{_folder}/worker", "--worker-id", "w1", "--allow-path", _folder, "--verbose", "--log-format", "json");
        string secret = (await File.ReadAllTextAsync(tokenFile)).Trim();
        environment["VMM_SERVER"] = frontend.Address;
        environment["VMM_TOKEN"] = secret;
        using VmmConnection connection = frontend.Connect(new VmmCredentials { Token = secret });
        string kernel = Path.Combine(_folder, "nested"), talker = Path.Combine(_folder, "talker");
        await File.WriteAllBytesAsync(kernel, NestedGuest.Image());
        await File.WriteAllBytesAsync(talker, Talker());

        await ControlAsync(environment, "vm", "create", "one", "--kernel", $"server:{kernel}", "--memory", "64", "--start");
        await UntilAsync(async () => (await connection.Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = Name })).Level == 2, "L2");
        await ControlAsync(environment, "apicv", "inhibit", "one", "hyperv");
        await connection.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = Name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await UntilAsync(() => Task.FromResult(_receiver.Spans.Any(span => span.Name == "apicv.update" && span.Events.Contains("l2.exit"))), "the update");
        // It spins, and has done what it is here for.
        await connection.Vms.PauseVmAsync(new PauseVmRequest { Name = Name });

        // What a guest says and hears goes through all of it, and is in none of it.
        await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = "projects/default", VmId = "talker", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = talker } } } });
        using AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = connection.Vms.Console();
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = "projects/default/vms/talker", Write = true } });
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/talker" });
        await console.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFromUtf8(Typed) });
        string seen = "";
        while (!seen.Contains(Printed, StringComparison.Ordinal))
        {
            Assert.True(await console.ResponseStream.MoveNext(new CancellationTokenSource(TimeSpan.FromMinutes(5)).Token));
            seen += console.ResponseStream.Current.Output?.Data.ToStringUtf8();
        }

        // The worker says that it pulled the plug, in the trace of the call that had it do so.
        await ControlAsync(environment, "vm", "stop", "talker", "--grace", "0.1");
        await UntilAsync(() => Task.FromResult(_receiver.Logs.Any(log => log.Service == "vmm-worker" && log.TraceId.Length > 0)), "a log record in a trace");
        await UntilAsync(() => Task.FromResult(_receiver.Spans.Any(span => span is { Service: "vmmctl", Name: "vmm.v1.VmService/StopVm" }) && _receiver.Spans.Any(span => span is { Name: "boot.silent" })), "the last spans");
        await UntilAsync(() => Task.FromResult(_receiver.Metrics.ContainsKey(("vmm-worker", "vmm.worker.vms")) && _receiver.Metrics.ContainsKey(("vmm-frontend", "rpc.server.call.duration"))), "metrics of both");
        string stop = Assert.Single(_receiver.Spans, span => span is { Service: "vmmctl", Name: "vmm.v1.VmService/StopVm" }).TraceId;
        Assert.Contains(_receiver.Logs, log => log.Service == "vmm-worker" && log.TraceId == stop && log.Body.Contains("did not power off", StringComparison.Ordinal));
        Assert.Contains(worker.Output.Split('\n'), line => line.Contains("did not power off", StringComparison.Ordinal) && line.Contains(stop, StringComparison.Ordinal));

        // Both processes have sent all when they have ended.
        await console.RequestStream.CompleteAsync();
        Assert.Equal((0, 0), (await worker.TerminateAsync(), await frontend.TerminateAsync()));
        OtlpSpan update = _receiver.Spans.First(span => span.Name == "apicv.update" && span.Events.Contains("l2.exit"));
        Assert.Equal(["vmm-worker", "vmm-frontend", "vmmctl"], AncestorsOf(update).Select(span => span.Service).Distinct(StringComparer.Ordinal));
        Assert.Equal(("vmm.v1.VmService/SetApicvInhibit", ""), (AncestorsOf(update).Last().Name, AncestorsOf(update).Last().ParentId));
        Assert.Equal((Name, "hyper_v", "deferred"), (update.Attributes["vmm.vm.name"], update.Attributes["vmm.apicv.reason"], update.Attributes["vmm.result"]));
        foreach ((string name, string service) in (ReadOnlySpan<(string, string)>)[("placement", "vmm-frontend"), ("placement.queue", "vmm-frontend"), ("boot.load", "vmm-worker"), ("boot.queue", "vmm-worker"), ("boot.silent", "vmm-worker")])
        {
            OtlpSpan span = _receiver.Spans.First(each => each.Name == name);
            Assert.Equal((service, "vmmctl"), (span.Service, AncestorsOf(span).Last().Service));
        }

        Assert.All(_receiver.Spans.Where(span => span.ParentId.Length > 0 && span.Service != "vmmctl"), span => Assert.Contains(_receiver.Spans, parent => parent.Id == span.ParentId && parent.TraceId == span.TraceId));
        Assert.Equal("w1", _receiver.Resources["vmm-worker"]["service.instance.id"]);
        Assert.All(_receiver.Resources.Values, resource => Assert.Equal(("vmm", "opentelemetry"), (resource["service.namespace"], resource["telemetry.sdk.name"])));
        string[] everything = [.. _receiver.Raw, frontend.Output, worker.Output];
        Assert.All(everything, text => Assert.DoesNotContain(secret, text, StringComparison.Ordinal));
        Assert.All(everything, text => Assert.DoesNotContain(Printed, text, StringComparison.Ordinal));
        Assert.All(everything, text => Assert.DoesNotContain(Typed, text, StringComparison.Ordinal));
    }

    [Fact]
    public async Task A_vm_under_full_trace_is_recorded_whatever_the_sampler_says_until_that_ends()
    {
        Dictionary<string, string> environment = _receiver.Environment();
        environment["OTEL_TRACES_SAMPLER"] = "parentbased_always_off";
        string kernel = Path.Combine(_folder, "nested"), talker = Path.Combine(_folder, "talker");
        await File.WriteAllBytesAsync(kernel, NestedGuest.Image());
        await File.WriteAllBytesAsync(talker, Talker());
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}", environment);
        using (daemon)
        using (connection)
        {
            foreach ((string id, string kernelOf) in ((string, string)[])[("one", kernel), ("two", talker)])
                await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = "projects/default", VmId = id, Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernelOf } } } });
            TraceVmResponse traced = await connection.Vms.TraceVmAsync(new TraceVmRequest { Name = Name });
            Assert.True(traced.EndTime.ToDateTime() > DateTime.UtcNow);
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = Name });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/two" });
            await UntilAsync(() => Task.FromResult(_receiver.Spans.Any(span => span.Name == "vm.exits") && _receiver.Spans.Any(span => span.Name == "boot.silent")), "exits and calls");
            OtlpSpan exits = _receiver.Spans.First(span => span.Name == "vm.exits");
            Assert.InRange(exits.Events.Count, 1, 100);
            Assert.Equal(Name, exits.Attributes["vmm.vm.name"]);
            OtlpSpan boot = Assert.Single(_receiver.Spans, span => span.Name == "boot.load");
            Assert.Equal((Name, 1), (boot.Attributes["vmm.vm.name"], AncestorsOf(boot).Skip(1).Count()));

            // Ended, it is as any other VM.
            Assert.Null((await connection.Vms.TraceVmAsync(new TraceVmRequest { Name = Name, Duration = new() })).EndTime);
            await UntilAsync(() => Task.FromResult(_receiver.Spans.Any(span => span.Name == "vm.trace")), "the end");
            await connection.Vms.PauseVmAsync(new PauseVmRequest { Name = Name });
            await connection.Vms.StopVmAsync(new StopVmRequest { Name = Name, Force = true });
            Assert.Equal(0, await daemon.TerminateAsync());
            Assert.DoesNotContain(_receiver.Spans, span => span.Name.Contains("PauseVm", StringComparison.Ordinal) || span.Attributes.Values.Any(value => value.Contains("PauseVm", StringComparison.Ordinal)));
            Assert.DoesNotContain(_receiver.Spans, span => span.Attributes.GetValueOrDefault("vmm.vm.name") == "projects/default/vms/two");
        }
    }

    [RequiresPackageFact("postgresql")]
    public async Task A_front_end_records_calls_about_a_vm_that_its_worker_has_under_full_trace()
    {
        string registry = await postgres.NewSchemaAsync();
        Dictionary<string, string> environment = _receiver.Environment();
        environment["OTEL_TRACES_SAMPLER"] = "parentbased_always_off";
        using FleetProcess frontend = await FleetProcess.StartAsync("vmmd.dll", environment, "frontend", "--registry", registry, "--listen", $"unix:{_folder}/frontend");
        using FleetProcess worker = await FleetProcess.StartAsync("vmmd.dll", environment,
            "worker", "--registry", registry, "--state", $"{_folder}/state", "--listen", $"unix:{_folder}/worker", "--worker-id", "w1", "--allow-path", _folder);
        using VmmConnection connection = frontend.Connect();
        string kernel = Path.Combine(_folder, "talker");
        await File.WriteAllBytesAsync(kernel, Talker());
        foreach (string id in (string[])["one", "two"])
            await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = "projects/default", VmId = id, Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } });
        await connection.Vms.TraceVmAsync(new TraceVmRequest { Name = Name });
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = Name });
        // One that fails, too.
        await Assert.ThrowsAsync<RpcException>(async () => await connection.Vms.StartVmAsync(new StartVmRequest { Name = Name }));
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/two" });
        await connection.Vms.TraceVmAsync(new TraceVmRequest { Name = Name, Duration = new() });
        await connection.Vms.GetVmAsync(new GetVmRequest { Name = Name });
        Assert.Equal((0, 0), (await worker.TerminateAsync(), await frontend.TerminateAsync()));

        OtlpSpan[] served = [.. _receiver.Spans.Where(span => span.Source == "Microsoft.AspNetCore")];
        string[] traced = ["TraceVm", "StartVm", "StartVm", "TraceVm"];
        Assert.Equal(traced.Length, served.Count(span => span.Service == "vmm-worker"));
        Assert.Equal(traced.Length, served.Count(span => span.Service == "vmm-frontend"));
        // In the same traces. (What is between the two, the call as the front end makes it, has ended before the answer.)
        Assert.All(served.GroupBy(span => span.TraceId), trace => Assert.Equal(["vmm-frontend", "vmm-worker"], trace.Select(span => span.Service).Order()));
        OtlpSpan boot = Assert.Single(_receiver.Spans, span => span.Name == "boot.load");
        Assert.Contains(served, span => span.TraceId == boot.TraceId && span.Service == "vmm-frontend");
        Assert.DoesNotContain(_receiver.Spans, span => span.Attributes.GetValueOrDefault("vmm.vm.name") == "projects/default/vms/two");
    }

    [Fact]
    public async Task A_receiver_that_never_answers_holds_up_no_vm_and_takes_no_memory()
    {
        await using OtlpReceiver silent = await OtlpReceiver.StartAsync(holds: true);
        Dictionary<string, string> environment = silent.Environment();
        environment["DOTNET_GCHeapHardLimit"] = "0x1C00000";
        string kernel = Path.Combine(_folder, "nested");
        await File.WriteAllBytesAsync(kernel, NestedGuest.Image());
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}", environment);
        using (daemon)
        using (connection)
        {
            await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = "projects/default", VmId = "one", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = Name });
            // It spins: while the calls are made they have the processors to themselves.
            ulong before = (await connection.Vms.PauseVmAsync(new PauseVmRequest { Name = Name })).Status.InstructionsRetired;
            await Parallel.ForAsync(0, 30_000, new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (_, token) => await connection.Vms.ListVmsAsync(new ListVmsRequest { Parent = "projects/default" }, cancellationToken: token));
            await connection.Vms.ResumeVmAsync(new ResumeVmRequest { Name = Name });
            await UntilAsync(async () => (await connection.Vms.GetVmAsync(new GetVmRequest { Name = Name })).Status.InstructionsRetired > before, "the guest's next instruction");
            Assert.Equal(0, await daemon.TerminateAsync());
        }
    }

    /// <summary>A Multiboot kernel that says something on COM1 and waits for ever.</summary>
    private static byte[] Talker()
    {
        List<byte> code = [0x66, 0xBA, 0xF8, 0x03];
        foreach (byte letter in Encoding.ASCII.GetBytes(Printed))
            code.AddRange([0xB0, letter, 0xEE]);
        code.AddRange([0xF4, 0xEB, 0xFD]);
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
        return [.. header.SelectMany(BitConverter.GetBytes), .. code];
    }

    private IEnumerable<OtlpSpan> AncestorsOf(OtlpSpan span)
    {
        for (OtlpSpan? next = span; next is not null; next = _receiver.Spans.FirstOrDefault(parent => parent.Id == next!.ParentId && parent.TraceId == next.TraceId))
            yield return next;
    }

    private static async Task ControlAsync(IReadOnlyDictionary<string, string> environment, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "vmmctl.dll"), .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach ((string name, string value) in environment)
            start.Environment[name] = value;
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync().WaitAsync(TimeSpan.FromMinutes(5));
        Assert.True(process.ExitCode == 0, $"vmmctl {string.Join(' ', arguments)}: {await output} {await errors}");
    }

    private static async Task UntilAsync(Func<Task<bool>> condition, string what)
    {
        for (int i = 0; i < 12_000; i++)
        {
            if (await condition())
                return;
            await Task.Delay(25);
        }

        Assert.Fail($"{what} did not come about");
    }
}
