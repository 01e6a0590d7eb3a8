using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Memory operands larger than a register: FPU environments and save areas. All return false after a fault, with nothing changed.</summary>
internal static unsafe class BlockMemory
{
    /// <summary>The linear address of the instruction's memory operand of <paramref name="size"/> bytes.</summary>
    public static bool Locate<M>(CpuState* s, Insn* i, uint size, bool write, out ulong linear) where M : struct, IAddressing =>
        Operand.Linear<M>(s, i, i->Segment, Operand.EffectiveAddress(s, i), size, write, out linear);

    /// <summary>Reads, page by page, so that of two faults the lower one counts.</summary>
    public static bool Read(CpuState* s, Insn* i, ulong linear, byte* destination, int size)
    {
        Mmu mmu = LogicalProcessor.Of(s).Mmu;
        int first = OnFirstPage(linear, size);
        s->Position = i->Count - 1;
        return End(s, i, mmu.Read(linear, destination, first)
            && (first == size || mmu.Read(Advance(s, linear, first), destination + first, size - first)));
    }

    public static bool Write(CpuState* s, Insn* i, ulong linear, byte* source, int size)
    {
        s->Position = i->Count - 1;
        return End(s, i, LogicalProcessor.Of(s).Mmu.Write(linear, source, size));
    }

    /// <summary>Reads what is about to be written in parts: once this has succeeded, the parts cannot fault.</summary>
    public static bool ReadForWrite(CpuState* s, Insn* i, ulong linear, byte* destination, int size)
    {
        Mmu mmu = LogicalProcessor.Of(s).Mmu;
        int first = OnFirstPage(linear, size);
        s->Position = i->Count - 1;
        return End(s, i, mmu.ReadForWrite(linear, destination, first)
            && (first == size || mmu.ReadForWrite(Advance(s, linear, first), destination + first, size - first)));
    }

    private static int OnFirstPage(ulong linear, int size) => Math.Min(size, 4096 - (int)(linear & 0xFFF));

    private static ulong Advance(CpuState* s, ulong linear, int count) => s->CodeSize == 64 ? linear + (uint)count : (uint)linear + (uint)count;

    private static bool End(CpuState* s, Insn* i, bool done)
    {
        s->Position = 0;
        if (!done)
            SlowAccess.Settle(s, i);
        return done;
    }
}
