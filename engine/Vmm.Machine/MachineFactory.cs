using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Migration;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.SavedState;
using Vmm.Processor.Translation;

namespace Vmm.Machine;

/// <summary>Makes machines that share the execution threads of this process.</summary>
public sealed class MachineFactory : IMachineFactory
{
    private readonly ExecutionPool _pool = ExecutionPool.Shared;

    /// <summary>The least RAM of a machine.</summary>
    public const ulong LeastMemory = 1UL << 20;

    /// <summary>The most RAM of a machine.</summary>
    public const ulong MostMemory = 64UL << 30;

    /// <summary>The most vCPUs of a machine.</summary>
    public const int MostCpus = 16;

    /// <summary>The most disks of a machine: one PCI slot each.</summary>
    public const int MostDisks = 24;

    /// <summary>How hot code is compiled, in machines whose engine has a compiler.</summary>
    public TranslationOptions Translation { get; init; } = new();

    /// <summary>
    /// How many threads of its own its machines execute on, which they then have to share with no other factory's; 0 for those that all share that say
    /// nothing, as many as the host has processors.
    /// </summary>
    public int Threads
    {
        init => _pool = value == 0 ? ExecutionPool.Shared : new ExecutionPool(value, TimeProvider.System);
    }

    /// <inheritdoc/>
    public ExecutionLoad Load => _pool.Load;

    /// <inheritdoc/>
    public IMachine Create(MachineSpec spec, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(time);
        Validate(spec);
        return Build(spec, time, null);
    }

    /// <inheritdoc/>
    public IMachine Restore(MachineSpec spec, string directory, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(directory);
        ArgumentNullException.ThrowIfNull(time);
        Validate(spec);
        using SnapshotFiles snapshot = SnapshotFiles.Read(directory);
        return Rebuild(spec, time, snapshot);
    }

    /// <inheritdoc/>
    public IMachineReceiver Receive(MachineSpec spec, TimeProvider time)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ArgumentNullException.ThrowIfNull(time);
        Validate(spec);
        if (spec.Engine == ExecutionEngine.Lockstep)
            throw new InvalidMachineException(nameof(MachineSpec.Engine), "A machine in lockstep stays where it is.");
        try
        {
            return new MachineReceiver(spec, saved => Rebuild(spec, time, saved));
        }
        catch (Exception e) when (e is OutOfMemoryException or IOException)
        {
            throw NoMemory(spec, e);
        }
    }

    private Machine Rebuild(MachineSpec spec, TimeProvider time, ISavedMachine saved)
    {
        try
        {
            return Build(spec, time, saved);
        }
        catch (InvalidStateException e)
        {
            throw new InvalidSnapshotException($"The snapshot cannot be taken: {e.Message}", e);
        }
    }

    // The host has no room for that much RAM: not a fault of the engine.
    private static InvalidMachineException NoMemory(MachineSpec spec, Exception e) =>
        new(nameof(MachineSpec.MemoryBytes), $"The host cannot give the machine {spec.MemoryBytes >> 20} MiB of memory: {e.Message}");

    private Machine Build(MachineSpec spec, TimeProvider time, ISavedMachine? snapshot)
    {
        try
        {
            return new Machine(spec, time, _pool, Translation, snapshot);
        }
        catch (Exception e) when (e is OutOfMemoryException or IOException)
        {
            throw NoMemory(spec, e);
        }
    }

    private static void Validate(MachineSpec spec)
    {
        if (spec.MemoryBytes is < LeastMemory or > MostMemory || spec.MemoryBytes % 4096 != 0)
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), $"Memory must be a multiple of 4096 bytes from 1 MiB to 64 GiB, not {spec.MemoryBytes}.");
        if (spec.Cpus is < 1 or > MostCpus)
            throw new InvalidMachineException(nameof(MachineSpec.Cpus), $"A machine has 1 to {MostCpus} vCPUs, not {spec.Cpus}.");
        if (spec.MaxCpus < spec.Cpus || spec.MaxCpus > MostCpus)
            throw new InvalidMachineException(nameof(MachineSpec.MaxCpus), $"A machine with {spec.Cpus} vCPUs can come to have {spec.Cpus} to {MostCpus}, not {spec.MaxCpus}.");
        if (spec.Disks.Count > MostDisks)
            throw new InvalidMachineException(nameof(MachineSpec.Disks), $"A machine has at most {MostDisks} disks, not {spec.Disks.Count}.");
        if (string.IsNullOrEmpty(spec.KernelPath))
            throw new InvalidMachineException(nameof(MachineSpec.KernelPath), "A machine needs a kernel.");
        if (spec.CommandLine.Contains('\0'))
            throw new InvalidMachineException(nameof(MachineSpec.CommandLine), "A command line cannot contain a NUL character.");
        if (!Enum.IsDefined(spec.Clock))
            throw new InvalidMachineException(nameof(MachineSpec.Clock), $"There is no clock mode {(int)spec.Clock}.");
        if (!Enum.IsDefined(spec.Engine))
            throw new InvalidMachineException(nameof(MachineSpec.Engine), $"There is no engine {(int)spec.Engine}.");
        if (spec.Engine == ExecutionEngine.Lockstep && spec.Clock != ClockMode.Virtual)
            throw new InvalidMachineException(nameof(MachineSpec.Engine), "Lockstep needs the virtual clock: in real time no two runs are the same.");
        if (spec.Engine == ExecutionEngine.Lockstep && spec.Disks.Any(disk => !disk.ReadOnly))
            throw new InvalidMachineException(nameof(MachineSpec.Engine), "In lockstep disks can only be read: two machines share them.");
        if (spec.Share.Refusal is { } share)
            throw new InvalidMachineException(nameof(MachineSpec.Share), $"{share}.");
        if (MachineSpec.RefusalOf(spec.VmxCapabilityMsrs) is { } refusal)
            throw new InvalidMachineException(nameof(MachineSpec.VmxCapabilityMsrs), $"{refusal}.");
        if ((spec.Apicv.Fixed & ~ApicvInhibits.FixedReasons) != 0 || !Enum.IsDefined(spec.Apicv.Policy))
            throw new InvalidMachineException(nameof(MachineSpec.Apicv), $"APICv can be inhibited for good by {ApicvInhibits.FixedReasons}, not by {spec.Apicv.Fixed}, and there are three policies.");
    }
}
