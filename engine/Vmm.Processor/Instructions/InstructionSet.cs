using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Fpu;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Instructions.Sse;
using Vmm.Processor.Instructions.System;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions;

/// <summary>The whole instruction set, one table after the other.</summary>
internal static class InstructionSet
{
    public static HandlerTable Build<M>(ProcessorFeatures features) where M : struct, IAddressing
    {
        var table = new HandlerTable();
        IntegerTable.Fill<M>(table);
        if (features.Bmi)
            BmiTable.Fill<M>(table);
        SystemTable.Fill<M>(table);
        FpuTable.Fill<M>(table);
        MmxTable.Fill<M>(table);
        SseTable.Fill<M>(table);
        ExtendedStateTable.Fill<M>(table);
        return table;
    }
}
