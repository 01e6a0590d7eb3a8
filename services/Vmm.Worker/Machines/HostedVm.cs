using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Machine;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Consoles;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;
using Vmm.Worker.V1;
using Vmm.Worker.Watching;

namespace Vmm.Worker.Machines;

/// <summary>
/// One VM: its record, its console and, while it runs, its machine. Actions take the gate, one at a time; what everybody sees
/// is the version that was last put among the project's VMs.
/// </summary>
internal sealed partial class HostedVm : IDisposable
{
    private const int ExitCodeStopped = 137;
    private const int ExitCodeFailed = 125;
    private static readonly TimeSpan DefaultGrace = TimeSpan.FromSeconds(30);

    private readonly SemaphoreSlim _gate = new(1, 1);
    private readonly HostServices _host;
    private readonly ProjectVms _history;
    private readonly Action<HostedVm, CompletedRequest?> _leave;
    private Vm _vm;
    private MachineRun? _run;
    private bool _deleted;

    /// <param name="host">The worker.</param>
    /// <param name="history">The project's.</param>
    /// <param name="vm">The VM's first or stored version, stopped; not to be changed any more.</param>
    /// <param name="leave">Makes the VM disappear from its worker, by a request or by none, when nothing of it is left.</param>
    public HostedVm(HostServices host, ProjectVms history, Vm vm, Action<HostedVm, CompletedRequest?> leave)
    {
        _host = host;
        _history = history;
        _leave = leave;
        _vm = vm;
        Console = new ConsoleHub(vm.Name, host.Options.ScrollbackBytes, host.Time);
        ApicvEvents = new ApicvHistory(host.Options.ApicvHistory);
        CompilerFailures = new CompilerFailures(host.Log, vm.Name);
    }

    /// <summary>The console, which outlives runs.</summary>
    public ConsoleHub Console { get; }

    /// <summary>What the log says of its compiler.</summary>
    public CompilerFailures CompilerFailures { get; }

    /// <summary>The VM's name.</summary>
    public string Name => _vm.Name;

    /// <summary>Whether it has a machine.</summary>
    public bool IsRunning => Volatile.Read(ref _run) is not null;

    /// <summary>Its version of now.</summary>
    public Vm Present => Volatile.Read(ref _vm);

    /// <summary>Never given to another VM.</summary>
    public string Uid => _vm.Uid;

    /// <summary>A version of a VM with the counters of now, where it runs.</summary>
    public Vm WithCounters(Vm vm)
    {
        MachineRun? run = Volatile.Read(ref _run);
        if (run is null || vm.Status.State == VmState.Stopped)
            return vm;
        Vm copy = vm.Clone();
        run.AddCounters(copy.Status);
        copy.Status.Migration = Progress;
        return copy;
    }

    /// <summary>What its machine has counted and holds just now; null where it has none.</summary>
    public VmReading? Read() => Volatile.Read(ref _run)?.Read();

    /// <summary>Makes a new VM last and shows it.</summary>
    public async Task CreateAsync(Func<Vm, CompletedRequest?> completed)
    {
        await _host.Store.CommitAsync(Record(_vm, completed(_vm)));
        _history.Put(_vm);
    }

    /// <summary>STOPPED to RUNNING.</summary>
    public Task<Vm> StartAsync(string etag, RequestScope scope) => LockedAsync(etag, async () =>
    {
        VmStatus before = _vm.Status;
        VmState starting = Require(VmAction.Start);
        Show(NextVersion(vm => vm.Status.State = starting));
        return await BeginRunAsync(before, spec => Task.FromResult(CreateMachine(spec)), VmAction.Started, static machine => machine.Start(), scope);
    });

