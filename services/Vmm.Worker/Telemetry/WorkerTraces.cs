using System.Diagnostics;

namespace Vmm.Worker.Telemetry;

/// <summary>Spans of what a worker does with its VMs. Catalogued in the README of <c>services</c>; without a listener nothing is made.</summary>
internal static class WorkerTraces
{
    /// <summary>The source's name.</summary>
    public const string SourceName = "Vmm.Worker";

    /// <summary>An image comes from another worker.</summary>
    public const string ImageFetch = "image.fetch";

    /// <summary>The machine is made: memory, firmware, kernel.</summary>
    public const string BootLoad = "boot.load";

    /// <summary>The machine waits for a thread to execute its first instruction.</summary>
    public const string BootQueue = "boot.queue";

    /// <summary>The guest executes and has not said anything on its console.</summary>
    public const string BootSilent = "boot.silent";

    /// <summary>A snapshot is taken: the VM stands.</summary>
    public const string SnapshotPause = "snapshot.pause";

    /// <summary>Its memory and devices are written.</summary>
    public const string SnapshotWrite = "snapshot.write";

    /// <summary>Its disks are written.</summary>
    public const string SnapshotDisks = "snapshot.disks";

    /// <summary>Its digests are taken, and it is kept.</summary>
    public const string SnapshotDigest = "snapshot.digest";

    /// <summary>A snapshot of another worker is brought here.</summary>
    public const string SnapshotFetch = "snapshot.fetch";

    /// <summary>A VM from a snapshot gets its disks.</summary>
    public const string RestoreDisks = "restore.disks";

    /// <summary>A VM from a snapshot gets its machine.</summary>
    public const string RestoreMachine = "restore.machine";

    /// <summary>A move: the target is offered the VM.</summary>
    public const string MigrationOffer = "migration.offer";

    /// <summary>Memory and disks are gone through once.</summary>
    public const string MigrationRound = "migration.round";

    /// <summary>The VM stands, and the rest is sent.</summary>
    public const string MigrationHold = "migration.hold";

    /// <summary>The registry moves the VM.</summary>
    public const string MigrationCommit = "migration.commit";

    /// <summary>The target is told to let it go on.</summary>
    public const string MigrationGo = "migration.go";

    /// <summary>The target of a move makes room for the VM.</summary>
    public const string MigrationAccept = "migration.accept";

    /// <summary>It takes memory, disks and state.</summary>
    public const string MigrationTake = "migration.take";

    /// <summary>It makes the machine, and makes the VM last.</summary>
    public const string MigrationMake = "migration.make";

    /// <summary>The VM is complete there, and whose it is is not decided.</summary>
    public const string MigrationDecide = "migration.decide";

    /// <summary>A change of the APICv inhibits, from its arrival to its application on one vCPU.</summary>
    public const string ApicvUpdate = "apicv.update";

    /// <summary>A VM is under full trace.</summary>
    public const string VmTrace = "vm.trace";

    /// <summary>A second of its VM exits.</summary>
    public const string VmExits = "vm.exits";

    /// <summary>The source.</summary>
    public static ActivitySource Source { get; } = new(SourceName);
}
