using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Memory operands larger than a register: FPU environments and save areas. All return false after a fault, with nothing changed.</summary>
internal static unsafe class BlockMemory
{
    /// <summary>The linear address of the instruction's memory operand of <paramref name="size"/> bytes.</summary>
    public static bool Locate<M>(CpuState* s, Insn* i, uint size, bool write, out ulong linear) where M : struct, IAddressing =>
        Operand.Linear<M>(s, i, i->Segment, Operand.EffectiveAddress(s, i), size, write, out linear);

    /// <summary>Reads, page by page, so that of two faults the lower one counts. Beyond the first page the last byte is tried first, as processors do.</summary>
    public static bool Read(CpuState* s, Insn* i, ulong linear, byte* destination, int size)
    {
        Mmu mmu = LogicalProcessor.Of(s).Mmu;
        int first = OnFirstPage(linear, size);
        s->Position = i->Count - 1;
        return End(s, i, mmu.Read(linear, destination, first)
            && (first == size
                || (mmu.Read(Advance(s, linear, size - 1), destination + size - 1, 1) && mmu.Read(Advance(s, linear, first), destination + first, size - first))));
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

    /// <summary>Checks, in halves of 8 bytes, that an operand may be written.</summary>
    public static bool ProbeHalves(CpuState* s, Insn* i, ulong linear, int size)
    {
        ulong scratch;
        Mmu mmu = LogicalProcessor.Of(s).Mmu;
        bool done = true;
        s->Position = i->Count - 1;
        for (int n = 0; n < size && done; n += 8)
            done = mmu.ReadForWrite(Advance(s, linear, n), (byte*)&scratch, 8);
        return End(s, i, done);
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
