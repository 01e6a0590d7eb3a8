using Vmm.Hypervisor.Apicv;

namespace Vmm.Machine.Log;

/// <summary>What came from outside.</summary>
public enum MachineInputKind
{
    /// <summary>Bytes received by COM1.</summary>
    ConsoleInput,

    /// <summary>The power button.</summary>
    PowerButton,

    /// <summary>A non-maskable interrupt for one vCPU.</summary>
    Nmi,

    /// <summary>Bytes written to guest memory, by physical address.</summary>
    WriteMemory,

    /// <summary>The reset line, pulled from outside.</summary>
    Reset,

    /// <summary>APICv inhibits, set from outside.</summary>
    ApicvInhibitSet,

    /// <summary>APICv inhibits, cleared from outside.</summary>
    ApicvInhibitCleared,

    /// <summary>L1's VMX operation on a vCPU, put in from outside.</summary>
    NestedState,

    /// <summary>A vCPU, added from outside.</summary>
    VcpuAdded,
}

/// <summary>One thing that a machine cannot compute from its own state.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Vcpu">The vCPU that it is for, where it is for one.</param>
/// <param name="Address">The physical address of written memory.</param>
/// <param name="Data">The bytes received or written, or the nested state.</param>
/// <param name="Inhibit">The APICv inhibits set or cleared.</param>
public sealed record MachineInput(
    MachineInputKind Kind, int Vcpu = 0, ulong Address = 0, ReadOnlyMemory<byte> Data = default, ApicvInhibit Inhibit = ApicvInhibit.None);

/// <summary>An input with the moment at which it took effect.</summary>
/// <param name="Instructions">The instructions that all vCPUs together had executed.</param>
/// <param name="Nanoseconds">The machine's time.</param>
/// <param name="Input">The input.</param>
public sealed record LoggedInput(ulong Instructions, ulong Nanoseconds, MachineInput Input);
