using System.Runtime.CompilerServices;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>A binary format by its raw bits.</summary>
internal interface IFloatFormat<T> where T : unmanaged
{
    static abstract Real Unpack(T bits, bool denormalsAreZero);
    static abstract T Pack(in Real value);
    static abstract RealFormat Format { get; }
    /// <summary>Whether neither is a NaN or denormal.</summary>
    static abstract bool Plain(T a, T b);
    static abstract bool Less(T a, T b);
    static abstract bool Equal(T a, T b);
    static abstract T AllOnes { get; }
}

internal readonly struct Binary32 : IFloatFormat<uint>
{
    public static Real Unpack(uint bits, bool denormalsAreZero) => Real.FromSingle(bits, denormalsAreZero);
    public static uint Pack(in Real value) => value.ToSingle();
    public static RealFormat Format => RealFormat.Single;
    public static bool Plain(uint a, uint b) => FastFloat.Plain(BitConverter.UInt32BitsToSingle(a)) && FastFloat.Plain(BitConverter.UInt32BitsToSingle(b));
    public static bool Less(uint a, uint b) => BitConverter.UInt32BitsToSingle(a) < BitConverter.UInt32BitsToSingle(b);
    public static bool Equal(uint a, uint b) => BitConverter.UInt32BitsToSingle(a) == BitConverter.UInt32BitsToSingle(b);
    public static uint AllOnes => uint.MaxValue;
}

internal readonly struct Binary64 : IFloatFormat<ulong>
{
    public static Real Unpack(ulong bits, bool denormalsAreZero) => Real.FromDouble(bits, denormalsAreZero);
    public static ulong Pack(in Real value) => value.ToDouble();
    public static RealFormat Format => RealFormat.Double;
    public static bool Plain(ulong a, ulong b) => FastFloat.Plain(BitConverter.UInt64BitsToDouble(a)) && FastFloat.Plain(BitConverter.UInt64BitsToDouble(b));
    public static bool Less(ulong a, ulong b) => BitConverter.UInt64BitsToDouble(a) < BitConverter.UInt64BitsToDouble(b);
    public static bool Equal(ulong a, ulong b) => BitConverter.UInt64BitsToDouble(a) == BitConverter.UInt64BitsToDouble(b);
    public static ulong AllOnes => ulong.MaxValue;
}

/// <summary>An operation on one element that gives an element of the same size, with MXCSR's rules: comparisons, minima, roundings.</summary>
internal interface IElementOp
{
    static abstract T Apply<T, F>(ref FloatContext c, T a, T b, byte immediate) where T : unmanaged where F : struct, IFloatFormat<T>;
}

/// <summary>CMPPS and its kin, predicates 0 to 7.</summary>
internal readonly struct ComparePredicate : IElementOp
{
    public static T Apply<T, F>(ref FloatContext c, T a, T b, byte immediate) where T : unmanaged where F : struct, IFloatFormat<T>
    {
        int predicate = immediate & 3;
        bool holds;
        if (F.Plain(a, b))
        {
            holds = predicate switch
            {
                0 => F.Equal(a, b),
                1 => F.Less(a, b),
                2 => F.Less(a, b) || F.Equal(a, b),
                _ => false,
            };
        }
        else
        {
            // Less and less-or-equal, and their negations, signal quiet NaNs as well.
            Relation r = RealArithmetic.Compare(ref c, F.Unpack(a, c.DenormalsAreZero), F.Unpack(b, c.DenormalsAreZero), predicate is 1 or 2);
            holds = predicate switch
            {
                0 => r == Relation.Equal,
                1 => r == Relation.Less,
                2 => r is Relation.Less or Relation.Equal,
                _ => r == Relation.Unordered,
            };
        }
        return holds != ((immediate & 4) != 0) ? F.AllOnes : default;
    }
}

/// <summary>MIN: the second operand unless the first is less. Any NaN is an invalid operation.</summary>
internal readonly struct FloatMin : IElementOp
{
    public static T Apply<T, F>(ref FloatContext c, T a, T b, byte immediate) where T : unmanaged where F : struct, IFloatFormat<T>
    {
        if (F.Plain(a, b))
            return F.Less(a, b) ? a : b;
        Real x = F.Unpack(a, c.DenormalsAreZero), y = F.Unpack(b, c.DenormalsAreZero);
        return RealArithmetic.Compare(ref c, x, y, signaling: true) == Relation.Less ? Extrema.Seen<T, F>(a, x) : Extrema.Seen<T, F>(b, y);
    }
}

