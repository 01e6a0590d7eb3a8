using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Worker.Machines;

/// <content>The way from another worker: what the target's side does to the VM. Nobody sees it before <see cref="BeginMovedAsync"/>.</content>
internal sealed partial class HostedVm
{
    private bool _kept;

    /// <summary>Makes the VM last here, so that the next start of the worker finds it and asks whose it is.</summary>
    public async Task KeepAsync(Vm vm)
    {
        _kept = true;
        _vm = vm;
        await CommitAsync(vm, null);
    }

    /// <summary>As <see cref="KeepAsync"/>, with what has changed since then.</summary>
    public async Task KeepMovedAsync(Vm vm)
    {
        // The worker differs always; a start sets it right by itself.
        Vm before = _vm;
        _vm = vm;
        if (!vm.Labels.Equals(before.Labels) || !vm.Spec.Equals(before.Spec) || vm.Status.State != before.Status.State || vm.Status.RunCount != before.Status.RunCount || vm.Status.Cpus != before.Status.Cpus
            || !Equals(vm.Status.Checkpoint, before.Status.Checkpoint))
            await CommitAsync(vm, null);
    }

    /// <summary>The VM is this worker's: it shows, and goes on as it was.</summary>
    public async Task<Vm> BeginMovedAsync(Vm offered, MachineRun? run)
    {
        await _gate.WaitAsync();
        try
        {
            if (run is not null)
            {
                Volatile.Write(ref _run, run);
                if (_host.Permit.IsGranted)
                {
                    // Whoever revokes the permit from here on sees the run.
                    if (_vm.Status.State == VmState.Running)
                        run.Machine.Resume();
                    Console.RunBegan(run.Machine);
                }
                else
                {
                    // The lease ended with the move: it is this worker's, and does not run.
                    run.EndDetail = "The worker lost its lease.";
                    run.IsInterrupted = true;
                    run.PullPlug();
                }

                run.Ending = EndRunAsync(run);
                KeepCheckpoints(run);
            }

            return Show(_vm);
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <summary>It was not to be: what the journal has of it is taken back.</summary>
    public async Task TakeBackAsync()
    {
        if (!_kept)
            return;
        try
        {
            await _host.Store.CommitAsync(new JournalRecord { Mutations = { new Mutation { DeleteVm = _vm.Name } } });
        }
        catch (Grpc.Core.RpcException exception)
        {
            // The next start finds it, and hears from the registry that it is another worker's.
            _host.Log.ArrivalNotTakenBack(_vm.Name, exception.Status.Detail);
        }
    }
}
