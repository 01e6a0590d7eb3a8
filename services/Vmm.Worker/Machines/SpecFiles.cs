using Microsoft.Win32.SafeHandles;
using Vmm.Machine;
using Vmm.Machine.Scheduling;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Images;
using Vmm.Worker.Snapshots;
using Vmm.Worker.Storage;
using ExecutionEngine = Vmm.Machine.ExecutionEngine;
using Protocol = Vmm.V1.ExecutionEngine;

namespace Vmm.Worker.Machines;

/// <summary>From the files that a spec names to files that a machine can open.</summary>
internal sealed class SpecFiles(WorkerStore store, ImageStore images, PathPolicy paths)
{
    /// <summary>Every file that a spec names, with the path of the field.</summary>
    public static IEnumerable<(string Field, FileSource Source)> Sources(VmSpec spec)
    {
        if (spec.Kernel is not null)
            yield return ("vm.spec.kernel", spec.Kernel);
        if (spec.Initrd is not null)
            yield return ("vm.spec.initrd", spec.Initrd);
        for (int i = 0; i < spec.Modules.Count; i++)
            yield return ($"vm.spec.modules[{i}].source", spec.Modules[i].Source);
        for (int i = 0; i < spec.Disks.Count; i++)
            yield return ($"vm.spec.disks[{i}].source", spec.Disks[i].Source);
    }

    /// <summary>The images among a spec's files, repeated where they are.</summary>
    public static IEnumerable<string> ImageNames(VmSpec spec) =>
        Sources(spec).Where(file => file.Source?.SourceCase == FileSource.SourceOneofCase.Image).Select(file => file.Source.Image);

    /// <summary>Checks every file, and keeps the images from being deleted.</summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT with every field at fault; nothing is pinned then.</exception>
    public void PinAll(VmSpec spec, string vm)
    {
        var violations = new List<FieldViolation>();
        var pinned = new List<string>();
        foreach ((string field, FileSource? source) in Sources(spec))
        {
            if (source is null)
            {
                violations.Add(new FieldViolation(field, "must be set."));
                continue;
            }

            try
            {
                if (source.SourceCase == FileSource.SourceOneofCase.Image)
                {
                    images.Pin(source.Image, vm);
                    pinned.Add(source.Image);
                }
                else
                {
                    paths.Require(source.Path);
                }
            }
            catch (PathRefusedException exception)
            {
                violations.Add(new FieldViolation($"{field}.path", exception.Message));
            }
            catch (Grpc.Core.RpcException exception) when (exception.StatusCode == Grpc.Core.StatusCode.NotFound)
            {
                violations.Add(new FieldViolation($"{field}.image", "names an image that does not exist."));
            }
        }

        if (violations.Count == 0)
            return;
        foreach (string image in pinned)
            images.Unpin(image, vm);
        throw ApiError.InvalidFields(violations, "INVALID_FILE");
    }

    /// <summary>Keeps the images of a spec whose files have been checked before, whatever became of them.</summary>
    public void PinExisting(VmSpec spec, string user)
    {
        foreach (string image in ImageNames(spec))
            images.PinExisting(image, user);
    }

    /// <summary>Lets a VM's or a snapshot's images go.</summary>
    public void UnpinAll(VmSpec spec, string user)
    {
        foreach (string image in ImageNames(spec))
            images.Unpin(image, user);
    }

    /// <summary>Makes the VM's private copies of disks that come from images.</summary>
    /// <exception cref="IOException">The disk is full, most likely.</exception>
    public void CreateDisks(string uid, VmSpec spec)
    {
        int[] copied = [.. Enumerable.Range(0, spec.Disks.Count).Where(i => !spec.Disks[i].ReadOnly && spec.Disks[i].Source.SourceCase == FileSource.SourceOneofCase.Image)];
        // Most VMs have none, and to make a folder last takes as long as all the rest.
        if (copied.Length == 0)
            return;
        string folder = Folder(uid);
        WorkerStore.CreatePrivateDirectory(folder);
        foreach (int i in copied)
        {
            string path = PrivateDisk(uid, i);
            File.Copy(store.ImagePath(spec.Disks[i].Source.Image), path, overwrite: true);
            using var file = new FileStream(path, FileMode.Open, FileAccess.ReadWrite);
            file.Flush(flushToDisk: true);
        }

        PosixFile.FlushDirectory(folder);
    }

