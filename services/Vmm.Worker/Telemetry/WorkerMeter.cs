using System.Diagnostics.Metrics;
using Vmm.V1;

namespace Vmm.Worker.Telemetry;

/// <summary>What a worker has to carry, as metrics. Catalogued in the README of <c>services</c>.</summary>
internal sealed class WorkerMeter : IDisposable
{
    /// <summary>The meter's name.</summary>
    public const string Name = "Vmm.Worker";

    private static readonly VmState[] States = [VmState.Stopped, VmState.Starting, VmState.Running, VmState.Paused, VmState.Stopping];

    private readonly Meter _meter = new(Name);
    private readonly WorkerHost _host;

    public WorkerMeter(WorkerHost host)
    {
        _host = host;
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.vms", CountVms, "{vm}", "VMs of this worker, by state.");
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.vcpus", () => Running().Sum(vm => vm.Status.Cpus), "{vcpu}", "vCPUs of VMs that have a machine.");
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.memory", () => Running().Sum(vm => (long)vm.Status.MemoryBytes), "By", "Guest memory of VMs that have a machine.");
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.threads", () => host.MachineLoad.Threads, "{thread}", "Threads that execute guests.");
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.run_queue", () => host.MachineLoad.Waiting, "{vm}", "VMs that could execute and wait for a thread.");
        _ = _meter.CreateObservableGauge("vmm.worker.lease.remaining", Lease, "s", "How long this worker may still run VMs unless it renews its lease; nothing where it has none or needs none.");
    }

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private IEnumerable<Vm> Running() => _host.AllVms().Where(vm => vm.Status.State != VmState.Stopped);

    private IEnumerable<Measurement<int>> CountVms()
    {
        ILookup<VmState, Vm> byState = _host.AllVms().ToLookup(vm => vm.Status.State);
        return States.Select(state => new Measurement<int>(byState[state].Count(), new KeyValuePair<string, object?>("vmm.vm.state", SnakeCase.Of(state.ToString()))));
    }

    private IEnumerable<Measurement<double>> Lease() =>
        _host.LeaseRemaining?.Invoke() is { } left ? [new(left.TotalSeconds)] : [];
}
