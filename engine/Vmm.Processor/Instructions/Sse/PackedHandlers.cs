using System.Runtime.CompilerServices;
using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>A packed operation on destination and source.</summary>
internal interface IPackedOp
{
    /// <summary>The new destination from the old one and the source.</summary>
    static abstract Vector128<byte> Apply(Vector128<byte> a, Vector128<byte> b);
}

/// <summary>A packed operation with an immediate byte.</summary>
internal interface IPackedImmediateOp
{
    /// <summary>The new destination from the old one, the source and the immediate.</summary>
    static abstract Vector128<byte> Apply(Vector128<byte> a, Vector128<byte> b, byte immediate);
}

/// <summary>A packed operation on 64 bits, for MMX.</summary>
internal interface IMmxOp
{
    /// <summary>The new destination from the old one and the source.</summary>
    static abstract ulong Apply(ulong a, ulong b);
}

/// <summary>A packed shift.</summary>
internal interface IShiftOp
{
    /// <summary>Shifts every element by a count that may exceed the element.</summary>
    static abstract Vector128<byte> Apply(Vector128<byte> a, ulong count);
}

/// <summary>Handlers of packed operations whose memory operand has 16 bytes and must be aligned.</summary>
internal static unsafe class Packed
{
    /// <summary>Register form of a two-operand operation.</summary>
    public static Insn* Register<TOp>(CpuState* s, Insn* i) where TOp : struct, IPackedOp
    {
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, *Xmm.At(s, i->Operand1));
        return i + 1;
    }

    /// <summary>Memory form of a two-operand operation.</summary>
    public static Insn* Memory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IPackedOp where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b))
            return null;
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, b);
        return i + 1;
    }

    /// <summary>Register form with an immediate.</summary>
    public static Insn* RegisterImmediate<TOp>(CpuState* s, Insn* i) where TOp : struct, IPackedImmediateOp
    {
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, *Xmm.At(s, i->Operand1), (byte)i->Immediate);
        return i + 1;
    }

    /// <summary>Memory form with an immediate.</summary>
    public static Insn* MemoryImmediate<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IPackedImmediateOp where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> b))
            return null;
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, b, (byte)i->Immediate);
        return i + 1;
    }

    /// <summary>Memory form of an operation that uses only <c>sizeof(T)</c> low bytes of its source and needs no alignment.</summary>
    public static Insn* MemoryLow<TOp, T, M>(CpuState* s, Insn* i) where TOp : struct, IPackedOp where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T low))
            return null;
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, Vector128.CreateScalar(low).AsByte());
        return i + 1;
    }

    /// <summary>The same with an immediate.</summary>
    public static Insn* MemoryLowImmediate<TOp, T, M>(CpuState* s, Insn* i) where TOp : struct, IPackedImmediateOp where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T low))
            return null;
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, Vector128.CreateScalar(low).AsByte(), (byte)i->Immediate);
        return i + 1;
    }

    /// <summary>Shift with the count in the low half of a register.</summary>
    public static Insn* ShiftRegister<TOp>(CpuState* s, Insn* i) where TOp : struct, IShiftOp
    {
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, Xmm.At(s, i->Operand1)->AsUInt64().ToScalar());
        return i + 1;
    }

    /// <summary>Shift with the count in the low half of a memory operand.</summary>
    public static Insn* ShiftMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IShiftOp where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<Vector128<byte>, M>(s, i, out Vector128<byte> count))
            return null;
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, count.AsUInt64().ToScalar());
        return i + 1;
    }

    /// <summary>Shift with an immediate count.</summary>
    public static Insn* ShiftImmediate<TOp>(CpuState* s, Insn* i) where TOp : struct, IShiftOp
    {
        Vector128<byte>* d = Xmm.At(s, i->Operand0);
        *d = TOp.Apply(*d, (byte)i->Immediate);
        return i + 1;
    }

    /// <summary>Enters both forms of an operation.</summary>
    public static void Add<TOp, M>(HandlerTable t, Code code) where TOp : struct, IPackedOp where M : struct, IAddressing
    {
        t.Add(code, &Register<TOp>, &Memory<TOp, M>);
        t.Describe(code, new PureForm(typeof(TOp)));
    }

    /// <summary>Enters both forms of an operation with an immediate.</summary>
    public static void AddImmediate<TOp, M>(HandlerTable t, Code code) where TOp : struct, IPackedImmediateOp where M : struct, IAddressing
    {
        t.Add(code, &RegisterImmediate<TOp>, &MemoryImmediate<TOp, M>);
        t.Describe(code, new PureForm(typeof(TOp)));
    }

    /// <summary>Enters both forms of an operation that reads only a part of its source.</summary>
    public static void AddLow<TOp, T, M>(HandlerTable t, Code code) where TOp : struct, IPackedOp where T : unmanaged where M : struct, IAddressing
    {
        t.Add(code, &Register<TOp>, &MemoryLow<TOp, T, M>);
        t.Describe(code, new PureForm(typeof(TOp)));
    }

    /// <summary>Enters the variable and the immediate form of a shift.</summary>
    public static void AddShift<TOp, M>(HandlerTable t, Code variable, Code immediate) where TOp : struct, IShiftOp where M : struct, IAddressing
    {
        t.Add(variable, &ShiftRegister<TOp>, &ShiftMemory<TOp, M>);
        AddShift<TOp>(t, immediate);
        t.Describe(variable, new PureForm(typeof(TOp)));
    }

    /// <summary>Enters a shift that has an immediate form only.</summary>
    public static void AddShift<TOp>(HandlerTable t, Code immediate) where TOp : struct, IShiftOp
    {
        t.Add(immediate, &ShiftImmediate<TOp>);
        t.Describe(immediate, new PureForm(typeof(TOp)));
    }
}

/// <summary>XMM registers.</summary>
internal static unsafe class Xmm
{
    /// <summary>A register operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte>* At(CpuState* s, ushort operand) => (Vector128<byte>*)((byte*)s + operand);

    /// <summary>XMM0, the implicit operand of some blends.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<byte> Zeroth(CpuState* s) => *(Vector128<byte>*)s->Xmm;
}
