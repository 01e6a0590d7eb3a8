using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.SavedState;

/// <summary>A local APIC.</summary>
public sealed record LocalApicState
{
    /// <summary>IA32_APIC_BASE.</summary>
    public required ulong BaseMsr { get; init; }

    /// <summary>The registers that are not zero, by their names; those of 256 bits in eight words, as in "IRR0" to "IRR7".</summary>
    public required SortedDictionary<string, uint> Registers { get; init; }

    /// <summary>Errors that the next write of the error-status register brings to light.</summary>
    public required uint PendingErrors { get; init; }

    /// <summary>The level of LINT0.</summary>
    public required bool Lint0 { get; init; }

    /// <summary>The level of LINT1.</summary>
    public required bool Lint1 { get; init; }

    /// <summary>Whether an ExtINT message waits to be taken.</summary>
    public required bool ExternalInterruptMessage { get; init; }

    /// <summary>Whether the EOI-exit bitmap is to follow the trigger modes.</summary>
    public required bool TriggerModeChanged { get; init; }

    /// <summary>The timer.</summary>
    public required ApicTimerState Timer { get; init; }
}

/// <summary>The timer of a local APIC.</summary>
public sealed record ApicTimerState
{
    /// <summary>Its mode.</summary>
    public required ApicTimerMode Mode { get; init; }

    /// <summary>The initial-count register.</summary>
    public required uint InitialCount { get; init; }

    /// <summary>By how many bits the clock is divided, 0 to 7.</summary>
    public required int DivideShift { get; init; }

    /// <summary>The nanosecond at which the count began.</summary>
    public required ulong Start { get; init; }

    /// <summary>The nanoseconds that it takes.</summary>
    public required ulong Period { get; init; }

    /// <summary>IA32_TSC_DEADLINE.</summary>
    public required ulong TscDeadline { get; init; }

    /// <summary>When it is due.</summary>
    public TimerState? Timer { get; init; }
}
