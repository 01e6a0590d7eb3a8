using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Machine;
using Vmm.Machine.Migration;
using Vmm.Machine.Snapshots;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Migration;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;

namespace Vmm.Worker.Machines;

/// <content>The way to another worker: the source's side. services/README.md says why there is never more than one that runs.</content>
internal sealed partial class HostedVm
{
    private const int MaxRounds = 30;
    private static readonly TimeSpan DefaultMaxPause = TimeSpan.FromMilliseconds(300);
    private static readonly TimeSpan SettleDelay = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan GoPatience = TimeSpan.FromSeconds(10);

    private int _migrating;
    private MigrationProgress? _progress;

    /// <summary>How far it is on its way to another worker; null where it is not moving.</summary>
    public MigrationProgress? Progress => Volatile.Read(ref _progress);
    private Exception? _moved;

    /// <summary>Whether the VM is another worker's by a move from here.</summary>
    public bool HasMoved => Volatile.Read(ref _moved) is not null;

    /// <summary>Moves the VM to another worker.</summary>
    /// <param name="request">What is asked for.</param>
    /// <param name="scope">The request.</param>
    /// <exception cref="RpcException">As in vm_service.proto; the VM goes on here then.</exception>
    public async Task<MigrateVmResponse> MigrateAsync(MigrateVmRequest request, RequestScope scope)
    {
        if (Interlocked.Exchange(ref _migrating, 1) != 0)
            throw ApiError.Aborted("MIGRATION_IN_PROGRESS", $"{_vm.Name} is being moved already.");
        try
        {
            (Vm vm, MachineRun? run) = await LockedAsync(request.Etag, () =>
            {
                Require(VmAction.Migrate);
                RequireMigratable();
                return Task.FromResult((_vm, _run));
            });
            WorkerLease lease = _host.Fleet.RequireLease();
            await _host.Reports.FlushedAsync();
            PlannedMove move;
            try
            {
                move = await _host.Fleet.Registry.PlanMoveAsync(lease, vm.Name, request.Worker.Length == 0 ? null : request.Worker, CancellationToken.None);
            }
            catch (LeaseLostException)
            {
                throw ApiError.Unavailable("LEASE_LOST", "The worker lost its lease.");
            }

            return await new OutgoingMove(this, vm, run, lease, move, request.MaxPause?.ToTimeSpan() ?? DefaultMaxPause, scope).RunAsync();
        }
        finally
        {
            Volatile.Write(ref _progress, null);
            Volatile.Write(ref _migrating, 0);
        }
    }

    private void RequireMigratable()
    {
        if (_host.Fleet.Connector is null)
            throw ApiError.FailedPrecondition("NOT_MIGRATABLE", "WORKER", _vm.Name, "There is no other worker: this server is no fleet.");
        if (_run is not null && _vm.Spec.Engine == Vmm.V1.ExecutionEngine.Lockstep)
            throw ApiError.FailedPrecondition("NOT_MIGRATABLE", "ENGINE", _vm.Name, "A VM that runs in lockstep stays where it is until it is stopped.");
        IReadOnlyDictionary<int, string> own = _host.Files.PrivateDisks(_vm);
        for (int i = 0; i < _vm.Spec.Disks.Count; i++)
            if (!_vm.Spec.Disks[i].ReadOnly && !own.ContainsKey(i))
                throw ApiError.FailedPrecondition(
                    "NOT_MIGRATABLE", "DISK", _vm.Name, $"spec.disks[{i}] is a file of the worker's host that the VM writes: only read-only ones, and disks that are made from images, can be moved.");
    }

    /// <summary>One move, from its plan to its outcome.</summary>
    private sealed class OutgoingMove(HostedVm vm, Vm offered, MachineRun? run, WorkerLease lease, PlannedMove move, TimeSpan maxPause, RequestScope scope)
    {
        private readonly HostServices _host = vm._host;
        private readonly IReadOnlyDictionary<int, string> _disks = vm._host.Files.PrivateDisks(offered);
        private readonly PreCopy _rounds = new(maxPause, MaxRounds);
        private readonly CancellationTokenSource _ending = CancellationTokenSource.CreateLinkedTokenSource(vm._host.Permit.Revoked);

