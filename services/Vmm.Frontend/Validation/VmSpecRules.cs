using Google.Protobuf.Collections;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.V1;

namespace Vmm.Frontend.Validation;

/// <summary>What a VM's spec must be like, and what stands for fields that are left out.</summary>
internal static class VmSpecRules
{
    private const int MaxModules = 32;
    private const int MaxDisks = 16;
    private const int MaxFixedInhibits = 2;
    private const int MaxCapabilityMsrs = 20;
    private const int MaxSelectorLabels = 16;
    private const int MostCpuWeight = 10_000;
    private const int DefaultCpuWeight = 100;
    private const int LeastCpuLimit = 10;
    private const int MostCpuLimit = 16_000;
    private static readonly TimeSpan ShortestCheckpointInterval = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestCheckpointInterval = TimeSpan.FromDays(1);
    private static readonly TimeSpan DefaultCheckpointInterval = TimeSpan.FromSeconds(60);

    /// <summary>Notes everything that is wrong with a spec. Files are looked at by the worker that has them.</summary>
    public static void Check(VmSpec spec, string parent, FrontendOptions options, Violations violations)
    {
        violations.Check(
            spec.MemoryMib >= 1 && spec.MemoryMib <= options.MaxVmMemoryMib, "vm.spec.memory_mib", $"is {spec.MemoryMib}; it must be from 1 to {options.MaxVmMemoryMib} MiB.");
        violations.Check(spec.Cpus >= 0 && spec.Cpus <= options.MaxVmCpus, "vm.spec.cpus", $"is {spec.Cpus}; it must be from 1 to {options.MaxVmCpus}, or 0 for 1.");
        int cpus = Math.Max(spec.Cpus, 1);
        violations.Check(
            spec.MaxCpus == 0 || spec.MaxCpus >= cpus && spec.MaxCpus <= options.MaxVmCpus,
            "vm.spec.max_cpus",
            $"is {spec.MaxCpus}; it must be from cpus, which is {cpus}, to {options.MaxVmCpus}, or 0 for as many as cpus.");
        if (violations.Check(spec.Kernel is not null, "vm.spec.kernel", "is required."))
            Source(spec.Kernel!, "vm.spec.kernel", parent, violations);
        if (spec.Initrd is not null)
            Source(spec.Initrd, "vm.spec.initrd", parent, violations);
        violations.CommandLine(spec.CommandLine, "vm.spec.command_line");
        Modules(spec.Modules, parent, violations);
        Disks(spec.Disks, parent, violations);
        violations.Check(System.Enum.IsDefined(spec.Engine), "vm.spec.engine", $"is {(int)spec.Engine}, which this server does not know.");
        if (spec.Engine == ExecutionEngine.Lockstep)
        {
            violations.Check(spec.Clock == Clock.Virtual, "vm.spec.clock", "must be CLOCK_VIRTUAL for EXECUTION_ENGINE_LOCKSTEP: in real time no two runs are the same.");
            for (int i = 0; i < Math.Min(spec.Disks.Count, MaxDisks); i++)
                violations.Check(spec.Disks[i].ReadOnly, $"vm.spec.disks[{i}].read_only", "must be set for EXECUTION_ENGINE_LOCKSTEP: two machines share the disk.");
        }
        violations.Check(System.Enum.IsDefined(spec.Clock), "vm.spec.clock", $"is {(int)spec.Clock}, which this server does not know.");
        if (spec.Apicv is not null)
            Apicv(spec.Apicv, violations);
        if (spec.Placement is not null)
            Placement(spec.Placement, violations);
        violations.Check(System.Enum.IsDefined(spec.RestartPolicy), "vm.spec.restart_policy", $"is {(int)spec.RestartPolicy}, which this server does not know.");
        Checkpoints(spec, violations);
        ProcessorShare(spec, violations);
        // What they may be, the worker's engine knows.
        int msrs = spec.Nested?.VmxCapabilityMsrs.Count ?? 0;
        violations.Check(msrs <= MaxCapabilityMsrs, "vm.spec.nested.vmx_capability_msrs", $"has {msrs} entries; there are {MaxCapabilityMsrs} such MSRs.");
    }