    /// <summary>RUNNING or PAUSED to STOPPED; returns when it has stopped.</summary>
    public async Task<Vm> StopAsync(StopVmRequest request, RequestScope scope)
    {
        MachineRun run = await LockedAsync(request.Etag, () =>
        {
            VmState stopping = Require(VmAction.Stop);
            VmState was = _vm.Status.State;
            MachineRun current = _run!;
            if (was != stopping)
                Show(NextVersion(vm => vm.Status.State = stopping));
            if (!request.Force && was != VmState.Stopping)
            {
                if (was == VmState.Paused)
                    OnMachine(current, machine => machine.Resume());
                OnMachine(current, machine => machine.PressPowerButton());
            }

            return Task.FromResult(current);
        });
        if (!request.Force)
        {
            TimeSpan grace = request.GracePeriod?.ToTimeSpan() ?? DefaultGrace;
            using var graceOver = new CancellationTokenSource(grace, _host.Time);
            await run.Ended.WaitAsync(graceOver.Token).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
            if (!run.Ended.IsCompleted)
                _host.Log.PlugPulled(_vm.Name, grace);
        }

        run.PullPlug();
        Vm ended = await run.Ended;
        await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(ended) });
        return ended;
    }

    /// <summary>RUNNING to PAUSED.</summary>
    public Task<Vm> PauseAsync(string etag, RequestScope scope) => OnMachineAsync(VmAction.Pause, etag, scope, machine => machine.Pause());

    /// <summary>PAUSED to RUNNING.</summary>
    public Task<Vm> ResumeAsync(string etag, RequestScope scope) => OnMachineAsync(VmAction.Resume, etag, scope, machine => machine.Resume());

    /// <summary>Presses the reset button.</summary>
    public Task<Vm> ResetAsync(string etag, RequestScope scope) => OnMachineAsync(VmAction.Reset, etag, scope, machine => machine.Reset());

    /// <summary>Delivers an NMI.</summary>
    public Task<InjectNmiResponse> InjectNmiAsync(int vcpu, RequestScope scope) => InspectAsync(VmAction.InjectNmi, vcpu, async machine =>
    {
        machine.InjectNmi(vcpu);
        var response = new InjectNmiResponse();
        await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(response) });
        return response;
    });

    /// <summary>Adds a vCPU. The VM is changed by it, so that watches tell.</summary>
    public Task<Vm> AddVcpuAsync(string etag, RequestScope scope) => LockedAsync(etag, async () =>
    {
        Require(VmAction.AddVcpu);
        IMachine machine = _run!.Machine;
        int most = _vm.Spec.MaxCpus;
        if (machine.VcpuCount >= most)
            throw ApiError.FailedPrecondition("NO_ROOM_FOR_VCPU", "VCPUS", _vm.Name, $"{_vm.Name} has {machine.VcpuCount} vCPU(s), as many as its spec allows.", ("max_cpus", $"{most}"));
        OnMachine(_run, running => running.AddVcpu());
        Vm next = Show(NextVersion(vm => vm.Status.Cpus = machine.VcpuCount));
        Vm answer = next.Clone();
        _run.AddCounters(answer.Status);
        await CommitAsync(next, scope.Completed(answer));
        return answer;
    });

    /// <summary>Copies guest memory out.</summary>
    public Task<ReadMemoryResponse> ReadMemoryAsync(ReadMemoryRequest request) => InspectAsync(VmAction.Inspect, request.Vcpu, machine =>
    {
        byte[] bytes = new byte[request.Length];
        if (!machine.ReadMemory(Addressing(request.AddressSpace), request.Vcpu, request.Address, bytes))
            throw NotMapped(request.AddressSpace, request.Address, request.Length);
        return Task.FromResult(new ReadMemoryResponse { Data = UnsafeByteOperations.UnsafeWrap(bytes) });
    });

    /// <summary>Copies into guest memory.</summary>
    public Task<WriteMemoryResponse> WriteMemoryAsync(WriteMemoryRequest request, RequestScope scope) => InspectAsync(VmAction.Inspect, request.Vcpu, async machine =>
    {
        if (!machine.WriteMemory(Addressing(request.AddressSpace), request.Vcpu, request.Address, request.Data.Span))
            throw NotMapped(request.AddressSpace, request.Address, request.Data.Length);
        var response = new WriteMemoryResponse();
        await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(response) });
        return response;
    });

    /// <summary>A vCPU's registers.</summary>
    public Task<Vmm.V1.VcpuRegisters> GetRegistersAsync(int vcpu) =>
        InspectAsync(VmAction.Inspect, vcpu, machine => Task.FromResult(RegisterMessages.From(machine.GetRegisters(vcpu))));

    /// <summary>Makes the VM disappear, with its disks; gives the uid of its checkpoint, which others may still need, or null.</summary>
    public Task<string?> DeleteAsync(DeleteVmRequest request, RequestScope scope) =>
        DeleteAsync(request, () => RemoveAsync(new Mutation { DeleteVm = _vm.Name }, scope.Completed(new Empty())));

    /// <summary>Likewise, of a VM that is another worker's: nothing that was done to it here counts.</summary>
    public Task<string?> DropAsync() => DeleteAsync(new DeleteVmRequest { Force = true }, async () =>
    {
        await RemoveAsync(new Mutation { DropVm = _vm.Name }, null);
        Volatile.Write(ref _moved, ApiError.Unavailable("VM_ELSEWHERE", $"{_vm.Name} was given to another worker; repeat the request."));
    });

    private async Task<string?> DeleteAsync(DeleteVmRequest request, Func<Task> remove)
    {
        string etag = request.Etag;
        while (true)
        {
            MachineRun? running = await LockedAsync(etag, async () =>
            {
                if (request.Force && _run is not null)
                    return _run;
                Require(VmAction.Delete);
                await remove();
                return null;
            });
            if (running is null)
                return _vm.Status.Checkpoint?.Uid;
            running.PullPlug();
            await running.Ended;
            etag = "";
        }
    }

    /// <summary>Stops the VM because of its worker, at once and without waiting for the end, which is returned; null where it does not run.</summary>
    /// <param name="detail">Why, for people.</param>
    /// <param name="isFailure">The run is interrupted whatever the VM's restart policy says.</param>
    public Task? Interrupt(string detail, bool isFailure)
    {
        if (Volatile.Read(ref _run) is not { } run)
            return null;
        run.EndDetail = detail;
        run.IsInterrupted = isFailure || VmTransitions.Moves(_vm.Spec);
        run.PullPlug();
        return run.Ended;
    }

    /// <summary>Gives the VM away where it is stopped: it is removed here while nobody can start it, if <paramref name="give"/> says that it is another's.</summary>
    public Task<bool> HandOverAsync(Func<Task<bool>> give) => LockedAsync("", async () =>
    {
        if (_vm.Status.State != VmState.Stopped)
            return false;
        await _host.Reports.FlushedAsync();
        if (!await give())
            return false;
        await RemoveAsync(new Mutation { DeleteVm = _vm.Name }, null);
        return true;
    });

    /// <inheritdoc/>
    public void Dispose()
    {
        _fullTrace?.Dispose();
        _gate.Dispose();
    }

    private Task<Vm> OnMachineAsync(VmAction action, string etag, RequestScope scope, Action<IMachine> act) => LockedAsync(etag, async () =>
    {
        VmState after = Require(action);
        OnMachine(_run!, act);
        Vm next = after == _vm.Status.State ? _vm : NextVersion(vm => vm.Status.State = after);
        Vm answer = next.Clone();
        _run!.AddCounters(answer.Status);
        if (!ReferenceEquals(next, _vm))
            Show(next);
        await _host.Store.CommitAsync(new JournalRecord { Request = scope.Completed(answer) });
        return answer;
    });

    private Task<T> InspectAsync<T>(VmAction action, int vcpu, Func<IMachine, Task<T>> inspect) => LockedAsync("", async () =>
    {
        Require(action);
        if ((uint)vcpu >= (uint)_vm.Status.Cpus)
            throw ApiError.InvalidField("vcpu", $"is {vcpu}; the VM has {_vm.Status.Cpus} vCPU(s), counted from 0.");
        try
        {
            return await inspect(_run!.Machine);
        }
        catch (InvalidOperationException) when (_run!.Machine.End is not null)
        {
            throw EndedMeanwhile();
        }
    });

    private void OnMachine(MachineRun run, Action<IMachine> act)
    {
        try
        {
            act(run.Machine);
        }
        catch (InvalidOperationException) when (run.Machine.End is not null)
        {
            throw EndedMeanwhile();
        }
    }

    /// <summary>The machine ended, and the VM's record is about to say so.</summary>
    private Exception EndedMeanwhile() => ApiError.FailedPrecondition("ILLEGAL_STATE", "STATE", _vm.Name, "The VM ended just now.", ("state", "STOPPED"));

    private VmState Require(VmAction action) => Lifecycle.Require(_vm.Name, _vm.Status.State, action);

    private async Task<T> LockedAsync<T>(string etag, Func<Task<T>> action)
    {
        await _gate.WaitAsync();
        try
        {
            if (_moved is not null)
                throw _moved;
            if (_deleted)
                throw ApiError.NotFound(_vm.Name);
            if (etag.Length > 0 && etag != _vm.Etag)
                throw ApiError.Aborted("ETAG_MISMATCH", $"{_vm.Name} is not what the etag says any more.", ("etag", _vm.Etag));
            return await action();
        }
        finally
        {
            _gate.Release();
        }
    }

    private Vm NextVersion(Action<Vm> change)
    {
        Vm next = _vm.Clone();
        change(next);
        next.UpdateTime = Timestamp.FromDateTimeOffset(_host.Time.GetUtcNow());
        next.Etag = VmEtag.Of(next);
        return next;
    }

    private Vm Show(Vm next)
    {
        _vm = next;
        _history.Put(next);
        return next;
    }

    private Task CommitAsync(Vm vm, CompletedRequest? request) => _host.Store.CommitAsync(Record(vm, request));

    private static JournalRecord Record(Vm vm, CompletedRequest? request)
    {
        Vm stored = vm;
        if (vm.Status.State is not (VmState.Stopped or VmState.Running))
        {
            stored = vm.Clone();
            stored.Status.State = VmState.Running;
        }

        return new JournalRecord { Mutations = { new Mutation { PutVm = new StoredVm { Vm = stored } } }, Request = request };
    }

    private async Task RemoveAsync(Mutation mutation, CompletedRequest? request)
    {
        await _host.Store.CommitAsync(new JournalRecord { Mutations = { mutation }, Request = request });
        Forget(request);
        Console.Close();
        ApicvEvents.Close();
    }

    private void Forget(CompletedRequest? by)
    {
        _deleted = true;
        _fullTrace?.Dispose();
        _host.Files.UnpinAll(_vm.Spec, _vm.Name);
        RemoveDisks();
        // Not before: a VM that has moved may come back, with disks of the same names.
        _leave(this, by);
    }

    private void RemoveDisks()
    {
        try
        {
            _host.Files.RemoveDisks(_vm.Uid);
        }
        catch (IOException exception)
        {
            _host.Log.DisksNotRemoved(_vm.Name, exception);
        }
    }

    private static MemoryAddressing Addressing(AddressSpace space) => space == AddressSpace.Virtual ? MemoryAddressing.Virtual : MemoryAddressing.Physical;

    private static Exception NotMapped(AddressSpace space, ulong address, int length) => ApiError.OutOfRange(
        "ADDRESS_NOT_MAPPED",
        $"Not all of the {length} bytes at {(space == AddressSpace.Virtual ? "virtual" : "guest-physical")} address 0x{address:x} are mapped RAM.",
        ("address", $"0x{address:x}"));
}
