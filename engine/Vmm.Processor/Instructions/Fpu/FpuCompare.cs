using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.Sse;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

internal interface IPops { static abstract int Count { get; } }
internal readonly struct PopNone : IPops { public static int Count => 0; }
internal readonly struct PopOne : IPops { public static int Count => 1; }
internal readonly struct PopTwo : IPops { public static int Count => 2; }

/// <summary>FCOM, FUCOM, FCOMI, FUCOMI, FICOM, FTST and FXAM.</summary>
internal static unsafe class FpuCompare
{
    /// <summary>ST(0) with ST(i), to C3, C2 and C0.</summary>
    public static Insn* Register<S, P>(CpuState* s, Insn* i) where S : struct, ISignaling where P : struct, IPops
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        // FCOMPP and FUCOMPP name no operand: they compare with ST(1).
        int other = P.Count == 2 ? 1 : X87.Position(i->Operand1);
        bool completes = Compare(s, i, !X87.IsEmpty(s, other), X87.Load(s, other), S.Value, out Relation relation);
        SetConditions(s, relation);
        if (completes)
        {
            for (int n = 0; n < P.Count; n++)
                X87.Pop(s);
        }
        return i + 1;
    }

    /// <summary>ST(0) with memory.</summary>
    public static Insn* Memory<T, S, P, M>(CpuState* s, Insn* i) where T : unmanaged where S : struct, IX87Source<T> where P : struct, IPops where M : struct, IAddressing
    {
        if (!X87.Begin(s, i) || !Operand.Read<T, M>(s, i, out T raw))
            return null;
        X87.NoteOperand(s, i);
        bool completes = Compare(s, i, true, S.Unpack(raw), signaling: true, out Relation relation);
        SetConditions(s, relation);
        if (completes && P.Count == 1)
            X87.Pop(s);
        return i + 1;
    }

    /// <summary>ST(0) with ST(i), to ZF, PF and CF.</summary>
    public static Insn* ToFlags<S, P>(CpuState* s, Insn* i) where S : struct, ISignaling where P : struct, IPops
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        int other = X87.Position(i->Operand1);
        // C1 tells of a stack underflow only and is left alone otherwise.
        int before = X87.IsEmpty(s, 0) || X87.IsEmpty(s, other) ? 0 : s->Fsw & StatusWord.C1;
        bool completes = Compare(s, i, !X87.IsEmpty(s, other), X87.Load(s, other), S.Value, out Relation relation);
        s->Fsw |= (ushort)before;
        Flags.Write(s, Elements.OrderFlags(relation));
        if (completes && P.Count == 1)
            X87.Pop(s);
        return i + 1;
    }

    /// <summary>FTST: ST(0) with zero.</summary>
    public static Insn* Test(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        Compare(s, i, true, Real.Zero(false), signaling: true, out Relation relation);
        SetConditions(s, relation);
        return i + 1;
    }

    /// <summary>FXAM: the class of ST(0), empty or not, and its sign.</summary>
    public static Insn* Examine(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        Real value = X87.Load(s, 0);
        int codes = X87.IsEmpty(s, 0) ? StatusWord.C3 | StatusWord.C0 : value.Class switch
        {
            RealClass.Zero => StatusWord.C3,
            RealClass.Finite => value.Denormal ? StatusWord.C3 | StatusWord.C2 : StatusWord.C2,
            RealClass.Infinity => StatusWord.C2 | StatusWord.C0,
            RealClass.Unsupported => 0,
            _ => StatusWord.C0,
        };
        s->Fsw = (ushort)((s->Fsw & ~StatusWord.Conditions) | codes | (value.Negative ? StatusWord.C1 : 0));
        return i + 1;
    }

    /// <summary>Compares; false where an unmasked exception forbids the pop. The condition codes or flags are set even so.</summary>
    private static bool Compare(CpuState* s, Insn* i, bool present, in Real other, bool signaling, out Relation relation)
    {
        relation = Relation.Unordered;
        if (!present || X87.IsEmpty(s, 0))
            return !X87.Underflow(s, i);
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        relation = RealArithmetic.Compare(ref c, X87.Load(s, 0), other, signaling);
        return X87.Settle(s, i, ref c);
    }

    private static void SetConditions(CpuState* s, Relation relation)
    {
        int codes = relation switch
        {
            Relation.Less => StatusWord.C0,
            Relation.Equal => StatusWord.C3,
            Relation.Greater => 0,
            _ => StatusWord.C3 | StatusWord.C2 | StatusWord.C0,
        };
        s->Fsw = (ushort)((s->Fsw & ~StatusWord.Conditions) | codes);
    }
}
