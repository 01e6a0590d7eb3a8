using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Loads, stores, exchanges and conditional moves.</summary>
internal static unsafe class FpuMoves
{
    /// <summary>FLD m32 and m64: converted, so a signalling NaN or a denormal is an exception.</summary>
    public static Insn* LoadReal<T, S, M>(CpuState* s, Insn* i) where T : unmanaged where S : struct, IX87Source<T> where M : struct, IAddressing
    {
        if (!X87.Begin(s, i) || !Operand.Read<T, M>(s, i, out T raw))
            return null;
        X87.NoteOperand(s, i);
        if (X87.IsFull(s))
        {
            PushIndefinite(s, i);
            return i + 1;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Real value = RealArithmetic.Convert(ref c, S.Unpack(raw), RealFormat.Extended, noteDenormal: true);
        if (X87.Settle(s, i, ref c))
            X87.Push(s, value);
        return i + 1;
    }

    /// <summary>FLD m80: the bits as they are.</summary>
    public static Insn* LoadExtended<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!X87.Begin(s, i) || !Operand.Read<Float80, M>(s, i, out Float80 raw))
            return null;
        X87.NoteOperand(s, i);
        PushRaw(s, i, raw.Significand, raw.SignExponent);
        return i + 1;
    }

    /// <summary>FLD ST(i).</summary>
    public static Insn* LoadRegister(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        int source = X87.Position(i->Operand0);
        if (X87.IsEmpty(s, source))
        {
            if (!X87.Underflow(s, i))
                X87.Push(s, Real.Indefinite);
            return i + 1;
        }
        ulong* slot = X87.Slot(s, source);
        PushRaw(s, i, slot[0], slot[1]);
        return i + 1;
    }

    /// <summary>FLD1, FLDPI and the other constants, rounded as the control word says.</summary>
    public static Insn* LoadConstant<K>(CpuState* s, Insn* i) where K : struct, IX87Constant
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        if (X87.IsFull(s))
        {
            PushIndefinite(s, i);
            return i + 1;
        }
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        // The inexact exception is not raised (SDM volume 2, FLDPI).
        X87.Push(s, K.Value(ref c));
        X87.ClearC1(s);
        return i + 1;
    }

    /// <summary>
    /// FST and FSTP to m32 and m64. Where an unmasked exception prevents the store, memory is not looked at: the manual leaves the order
    /// open, and this is that of Intel's processors.
    /// </summary>
    public static Insn* StoreSingle<P, M>(CpuState* s, Insn* i) where P : struct, IPops where M : struct, IAddressing
    {
        if (!X87.Begin(s, i))
            return null;
        Real value = Converted(s, RealFormat.Single, out FloatContext c, out bool stores);
        if (stores && !Operand.Write<uint, M>(s, i, value.ToSingle()))
            return null;
        Stored<P>(s, i, ref c, stores);
        return i + 1;
    }

    /// <inheritdoc cref="StoreSingle{P, M}"/>
    public static Insn* StoreDouble<P, M>(CpuState* s, Insn* i) where P : struct, IPops where M : struct, IAddressing
    {
        if (!X87.Begin(s, i))
            return null;
        Real value = Converted(s, RealFormat.Double, out FloatContext c, out bool stores);
        if (stores && !Operand.Write<ulong, M>(s, i, value.ToDouble()))
            return null;
        Stored<P>(s, i, ref c, stores);
        return i + 1;
    }

    /// <summary>FSTP m80: the bits as they are.</summary>
    public static Insn* StoreExtended<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!X87.Begin(s, i))
            return null;
        bool empty = X87.IsEmpty(s, 0), stores = !empty || (s->Fcw & FloatFlags.Invalid) != 0;
        ulong* slot = X87.Slot(s, 0);
        var raw = new Float80 { Significand = slot[0], SignExponent = (ushort)slot[1] };
        if (empty)
            raw = new Float80 { Significand = 3UL << 62, SignExponent = 0xFFFF };
        if (stores && !Operand.Write<Float80, M>(s, i, raw))
            return null;
        X87.NoteOperand(s, i);
        X87.ClearC1(s);
        if (empty)
            X87.Underflow(s, i);
        if (stores)
            X87.Pop(s);
        return i + 1;
    }

    /// <summary>FIST, FISTP and FISTTP.</summary>
    public static Insn* StoreInteger<T, R, P, M>(CpuState* s, Insn* i)
        where T : unmanaged where R : struct, Sse.IIntegerRounding where P : struct, IPops where M : struct, IAddressing
    {
        if (!X87.Begin(s, i))
            return null;
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        long value;
        if (X87.IsEmpty(s, 0))
        {
            c.Flags |= FloatFlags.Invalid | StatusWord.StackFault;
            value = long.MinValue >> (64 - sizeof(T) * 8);
        }
        else
        {
            value = RealArithmetic.ToInteger(ref c, X87.Load(s, 0), sizeof(T) * 8, R.Mode(c));
        }
        bool stores = (c.Unmasked & FloatFlags.Invalid) == 0;
        if (stores && !Operand.Write<T, M>(s, i, *(T*)&value))
            return null;
        Stored<P>(s, i, ref c, stores);
        return i + 1;
    }

    /// <summary>FBLD.</summary>
    public static Insn* LoadDecimal<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        Float80 raw;
        if (!X87.Begin(s, i) || !BlockMemory.Locate<M>(s, i, 10, write: false, out ulong linear) || !BlockMemory.Read(s, i, linear, (byte*)&raw, 10))
            return null;
        X87.NoteOperand(s, i);
        if (X87.IsFull(s))
        {
            PushIndefinite(s, i);
            return i + 1;
        }
        X87.ClearC1(s);
        X87.Push(s, PackedDecimal.Read(raw));
        return i + 1;
    }

    /// <summary>FBSTP.</summary>
    public static Insn* StoreDecimal<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!X87.Begin(s, i))
            return null;
        FloatContext c = FloatContext.FromControlWord(s->Fcw);
        Float80 raw = PackedDecimal.Indefinite;
        if (X87.IsEmpty(s, 0))
            c.Flags |= FloatFlags.Invalid | StatusWord.StackFault;
        else
            raw = PackedDecimal.Write(ref c, X87.Load(s, 0));
        bool stores = (c.Unmasked & FloatFlags.Invalid) == 0;
        if (stores && (!BlockMemory.Locate<M>(s, i, 10, write: true, out ulong linear) || !BlockMemory.Write(s, i, linear, (byte*)&raw, 10)))
            return null;
        Stored<PopOne>(s, i, ref c, stores);
        return i + 1;
    }

    /// <summary>FST and FSTP to ST(i).</summary>
    public static Insn* StoreRegister<P>(CpuState* s, Insn* i) where P : struct, IPops
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        int destination = X87.Position(i->Operand0);
        if (X87.IsEmpty(s, 0))
        {
            if (X87.Underflow(s, i))
                return i + 1;
            X87.Store(s, destination, Real.Indefinite);
        }
        else
        {
            X87.ClearC1(s);
            ulong* slot = X87.Slot(s, 0);
            X87.StoreRaw(s, destination, slot[0], slot[1]);
        }
        if (P.Count == 1)
            X87.Pop(s);
        return i + 1;
    }

    /// <summary>FSTPNCE, an alias of FSTP without the stack underflow: an empty register is not stored.</summary>
    public static Insn* StoreUnchecked(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        X87.ClearC1(s);
        ulong* slot = X87.Slot(s, 0);
        if (!X87.IsEmpty(s, 0))
            X87.StoreRaw(s, X87.Position(i->Operand0), slot[0], slot[1]);
        X87.Pop(s);
        return i + 1;
    }

    /// <summary>FXCH: empty registers count as the default NaN where stack underflow is masked.</summary>
    public static Insn* Exchange(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        int other = X87.Position(i->Operand1);
        X87.ClearC1(s);
        if (X87.IsEmpty(s, 0) || X87.IsEmpty(s, other))
        {
            if (X87.Underflow(s, i))
                return i + 1;
            if (X87.IsEmpty(s, 0))
                X87.Store(s, 0, Real.Indefinite);
            if (X87.IsEmpty(s, other))
                X87.Store(s, other, Real.Indefinite);
        }
        ulong* a = X87.Slot(s, 0), b = X87.Slot(s, other);
        (a[0], b[0]) = (b[0], a[0]);
        (a[1], b[1]) = (b[1], a[1]);
        return i + 1;
    }

    /// <summary>FCMOVcc.</summary>
    public static Insn* Conditional<C>(CpuState* s, Insn* i) where C : struct, IFlagCondition
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        int source = X87.Position(i->Operand1);
        if (X87.IsEmpty(s, 0) || X87.IsEmpty(s, source))
        {
            if (!X87.Underflow(s, i))
                X87.Store(s, 0, Real.Indefinite);
            return i + 1;
        }
        // C1 tells of a stack underflow only and is left alone otherwise.
        if (C.Holds(s))
        {
            ulong* slot = X87.Slot(s, source);
            X87.StoreRaw(s, 0, slot[0], slot[1]);
        }
        return i + 1;
    }

    private static void PushRaw(CpuState* s, Insn* i, ulong significand, ulong signExponent)
    {
        if (X87.IsFull(s))
        {
            PushIndefinite(s, i);
            return;
        }
        X87.ClearC1(s);
        X87.PushRaw(s, significand, signExponent);
    }

    private static void PushIndefinite(CpuState* s, Insn* i)
    {
        if (!X87.Overflow(s, i))
            X87.Push(s, Real.Indefinite);
    }

    /// <summary>ST(0) for a store in another format, and whether the store takes place.</summary>
    private static Real Converted(CpuState* s, in RealFormat format, out FloatContext c, out bool stores)
    {
        c = FloatContext.FromControlWord(s->Fcw);
        Real value = Real.Indefinite;
        if (X87.IsEmpty(s, 0))
            c.Flags |= FloatFlags.Invalid | StatusWord.StackFault;
        else
            value = RealArithmetic.Convert(ref c, X87.Load(s, 0), format, noteDenormal: false);
        stores = (c.Unmasked & (FloatFlags.Invalid | FloatFlags.Overflow | FloatFlags.Underflow)) == 0;
        // Nothing is stored, so nothing was rounded.
        if (!stores)
            c.Flags &= ~FloatFlags.Inexact;
        return value;
    }

    /// <summary>Finishes a store once memory is written: flags, pointers, pop.</summary>
    private static void Stored<P>(CpuState* s, Insn* i, ref FloatContext c, bool stores) where P : struct, IPops
    {
        X87.NoteOperand(s, i);
        X87.ClearC1(s);
        if ((c.Flags & FloatFlags.Inexact) != 0 && c.RoundedUp)
            s->Fsw |= StatusWord.C1;
        if (c.Flags != 0)
            X87.Raise(s, i, c.Flags);
        if (stores && P.Count == 1)
            X87.Pop(s);
    }
}

/// <summary>A condition on RFLAGS.</summary>
internal unsafe interface IFlagCondition { static abstract bool Holds(CpuState* s); }
internal readonly unsafe struct IfBelow : IFlagCondition { public static bool Holds(CpuState* s) => Flags.Carry(s); }
internal readonly unsafe struct IfEqual : IFlagCondition { public static bool Holds(CpuState* s) => Flags.Zero(s); }
internal readonly unsafe struct IfBelowOrEqual : IFlagCondition { public static bool Holds(CpuState* s) => Flags.Carry(s) || Flags.Zero(s); }
internal readonly unsafe struct IfUnordered : IFlagCondition { public static bool Holds(CpuState* s) => Flags.Parity(s); }
internal readonly unsafe struct IfNot<C> : IFlagCondition where C : struct, IFlagCondition { public static bool Holds(CpuState* s) => !C.Holds(s); }
