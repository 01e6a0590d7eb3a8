using System.Buffers.Binary;
using System.Net;
using System.Net.Http.Headers;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Client;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class ValidationTests : ServerTest
{
    public static TheoryData<string, Action<CreateVmRequest>> Spoiled() => new()
    {
        { "parent", request => request.Parent = "projects/Not_an_id" },
        { "vm_id", request => request.VmId = "Upper" },
        { "vm_id", request => request.VmId = "../escape" },
        { "vm_id", request => request.VmId = new string('a', 64) },
        { "vm_id", request => request.VmId = "ends-" },
        { "request_id", request => request.RequestId = "with space" },
        { "request_id", request => request.RequestId = new string('a', 65) },
        { "vm", request => request.Vm = null },
        { "vm.spec", request => request.Vm.Spec = null },
        { "vm.labels", request => request.Vm.Labels.Add("Bad", "x") },
        { "vm.labels", request => request.Vm.Labels.Add("good", "b@d") },
        { "vm.labels", request => Enumerable.Range(0, 65).ToList().ForEach(i => request.Vm.Labels.Add($"l{i}", "")) },
        { "vm.spec.memory_mib", request => request.Vm.Spec.MemoryMib = 0 },
        { "vm.spec.memory_mib", request => request.Vm.Spec.MemoryMib = -1 },
        { "vm.spec.memory_mib", request => request.Vm.Spec.MemoryMib = 4097 },
        { "vm.spec.memory_mib", request => request.Vm.Spec.MemoryMib = long.MaxValue },
        { "vm.spec.cpus", request => request.Vm.Spec.Cpus = 17 },
        { "vm.spec.cpus", request => request.Vm.Spec.Cpus = -1 },
        { "vm.spec.max_cpus", request => request.Vm.Spec.MaxCpus = 17 },
        { "vm.spec.max_cpus", request => request.Vm.Spec.MaxCpus = -1 },
        { "vm.spec.max_cpus", request => (request.Vm.Spec.Cpus, request.Vm.Spec.MaxCpus) = (3, 2) },
        { "vm.spec.kernel", request => request.Vm.Spec.Kernel = null },
        { "vm.spec.kernel", request => request.Vm.Spec.Kernel = new FileSource() },
        { "vm.spec.kernel.path", request => request.Vm.Spec.Kernel.Path = "relative" },
        { "vm.spec.kernel.path", request => request.Vm.Spec.Kernel.Path = "/etc/../etc/passwd" },
        { "vm.spec.kernel.path", request => request.Vm.Spec.Kernel.Path = "/a\0b" },
        { "vm.spec.kernel.path", request => request.Vm.Spec.Kernel.Path = "/" + new string('a', 5000) },
        { "vm.spec.initrd", request => request.Vm.Spec.Initrd = new FileSource() },
        { "vm.spec.command_line", request => request.Vm.Spec.CommandLine = "a\0b" },
        { "vm.spec.command_line", request => request.Vm.Spec.CommandLine = new string('é', 1024) },
        { "vm.spec.modules", request => request.Vm.Spec.Modules.Add(Enumerable.Range(0, 33).Select(_ => new Module { Source = request.Vm.Spec.Kernel })) },
        { "vm.spec.modules[0].source", request => request.Vm.Spec.Modules.Add(new Module()) },
        { "vm.spec.disks[1].source", request => request.Vm.Spec.Disks.Add([new Disk { Source = request.Vm.Spec.Kernel }, new Disk()]) },
        { "vm.spec.clock", request => request.Vm.Spec.Clock = (Clock)9 },
        { "vm.spec.restart_policy", request => request.Vm.Spec.RestartPolicy = (RestartPolicy)9 },
        { "vm.spec.checkpoint_interval", request => request.Vm.Spec.CheckpointInterval = new Duration { Seconds = 30 } },
        { "vm.spec.checkpoint_interval", request => (request.Vm.Spec.RestartPolicy, request.Vm.Spec.CheckpointInterval) = (RestartPolicy.FromLastCheckpoint, new Duration { Nanos = 999_999_999 }) },
        { "vm.spec.checkpoint_interval", request => (request.Vm.Spec.RestartPolicy, request.Vm.Spec.CheckpointInterval) = (RestartPolicy.FromLastCheckpoint, new Duration { Seconds = 86_400, Nanos = 1 }) },
        { "vm.spec.disks[0].source.path", request => (request.Vm.Spec.RestartPolicy, _) = (RestartPolicy.FromLastCheckpoint, Written(request.Vm.Spec)) },
        { "vm.spec.placement.strategy", request => request.Vm.Spec.Placement = new PlacementSpec { Strategy = (PlacementSpec.Types.Strategy)9 } },
        { "vm.spec.placement.worker_labels", request => request.Vm.Spec.Placement = new PlacementSpec { WorkerLabels = { ["Bad"] = "x" } } },
        { "vm.spec.placement.with_vm_labels", request => request.Vm.Spec.Placement = new PlacementSpec { WithVmLabels = { ["good"] = "b@d" } } },
        { "vm.spec.placement.apart_from_vm_labels", request => request.Vm.Spec.Placement = Crowded() },
    };

    private static Disk Written(VmSpec spec)
    {
        spec.Disks.Add(new Disk { Source = spec.Kernel });
        return spec.Disks[0];
    }

    private static PlacementSpec Crowded()
    {
        var placement = new PlacementSpec();
        for (int i = 0; i < 17; i++)
            placement.ApartFromVmLabels.Add($"l{i}", "");
        return placement;
    }

    [Theory]
    [MemberData(nameof(Spoiled))]
    public async Task Creation_names_the_field_at_fault(string field, Action<CreateVmRequest> spoil)
    {
        ArgumentNullException.ThrowIfNull(spoil);
        CreateVmRequest request = Creation("vm");
        spoil(request);
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(request));
        Assert.Contains(field, error.Fields.Select(violation => violation.Subject));
        Assert.Empty((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);
    }

    [Fact]
    public async Task Every_field_at_fault_is_named_at_once()
    {
        VmmError error = await FailsAsync(
            StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(new CreateVmRequest { Parent = "x", VmId = "X", Vm = new Vm { Spec = new VmSpec { Cpus = 99 } } }));
        Assert.Equal(["parent", "vm_id", "vm.spec.memory_mib", "vm.spec.cpus", "vm.spec.kernel"], error.Fields.Select(violation => violation.Subject));
    }

    [Fact]
    public async Task Paths_lead_only_where_the_configuration_allows()
    {
        string allowed = Path.Combine(Folder, "allowed"), outside = Path.Combine(Folder, "secret");
        await File.WriteAllTextAsync(outside, "secret");
        File.CreateSymbolicLink(Path.Combine(allowed, "link-out"), outside);
        File.CreateSymbolicLink(Path.Combine(allowed, "link-in"), Kernel);
        File.CreateSymbolicLink(Path.Combine(allowed, "loop"), Path.Combine(allowed, "loop"));
        Directory.CreateSymbolicLink(Path.Combine(allowed, "up"), Folder);
        Directory.CreateDirectory(Path.Combine(allowed, "folder"));
        Directory.CreateDirectory(Folder + "/allowed-not");
        await File.WriteAllTextAsync(Folder + "/allowed-not/kernel", "x");
        var messages = new HashSet<string>();
        foreach (string path in (string[])
            [
                outside, "/etc/passwd", "/does/not/exist", "/dev/zero",
                $"{allowed}/link-out", $"{allowed}/loop", $"{allowed}/up/secret", $"{allowed}/folder", $"{allowed}/missing", $"{Folder}/allowed-not/kernel", allowed,
            ])
        {
            VmSpec spec = Spec();
            spec.Kernel.Path = path;
            VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FILE", Vms.CreateVmAsync(Creation("a", spec)));
            Assert.Equal("vm.spec.kernel.path", error.Fields[0].Subject);
            messages.Add(error.Fields[0].Description);
        }

        // What lies outside cannot be told from what does not exist.
        Assert.Single(messages);
        VmSpec inside = Spec();
        inside.Kernel.Path = $"{allowed}/link-in";
        Vm vm = await CreateAsync("a", inside);

        // The link changes its mind after the VM was created.
        File.Delete($"{allowed}/link-in");
        File.CreateSymbolicLink($"{allowed}/link-in", outside);
        await FailsAsync(StatusCode.FailedPrecondition, "FILE_UNAVAILABLE", Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }));
        Assert.Empty(Factory.Made);
    }

    [Fact]
    public async Task A_disk_that_one_vm_writes_is_no_other_vms()
    {
        VmSpec spec = Spec();
        spec.Disks.Add(new Disk { Source = new FileSource { Path = Kernel } });
        await StartAsync("writer", spec);
        Vm second = await CreateAsync("second", spec);
        await FailsAsync(StatusCode.FailedPrecondition, "DISK_IN_USE", Vms.StartVmAsync(new StartVmRequest { Name = second.Name }));
        await Vms.StopVmAsync(new StopVmRequest { Name = "projects/default/vms/writer" });
        await Vms.StartVmAsync(new StartVmRequest { Name = second.Name });
    }

    [Fact]
    public async Task Unknown_fields_are_refused_wherever_they_are()
    {
        // Field 99, varint 1.
        byte[] unknown = [0x98, 0x06, 0x01];
        CreateVmRequest request = Creation("a");
        CreateVmRequest outer = CreateVmRequest.Parser.ParseFrom([.. request.ToByteArray(), .. unknown]);
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "UNKNOWN_FIELD", Vms.CreateVmAsync(outer));
        Assert.Equal("#99", error.Fields[0].Subject);
        CreateVmRequest inner = request.Clone();
        inner.Vm.Spec = VmSpec.Parser.ParseFrom([.. request.Vm.Spec.ToByteArray(), .. unknown]);
        error = await FailsAsync(StatusCode.InvalidArgument, "UNKNOWN_FIELD", Vms.CreateVmAsync(inner));
        Assert.Equal("vm.spec.#99", error.Fields[0].Subject);
        // memory_mib as a string instead of a number.
        inner.Vm.Spec = VmSpec.Parser.ParseFrom([.. request.Vm.Spec.ToByteArray(), 0x0A, 0x01, 0x31]);
        error = await FailsAsync(StatusCode.InvalidArgument, "UNKNOWN_FIELD", Vms.CreateVmAsync(inner));
        Assert.Equal("vm.spec.memory_mib", error.Fields[0].Subject);
        using var console = Vms.Console();
        await console.RequestStream.WriteAsync(ConsoleRequest.Parser.ParseFrom(unknown));
        await FailsAsync(StatusCode.InvalidArgument, "UNKNOWN_FIELD", () => console.ResponseStream.MoveNext());
        Assert.Empty((await Vms.ListVmsAsync(new ListVmsRequest())).Vms);
    }

    [Theory]
    [InlineData("vmm.v1.VmService/GetVm")]
    [InlineData("vmm.v1.VmService/WatchVms")]
    [InlineData("vmm.v1.VmService/Console")]
    [InlineData("vmm.v1.ImageService/UploadImage")]
    public async Task Bytes_that_are_no_message_are_an_invalid_argument(string method)
    {
        foreach (byte[] message in (byte[][])[[0xFF, 0xFF, 0xFF], [0x0A, 0x7F, 0x01], [0x0A, 0x02, 0xC3, 0x28]])
        {
            (StatusCode code, byte[]? details) = await RawAsync(method, message);
            Assert.True(code == StatusCode.InvalidArgument, $"{method} answers {code} to {Convert.ToHexString(message)}");
            Assert.NotNull(details);
        }
    }

    [Fact]
    public async Task A_message_that_is_too_large_and_a_method_that_is_not_there_have_their_own_codes()
    {
        Assert.Equal(StatusCode.ResourceExhausted, (await RawAsync("vmm.v1.VmService/GetVm", new byte[5 << 20])).Code);
        Assert.Equal(StatusCode.Unimplemented, (await RawAsync("vmm.v1.VmService/Nothing", [])).Code);
        Assert.Equal(StatusCode.Unimplemented, (await RawAsync("vmm.v1.Nothing/Nothing", [])).Code);
        // The internal API is not offered to clients.
        Assert.Equal(StatusCode.Unimplemented, (await RawAsync("vmm.worker.v1.VmHostService/GetVm", [])).Code);
    }

    private async Task<(StatusCode Code, byte[]? Details)> RawAsync(string method, byte[] message)
    {
        using var http = new HttpClient(new SocketsHttpHandler());
        byte[] frame = new byte[5 + message.Length];
        BinaryPrimitives.WriteInt32BigEndian(frame.AsSpan(1), message.Length);
        message.CopyTo(frame, 5);
        using var request = new HttpRequestMessage(HttpMethod.Post, new Uri($"{Server.Address}/{method}"))
        {
            Version = HttpVersion.Version20,
            VersionPolicy = HttpVersionPolicy.RequestVersionExact,
            Content = new ByteArrayContent(frame),
        };
        request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/grpc");
        request.Headers.TE.Add(new TransferCodingWithQualityHeaderValue("trailers"));
        using HttpResponseMessage response = await http.SendAsync(request, Soon);
        await response.Content.ReadAsByteArrayAsync(Soon);
        HttpHeaders headers = response.TrailingHeaders.Contains("grpc-status") ? response.TrailingHeaders : response.Headers;
        string status = Assert.Single(headers.GetValues("grpc-status"));
        byte[]? details = headers.TryGetValues("grpc-status-details-bin", out var values) ? Convert.FromBase64String(Pad(values.Single())) : null;
        return ((StatusCode)int.Parse(status, System.Globalization.CultureInfo.InvariantCulture), details);
    }

    private static string Pad(string base64) => base64.PadRight((base64.Length + 3) / 4 * 4, '=');

    [Fact]
    public async Task Deadlines_and_limits_have_their_codes()
    {
        Factory.PowersOffOnButton = false;
        Vm vm = await StartAsync();
        using (var watch = Vms.WatchVms(new WatchVmsRequest { Parent = "projects/empty" }, deadline: DateTime.UtcNow.AddMilliseconds(300)))
        {
            RpcException late = await Assert.ThrowsAsync<RpcException>(async () =>
            {
                while (await watch.ResponseStream.MoveNext())
                    Assert.Equal(VmEvent.Types.Type.Synced, watch.ResponseStream.Current.Type);
            });
            Assert.Equal(StatusCode.DeadlineExceeded, late.StatusCode);
        }

        using var leaving = new CancellationTokenSource();
        Task<Vm> stop = Vms.StopVmAsync(new StopVmRequest { Name = vm.Name }, cancellationToken: leaving.Token).ResponseAsync;
        await EventuallyAsync(() => Factory.Last.ButtonPresses == 1, "the button");
        await leaving.CancelAsync();
        Assert.Equal(StatusCode.Cancelled, (await Assert.ThrowsAsync<RpcException>(() => stop)).StatusCode);
        // The stop goes on without its caller.
        Assert.Equal(VmState.Stopping, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.State);
        await EventuallyAsync(() => Time.WaitingFor(TimeSpan.FromSeconds(30)) > 0, "the grace period");
        Time.Advance(TimeSpan.FromSeconds(31));
        await EventuallyAsync(() => Vms.GetVm(new GetVmRequest { Name = vm.Name }).Status.State == VmState.Stopped, "the stop");
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.StopVmAsync(new StopVmRequest { Name = vm.Name, Force = true, GracePeriod = new() }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.StopVmAsync(new StopVmRequest { Name = vm.Name, GracePeriod = new() { Seconds = 3601 } }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.StopVmAsync(new StopVmRequest { Name = vm.Name, GracePeriod = new() { Nanos = -1 } }));
    }
}

/// <summary>Limits of a server that allows little.</summary>
public sealed class LimitTests : ServerTest
{
    protected override Vmm.Server.ServerOptions Options => base.Options with { MaxVms = 2, MaxRunningMemoryMib = 100, AllowedPaths = null };

    [Fact]
    public async Task Vms_and_their_memory_are_limited()
    {
        Vm first = await StartAsync("first");
        Vm second = await CreateAsync("second");
        await FailsAsync(StatusCode.ResourceExhausted, "TOO_MANY_VMS", Vms.CreateVmAsync(Creation("third")));
        await FailsAsync(StatusCode.ResourceExhausted, "OUT_OF_MEMORY", Vms.StartVmAsync(new StartVmRequest { Name = second.Name }));
        Assert.Equal(VmState.Stopped, (await Vms.GetVmAsync(new GetVmRequest { Name = second.Name })).Status.State);
        await Vms.StopVmAsync(new StopVmRequest { Name = first.Name });
        await Vms.StartVmAsync(new StartVmRequest { Name = second.Name });
    }
}
