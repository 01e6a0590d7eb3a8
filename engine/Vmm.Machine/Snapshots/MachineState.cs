using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.SavedState;
using Vmm.Machine.Log;

namespace Vmm.Machine.Snapshots;

/// <summary>A machine without its RAM: what is in <see cref="SnapshotFormat.StateFile"/>.</summary>
public sealed record MachineState
{
    /// <summary>The machine's time in nanoseconds.</summary>
    public required ulong Nanoseconds { get; init; }

    /// <summary>Whose turn it is.</summary>
    public required SchedulerState Scheduler { get; init; }

    /// <summary>What comes from outside.</summary>
    public required InputsState Inputs { get; init; }

    /// <summary>The state of the generator of random numbers under the virtual clock; null where randomness is the host's.</summary>
    public required ulong? Entropy { get; init; }

    /// <summary>Whether a reset is to be done before the next instruction.</summary>
    public required bool IsResetRequested { get; init; }

    /// <summary>Where the last boot has put the kernel.</summary>
    public required BootState Boot { get; init; }

    /// <summary>The devices.</summary>
    public required BoardState Board { get; init; }

    /// <summary>The vCPUs and what they share.</summary>
    public required VirtualMachineState VirtualMachine { get; init; }
}

/// <summary>The vCPUs' turns.</summary>
public sealed record SchedulerState
{
    /// <summary>The vCPU whose slice it is.</summary>
    public required int Turn { get; init; }

    /// <summary>Instructions that are left of the slice.</summary>
    public required long SliceLeft { get; init; }

    /// <summary>Instructions that all vCPUs together have executed.</summary>
    public required ulong InstructionsRetired { get; init; }
}

/// <summary>What comes from outside.</summary>
public sealed record InputsState
{
    /// <summary>Input for COM1 that its port has not taken yet.</summary>
    public required byte[] Console { get; init; }

    /// <summary>Whether that is to be offered to the port before the next instruction.</summary>
    public required bool IsConsoleOffered { get; init; }

    /// <summary>What has come so far; nothing where it is not kept.</summary>
    public required LoggedInputState[] Log { get; init; }

    /// <summary>What is still to be replayed.</summary>
    public required LoggedInputState[] Replay { get; init; }
}

/// <summary>An input with the moment at which it takes effect.</summary>
public sealed record LoggedInputState
{
    /// <summary>The instructions that all vCPUs together have executed then.</summary>
    public required ulong Instructions { get; init; }

    /// <summary>The machine's time then.</summary>
    public required ulong Nanoseconds { get; init; }

    /// <summary>What it is.</summary>
    public required MachineInputKind Kind { get; init; }

    /// <summary>The vCPU that it is for.</summary>
    public int Vcpu { get; init; }

    /// <summary>The physical address that it is for.</summary>
    public ulong Address { get; init; }

    /// <summary>The bytes received or written.</summary>
    public byte[] Data { get; init; } = [];

    /// <summary>The APICv inhibits set or cleared.</summary>
    public ApicvInhibit Inhibit { get; init; }
}

/// <summary>Where a boot has put what it loaded: fw_cfg tells the guest.</summary>
public sealed record BootState
{
    /// <summary>The vCPUs that there were then, of which the tables tell; null for as many as the machine was created with.</summary>
    public int? Cpus { get; init; }

    /// <summary>The lowest address of the kernel.</summary>
    public required ulong KernelAddress { get; init; }

    /// <summary>Its entry point.</summary>
    public required ulong KernelEntry { get; init; }

    /// <summary>Where the command line is, or 0.</summary>
    public required ulong CommandLineAddress { get; init; }

    /// <summary>Where the first module is, or null.</summary>
    public ulong? ModuleAddress { get; init; }

    /// <summary>Its length.</summary>
    public ulong ModuleLength { get; init; }
}

/// <summary>What is in <see cref="SnapshotFormat.ManifestFile"/>.</summary>
public sealed record SnapshotManifest
{
    /// <summary><see cref="SnapshotFormat.Version"/>.</summary>
    public required int FormatVersion { get; init; }

    /// <summary>Who wrote it, for people.</summary>
    public required string Engine { get; init; }

    /// <summary>RAM in bytes.</summary>
    public required ulong MemoryBytes { get; init; }

    /// <summary>vCPUs at creation.</summary>
    public required int Cpus { get; init; }

    /// <summary>The most vCPUs; 0 for as many as at creation.</summary>
    public int MaxCpus { get; init; }

    /// <summary>The clock.</summary>
    public required ClockMode Clock { get; init; }

    /// <summary>The disks, in order. Their contents are not in the snapshot.</summary>
    public required DiskFacts[] Disks { get; init; }

    /// <summary>The fixed inhibits of APICv.</summary>
    public required ApicvInhibit ApicvFixed { get; init; }

    /// <summary>What is done with changes of the inhibits while L2 is active.</summary>
    public required ApicvPolicy ApicvPolicy { get; init; }

    /// <summary>The VMX capability MSRs of the spec, as "48b=200000000" in the order of their numbers, with commas; empty for none.</summary>
    public string VmxCapabilityMsrs { get; init; } = "";

    /// <summary>Whether the guest is offered the enlightened VMCS.</summary>
    public bool EnlightenedVmcs { get; init; }

    /// <summary>The kernel's command line.</summary>
    public required string CommandLine { get; init; }

    /// <summary>The length of the kernel file, then of the initial RAM disk and modules.</summary>
    public required long[] BootFileBytes { get; init; }

    /// <summary>Instructions that all vCPUs together had executed.</summary>
    public required ulong InstructionsRetired { get; init; }

    /// <summary>The machine's time.</summary>
    public required ulong Nanoseconds { get; init; }

    /// <summary>The bytes of RAM in pages that are not zero.</summary>
    public required ulong MemoryBytesStored { get; init; }

    /// <summary>SHA-256 of the state file, in lower-case hexadecimal digits.</summary>
    public required string StateSha256 { get; init; }
}

/// <summary>What a snapshot has of a disk.</summary>
/// <param name="Bytes">Its length.</param>
/// <param name="ReadOnly">Whether writes are refused.</param>
public sealed record DiskFacts(ulong Bytes, bool ReadOnly);
