using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Execution;

/// <summary>One logical processor: its registers, its translation caches and the loop that executes traces.</summary>
public sealed unsafe partial class LogicalProcessor
{
    /// <summary>The registers.</summary>
    public CpuState* State { get; }

    /// <summary>Translation of linear addresses and the accesses that go through it.</summary>
    public Mmu Mmu { get; } = new();

    /// <summary>The processor that owns a register file.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static LogicalProcessor Of(CpuState* s) => Unsafe.As<LogicalProcessor>(GCHandle.FromIntPtr(s->Self).Target!);
}
