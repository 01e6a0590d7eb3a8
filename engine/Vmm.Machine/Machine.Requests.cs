using System.Runtime.ExceptionServices;
using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Log;

namespace Vmm.Machine;

/// <content>What other threads may ask. Each request is done on the machine's thread, between two instructions.</content>
public sealed partial class Machine
{
    /// <summary>What has come from outside so far, with the moments at which it took effect. Empty under the real-time clock.</summary>
    public IReadOnlyList<LoggedInput> EventLog => Invoke(() => _inputs.Log.ToArray());

    /// <summary>Gives a machine under the virtual clock the inputs of an earlier run of the same spec, each when its time has come.</summary>
    /// <exception cref="InvalidOperationException">The machine has started, or its clock is real time.</exception>
    public void Replay(IReadOnlyList<LoggedInput> log) => Invoke(() =>
    {
        if (_runState != MachineRunState.Created || _spec.Clock != ClockMode.Virtual)
            throw new InvalidOperationException("Only a machine under the virtual clock that has not started can replay a log.");
        _inputs.Replay(log);
        return 0;
    });

    /// <inheritdoc/>
    public void Start() => Invoke(() =>
    {
        if (_runState != MachineRunState.Created)
            throw new InvalidOperationException($"The machine is {_runState}, so it cannot be started.");
        _clock.Release();
        _runState = MachineRunState.Running;
        return 0;
    });

    /// <inheritdoc/>
    public void Pause() => Invoke(() =>
    {
        PauseHere();
        return 0;
    });

    /// <summary>
    /// Pauses the machine when its vCPUs together have executed a number of instructions, or now where they already have. A later call
    /// replaces an earlier one.
    /// </summary>
    /// <param name="instructions">As <see cref="InstructionsRetired"/> counts.</param>
    /// <returns>Completes when the machine is paused there, for whatever reason it is paused first, or has ended.</returns>
    public Task PauseAt(ulong instructions) => Invoke(() =>
    {
        if (_end != null)
            return Task.CompletedTask;
        _paused?.TrySetCanceled();
        _paused = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        _pauseAt = instructions;
        return _paused.Task;
    });

    private void PauseHere()
    {
        if (_runState != MachineRunState.Running)
            return;
        _clock.Hold();
        _runState = MachineRunState.Paused;
        _vm.Running?.RequestExit();
        _pauseAt = ulong.MaxValue;
        _paused?.TrySetResult();
        _paused = null;
    }

    /// <inheritdoc/>
    public void Resume() => Invoke(() =>
    {
        if (_runState != MachineRunState.Paused)
            return 0;
        _clock.Release();
        _runState = MachineRunState.Running;
        return 0;
    });

    /// <inheritdoc/>
    public void Reset() => Apply(new(MachineInputKind.Reset));

    /// <inheritdoc/>
    public void PressPowerButton() => Apply(new(MachineInputKind.PowerButton));

    /// <inheritdoc/>
    public void InjectNmi(int vcpu) => Apply(new(MachineInputKind.Nmi, CheckVcpu(vcpu)));

    /// <inheritdoc/>
    public int VcpuCount => _vm.Vcpus.Count;

    /// <inheritdoc/>
    public int AddVcpu() => Invoke(() =>
    {
        if (_end != null)
            throw new InvalidOperationException("The machine has ended, so no vCPU can be added to it.");
        if (_vm.Vcpus.Count >= _spec.MaxCpus)
            throw new InvalidOperationException($"The machine has all of the {_spec.MaxCpus} vCPUs that it can have.");
        Perform(new(MachineInputKind.VcpuAdded));
        return _vm.Vcpus.Count - 1;
    });

    /// <inheritdoc/>
    public void Stop() => Invoke(() =>
    {
        RequestEnd(new(MachineEndReason.Stopped, 0));
        if (_vm.Running == null)
            Settle();
        return 0;
    });

    /// <inheritdoc/>
    public int WriteConsole(ReadOnlySpan<byte> bytes)
    {
        if (bytes.IsEmpty || _end != null)
            return 0;
        int count = _inputs.WriteConsole(bytes);
        if (count > 0)
        {
            _inputs.Post(() => _passConsole = true);
            _runner.Kick();
        }
        return count;
    }

