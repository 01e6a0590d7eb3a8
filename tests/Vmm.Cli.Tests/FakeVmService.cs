using System.Collections.Concurrent;
using System.Text;
using System.Threading.Channels;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <summary>A guest that is a delegate: reads input, writes output, and returns how it ended.</summary>
internal delegate Task<VmEnd> FakeGuest(FakeVm vm, CancellationToken cancellation);

/// <summary>A VM of <see cref="FakeVmService"/>.</summary>
internal sealed class FakeVm
{
    private readonly Channel<ConsoleResponse> _output = Channel.CreateUnbounded<ConsoleResponse>();

    public required Vmm.V1.Vm Resource { get; init; }

    public Channel<byte[]> Input { get; } = Channel.CreateUnbounded<byte[]>();

    public ChannelReader<ConsoleResponse> Output => _output.Reader;

    public CancellationTokenSource Stopped { get; } = new();

    public TaskCompletionSource InputClosed { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private ulong _offset;

    public void Print(string text) => Print(Encoding.UTF8.GetBytes(text));

    public void Print(byte[] bytes)
    {
        _output.Writer.TryWrite(new ConsoleResponse { Output = new ConsoleOutput { Data = ByteString.CopyFrom(bytes), Offset = _offset } });
        _offset += (ulong)bytes.Length;
    }

    public void End(VmEnd end)
    {
        _output.Writer.TryWrite(new ConsoleResponse { RunEnded = end });
        _output.Writer.TryComplete();
    }
}

/// <summary>Just enough of the service for the commands; every request is kept.</summary>
internal sealed partial class FakeVmService : VmService.VmServiceBase
{
    public ConcurrentDictionary<string, FakeVm> Vms { get; } = new(StringComparer.Ordinal);

    public ConcurrentQueue<IMessage> Requests { get; } = new();

    /// <summary>What happens to a VM, by its name, before each answer of GetVm.</summary>
    public ConcurrentDictionary<string, Action> Looks { get; } = new(StringComparer.Ordinal);

    /// <summary>What a started VM does.</summary>
    public FakeGuest Guest { get; set; } = (_, _) => Task.FromResult(new VmEnd { Reason = VmEndReason.PowerOff });

    /// <summary>Thrown by the method of that name.</summary>
    public ConcurrentDictionary<string, RpcException> Failures { get; } = new(StringComparer.Ordinal);

    public override Task<Vmm.V1.Vm> CreateVm(CreateVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(CreateVm));
        var vm = request.Vm.Clone();
        vm.Name = $"{request.Parent}/vms/{(request.VmId.Length == 0 ? "made-up" : request.VmId)}";
        vm.Etag = "1";
        vm.Status = new VmStatus { State = VmState.Stopped };
        Vms[vm.Name] = new FakeVm { Resource = vm };
        return Task.FromResult(vm);
    }

