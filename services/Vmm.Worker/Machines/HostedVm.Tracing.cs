using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Telemetry;

namespace Vmm.Worker.Machines;

/// <content>Full trace.</content>
internal sealed partial class HostedVm
{
    private FullTrace? _fullTrace;

    /// <summary>A call is about this VM: under full trace it is recorded.</summary>
    public void NoteCall()
    {
        if (Volatile.Read(ref _fullTrace) is { IsOver: false })
            Activity.Current.ForceRecording();
    }

    /// <summary>Puts the VM under full trace, for so long from now; for no time, ends it.</summary>
    public Task<TraceVmResponse> TraceFullyAsync(TimeSpan duration) => LockedAsync("", () =>
    {
        FullTrace? present = _fullTrace is { IsOver: false } running ? running : null;
        if (duration == TimeSpan.Zero)
        {
            present?.Dispose();
            return Task.FromResult(new TraceVmResponse());
        }

        if (present is not null)
        {
            Activity.Current.ForceRecording();
            present.Prolong(duration);
            return Task.FromResult(new TraceVmResponse { EndTime = Timestamp.FromDateTimeOffset(present.EndTime) });
        }

        FullTrace trace = FullTrace.Begin(_vm.Name, _host.Time, duration) ?? throw ApiError.FailedPrecondition(
            "TRACES_NOT_EXPORTED", "OTEL_EXPORTER_OTLP_ENDPOINT", _vm.Name, $"{_host.Fleet.Worker} exports no traces: there is no receiver for them.");
        Volatile.Write(ref _fullTrace, trace);
        if (_run is { } run && run.Machine.End is null)
            OnMachine(run, trace.Follow);
        return Task.FromResult(new TraceVmResponse { EndTime = Timestamp.FromDateTimeOffset(trace.EndTime) });
    });
}