    /// <summary>The disks that a VM has for itself, by their numbers.</summary>
    public IReadOnlyDictionary<int, string> PrivateDisks(Vm vm) =>
        Enumerable.Range(0, vm.Spec.Disks.Count).Where(i => File.Exists(PrivateDisk(vm.Uid, i))).ToDictionary(i => i, i => PrivateDisk(vm.Uid, i));

    /// <summary>Makes disks of zeros, to be filled from another worker.</summary>
    /// <param name="uid">The VM's.</param>
    /// <param name="bytes">The length of each disk of its spec; 0 for those that are not its own.</param>
    /// <returns>The disks, open, by their numbers.</returns>
    /// <exception cref="IOException">The disk is full, most likely.</exception>
    public Dictionary<int, SafeFileHandle> CreateEmptyDisks(string uid, IReadOnlyList<long> bytes)
    {
        WorkerStore.CreatePrivateDirectory(Folder(uid));
        var disks = new Dictionary<int, SafeFileHandle>();
        try
        {
            for (int i = 0; i < bytes.Count; i++)
            {
                if (bytes[i] == 0)
                    continue;
                disks[i] = File.OpenHandle(PrivateDisk(uid, i), FileMode.Create, FileAccess.Write, FileShare.Read);
                RandomAccess.SetLength(disks[i], bytes[i]);
            }

            return disks;
        }
        catch
        {
            foreach (SafeFileHandle disk in disks.Values)
                disk.Dispose();
            throw;
        }
    }

    /// <summary>Makes the names of a VM's disks last.</summary>
    public void FlushDisks(string uid) => PosixFile.FlushDirectory(Folder(uid));

    /// <summary>Copies the disks that a VM writes into a snapshot; its machine must stand still.</summary>
    /// <exception cref="IOException">The disk is full, most likely.</exception>
    public void CopyDisksTo(SnapshotFolder snapshot, Vm vm)
    {
        for (int i = 0; i < vm.Spec.Disks.Count; i++)
            if (!vm.Spec.Disks[i].ReadOnly)
                DiskCopy.Make(LocateDisk(vm, i), snapshot.Disk(i));
    }

    /// <summary>Makes the private copies of a snapshot's disks for a VM that is restored from it.</summary>
    /// <exception cref="IOException">The disk is full, most likely.</exception>
    public void CopyDisksFrom(SnapshotFolder snapshot, string uid, VmSpec spec)
    {
        if (spec.Disks.All(disk => disk.ReadOnly))
            return;
        WorkerStore.CreatePrivateDirectory(Folder(uid));
        for (int i = 0; i < spec.Disks.Count; i++)
            if (!spec.Disks[i].ReadOnly)
                DiskCopy.Make(snapshot.Disk(i), PrivateDisk(uid, i));
        PosixFile.FlushDirectory(Folder(uid));
    }

    /// <summary>Puts a snapshot's disks in the place of those of a VM that goes on from it: all of them, or none where that fails.</summary>
    /// <exception cref="IOException">The disk is full, most likely.</exception>
    public void ReplaceDisks(SnapshotFolder snapshot, string uid, VmSpec spec)
    {
        int[] written = [.. Enumerable.Range(0, spec.Disks.Count).Where(i => !spec.Disks[i].ReadOnly)];
        if (written.Length == 0)
            return;
        WorkerStore.CreatePrivateDirectory(Folder(uid));
        foreach (int i in written)
        {
            File.Delete($"{PrivateDisk(uid, i)}.new");
            DiskCopy.Make(snapshot.Disk(i), $"{PrivateDisk(uid, i)}.new");
        }

        foreach (int i in written)
            File.Move($"{PrivateDisk(uid, i)}.new", PrivateDisk(uid, i), overwrite: true);
        PosixFile.FlushDirectory(Folder(uid));
    }

    /// <summary>Removes a VM's private files.</summary>
    public void RemoveDisks(string uid)
    {
        if (Directory.Exists(Folder(uid)))
            Directory.Delete(Folder(uid), recursive: true);
    }

