using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>The integer instructions of x86-64-v2 that need no privilege and touch neither segments nor I/O.</summary>
public static partial class IntegerTable
{
    /// <summary>Adds the handlers.</summary>
    public static void Fill<M>(HandlerTable table) where M : struct, IAddressing
    {
        FillArithmetic<M>(table);
        FillBits<M>(table);
        FillMoves<M>(table);
        FillBranches<M>(table);
        FillStack<M>(table);
        FillHints<M>(table);
    }
}
