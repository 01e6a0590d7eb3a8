using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>Handlers of conversions.</summary>
internal static unsafe class FloatConvert
{
    /// <summary>General-purpose or XMM register to the low element of an XMM register.</summary>
    public static Insn* ToLow<K, A, B>(CpuState* s, Insn* i) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged =>
        ToLow<K, A, B>(s, i, Instructions.Register.Read<A>(s, i->Operand1));

    public static Insn* ToLowMemory<K, A, B, M>(CpuState* s, Insn* i)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing =>
        Operand.Read<A, M>(s, i, out A value) ? ToLow<K, A, B>(s, i, value) : null;

    /// <summary>The low element of an XMM register to a general-purpose register.</summary>
    public static Insn* ToGeneral<K, A, B>(CpuState* s, Insn* i) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged =>
        ToGeneral<K, A, B>(s, i, *(A*)Xmm.At(s, i->Operand1));

    public static Insn* ToGeneralMemory<K, A, B, M>(CpuState* s, Insn* i)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing =>
        Operand.Read<A, M>(s, i, out A value) ? ToGeneral<K, A, B>(s, i, value) : null;

    /// <summary>As many elements as the larger of source and destination allows; the rest of the destination becomes zero.</summary>
    public static Insn* Packed<K, A, B>(CpuState* s, Insn* i) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged =>
        Packed<K, A, B>(s, i, *Xmm.At(s, i->Operand1));

    /// <summary>Memory form with an aligned 16-byte source.</summary>
    public static Insn* PackedMemory<K, A, B, M>(CpuState* s, Insn* i)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing =>
        Operand.ReadAligned<V, M>(s, i, out V value) ? Packed<K, A, B>(s, i, value) : null;

    /// <summary>Memory form with an 8-byte source.</summary>
    public static Insn* PackedHalfMemory<K, A, B, M>(CpuState* s, Insn* i)
        where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged where M : struct, IAddressing =>
        Operand.Read<ulong, M>(s, i, out ulong value) ? Packed<K, A, B>(s, i, Vector128.CreateScalar(value).AsByte()) : null;

    /// <summary>CVTPI2PS: two integers from an MMX register to the low half.</summary>
    public static Insn* MmxToSingles(CpuState* s, Insn* i)
    {
        if (!Mmx.Begin(s, i))
            return null;
        // As processors do, the transition to MMX is made even where the conversion faults.
        Mmx.Enter(s);
        return Singles(s, i, Mmx.Value(s, i->Operand1)) ? i + 1 : null;
    }

    /// <summary>The memory form leaves the x87 state alone.</summary>
    public static Insn* MmxToSinglesMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        return Operand.Read<ulong, M>(s, i, out ulong value) && Singles(s, i, value) ? i + 1 : null;
    }

    /// <summary>CVTPI2PD: two integers from an MMX register. The memory form leaves the x87 state alone.</summary>
    public static Insn* MmxToDoubles(CpuState* s, Insn* i)
    {
        if (!Mmx.Begin(s, i))
            return null;
        Mmx.Enter(s);
        return Packed<IntToDouble, int, ulong>(s, i, Vector128.CreateScalar(Mmx.Value(s, i->Operand1)).AsByte());
    }

    /// <summary>Two elements of an XMM register to integers in an MMX register.</summary>
    public static Insn* ToMmx<K, A>(CpuState* s, Insn* i) where K : struct, IConversion<A, int> where A : unmanaged =>
        Mmx.Begin(s, i) ? ToMmx<K, A>(s, i, *Xmm.At(s, i->Operand1)) : null;

    public static Insn* ToMmxMemory<K, A, M>(CpuState* s, Insn* i) where K : struct, IConversion<A, int> where A : unmanaged where M : struct, IAddressing =>
        Mmx.Begin(s, i) && Operand.ReadAligned<V, M>(s, i, out V value) ? ToMmx<K, A>(s, i, value) : null;

    public static Insn* ToMmxHalfMemory<K, A, M>(CpuState* s, Insn* i) where K : struct, IConversion<A, int> where A : unmanaged where M : struct, IAddressing =>
        Mmx.Begin(s, i) && Operand.Read<ulong, M>(s, i, out ulong value) ? ToMmx<K, A>(s, i, Vector128.CreateScalar(value).AsByte()) : null;

    /// <summary>Both forms, with the source.</summary>
    public static Insn* ToLow<K, A, B>(CpuState* s, Insn* i, A value) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        B result = K.Apply(ref c, value);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *(B*)Xmm.At(s, i->Operand0) = result;
        return i + 1;
    }

    /// <summary>Both forms, with the source.</summary>
    public static Insn* ToGeneral<K, A, B>(CpuState* s, Insn* i, A value) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        B result = K.Apply(ref c, value);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        if (sizeof(B) == 4)
            *(ulong*)((byte*)s + i->Operand0) = *(uint*)&result;
        else
            *(B*)((byte*)s + i->Operand0) = result;
        return i + 1;
    }

    /// <summary>Both forms, with the source.</summary>
    public static Insn* Packed<K, A, B>(CpuState* s, Insn* i, V value) where K : struct, IConversion<A, B> where A : unmanaged where B : unmanaged
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        V result = default;
        int count = 16 / Math.Max(sizeof(A), sizeof(B));
        for (int n = 0; n < count; n++)
            ((B*)&result)[n] = K.Apply(ref c, ((A*)&value)[n]);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        *Xmm.At(s, i->Operand0) = result;
        return i + 1;
    }

    private static Insn* ToMmx<K, A>(CpuState* s, Insn* i, V value) where K : struct, IConversion<A, int> where A : unmanaged
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        uint low = (uint)K.Apply(ref c, ((A*)&value)[0]), high = (uint)K.Apply(ref c, ((A*)&value)[1]);
        // As processors do, the transition to MMX is made even where the conversion faults.
        Mmx.Enter(s);
        if (!SseExceptions.Settle(s, i, ref c))
            return null;
        Mmx.Write(s, i->Operand0, (ulong)high << 32 | low);
        return i + 1;
    }

    private static bool Singles(CpuState* s, Insn* i, ulong value)
    {
        FloatContext c = FloatContext.FromMxcsr(s->Mxcsr);
        uint low = IntToSingle.Apply(ref c, (int)value), high = IntToSingle.Apply(ref c, (int)(value >> 32));
        if (!SseExceptions.Settle(s, i, ref c))
            return false;
        *(ulong*)Xmm.At(s, i->Operand0) = (ulong)high << 32 | low;
        return true;
    }
}