    public override Task<Vmm.V1.Vm> GetVm(GetVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(GetVm));
        if (Looks.TryGetValue(request.Name, out var look))
            look();
        return Task.FromResult(Find(request.Name).Resource);
    }

    public override Task<ListVmsResponse> ListVms(ListVmsRequest request, ServerCallContext context)
    {
        Enter(request, nameof(ListVms));
        // One VM a page, whatever was asked for: a client must follow the tokens.
        var all = Vms.Values.Select(vm => vm.Resource).OrderBy(vm => vm.Name, StringComparer.Ordinal).ToList();
        var at = request.PageToken.Length == 0 ? 0 : int.Parse(request.PageToken, System.Globalization.CultureInfo.InvariantCulture);
        var response = new ListVmsResponse { Vms = { all.Skip(at).Take(1) } };
        if (at + 1 < all.Count)
            response.NextPageToken = (at + 1).ToString(System.Globalization.CultureInfo.InvariantCulture);
        return Task.FromResult(response);
    }

    public override Task<Vmm.V1.Vm> UpdateVm(UpdateVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(UpdateVm));
        return Task.FromResult(request.Vm);
    }

    public override Task<Vmm.V1.Vm> StartVm(StartVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(StartVm));
        var vm = Find(request.Name);
        vm.Resource.Status.State = VmState.Running;
        _ = RunAsync(vm);
        return Task.FromResult(vm.Resource);
    }

    public override Task<Vmm.V1.Vm> AddVcpu(AddVcpuRequest request, ServerCallContext context)
    {
        Enter(request, nameof(AddVcpu));
        var vm = Find(request.Name).Resource;
        vm.Status.Cpus = Math.Max(vm.Status.Cpus, vm.Spec.Cpus) + 1;
        return Task.FromResult(vm);
    }

    public override Task<MigrateVmResponse> MigrateVm(MigrateVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(MigrateVm));
        var vm = Find(request.Name).Resource;
        vm.Status.Worker = request.Worker;
        return Task.FromResult(new MigrateVmResponse { Vm = vm, SourceWorker = "workers/a", Rounds = 3, TransferredBytes = 2_100_000, Pause = new Duration { Nanos = 42_000_000 } });
    }

    /// <summary>What a watch hears, before it is refused.</summary>
    public List<VmEvent> Events { get; } = [];

    public override async Task WatchVms(WatchVmsRequest request, IServerStreamWriter<VmEvent> responseStream, ServerCallContext context)
    {
        Enter(request, nameof(WatchVms));
        foreach (var change in Events)
            await responseStream.WriteAsync(change);
        await StallAsync(context);
        throw new RpcException(new Grpc.Core.Status(StatusCode.PermissionDenied, "No more."));
    }

    public override Task<Empty> DeleteVm(DeleteVmRequest request, ServerCallContext context)
    {
        Enter(request, nameof(DeleteVm));
        Find(request.Name).Stopped.Cancel();
        Vms.TryRemove(request.Name, out _);
        return Task.FromResult(new Empty());
    }

    public override async Task Console(
        IAsyncStreamReader<ConsoleRequest> requestStream, IServerStreamWriter<ConsoleResponse> responseStream, ServerCallContext context)
    {
        await requestStream.MoveNext(context.CancellationToken);
        var attach = requestStream.Current.Attach;
        Enter(attach, nameof(Console));
        var vm = Find(attach.Name);
        await responseStream.WriteAsync(new ConsoleResponse { Attached = new ConsoleAttached { Writer = attach.Write } });
        using var ended = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        var input = Task.Run(async () =>
        {
            try
            {
                while (await requestStream.MoveNext(ended.Token))
                    vm.Input.Writer.TryWrite(requestStream.Current.Input.ToByteArray());
            }
            catch (Exception gone) when (gone is IOException or OperationCanceledException or InvalidOperationException or RpcException)
            {
                return;
            }

            vm.InputClosed.TrySetResult();
            vm.Input.Writer.TryComplete();
        });
        try
        {
            await foreach (var response in vm.Output.ReadAllAsync(context.CancellationToken))
                await responseStream.WriteAsync(response);
        }
        catch (Exception gone) when (gone is IOException or OperationCanceledException or InvalidOperationException)
        {
            // The client has gone, which is what some tests are about.
        }
        finally
        {
            // The server gives the stream to another call once this method has returned: nobody may read it then.
            await ended.CancelAsync();
            await input;
        }
    }

    public override Task<ReadMemoryResponse> ReadMemory(ReadMemoryRequest request, ServerCallContext context)
    {
        Enter(request, nameof(ReadMemory));
        return Task.FromResult(new ReadMemoryResponse { Data = ByteString.CopyFrom([.. Enumerable.Range(0x40, request.Length).Select(value => (byte)value)]) });
    }

    public override Task<WriteMemoryResponse> WriteMemory(WriteMemoryRequest request, ServerCallContext context)
    {
        Enter(request, nameof(WriteMemory));
        return Task.FromResult(new WriteMemoryResponse());
    }

    public void EndAll()
    {
        foreach (var vm in Vms.Values)
            vm.Stopped.Cancel();
    }

    private async Task RunAsync(FakeVm vm)
    {
        try
        {
            vm.End(await Guest(vm, vm.Stopped.Token));
        }
        catch (OperationCanceledException)
        {
            vm.End(new VmEnd { Reason = VmEndReason.Stopped, ExitCode = 137 });
        }
    }

    /// <summary>A VM that is there.</summary>
    public FakeVm Add(string id)
    {
        var vm = new FakeVm { Resource = new Vmm.V1.Vm { Name = $"projects/default/vms/{id}", Status = new VmStatus { State = VmState.Running } } };
        Vms[vm.Resource.Name] = vm;
        return vm;
    }

    private async Task StallAsync(ServerCallContext context)
    {
        if (StreamsStall)
            await Task.Delay(Timeout.Infinite, context.CancellationToken);
    }

    private FakeVm Find(string name) =>
        Vms.TryGetValue(name, out var vm) ? vm : throw new RpcException(new Status(StatusCode.NotFound, $"There is no '{name}'."));

    private void Enter(IMessage request, string method)
    {
        Requests.Enqueue(request);
        if (Failures.TryGetValue(method, out var failure))
            throw failure;
    }
}
