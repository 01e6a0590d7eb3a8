using System.Diagnostics;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;
using Vmm.Machine;
using Vmm.Machine.Migration;
using Vmm.Machine.Snapshots;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker.Migration;

/// <summary>A VM that comes from another worker: the target's side. What the source sends is checked, and is nothing before the registry says so.</summary>
internal sealed class IncomingMove : IDisposable
{
    /// <summary>What a state has besides the engine's documents: console, APICv events.</summary>
    private const int OtherStateBytes = 32 << 20;
    private const int MaxStateBytes = SavedMachine.LongestManifest + SavedMachine.LongestState + OtherStateBytes;
    private static readonly TimeSpan SettleDelay = TimeSpan.FromMilliseconds(100);

    private readonly HostServices _host;
    private readonly IAsyncStreamReader<ReceiveVmRequest> _requests;
    private readonly IServerStreamWriter<ReceiveVmResponse> _responses;
    private readonly MoveDigest _digest = new();
    private readonly MemoryStream _state = new();
    private readonly CancellationToken _ending;
    private readonly PlannedMove _move;
    private readonly Vm _offered;
    private readonly IReadOnlyList<long> _diskBytes;
    private Dictionary<int, SafeFileHandle> _disks = [];
    private IMachineReceiver? _receiver;

    private IncomingMove(
        HostServices host, PlannedMove move, MoveOffer offer, IAsyncStreamReader<ReceiveVmRequest> requests, IServerStreamWriter<ReceiveVmResponse> responses, CancellationToken ending)
    {
        _host = host;
        _move = move;
        _offered = offer.Vm;
        _diskBytes = offer.DiskBytes;
        _requests = requests;
        _responses = responses;
        _ending = ending;
    }

    /// <summary>The VM as it was offered.</summary>
    public Vm Vm => _offered;

    /// <summary>Reads the offer, and asks the registry whether it is meant for this worker.</summary>
    /// <exception cref="RpcException">It is not, or is not what the registry knows of the VM.</exception>
    public static async Task<IncomingMove> OpenAsync(
        HostServices host, IAsyncStreamReader<ReceiveVmRequest> requests, IServerStreamWriter<ReceiveVmResponse> responses, CancellationToken ending)
    {
        MoveOffer offer = await NextAsync(requests, ending) is { RequestCase: ReceiveVmRequest.RequestOneofCase.Offer } first
            ? first.Offer
            : throw ApiError.InvalidField("offer", "must be set in the first request.");
        (PlannedMove Move, Vm Vm)? planned;
        try
        {
            planned = await host.Fleet.Registry.FindMoveAsync(host.Fleet.RequireLease(), offer.Ticket, ending);
        }
        catch (LeaseLostException)
        {
            throw ApiError.Unavailable("LEASE_LOST", "The worker lost its lease.");
        }

        if (planned is not { } found)
            throw ApiError.FailedPrecondition("MOVE_UNKNOWN", "MOVE", host.Fleet.Worker, "The registry knows of no such move to this worker.");
        if (!IsOf(offer.Vm, found.Vm))
            throw ApiError.InvalidField("offer.vm", "is not the VM that the registry has the move of.");
        bool[] own = [.. found.Vm.Spec.Disks.Select(disk => !disk.ReadOnly || disk.Source.SourceCase == FileSource.SourceOneofCase.Path)];
        if (offer.DiskBytes.Count != own.Length || offer.DiskBytes.Select((bytes, i) => bytes < 0 || (bytes > 0 && !own[i]) || (bytes == 0 && !found.Vm.Spec.Disks[i].ReadOnly)).Any(wrong => wrong))
            throw ApiError.InvalidField("offer.disk_bytes", "is not what a VM with these disks brings along.");
        return new IncomingMove(host, found.Move, offer, requests, responses, ending);
    }

