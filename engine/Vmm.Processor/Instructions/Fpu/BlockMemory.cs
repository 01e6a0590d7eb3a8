using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Memory operands larger than a register: FPU environments and save areas. All return false after a fault, with nothing changed.</summary>
internal static unsafe class BlockMemory
{
    /// <summary>The linear address of the instruction's memory operand of <paramref name="size"/> bytes.</summary>
    public static bool Locate<M>(CpuState* s, Insn* i, uint size, bool write, out ulong linear) where M : struct, IAddressing =>
        Operand.Linear<M>(s, i, i->Segment, Operand.EffectiveAddress(s, i), size, write, out linear);

    public static bool Read(CpuState* s, Insn* i, ulong linear, byte* destination, int size) =>
        LogicalProcessor.Of(s).Mmu.Read(linear, destination, size) || Settle(s, i);

    public static bool Write(CpuState* s, Insn* i, ulong linear, byte* source, int size) =>
        LogicalProcessor.Of(s).Mmu.Write(linear, source, size) || Settle(s, i);

    /// <summary>Reads what is about to be written in parts: once this has succeeded, the parts cannot fault.</summary>
    public static bool ReadForWrite(CpuState* s, Insn* i, ulong linear, byte* destination, int size) =>
        LogicalProcessor.Of(s).Mmu.ReadForWrite(linear, destination, size) || Settle(s, i);

    private static bool Settle(CpuState* s, Insn* i)
    {
        Fault.At(s, i);
        return false;
    }
}