/// <summary>MAX: the second operand unless the first is greater. Any NaN is an invalid operation.</summary>
internal readonly struct FloatMax : IElementOp
{
    public static T Apply<T, F>(ref FloatContext c, T a, T b, byte immediate) where T : unmanaged where F : struct, IFloatFormat<T>
    {
        if (F.Plain(a, b))
            return F.Less(b, a) ? a : b;
        Real x = F.Unpack(a, c.DenormalsAreZero), y = F.Unpack(b, c.DenormalsAreZero);
        return RealArithmetic.Compare(ref c, x, y, signaling: true) == Relation.Greater ? Extrema.Seen<T, F>(a, x) : Extrema.Seen<T, F>(b, y);
    }
}

internal static class Extrema
{
    /// <summary>The operand as the operation saw it: a denormal that counts as zero is returned as zero, everything else unchanged.</summary>
    public static T Seen<T, F>(T bits, in Real value) where T : unmanaged where F : struct, IFloatFormat<T> =>
        value.Class == RealClass.Zero ? F.Pack(value) : bits;
}

/// <summary>ROUNDPS and its kin: bits 1:0 are the mode unless bit 2 takes MXCSR's; bit 3 hides the inexact exception.</summary>
internal readonly struct RoundIntegral : IElementOp
{
    public static T Apply<T, F>(ref FloatContext c, T a, T b, byte immediate) where T : unmanaged where F : struct, IFloatFormat<T>
    {
        Real value = F.Unpack(b, c.DenormalsAreZero);
        uint before = c.Flags;
        Real result = RealArithmetic.ToIntegral(ref c, value, (immediate & 4) != 0 ? c.Rounding : (RoundingMode)(immediate & 3));
        if ((immediate & 8) != 0)
            c.Flags = (c.Flags & ~FloatFlags.Inexact) | (before & FloatFlags.Inexact);
        return F.Pack(result);
    }
}

/// <summary>Handlers of element operations in their four shapes.</summary>
internal static unsafe class Elements
{
    public static Insn* Scalar<TOp, T, F>(CpuState* s, Insn* i) where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T> =>
        Scalar<TOp, T, F>(s, i, *(T*)Xmm.At(s, i->Operand1));

    public static Insn* ScalarMemory<TOp, T, F, M>(CpuState* s, Insn* i)
        where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T> where M : struct, IAddressing =>
        Operand.Read<T, M>(s, i, out T b) ? Scalar<TOp, T, F>(s, i, b) : null;

    public static Insn* All<TOp, T, F>(CpuState* s, Insn* i) where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T> =>
        All<TOp, T, F>(s, i, *Xmm.At(s, i->Operand1));

