using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Execution;

/// <summary>One logical processor: its registers, its translation caches and the loop that executes traces.</summary>
public sealed unsafe partial class LogicalProcessor
{
    /// <summary>The registers.</summary>
    public CpuState* State { get; }

    /// <summary>Translation of linear addresses and the accesses that go through it.</summary>
    public Mmu Mmu { get; } = new();

    /// <summary>The VMCS on whose behalf guest code runs, while it does.</summary>
    public Vmcs? Vmcs { get; private set; }

    /// <summary>What surrounds this processor.</summary>
    public ProcessorEnvironment Environment { get; }

    /// <summary>Creates a processor with its registers as after INIT.</summary>
    public LogicalProcessor(ProcessorEnvironment environment)
    {
        Environment = environment;
    }

    /// <summary>
    /// VM entry on <paramref name="vmcs"/>, guest execution, VM exit: returns when the guest has exited, with guest state and
    /// exit information in the VMCS.
    /// </summary>
    /// <param name="vmcs">The VMCS.</param>
    /// <param name="budget">Instructions to retire at most; the entry ends with <see cref="ExitReason.BudgetExhausted"/> after exactly as many.</param>
    public ExitReason Enter(Vmcs vmcs, long budget) => throw new InvalidOperationException();

    /// <summary>
    /// Asks the processor to exit with <see cref="ExitReason.BudgetExhausted"/> at the next opportunity, as an external interrupt
    /// for L0 would. From any thread.
    /// </summary>
    public void RequestAttention() => Volatile.Write(ref State->Attention, 1);

    /// <summary>Instructions retired so far, exact between instructions and, given the running instruction, inside a trace.</summary>
    public static ulong Retired(CpuState* s, Insn* i) => s->RetiredBase + (ulong)(s->BudgetGranted - s->Budget) + (ulong)(i->Count - 1);

    /// <summary>
    /// After a change of a register that the translation or dispatch depends on (CR0, CR3, CR4, EFER, CPL, CS, RFLAGS.AC or VM,
    /// segment D/L bits): recomputes the mode, the address-space tag, the translation-cache set and the jump key.
    /// </summary>
    public void ModeChanged() => throw new InvalidOperationException();

    /// <summary>The processor that owns a register file.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static LogicalProcessor Of(CpuState* s) => Unsafe.As<LogicalProcessor>(GCHandle.FromIntPtr(s->Self).Target!);
}
