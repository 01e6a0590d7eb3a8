using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Registry;

/// <summary>What the registry makes of VMs whose worker is not there to say it.</summary>
public static class VmTransitions
{
    private const int ExitCodeStopped = 137;

    /// <summary>Whether a VM goes to another worker when its own fails.</summary>
    public static bool Moves(VmSpec spec) => spec.RestartPolicy is RestartPolicy.Restart or RestartPolicy.FromLastCheckpoint;

    /// <summary>The VM as it is once its worker is lost: a run is over, anything else as it was.</summary>
    public static Vm Interrupted(Vm vm, DateTimeOffset now, string detail)
    {
        // A stop that was asked for is as good as done; it is not to be undone by a restart.
        bool stopping = vm.Status.State == VmState.Stopping;
        if (vm.Status.State == VmState.Stopped)
            return vm;
        Vm next = vm.Clone();
        next.Status.State = VmState.Stopped;
        next.Status.MemoryBytes = 0;
        next.UpdateTime = Timestamp.FromDateTimeOffset(now);
        next.Status.End = new VmEnd
        {
            Reason = stopping ? VmEndReason.Stopped : VmEndReason.Interrupted,
            ExitCode = ExitCodeStopped,
            Detail = detail,
            EndTime = next.UpdateTime,
        };
        next.Etag = VmEtag.Of(next);
        return next;
    }
}
