using Vmm.Devices.Storage;
using Vmm.Machine.Boot;

namespace Vmm.Machine.Snapshots;

/// <summary>What a machine's spec and its snapshot must agree in.</summary>
internal static class SnapshotFacts
{
    /// <summary>The manifest of a machine.</summary>
    public static SnapshotManifest Of(MachineSpec spec, long[] bootFileBytes, IReadOnlyList<IDisk> disks, MachineState state) => new()
    {
        FormatVersion = SnapshotFormat.Version,
        Engine = $"Vmm {typeof(SnapshotFacts).Assembly.GetName().Version}",
        MemoryBytes = spec.MemoryBytes,
        Cpus = spec.Cpus,
        MaxCpus = spec.MaxCpus,
        Clock = spec.Clock,
        Disks = [.. disks.Select(disk => new DiskFacts((ulong)disk.Length, disk.IsReadOnly))],
        ApicvFixed = spec.Apicv.Fixed,
        ApicvPolicy = spec.Apicv.Policy,
        VmxCapabilityMsrs = CapabilityMsrs(spec),
        EnlightenedVmcs = spec.EnlightenedVmcs,
        CommandLine = spec.CommandLine,
        BootFileBytes = bootFileBytes,
        InstructionsRetired = state.Scheduler.InstructionsRetired,
        Nanoseconds = state.Nanoseconds,
        MemoryBytesStored = 0,
        StateSha256 = "",
    };

    /// <summary>The lengths of what is booted: the kernel, then the modules.</summary>
    public static long[] BootFileBytes(BootRequest request) => [request.Kernel.Length, .. request.Modules.Select(module => (long)module.Content.Length)];

    /// <summary>Checks all but the disks.</summary>
    /// <exception cref="InvalidSnapshotException">The snapshot is of a machine of another spec.</exception>
    public static void Check(SnapshotManifest manifest, MachineSpec spec, BootRequest request)
    {
        Demand(manifest.MemoryBytes == spec.MemoryBytes, $"{manifest.MemoryBytes} bytes of memory", $"{spec.MemoryBytes}");
        Demand(manifest.Cpus == spec.Cpus, $"{manifest.Cpus} vCPUs", $"{spec.Cpus}");
        int most = manifest.MaxCpus == 0 ? manifest.Cpus : manifest.MaxCpus;
        Demand(most == spec.MaxCpus, $"room for {most} vCPUs", $"{spec.MaxCpus}");
        Demand(manifest.Clock == spec.Clock, $"the clock {manifest.Clock}", $"{spec.Clock}");
        Demand(manifest.ApicvFixed == spec.Apicv.Fixed, $"the APICv inhibits {manifest.ApicvFixed}", $"{spec.Apicv.Fixed}");
        Demand(manifest.ApicvPolicy == spec.Apicv.Policy, $"the APICv policy {manifest.ApicvPolicy}", $"{spec.Apicv.Policy}");
        Demand(manifest.VmxCapabilityMsrs == CapabilityMsrs(spec), $"the VMX capability MSRs '{manifest.VmxCapabilityMsrs}'", $"'{CapabilityMsrs(spec)}'");
        Demand(manifest.EnlightenedVmcs == spec.EnlightenedVmcs, manifest.EnlightenedVmcs ? "the enlightened VMCS" : "no enlightened VMCS", spec.EnlightenedVmcs ? "it" : "none");
        Demand(manifest.CommandLine == spec.CommandLine, $"the command line '{manifest.CommandLine}'", $"'{spec.CommandLine}'");
        long[] bytes = BootFileBytes(request);
        Demand(manifest.BootFileBytes.SequenceEqual(bytes), $"boot files of {string.Join(", ", manifest.BootFileBytes)} bytes", string.Join(", ", bytes));
    }

    private static string CapabilityMsrs(MachineSpec spec) => string.Join(',', spec.VmxCapabilityMsrs.OrderBy(msr => msr.Key).Select(msr => $"{msr.Key:x}={msr.Value:x}"));

    /// <summary>Checks the disks.</summary>
    /// <exception cref="InvalidSnapshotException">The snapshot is of a machine with other disks.</exception>
    public static void Check(SnapshotManifest manifest, IReadOnlyList<IDisk> disks)
    {
        Demand(manifest.Disks.Length == disks.Count, $"{manifest.Disks.Length} disks", $"{disks.Count}");
        for (int k = 0; k < disks.Count; k++)
        {
            var facts = new DiskFacts((ulong)disks[k].Length, disks[k].IsReadOnly);
            Demand(manifest.Disks[k] == facts, $"as disk {k} {manifest.Disks[k]}", $"{facts}");
        }
    }

    private static void Demand(bool holds, string snapshot, string spec)
    {
        if (!holds)
            throw new InvalidSnapshotException($"The snapshot is of a machine with {snapshot}, and the spec has {spec}.");
    }
}