    /// <summary>What the engine makes a machine from.</summary>
    /// <exception cref="Grpc.Core.RpcException">FAILED_PRECONDITION: a file is not there any more.</exception>
    public MachineSpec ToMachineSpec(Vm vm)
    {
        VmSpec spec = vm.Spec;
        return new MachineSpec
        {
            MemoryBytes = (ulong)spec.MemoryMib << 20,
            Cpus = spec.Cpus,
            // A VM that was stored before there was such a field has none.
            MaxCpus = spec.MaxCpus == 0 ? spec.Cpus : spec.MaxCpus,
            KernelPath = Locate(vm, "vm.spec.kernel", spec.Kernel),
            InitrdPath = spec.Initrd is null ? null : Locate(vm, "vm.spec.initrd", spec.Initrd),
            CommandLine = spec.CommandLine,
            Modules = [.. spec.Modules.Select((module, i) => (Locate(vm, $"vm.spec.modules[{i}].source", module.Source), module.CommandLine))],
            Disks = [.. spec.Disks.Select((disk, i) => new DiskSpec(LocateDisk(vm, i), disk.ReadOnly))],
            Clock = spec.Clock == Clock.Virtual ? ClockMode.Virtual : ClockMode.RealTime,
            Seed = spec.Seed,
            Engine = EngineOf(spec),
            Apicv = ApicvMessages.ToOptions(spec.Apicv),
            NestedEarlyCheck = spec.Nested?.EarlyCheck ?? false,
            EnlightenedVmcs = spec.Nested?.EnlightenedVmcs ?? false,
            VmxCapabilityMsrs = NestedMessages.CapabilityMsrs(spec),
            Share = ShareOf(spec),
        };
    }

    /// <summary>What a VM is to have of the processors. One that was stored before there was such a field has the default weight.</summary>
    public static ProcessorShare ShareOf(VmSpec spec) => new()
    {
        Weight = spec.CpuWeight == 0 ? ProcessorShare.DefaultWeight : spec.CpuWeight,
        LimitMillicpus = spec.CpuLimitMillicpus,
    };

    /// <summary>Whether a VM may have had one spec and have another one later: only what it is to have of the processors changes.</summary>
    public static bool CanBecome(VmSpec before, VmSpec after)
    {
        VmSpec same = after.Clone();
        same.CpuWeight = before.CpuWeight;
        same.CpuLimitMillicpus = before.CpuLimitMillicpus;
        return same.Equals(before) && ShareOf(after).Refusal is null;
    }

    /// <summary>The field of the API that a field of <see cref="MachineSpec"/> comes from.</summary>
    public static string FieldOf(string machineField) => machineField switch
    {
        nameof(MachineSpec.MemoryBytes) => "vm.spec.memory_mib",
        nameof(MachineSpec.MaxCpus) => "vm.spec.max_cpus",
        nameof(MachineSpec.KernelPath) => "vm.spec.kernel",
        nameof(MachineSpec.InitrdPath) => "vm.spec.initrd",
        nameof(MachineSpec.CommandLine) => "vm.spec.command_line",
        nameof(MachineSpec.VmxCapabilityMsrs) => NestedMessages.CapabilityField,
        _ => $"vm.spec.{machineField.ToLowerInvariant()}",
    };

    private static ExecutionEngine EngineOf(VmSpec spec) => SpecEngine.Of(spec) switch
    {
        Protocol.Auto => ExecutionEngine.Auto,
        Protocol.Lockstep => ExecutionEngine.Lockstep,
        Protocol.Interpreter => ExecutionEngine.Interpreter,
        var unknown => throw ApiError.InvalidField("vm.spec.engine", $"is {(int)unknown}, which this worker does not know."),
    };

    private string Folder(string uid) => Path.Combine(store.VmsDirectory, uid);

    private string PrivateDisk(string uid, int index) => Path.Combine(Folder(uid), $"disk{index}");

    private string LocateDisk(Vm vm, int index)
    {
        Disk disk = vm.Spec.Disks[index];
        string path = PrivateDisk(vm.Uid, index);
        // A VM that was restored from a snapshot has its own copy of a disk that its spec names by path, too.
        if (File.Exists(path))
            return path;
        if (disk.ReadOnly || disk.Source.SourceCase != FileSource.SourceOneofCase.Image)
            return Locate(vm, $"vm.spec.disks[{index}].source", disk.Source);
        throw Missing(vm, $"vm.spec.disks[{index}]", "has lost its file in the server's state directory.");
    }

    private string Locate(Vm vm, string field, FileSource source)
    {
        if (source.SourceCase == FileSource.SourceOneofCase.Image)
        {
            string path = store.ImagePath(source.Image);
            return File.Exists(path) ? path : throw Missing(vm, field, "names an image that is not there.");
        }

        try
        {
            return paths.Require(source.Path);
        }
        catch (PathRefusedException exception)
        {
            throw Missing(vm, field, exception.Message);
        }
    }

    private static Exception Missing(Vm vm, string field, string description) =>
        ApiError.FailedPrecondition("FILE_UNAVAILABLE", "FILE", field, $"{field} {description}", ("vm", vm.Name));
}