    /// <summary>
    /// A copy in which what was left out says what stands for it. A field that the minor version before does not know stays as it was: its
    /// workers would refuse every VM otherwise.
    /// </summary>
    public static VmSpec WithDefaults(VmSpec spec)
    {
        VmSpec copy = spec.Clone();
        if (copy.Cpus == 0)
            copy.Cpus = 1;
        if (copy.MaxCpus == 0)
            copy.MaxCpus = copy.Cpus;
        if (copy.Clock == Clock.Unspecified)
            copy.Clock = Clock.RealTime;
        if (copy.Engine == ExecutionEngine.Unspecified)
            copy.Engine = ExecutionEngine.Auto;
        if (!copy.HasSeed)
            copy.Seed = 1;
        copy.Apicv ??= new ApicvSpec();
        if (copy.Apicv.Policy == ApicvPolicy.Unspecified)
            copy.Apicv.Policy = ApicvPolicy.Deferred;
        copy.Nested ??= new NestedSpec();
        copy.Placement ??= new PlacementSpec();
        if (copy.Placement.Strategy == PlacementSpec.Types.Strategy.Unspecified)
            copy.Placement.Strategy = PlacementSpec.Types.Strategy.Spread;
        if (copy.RestartPolicy == RestartPolicy.Unspecified)
            copy.RestartPolicy = RestartPolicy.Never;
        if (copy.RestartPolicy == RestartPolicy.FromLastCheckpoint)
            copy.CheckpointInterval ??= Duration.FromTimeSpan(DefaultCheckpointInterval);
        return copy;
    }

    /// <summary>Notes what is wrong with what a VM is to have of the processors.</summary>
    public static void ProcessorShare(VmSpec spec, Violations violations)
    {
        violations.Check(spec.CpuWeight is >= 0 and <= MostCpuWeight, "vm.spec.cpu_weight", $"is {spec.CpuWeight}; it must be from 1 to {MostCpuWeight}, or 0 for {DefaultCpuWeight}.");
        violations.Check(
            spec.CpuLimitMillicpus is 0 or (>= LeastCpuLimit and <= MostCpuLimit),
            "vm.spec.cpu_limit_millicpus",
            $"is {spec.CpuLimitMillicpus}; it must be from {LeastCpuLimit} to {MostCpuLimit} thousandths of a processor, or 0 for no limit.");
    }

    /// <summary>
    /// That of a spec, and nothing else. The weight is written out: a worker that knows no shares must see that it is asked for one, and
    /// refuse it, instead of taking the request for one that changes labels.
    /// </summary>
    public static VmSpec ShareOf(VmSpec spec) => new() { CpuWeight = spec.CpuWeight == 0 ? DefaultCpuWeight : spec.CpuWeight, CpuLimitMillicpus = spec.CpuLimitMillicpus };

    /// <summary>A reason as it stands in the API's JSON, without its prefix.</summary>
    public static string NameOf(ApicvInhibitReason reason) => reason switch
    {
        ApicvInhibitReason.ApicIdModified => "APIC_ID_MODIFIED",
        ApicvInhibitReason.PhysicalIdAliased => "PHYSICAL_ID_ALIASED",
        ApicvInhibitReason.LogicalIdAliased => "LOGICAL_ID_ALIASED",
        ApicvInhibitReason.ApicBaseModified => "APIC_BASE_MODIFIED",
        _ => reason.ToString().ToUpperInvariant(),
    };