        public async Task<MigrateVmResponse> RunAsync()
        {
            using var ending = _ending;
            bool isSettled = false;
            using var channel = new MoveChannel(_host.Fleet.Connector!.Connect(move.Target).ReceiveVm(cancellationToken: ending.Token), run, _disks, Note);
            try
            {
                var offer = new MoveOffer { Ticket = move.Ticket, Vm = offered };
                offer.DiskBytes.AddRange(Enumerable.Range(0, offered.Spec.Disks.Count).Select(i => _disks.TryGetValue(i, out string? path) ? new FileInfo(path).Length : 0));
                Note(0, 0);
                using (WorkerTraces.Source.Start(WorkerTraces.MigrationOffer, offered.Name)?.SetTag("vmm.worker.name", move.Target.Name))
                    await channel.OfferAsync(offer, ending.Token);
                if (run is not null)
                    await CopyWhileRunningAsync(channel);
                MigrateVmResponse response = await vm.LockedAsync("", async () =>
                {
                    (MigrateVmResponse answer, isSettled) = await HandOverAsync(channel);
                    return answer;
                });
                _host.Operations.NoteMigration(channel.Bytes, response.Pause?.ToTimeSpan());
                await TryAsync(async () => await channel.ConfirmedAsync(ending.Token).WaitAsync(GoPatience, _host.Time));
                return response;
            }
            catch (Exception exception) when (!vm.HasMoved)
            {
                _host.Operations.NoteFailedMigration(channel.Bytes);
                if (!isSettled)
                    await TrySettleAsync();
                throw Translate(exception);
            }
            finally
            {
                StopLog();
            }
        }

        /// <summary>Memory and disks, in rounds, until the rest fits into the pause.</summary>
        private async Task CopyWhileRunningAsync(MoveChannel channel)
        {
            bool isRunning = run!.Use(machine =>
            {
                machine.StartDirtyLog();
                return machine.RunState == MachineRunState.Running;
            });
            ulong[] pages = DirtySet.All(checked((int)(offered.Spec.MemoryMib << 8)));
            Dictionary<int, ulong[]> blocks = _disks.ToDictionary(disk => disk.Key, disk => DirtySet.All(checked((int)((new FileInfo(disk.Value).Length + LoggedDisk.BlockBytes - 1) / LoggedDisk.BlockBytes))));
            PreCopyStep step = PreCopyStep.Copy;
            while (step == PreCopyStep.Copy)
            {
                using Activity? span = WorkerTraces.Source.Start(WorkerTraces.MigrationRound, offered.Name)?.SetTag("vmm.migration.round", _rounds.Rounds + 1);
                long begun = _host.Time.GetTimestamp(), sent = channel.Bytes;
                await channel.CopyAsync(pages, blocks, _rounds.Rounds == 0, _ending.Token);
                var round = new MoveRound { Number = _rounds.Rounds + 1 };
                await channel.EndRoundAsync(round, _ending.Token);
                TimeSpan took = _host.Time.GetElapsedTime(begun);
                // What the pause consists of besides: what the target would not take is known before, too.
                begun = _host.Time.GetTimestamp();
                SavedMachine saved = run.Use(machine => machine.SaveState());
                round.Rehearsal = new MachineDocuments { Manifest = ToBytes(saved.Manifest), State = ToBytes(saved.State) };
                await channel.EndRoundAsync(round, _ending.Token);
                TimeSpan fixedPause = _host.Time.GetElapsedTime(begun);
                (pages, blocks) = TakeDirty();
                long dirty = BytesOf(pages, blocks);
                span?.SetTag("vmm.migration.bytes", channel.Bytes - sent).SetTag("vmm.migration.dirty", dirty);
                step = _rounds.After(channel.Bytes - sent, took, dirty, fixedPause);
                // A guest that stands writes nothing, however long the rest takes.
                if (!isRunning)
                    step = PreCopyStep.Hold;
                if (step == PreCopyStep.GiveUp)
                    throw ApiError.Aborted(
                        "NOT_CONVERGING",
                        $"{offered.Name} writes memory faster than it can be copied: after {_rounds.Rounds} rounds {dirty >> 20} MiB are left, of which {_rounds.BytesPerSecond / (1 << 20):0} MiB a second are sent.");
            }

            (_leftPages, _leftBlocks) = (pages, blocks);
        }

        private ulong[] _leftPages = [];
        private Dictionary<int, ulong[]> _leftBlocks = [];

