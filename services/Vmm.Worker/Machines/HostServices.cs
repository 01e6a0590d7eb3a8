using Microsoft.Extensions.Logging;
using Vmm.Machine;
using Vmm.Worker.Fleet;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;
using Vmm.Worker.Telemetry;

namespace Vmm.Worker.Machines;

/// <summary>What every VM of a worker needs from it.</summary>
internal sealed record HostServices(
    WorkerStore Store,
    SpecFiles Files,
    SnapshotStore Snapshots,
    CheckpointStore Checkpoints,
    HostCapacity Capacity,
    IMachineFactory Machines,
    TimeProvider Time,
    WorkerOptions Options,
    ReportQueue Reports,
    RunPermit Permit,
    FleetLinks Fleet,
    EngineMeter Meter,
    OperationsMeter Operations,
    ILogger Log);