    /// <summary>Takes the VM into one that nobody sees yet. Returns when the registry says that it is this worker's, and it goes on.</summary>
    /// <exception cref="RpcException">It is not; what has come is to be removed.</exception>
    public async Task<Vm> ReceiveAsync(HostedVm hosted)
    {
        IDisposable? reservation = null;
        try
        {
            MachineSpec? spec = null;
            using (Activity? span = Begin(WorkerTraces.MigrationAccept))
            {
                span?.SetTag("vmm.worker.name", _move.Source.Name);
                _disks = _host.Files.CreateEmptyDisks(_offered.Uid, _diskBytes);
                if (_offered.Status.State != VmState.Stopped)
                {
                    spec = _host.Files.ToMachineSpec(_offered);
                    reservation = _host.Capacity.Reserve(spec);
                    _receiver = _host.Machines.Receive(spec, _host.Time);
                }

                // From here on it is found at a start of this worker, which then asks the registry whose it is.
                await hosted.KeepAsync(_offered);
                await AnswerAsync(new ReceiveVmResponse { Accepted = new MoveAccepted() });
            }

            MovedState moved;
            using (Begin(WorkerTraces.MigrationTake))
                moved = await TakeAllAsync();
            MachineRun? run;
            using (Begin(WorkerTraces.MigrationMake))
                run = await ReadyAsync(hosted, moved, spec, reservation);
            try
            {
                using Activity? span = Begin(WorkerTraces.MigrationDecide);
                await AnswerAsync(new ReceiveVmResponse { Ready = new MoveReady() });
                await WaitForOutcomeAsync();
            }
            catch
            {
                run?.Dispose();
                throw;
            }

            return await hosted.BeginMovedAsync(_offered, run);
        }
        catch (Exception exception) when (Translate(exception) is { } translated)
        {
            reservation?.Dispose();
            throw translated;
        }
        finally
        {
            CloseDisks();
        }
    }

