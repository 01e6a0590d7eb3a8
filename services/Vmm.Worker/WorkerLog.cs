using Microsoft.Extensions.Logging;

namespace Vmm.Worker;

/// <summary>What a worker logs, one method for each message, made by the generator of logging. Nothing of a guest's console is among it.</summary>
internal static partial class WorkerLog
{
    [LoggerMessage(LogLevel.Warning, "The fleet could not be told of the end of {Worker}; its lease will run out")]
    public static partial void LeaseNotEnded(this ILogger log, string worker, Exception exception);

    [LoggerMessage(LogLevel.Information, "{Worker} serves as incarnation {Incarnation}")]
    public static partial void Registered(this ILogger log, string worker, long incarnation);

    [LoggerMessage(LogLevel.Warning, "{Worker} cannot renew its lease: {Reason}")]
    public static partial void LeaseNotRenewed(this ILogger log, string worker, string reason);

    [LoggerMessage(LogLevel.Information, "What is left of snapshots could not be looked for: {Reason}")]
    public static partial void SnapshotsNotSwept(this ILogger log, string reason);

    [LoggerMessage(LogLevel.Warning, "{Worker} could not give all of its VMs away: {Reason}")]
    public static partial void HandOverFailed(this ILogger log, string worker, string reason);

    [LoggerMessage(LogLevel.Warning, "{Vm} could not be brought up: {Reason}")]
    public static partial void BringUpRefused(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Error, "{Vm} could not be brought up")]
    public static partial void BringUpFailed(this ILogger log, string vm, Exception exception);

    [LoggerMessage(LogLevel.Error, "{Worker} lost its lease: every VM is stopped")]
    public static partial void LeaseLost(this ILogger log, string worker);

    [LoggerMessage(LogLevel.Error, "{Worker} could not drop VMs that are not its own")]
    public static partial void DropFailed(this ILogger log, string worker, Exception? exception);

    [LoggerMessage(LogLevel.Warning, "{Vm}, which did not come here, stays in the journal until the next start: {Reason}")]
    public static partial void ArrivalNotTakenBack(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Warning, "{Vm} could not be saved: {Reason}")]
    public static partial void CheckpointFailed(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Information, "A checkpoint of {Vm} is kept for now: {Reason}")]
    public static partial void CheckpointKept(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Warning, "{Vm} was moved to {Worker}, which did not say that it runs: {Reason}")]
    public static partial void MoveNotConfirmed(this ILogger log, string vm, string worker, string reason);

    [LoggerMessage(LogLevel.Error, "{Vm} has moved to another worker, which could not be recorded")]
    public static partial void MoveNotRecorded(this ILogger log, string vm, Exception exception);

    [LoggerMessage(LogLevel.Information, "{Vm} did not power off within {Grace}: pulling the plug")]
    public static partial void PlugPulled(this ILogger log, string vm, TimeSpan grace);

    [LoggerMessage(LogLevel.Error, "{Vm}: the engine failed: {Detail}")]
    public static partial void EngineFailed(this ILogger log, string vm, string detail);

    [LoggerMessage(LogLevel.Warning, "{Vm}: code could not be compiled, and is interpreted; said once: {Reason}")]
    public static partial void CompilationFailed(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Error, "{Vm}: its end could not be recorded")]
    public static partial void EndNotRecorded(this ILogger log, string vm, Exception exception);

    [LoggerMessage(LogLevel.Warning, "The disks of {Vm} could not be removed; the next start will try again")]
    public static partial void DisksNotRemoved(this ILogger log, string vm, Exception exception);

    [LoggerMessage(LogLevel.Information, "{Vm}: the source of its move went away: {Reason}")]
    public static partial void MoveSourceGone(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Warning, "{Folder} could not be removed; the next start will try again")]
    public static partial void CheckpointFolderNotRemoved(this ILogger log, string folder, Exception exception);

    [LoggerMessage(LogLevel.Warning, "Checkpoint {Uid} could not be removed; it will be tried again")]
    public static partial void CheckpointNotRemoved(this ILogger log, string uid, Exception exception);

    [LoggerMessage(LogLevel.Warning, "Old checkpoints could not be looked for; it will be tried again")]
    public static partial void CheckpointsNotSwept(this ILogger log, Exception exception);

    [LoggerMessage(LogLevel.Warning, "The copy of {Snapshot} could not be removed; the next start will try again")]
    public static partial void ReplicaNotRemoved(this ILogger log, string snapshot, Exception exception);

    [LoggerMessage(LogLevel.Warning, "The directory of snapshots that workers share could not be swept; the next start will try again")]
    public static partial void SharedSnapshotsNotSwept(this ILogger log, Exception exception);

    [LoggerMessage(LogLevel.Warning, "The files of snapshot {Uid} could not be removed; the next start will try again")]
    public static partial void SnapshotFilesNotRemoved(this ILogger log, string uid, Exception exception);

    [LoggerMessage(LogLevel.Warning, "{Vm} stays on {Worker}: {Reason}")]
    public static partial void VmStays(this ILogger log, string vm, string worker, string reason);

    [LoggerMessage(LogLevel.Information, "{Vm} is booted elsewhere: {Reason}")]
    public static partial void VmBootedElsewhere(this ILogger log, string vm, string reason);

    [LoggerMessage(LogLevel.Warning, "The registry does not know of the end of every VM: {Reason}")]
    public static partial void EndsUnreported(this ILogger log, string reason);
}