    public static Insn* AllMemory<TOp, T, F, M>(CpuState* s, Insn* i)
        where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T> where M : struct, IAddressing =>
        Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b) ? All<TOp, T, F>(s, i, b) : null;

    public static void Add<TOp, M>(HandlerTable t, Iced.Intel.Code ss, Iced.Intel.Code sd, Iced.Intel.Code ps, Iced.Intel.Code pd)
        where TOp : struct, IElementOp where M : struct, IAddressing
    {
        t.Add(ss, &Scalar<TOp, uint, Binary32>, &ScalarMemory<TOp, uint, Binary32, M>);
        t.Add(sd, &Scalar<TOp, ulong, Binary64>, &ScalarMemory<TOp, ulong, Binary64, M>);
        t.Add(ps, &All<TOp, uint, Binary32>, &AllMemory<TOp, uint, Binary32, M>);
        t.Add(pd, &All<TOp, ulong, Binary64>, &AllMemory<TOp, ulong, Binary64, M>);
        t.Describe(ss, new FloatForm((nint)(delegate*<CpuState*, Insn*, uint, Insn*>)&Scalar<TOp, uint, Binary32>, typeof(uint)));
        t.Describe(sd, new FloatForm((nint)(delegate*<CpuState*, Insn*, ulong, Insn*>)&Scalar<TOp, ulong, Binary64>, typeof(ulong)));
        t.Describe(ps, new FloatForm((nint)(delegate*<CpuState*, Insn*, Vector128<byte>, Insn*>)&All<TOp, uint, Binary32>, typeof(Vector128<byte>)));
        t.Describe(pd, new FloatForm((nint)(delegate*<CpuState*, Insn*, Vector128<byte>, Insn*>)&All<TOp, ulong, Binary64>, typeof(Vector128<byte>)));
    }

    /// <summary>Enters an ordering comparison.</summary>
    /// <param name="t">Where to.</param>
    /// <param name="code">The instruction.</param>
    /// <param name="fast">The method of <see cref="FastForms"/> for its common cases.</param>
    public static void AddOrder<T, F, S, M>(HandlerTable t, Iced.Intel.Code code, string fast)
        where T : unmanaged where F : struct, IFloatFormat<T> where S : struct, ISignaling where M : struct, IAddressing
    {
        t.Add(code, &Order<T, F, S>, &OrderMemory<T, F, S, M>);
        t.Describe(code, new FloatForm((nint)(delegate*<CpuState*, Insn*, T, Insn*>)&Order<T, F, S>, typeof(T), fast, WritesFlags: true));
    }

    /// <summary>COMISS, COMISD, UCOMISS and UCOMISD: ZF, PF, CF.</summary>
    public static Insn* Order<T, F, S>(CpuState* s, Insn* i) where T : unmanaged where F : struct, IFloatFormat<T> where S : struct, ISignaling =>
        Order<T, F, S>(s, i, *(T*)Xmm.At(s, i->Operand1));

    public static Insn* OrderMemory<T, F, S, M>(CpuState* s, Insn* i)
        where T : unmanaged where F : struct, IFloatFormat<T> where S : struct, ISignaling where M : struct, IAddressing =>
        Operand.Read<T, M>(s, i, out T b) ? Order<T, F, S>(s, i, b) : null;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Scalar<TOp, T, F>(CpuState* s, Insn* i, T b) where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T>
    {
        T* d = (T*)Xmm.At(s, i->Operand0);
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        T result = TOp.Apply<T, F>(ref c, *d, b, (byte)i->Immediate);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *d = result;
        return i + 1;
    }

    private static Insn* All<TOp, T, F>(CpuState* s, Insn* i, Vector128<byte> b) where TOp : struct, IElementOp where T : unmanaged where F : struct, IFloatFormat<T>
    {
        T* d = (T*)Xmm.At(s, i->Operand0);
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        T* results = stackalloc T[16 / sizeof(T)];
        for (int n = 0; n < 16 / sizeof(T); n++)
            results[n] = TOp.Apply<T, F>(ref c, d[n], ((T*)&b)[n], (byte)i->Immediate);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *(Vector128<byte>*)d = *(Vector128<byte>*)results;
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Order<T, F, S>(CpuState* s, Insn* i, T b) where T : unmanaged where F : struct, IFloatFormat<T> where S : struct, ISignaling
    {
        T a = *(T*)Xmm.At(s, i->Operand0);
        Relation relation;
        if (F.Plain(a, b))
        {
            relation = F.Less(a, b) ? Relation.Less : F.Equal(a, b) ? Relation.Equal : Relation.Greater;
        }
        else
        {
            FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
            relation = RealArithmetic.Compare(ref c, F.Unpack(a, c.DenormalsAreZero), F.Unpack(b, c.DenormalsAreZero), S.Value);
            if (!SseExceptions.Settle(s, i, ref c))
                return null;
        }
        Flags.Write(s, OrderFlags(relation));
        return i + 1;
    }

    /// <summary>ZF, PF and CF after an ordering comparison.</summary>
    public static ulong OrderFlags(Relation relation) => relation switch
    {
        Relation.Less => Rflags.Cf,
        Relation.Equal => Rflags.Zf,
        Relation.Greater => 0,
        _ => Rflags.Zf | Rflags.Pf | Rflags.Cf,
    };
}

/// <summary>Whether an ordering comparison takes a quiet NaN as an invalid operation.</summary>
internal interface ISignaling
{
    static abstract bool Value { get; }
}

internal readonly struct SignalsQuiet : ISignaling { public static bool Value => true; }
internal readonly struct KeepsQuiet : ISignaling { public static bool Value => false; }