        /// <summary>Holds the VM, sends the rest, and has the registry move it. With the gate held. Where it fails, the VM goes on.</summary>
        /// <returns>The answer, and that nothing is left to be settled.</returns>
        private async Task<(MigrateVmResponse Answer, bool IsSettled)> HandOverAsync(MoveChannel channel)
        {
            VmState state = vm._vm.Status.State;
            vm.Require(VmAction.Migrate);
            if (!ReferenceEquals(vm._run, run))
                throw ApiError.Aborted("STATE_CHANGED", $"{offered.Name} was started or has ended while it was being moved.");
            Activity? hold = WorkerTraces.Source.Start(WorkerTraces.MigrationHold, offered.Name);
            long held = _host.Time.GetTimestamp();
            if (run is not null && state == VmState.Running)
                vm.OnMachine(run, machine => machine.Pause());
            vm.Console.LetMachineGo();
            bool hasMoved = false;
            try
            {
                var saved = new MovedState { Vm = vm._vm.Clone(), Apicv = vm.ApicvEvents.Save() };
                if (run is not null)
                {
                    (ulong[] pages, Dictionary<int, ulong[]> blocks) = TakeDirty();
                    Merge(pages, _leftPages);
                    foreach ((int disk, ulong[] left) in _leftBlocks)
                        Merge(blocks[disk], left);
                    await channel.CopyAsync(pages, blocks, isFirst: false, _ending.Token);
                    SavedMachine machine = run.Use(source => source.SaveState());
                    saved.Machine = new MachineDocuments { Manifest = ToBytes(machine.Manifest), State = ToBytes(machine.State) };
                    saved.Deferrals.AddRange(run.SaveApicvDeferrals());
                    run.AddCounters(saved.Vm.Status);
                }
                else
                {
                    await channel.CopyAsync([], _disks.ToDictionary(disk => disk.Key, disk => DirtySet.All(checked((int)((new FileInfo(disk.Value).Length + LoggedDisk.BlockBytes - 1) / LoggedDisk.BlockBytes)))), isFirst: true, _ending.Token);
                }

                // What the guest has written is all in there by now.
                saved.Console = vm.Console.Save();
                await channel.FinishAsync(saved, _ending.Token);
                await _host.Reports.FlushedAsync();
                Vm next = vm.NextVersion(each => each.Status.Worker = move.Target.Name);
                var answer = new MigrateVmResponse
                {
                    Vm = next,
                    SourceWorker = move.Source.Name,
                    Rounds = run is null ? 0 : _rounds.Rounds + 1,
                    TransferredBytes = channel.Bytes,
                };
                if (run is not null && state == VmState.Running)
                    answer.Pause = Duration.FromTimeSpan(_host.Time.GetElapsedTime(held));
                using (WorkerTraces.Source.Start(WorkerTraces.MigrationCommit, offered.Name))
                    hasMoved = await CommitAsync(next, answer);
                if (!hasMoved)
                    throw ApiError.Aborted("MOVE_ENDED", $"The move of {offered.Name} has ended without it.");
                RpcException moved = ApiError.Unavailable("VM_MOVED", $"{offered.Name} has moved to {move.Target.Name}.");
                Volatile.Write(ref vm._moved, moved);
                // The target first: whatever else there is to do, no guest waits for it.
                using (WorkerTraces.Source.Start(WorkerTraces.MigrationGo, offered.Name))
                    await TryAsync(() => channel.CommitAsync(_ending.Token));
                hold?.Dispose();
                await vm.MoveAwayAsync(run, moved, scope.Completed(answer));
                return (answer, true);
            }
            finally
            {
                if (!hasMoved && run is not null)
                    GoOn(run, state);
                // Where it has been ended already, this does nothing.
                hold?.Dispose();
            }
        }

        // The VM is the target's: that finds out by itself, or is lost with what it has.
        private async Task TryAsync(Func<Task> tell)
        {
            try
            {
                await tell();
            }
            catch (Exception exception) when (exception is RpcException or TimeoutException or OperationCanceledException or InvalidOperationException or IOException)
            {
                _host.Log.MoveNotConfirmed(offered.Name, move.Target.Name, exception.Message);
            }
        }

        private void GoOn(MachineRun source, VmState state)
        {
            try
            {
                if (source.Machine.End is not null)
                    return;
                vm.Console.RunBegan(source.Machine);
                if (state == VmState.Running)
                    source.Machine.Resume();
            }
            catch (InvalidOperationException) when (source.Machine.End is not null)
            {
                // It was stopped meanwhile, with the worker's lease.
            }
        }

        /// <summary>Whether the registry has moved the VM. Returns when that is certain.</summary>
        private async Task<bool> CommitAsync(Vm next, MigrateVmResponse answer)
        {
            RequestReport? report = scope.Key is { } key ? new RequestReport(key, Google.Protobuf.MessageExtensions.ToByteString(answer)) : null;
            try
            {
                await _host.Fleet.Registry.CommitMoveAsync(lease, move, next, report, CancellationToken.None);
                return true;
            }
            catch (LeaseLostException)
            {
                return false;
            }
            catch (RpcException exception) when (exception.StatusCode != StatusCode.Unavailable)
            {
                return false;
            }
            catch (RpcException)
            {
                // It may have happened. Until that is known the VM stands, here as there.
                while (true)
                {
                    try
                    {
                        return await _host.Fleet.Registry.SettleMoveAsync(move, CancellationToken.None) != MoveOutcome.Stayed;
                    }
                    catch (RpcException unknown) when (unknown.StatusCode == StatusCode.Unavailable)
                    {
                        await Task.Delay(SettleDelay, _host.Time);
                    }
                }
            }
        }

