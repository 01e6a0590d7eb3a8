using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;

namespace Vmm.Processor.Instructions.System;

/// <summary>A segment register by number, as a type parameter.</summary>
internal interface ISegmentNumber
{
    static abstract int Number { get; }
}

internal readonly struct SegmentEs : ISegmentNumber { public static int Number => Seg.Es; }
internal readonly struct SegmentCs : ISegmentNumber { public static int Number => Seg.Cs; }
internal readonly struct SegmentSs : ISegmentNumber { public static int Number => Seg.Ss; }
internal readonly struct SegmentDs : ISegmentNumber { public static int Number => Seg.Ds; }
internal readonly struct SegmentFs : ISegmentNumber { public static int Number => Seg.Fs; }
internal readonly struct SegmentGs : ISegmentNumber { public static int Number => Seg.Gs; }

/// <summary>MOV, PUSH and POP of segment registers, and loads of far pointers (SDM volume 2).</summary>
internal static unsafe class SegmentInstructions
{
    /// <summary>MOV r, Sreg: zero-extended to the operand size.</summary>
    public static Insn* Store<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        if (i->Operand1 > Seg.Gs)
            return Fault.Raise(s, i, Vector.Ud);
        Register.Write(s, i->Operand0, Width.Narrow<T>(CpuState.Segment(s, i->Operand1)->Selector));
        return i + 1;
    }

    /// <summary>MOV m16, Sreg: 16 bits whatever the operand size.</summary>
    public static Insn* StoreMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (i->Operand1 > Seg.Gs)
            return Fault.Raise(s, i, Vector.Ud);
        return Operand.Write<ushort, M>(s, i, CpuState.Segment(s, i->Operand1)->Selector) ? i + 1 : null;
    }

    /// <summary>MOV Sreg, r.</summary>
    public static Insn* Load(CpuState* s, Insn* i) => LoadSegment(s, i, i->Operand0, Register.Read<ushort>(s, i->Operand1));

    /// <summary>MOV Sreg, m16.</summary>
    public static Insn* LoadMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (i->Operand0 is Seg.Cs or > Seg.Gs)
            return Fault.Raise(s, i, Vector.Ud);
        return Operand.Read<ushort, M>(s, i, out ushort selector) ? LoadSegment(s, i, i->Operand0, selector) : null;
    }

    /// <summary>PUSH Sreg. With a 32-bit operand only 16 bits are written, as recent processors do.</summary>
    public static Insn* Push<T, S, M>(CpuState* s, Insn* i) where T : unmanaged where S : struct, ISegmentNumber where M : struct, IAddressing
    {
        ushort selector = CpuState.Segment(s, S.Number)->Selector;
        if (sizeof(T) != 4)
            return Stack.Push<T, M>(s, i, Width.Narrow<T>(selector)) ? i + 1 : null;
        ulong mask = Stack.Mask<M>(s);
        ulong pointer = (s->Gpr[Gpr.Rsp] - 4) & mask;
        if (!Stack.Write<ushort, M>(s, i, pointer, selector))
            return null;
        Stack.SetPointer<M>(s, mask, pointer);
        return i + 1;
    }

    /// <summary>POP Sreg.</summary>
    public static Insn* Pop<T, S, M>(CpuState* s, Insn* i) where T : unmanaged where S : struct, ISegmentNumber where M : struct, IAddressing
    {
        if (!Stack.Peek<T, M>(s, i, out T value))
            return null;
        // A stack that the load makes wider or narrower pops by the width it had.
        ulong mask = Stack.Mask<M>(s);
        if (!SegmentLoad.Load(LogicalProcessor.Of(s), S.Number, (ushort)Width.Widen(value)))
            return Fault.At(s, i);
        Stack.SetPointer<M>(s, mask, (s->Gpr[Gpr.Rsp] + (ulong)sizeof(T)) & mask);
        return AfterLoad(s, i, S.Number);
    }

    /// <summary>LDS, LES, LFS, LGS, LSS.</summary>
    public static Insn* LoadPointer<T, S, M>(CpuState* s, Insn* i) where T : unmanaged where S : struct, ISegmentNumber where M : struct, IAddressing
    {
        ulong offset = Operand.EffectiveAddress(s, i);
        if (!Operand.ReadAt<T, M>(s, i, i->Segment, offset, out T pointer)
            || !Operand.ReadAt<ushort, M>(s, i, i->Segment, (offset + (ulong)sizeof(T)) & i->AddressMask, out ushort selector))
            return null;
        if (!SegmentLoad.Load(LogicalProcessor.Of(s), S.Number, selector))
            return Fault.At(s, i);
        Register.Write(s, i->Operand0, pointer);
        return S.Number == Seg.Ss ? Flow.Leave(s, i) : i + 1;
    }

    private static Insn* LoadSegment(CpuState* s, Insn* i, int segment, ushort selector)
    {
        if (segment is Seg.Cs or > Seg.Gs)
            return Fault.Raise(s, i, Vector.Ud);
        return SegmentLoad.Load(LogicalProcessor.Of(s), segment, selector) ? AfterLoad(s, i, segment) : Fault.At(s, i);
    }

    // MOV SS and POP SS hold back interrupts until the next instruction is done, so that it can load the stack pointer.
    private static Insn* AfterLoad(CpuState* s, Insn* i, int segment)
    {
        if (segment != Seg.Ss)
            return i + 1;
        s->InterruptShadow = 2;
        return Flow.Leave(s, i);
    }
}
