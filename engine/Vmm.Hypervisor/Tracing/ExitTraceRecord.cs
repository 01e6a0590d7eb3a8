using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Tracing;

/// <summary>What a record of a trace tells.</summary>
public enum ExitTraceKind : byte
{
    /// <summary>The processor came back from the guest.</summary>
    Exit,

    /// <summary>The processor is about to run the guest: of L2 for the first time after L1 entered it where L1 is the owner.</summary>
    Entry,

    /// <summary>L1 was given a VM exit: the processor's own, or one that L0 has made of something that arrived.</summary>
    Reflection,

    /// <summary>L1's VMLAUNCH or VMRESUME came to nothing: with a VM-instruction error, or as a VM exit with bit 31 of its reason set.</summary>
    EntryFailure,
}

/// <summary>Who took an exit, or who made an entry.</summary>
public enum ExitTraceOwner : byte
{
    /// <summary>The hypervisor of this project.</summary>
    L0,

    /// <summary>The guest's own hypervisor.</summary>
    L1,
}

/// <summary>One thing that happened between guest and hypervisors. Blittable.</summary>
public readonly record struct ExitTraceRecord
{
    /// <summary>The reason of a record that has none: an entry, or an entry that failed by a VM-instruction error.</summary>
    public const uint NoReason = uint.MaxValue;

    /// <summary>How many records of this trace were lost just before this one.</summary>
    public ulong LostBefore { get; init; }

    /// <summary>Instructions that the vCPU had executed.</summary>
    public ulong Instructions { get; init; }

    /// <summary>RIP of the level that the record is about.</summary>
    public ulong Rip { get; init; }

    /// <summary>The exit qualification.</summary>
    public ulong Qualification { get; init; }

    /// <summary>The guest-physical address, where <see cref="HasPhysical"/> says that the reason has one.</summary>
    public ulong Physical { get; init; }

    /// <summary>The guest-linear address, where <see cref="HasLinear"/> says that the reason has one.</summary>
    public ulong Linear { get; init; }

    /// <summary>The exit-reason field; <see cref="NoReason"/> for none.</summary>
    public uint Reason { get; init; }

    /// <summary>The VM-exit interruption information; of an entry, what it injects.</summary>
    public uint Interruption { get; init; }

    /// <summary>The error code with that.</summary>
    public uint InterruptionError { get; init; }

    /// <summary>The VM-instruction error of an entry that failed by one; 0 elsewhere.</summary>
    public uint InstructionError { get; init; }

    /// <summary>The vCPU.</summary>
    public byte Vcpu { get; init; }

    /// <summary>1 for L1, 2 for L2: who ran before an exit, or is to run after an entry.</summary>
    public byte Level { get; init; }

    /// <summary>What this tells.</summary>
    public ExitTraceKind Kind { get; init; }

    /// <summary>Who took it, or made it.</summary>
    public ExitTraceOwner Owner { get; init; }

    /// <summary>Whether there is a guest-physical address (SDM volume 3, section 28.2.1).</summary>
    public bool HasPhysical => (ExitReason)(ushort)Reason is ExitReason.EptViolation or ExitReason.EptMisconfiguration && Reason != NoReason;

    /// <summary>Whether there is a guest-linear address (SDM volume 3, section 28.2.1).</summary>
    public bool HasLinear => Reason != NoReason && (ExitReason)(ushort)Reason switch
    {
        ExitReason.EptViolation => (Qualification & 1 << 7) != 0,
        // Of string instructions.
        ExitReason.IoInstruction => (Qualification & 1 << 4) != 0,
        // LMSW with an operand in memory.
        ExitReason.ControlRegister => (Qualification & 0x70) == 0x70,
        _ => false,
    };
}

/// <summary>Which records a trace has. A set bit lets its kind of record through.</summary>
public readonly record struct ExitTraceFilter
{
    /// <summary>Lets everything through.</summary>
    public static ExitTraceFilter Everything { get; } = new() { Vcpus = ulong.MaxValue, Levels = 0b110, Kinds = 0b1111, Owners = 0b11, Reasons = UInt128.MaxValue, WithoutReason = true };

    /// <summary>By vCPU.</summary>
    public ulong Vcpus { get; init; }

    /// <summary>By level: bit 1 for L1, bit 2 for L2.</summary>
    public uint Levels { get; init; }

    /// <summary>By <see cref="ExitTraceKind"/>.</summary>
    public uint Kinds { get; init; }

    /// <summary>By <see cref="ExitTraceOwner"/>.</summary>
    public uint Owners { get; init; }

    /// <summary>By basic exit reason.</summary>
    public UInt128 Reasons { get; init; }

    /// <summary>Whether records that have no reason come through.</summary>
    public bool WithoutReason { get; init; }

    /// <summary>Whether a record comes through.</summary>
    public bool Matches(in ExitTraceRecord record) =>
        (Vcpus >> record.Vcpu & 1) != 0 && (Levels >> record.Level & 1) != 0 && (Kinds >> (int)record.Kind & 1) != 0 && (Owners >> (int)record.Owner & 1) != 0
        && (record.Reason == ExitTraceRecord.NoReason ? WithoutReason : (record.Reason & 0xFFFF) < 128 && (Reasons >> (int)(record.Reason & 0xFFFF) & 1) != 0);
}