        private async Task TrySettleAsync()
        {
            try
            {
                await _host.Fleet.Registry.SettleMoveAsync(move, CancellationToken.None);
            }
            catch (RpcException)
            {
                // It holds its place on the target until then. The VM goes on, and does not wait for it.
                _ = SettleLaterAsync(_host.Permit.Revoked);
            }
        }

        // With the lease, the move ends by itself.
        private async Task SettleLaterAsync(CancellationToken leaseEnded)
        {
            while (!leaseEnded.IsCancellationRequested)
            {
                try
                {
                    await Task.Delay(SettleDelay, _host.Time, leaseEnded);
                    await _host.Fleet.Registry.SettleMoveAsync(move, leaseEnded);
                    return;
                }
                catch (Exception exception) when (exception is RpcException or OperationCanceledException)
                {
                    // The registry is still away, or there is nothing to settle any more.
                }
            }
        }

        private (ulong[] Pages, Dictionary<int, ulong[]> Blocks) TakeDirty() => run!.Use(machine =>
            (machine.TakeDirtyPages(), _disks.Keys.Where(disk => !offered.Spec.Disks[disk].ReadOnly).ToDictionary(disk => disk, machine.TakeDirtyBlocks)));

        private void StopLog()
        {
            try
            {
                run?.Use(machine =>
                {
                    machine.StopDirtyLog();
                    return 0;
                });
            }
            catch (InvalidOperationException)
            {
                // There is no machine any more, and no log.
            }
        }

        private void Note(long bytes, long left) => Volatile.Write(
            ref vm._progress, new MigrationProgress { TargetWorker = move.Target.Name, Round = _rounds.Rounds + 1, TransferredBytes = bytes, RemainingBytes = left });

        private Exception Translate(Exception exception) => exception switch
        {
            InvalidOperationException => ApiError.Aborted("STATE_CHANGED", $"{offered.Name} has ended while it was being moved."),
            OperationCanceledException => ApiError.Unavailable("LEASE_LOST", "The worker lost its lease."),
            IOException => ApiError.Unavailable("STORAGE_FAILED", $"A disk of the VM cannot be read: {exception.Message}"),
            RpcException { StatusCode: StatusCode.Unavailable or StatusCode.Cancelled } refused when !ApiError.HasDetails(refused) =>
                ApiError.Unavailable("MIGRATION_FAILED", $"{move.Target.Name} cannot be reached: {refused.Status.Detail}"),
            // It is the target's way to say that something is missing there, and nothing that the client has asked for wrongly.
            RpcException { StatusCode: StatusCode.InvalidArgument or StatusCode.NotFound or StatusCode.AlreadyExists } refused =>
                ApiError.FailedPrecondition("NOT_MIGRATABLE", "WORKER", offered.Name, $"{move.Target.Name} cannot take {offered.Name}: {refused.Status.Detail}"),
            _ => exception,
        };

        private static long BytesOf(ulong[] pages, Dictionary<int, ulong[]> blocks) =>
            (DirtySet.Count(pages) << 12) + blocks.Values.Sum(set => DirtySet.Count(set)) * LoggedDisk.BlockBytes;

        private static void Merge(ulong[] into, ulong[] from)
        {
            for (int i = 0; i < from.Length; i++)
                into[i] |= from[i];
        }

        private static Google.Protobuf.ByteString ToBytes(ReadOnlyMemory<byte> bytes) => Google.Protobuf.UnsafeByteOperations.UnsafeWrap(bytes);
    }

    /// <summary>The VM is another worker's: what is here of it goes. With the gate held.</summary>
    private async Task MoveAwayAsync(MachineRun? run, RpcException moved, CompletedRequest? request)
    {
        Volatile.Write(ref _run, null);
        Console.Move();
        ApicvEvents.Move(moved);
        try
        {
            await _host.Store.CommitAsync(new JournalRecord { Mutations = { new Mutation { DeleteVm = _vm.Name } }, Request = request });
        }
        catch (RpcException exception)
        {
            // It stays in the journal and is dropped at the next start, when the registry says whose it is.
            _host.Log.MoveNotRecorded(_vm.Name, exception);
        }

        run?.SetMoved(moved);
        run?.Dispose();
        Forget(null);
    }
}