    private static void Apicv(ApicvSpec apicv, Violations violations)
    {
        violations.Check(System.Enum.IsDefined(apicv.Policy), "vm.spec.apicv.policy", $"is {(int)apicv.Policy}, which this server does not know.");
        for (int i = 0; i < Math.Min(apicv.FixedInhibits.Count, MaxFixedInhibits + 1); i++)
        {
            ApicvInhibitReason reason = apicv.FixedInhibits[i];
            string field = $"vm.spec.apicv.fixed_inhibits[{i}]";
            if (violations.Check(reason is ApicvInhibitReason.Absent or ApicvInhibitReason.Disable, field, $"is {NameOf(reason)}; only ABSENT and DISABLE can be fixed."))
                violations.Check(!apicv.FixedInhibits.Take(i).Contains(reason), field, $"has {NameOf(reason)} a second time.");
        }
    }

    private static void Checkpoints(VmSpec spec, Violations violations)
    {
        if (spec.RestartPolicy != RestartPolicy.FromLastCheckpoint)
        {
            violations.Check(spec.CheckpointInterval is null, "vm.spec.checkpoint_interval", "must not be set without RESTART_POLICY_FROM_LAST_CHECKPOINT.");
            return;
        }

        violations.Duration(spec.CheckpointInterval, LongestCheckpointInterval, "vm.spec.checkpoint_interval", ShortestCheckpointInterval);
        for (int i = 0; i < Math.Min(spec.Disks.Count, MaxDisks); i++)
            violations.Check(
                spec.Disks[i].ReadOnly || spec.Disks[i].Source?.SourceCase != FileSource.SourceOneofCase.Path,
                $"vm.spec.disks[{i}].source.path",
                "must not be set for RESTART_POLICY_FROM_LAST_CHECKPOINT without read_only: what a disk held at a checkpoint cannot be put back into a file of the host.");
    }

    private static void Placement(PlacementSpec placement, Violations violations)
    {
        violations.Check(System.Enum.IsDefined(placement.Strategy), "vm.spec.placement.strategy", $"is {(int)placement.Strategy}, which this server does not know.");
        violations.Labels(placement.WorkerLabels, "vm.spec.placement.worker_labels", MaxSelectorLabels);
        violations.Labels(placement.WithVmLabels, "vm.spec.placement.with_vm_labels", MaxSelectorLabels);
        violations.Labels(placement.ApartFromVmLabels, "vm.spec.placement.apart_from_vm_labels", MaxSelectorLabels);
    }

    private static void Modules(RepeatedField<Module> modules, string parent, Violations violations)
    {
        violations.Check(modules.Count <= MaxModules, "vm.spec.modules", $"has {modules.Count} entries; at most {MaxModules} are possible.");
        for (int i = 0; i < Math.Min(modules.Count, MaxModules); i++)
        {
            string field = $"vm.spec.modules[{i}]";
            violations.CommandLine(modules[i].CommandLine, $"{field}.command_line");
            if (violations.Check(modules[i].Source is not null, $"{field}.source", "is required."))
                Source(modules[i].Source, $"{field}.source", parent, violations);
        }
    }

    private static void Disks(RepeatedField<Disk> disks, string parent, Violations violations)
    {
        violations.Check(disks.Count <= MaxDisks, "vm.spec.disks", $"has {disks.Count} entries; at most {MaxDisks} are possible.");
        for (int i = 0; i < Math.Min(disks.Count, MaxDisks); i++)
            if (violations.Check(disks[i].Source is not null, $"vm.spec.disks[{i}].source", "is required."))
                Source(disks[i].Source, $"vm.spec.disks[{i}].source", parent, violations);
    }

    private static void Source(FileSource source, string field, string parent, Violations violations)
    {
        switch (source.SourceCase)
        {
            case FileSource.SourceOneofCase.Image:
                if (violations.ImageName(source.Image, $"{field}.image"))
                    violations.Check(
                        ResourceName.TryParseImage(source.Image, out string? project, out _) && project == parent, $"{field}.image", "belongs to another project than the VM.");
                break;
            case FileSource.SourceOneofCase.Path:
                violations.ServerPath(source.Path, $"{field}.path");
                break;
            default:
                violations.Add(field, "must name an image or a path.");
                break;
        }
    }
}