    /// <summary>Tells the source that the VM goes on.</summary>
    public async Task ConfirmAsync()
    {
        try
        {
            await AnswerAsync(new ReceiveVmResponse { Running = new MoveRunning() });
        }
        catch (Exception exception) when (exception is RpcException or InvalidOperationException or IOException or OperationCanceledException)
        {
            // The source is gone, and had nothing more to do with it.
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _receiver?.Dispose();
        _digest.Dispose();
        CloseDisks();
    }

    private Activity? Begin(string span) => WorkerTraces.Source.Start(span, _offered.Name);

    private async Task<MovedState> TakeAllAsync()
    {
        while (true)
        {
            ReceiveVmRequest request = await NextAsync(_requests, _ending) ?? throw ApiError.InvalidField("end", "is missing: the source has ended the stream.");
            switch (request.RequestCase)
            {
                case ReceiveVmRequest.RequestOneofCase.Pages when _receiver is not null && _state.Length == 0:
                    _digest.Add(request.Pages);
                    _receiver.LoadPages([.. request.Pages.Runs.Select(run => new Vmm.Machine.Migration.PageRun(run.First, run.Count, run.Zero))], request.Pages.Data.Span);
                    break;
                case ReceiveVmRequest.RequestOneofCase.Block when _state.Length == 0:
                    _digest.Add(request.Block);
                    Take(request.Block);
                    break;
                case ReceiveVmRequest.RequestOneofCase.Round:
                    // What is flushed now need not be while the guest stands.
                    FlushDisks();
                    if (request.Round.Rehearsal is { } rehearsal && _receiver is not null)
                        _receiver.Check(new SavedMachine(rehearsal.Manifest.Memory, rehearsal.State.Memory));
                    await AnswerAsync(new ReceiveVmResponse { Round = new MoveRound { Number = request.Round.Number } });
                    break;
                case ReceiveVmRequest.RequestOneofCase.State:
                    if (request.State.Length > MaxStateBytes - _state.Length)
                        throw ApiError.InvalidField("state", $"has more than {MaxStateBytes} bytes.");
                    _digest.AddState(request.State);
                    _state.Write(request.State.Span);
                    break;
                case ReceiveVmRequest.RequestOneofCase.End:
                    if (!_digest.Finish().Equals(request.End.Sha256))
                        throw ApiError.DataLoss("DIGEST_MISMATCH", "What came of the VM is not what its source says that it sent.");
                    return MovedState.Parser.ParseFrom(_state.GetBuffer().AsSpan(0, (int)_state.Length));
                default:
                    throw ApiError.InvalidField("request", $"is {request.RequestCase}, which does not come here.");
            }
        }
    }

    private void Take(DiskBlock block)
    {
        if (!_disks.TryGetValue(block.Disk, out SafeFileHandle? disk))
            throw ApiError.InvalidField("block.disk", $"is {block.Disk}, which does not come along.");
        if (block.Offset < 0 || block.Offset > _diskBytes[block.Disk] - block.Data.Length)
            throw ApiError.InvalidField("block.offset", "and data go beyond the end of the disk.");
        RandomAccess.Write(disk, block.Data.Span, block.Offset);
    }

    /// <summary>Everything is here: makes the machine, and makes the VM last as it is.</summary>
    private async Task<MachineRun?> ReadyAsync(HostedVm hosted, MovedState moved, MachineSpec? spec, IDisposable? reservation)
    {
        if (!IsOf(moved.Vm, _offered) || (moved.Machine is not null) != (_receiver is not null) || moved.Vm.Status.State == VmState.Stopped != (_receiver is null)
            || moved.Vm.Status.State is not (VmState.Stopped or VmState.Running or VmState.Paused))
            throw ApiError.InvalidField("state.vm", "is not the VM that was offered.");
        if (moved.Console is null || moved.Apicv is null)
            throw ApiError.InvalidField("state", "has no console or no history of APICv.");
        FlushDisks();
        CloseDisks();
        if (_disks.Count > 0)
            _host.Files.FlushDisks(_offered.Uid);
        hosted.Console.Load(moved.Console);
        hosted.ApicvEvents.Load(moved.Apicv);
        Vm next = Known(moved.Vm);
        next.Status.Worker = _host.Fleet.Worker;
        next.Etag = VmEtag.Of(next);
        MachineRun? run = null;
        if (_receiver is not null)
        {
            IMachine machine = await Task.Run(() => _receiver.Complete(new SavedMachine(moved.Machine!.Manifest.Memory, moved.Machine.State.Memory)));
            // It may have changed since the VM was offered.
            machine.Share = SpecFiles.ShareOf(next.Spec);
            run = new MachineRun(machine, reservation!, spec!.MemoryBytes, hosted.Console, hosted.ApicvEvents, hosted.CompilerFailures, _host.Meter, _host.Time, next.Status.RunCount, next.Status.ResetCount);
        }

        try
        {
            run?.LoadApicvDeferrals(moved.Deferrals);
            // A record of the same etag differs in counters, which do not last.
            await hosted.KeepMovedAsync(next);
            return run;
        }
        catch
        {
            run?.Dispose();
            throw;
        }
    }

    /// <summary>Whose the VM is: the source says that it was moved, or the registry does, whatever becomes of the source.</summary>
    private async Task WaitForOutcomeAsync()
    {
        try
        {
            if (await NextAsync(_requests, _ending) is { RequestCase: ReceiveVmRequest.RequestOneofCase.Committed })
                return;
        }
        catch (Exception exception) when (exception is RpcException or OperationCanceledException or IOException or InvalidOperationException)
        {
            _host.Log.MoveSourceGone(_offered.Name, exception.Message);
        }

        while (true)
        {
            try
            {
                if (await _host.Fleet.Registry.SettleMoveAsync(_move, CancellationToken.None) == MoveOutcome.Moved)
                    return;
                throw ApiError.Aborted("MOVE_ENDED", $"The move of {_offered.Name} has ended without it.");
            }
            catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
            {
                await Task.Delay(SettleDelay, _host.Time);
            }
        }
    }

    private Task AnswerAsync(ReceiveVmResponse response) => _responses.WriteAsync(response, _ending);

    private void FlushDisks()
    {
        foreach (SafeFileHandle disk in _disks.Values)
            RandomAccess.FlushToDisk(disk);
    }

    private void CloseDisks()
    {
        foreach (SafeFileHandle disk in _disks.Values)
            disk.Dispose();
    }

    private static async Task<ReceiveVmRequest?> NextAsync(IAsyncStreamReader<ReceiveVmRequest> requests, CancellationToken ending) =>
        await requests.MoveNext(ending) ? requests.Current : null;

    /// <summary>Without what a worker of a later version says of the VM's state: nobody here would keep it up to date.</summary>
    private static Vm Known(Vm vm) => new(vm) { Status = VmStatus.Parser.WithDiscardUnknownFields(true).ParseFrom(vm.Status.ToByteString()) };

    private static bool IsOf(Vm? vm, Vm known) =>
        vm is { Spec: not null, Status: not null } && vm.Name == known.Name && vm.Uid == known.Uid && SpecFiles.CanBecome(known.Spec, vm.Spec) && Equals(vm.CreateTime, known.CreateTime);

    private Exception? Translate(Exception exception) => exception switch
    {
        RpcException => exception,
        InvalidMachineException refused => ApiError.FailedPrecondition("CANNOT_MOVE", "MACHINE", SpecFiles.FieldOf(refused.Field), $"{SpecFiles.FieldOf(refused.Field)}: {refused.Message}"),
        InvalidSnapshotException refused => ApiError.FailedPrecondition("CANNOT_MOVE", "MACHINE", _offered.Name, $"The VM cannot be taken: {refused.Message}"),
        InvalidProtocolBufferException => ApiError.InvalidField("state", "is no state."),
        OutOfMemoryException => ApiError.ResourceExhausted("OUT_OF_MEMORY", "memory", $"The host has no {_offered.Spec.MemoryMib} MiB for the VM."),
        IOException or UnauthorizedAccessException => ApiError.ResourceExhausted("STORAGE_FAILED", "disk", $"The VM's files cannot be written: {exception.Message}"),
        _ => exception,
    };
}