    /// <inheritdoc/>
    public bool ReadMemory(MemoryAddressing addressing, int vcpu, ulong address, Span<byte> destination)
    {
        Vcpu translator = _vm.Vcpus[CheckVcpu(vcpu)];
        byte[] bytes = new byte[destination.Length];
        if (!Invoke(() => MachineMemory.TryRead(_memory, addressing == MemoryAddressing.Virtual ? translator : null, address, bytes)))
            return false;
        bytes.CopyTo(destination);
        return true;
    }

    /// <inheritdoc/>
    public bool WriteMemory(MemoryAddressing addressing, int vcpu, ulong address, ReadOnlySpan<byte> source)
    {
        Vcpu translator = _vm.Vcpus[CheckVcpu(vcpu)];
        byte[] bytes = source.ToArray();
        return Invoke(() =>
        {
            if (!MachineMemory.TryFind(_memory, addressing == MemoryAddressing.Virtual ? translator : null, address, bytes.Length, out var parts))
                return false;
            int done = 0;
            foreach ((ulong physical, int length) in parts)
            {
                Perform(new(MachineInputKind.WriteMemory, Address: physical, Data: bytes.AsMemory(done, length)));
                done += length;
            }
            return true;
        });
    }

    /// <inheritdoc/>
    public VcpuRegisters GetRegisters(int vcpu)
    {
        Vcpu target = _vm.Vcpus[CheckVcpu(vcpu)];
        return Invoke(() => RegisterView.Of(target));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposing, true))
            return;
        Stop();
        Invoke(() =>
        {
            _disposed = true;
            _runner.Dispose();
            _vm.Dispose();
            CloseDisks();
            _memory.Dispose();
            return 0;
        });
    }

    private int CheckVcpu(int vcpu)
    {
        if ((uint)vcpu >= (uint)_vm.Vcpus.Count)
            throw new ArgumentOutOfRangeException(nameof(vcpu), vcpu, $"The machine has vCPUs 0 to {_vm.Vcpus.Count - 1}.");
        return vcpu;
    }

    private void Apply(MachineInput input) => Invoke(() =>
    {
        if (_end == null)
            Perform(input);
        return 0;
    });

    private void ApplyReplayed()
    {
        while (_inputs.NextReplayed is { } next && next.Instructions <= _runner.InstructionsRetired && next.Nanoseconds <= _clock.Nanoseconds)
        {
            _inputs.TookReplayed();
            Perform(next.Input);
        }
    }

    private void Perform(MachineInput input)
    {
        _inputs.Note(_runner.InstructionsRetired, _clock.Nanoseconds, input);
        switch (input.Kind)
        {
            case MachineInputKind.ConsoleInput:
                _board.Serial[0].Receive(input.Data.Span);
                break;
            case MachineInputKind.PowerButton:
                _board.Power.PressPowerButton();
                break;
            case MachineInputKind.Nmi:
                if (input.Vcpu < _vm.Vcpus.Count)
                    _vm.Vcpus[input.Vcpu].Request(VcpuRequest.Nmi);
                break;
            case MachineInputKind.WriteMemory:
                _vm.Package.WriteMemory(input.Address, input.Data.Span);
                break;
            case MachineInputKind.ApicvInhibitSet or MachineInputKind.ApicvInhibitCleared:
                PerformApicv(input);
                break;
            case MachineInputKind.NestedState:
                PutNestedState(input);
                break;
            case MachineInputKind.VcpuAdded:
                PerformAddVcpu();
                break;
            default:
                RequestReset();
                if (_vm.Running == null)
                    Settle();
                break;
        }
    }

    // Does something on the machine's thread and waits for it. A callback of the machine is there already.
    private T Invoke<T>(Func<T> action)
    {
        if (_runner.IsCurrentThread)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            return action();
        }
        var done = new TaskCompletionSource<T>(TaskCreationOptions.RunContinuationsAsynchronously);
        _inputs.Post(() =>
        {
            try
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                done.SetResult(action());
            }
            catch (Exception e)
            {
                // Not this thread's: it belongs to the one that asked.
                done.SetException(e);
            }
        });
        _runner.Kick();
        try
        {
            return done.Task.GetAwaiter().GetResult();
        }
        catch (Exception e)
        {
            ExceptionDispatchInfo.Throw(e);
            throw;
        }
    }
}
