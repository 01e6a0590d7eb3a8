using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>What becomes of the exceptions that an SSE instruction found (SDM volume 1, section 11.5).</summary>
internal static unsafe class SseExceptions
{
    /// <summary>Settles the flags in MXCSR. False after a fault: then nothing may be written.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Settle(CpuState* s, Insn* i, ref FloatContext c)
    {
        if (c.Unmasked != 0)
            return Trap(s, i, c);
        s->Mxcsr |= c.Flags;
        return true;
    }

    private static bool Trap(CpuState* s, Insn* i, in FloatContext c)
    {
        // Unmasked exceptions of the operands of any element come before the computation of all of them.
        bool early = (c.Unmasked & FloatFlags.BeforeComputation) != 0;
        s->Mxcsr |= early ? c.Flags & FloatFlags.BeforeComputation : c.Flags;
        Fault.Raise(s, i, (s->Cr4 & Cr4.Osxmmexcpt) != 0 ? Vector.Xm : Vector.Ud);
        return false;
    }
}
