using System.Numerics;
using System.Runtime.CompilerServices;
using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Fpu;
using Vmm.Processor.Memory;
using Vector = Vmm.Processor.State.Vector;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>An XMM operation on the low halves: for operations that work element by element.</summary>
internal readonly struct Direct<TOp> : IMmxOp where TOp : struct, IPackedOp
{
    public static ulong Apply(ulong a, ulong b) =>
        TOp.Apply(Vector128.CreateScalar(a).AsByte(), Vector128.CreateScalar(b).AsByte()).AsUInt64().ToScalar();
}

/// <summary>An XMM operation whose low result half comes from all of its first operand: both MMX operands go there.</summary>
internal readonly struct Joined<TOp> : IMmxOp where TOp : struct, IPackedOp
{
    public static ulong Apply(ulong a, ulong b) => TOp.Apply(Vector128.Create(a, b).AsByte(), default).AsUInt64().ToScalar();
}

/// <summary>The high half of a low unpack: the MMX high unpack.</summary>
internal readonly struct UpperOf<TOp> : IMmxOp where TOp : struct, IPackedOp
{
    public static ulong Apply(ulong a, ulong b) =>
        TOp.Apply(Vector128.CreateScalar(a).AsByte(), Vector128.CreateScalar(b).AsByte()).AsUInt64()[1];
}

internal readonly struct MmxShuffleBytesOp : IMmxOp
{
    public static ulong Apply(ulong a, ulong b) => Direct<ShuffleBytesOp>.Apply(a, b & 0x8787_8787_8787_8787);
}

/// <summary>MMX instructions. Each one but EMMS makes all x87 registers valid and TOP zero (SDM volume 1, section 9.5.1).</summary>
internal static unsafe class Mmx
{
    /// <summary>Whether the instruction may go on: false after #MF for a pending x87 exception.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Begin(CpuState* s, Insn* i)
    {
        if ((s->Fsw & StatusWord.Summary) == 0)
            return true;
        Fault.Raise(s, i, Vector.Mf);
        return false;
    }

    /// <summary>The transition from x87 to MMX.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Enter(CpuState* s)
    {
        s->FpuTop = 0;
        s->Ftw = 0xFF;
    }

    /// <summary>Writes an MMX register: its exponent and sign become all ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write(CpuState* s, ushort operand, ulong value)
    {
        ulong* register = (ulong*)((byte*)s + operand);
        register[0] = value;
        register[1] = 0xFFFF;
    }

    public static Insn* Register<TOp>(CpuState* s, Insn* i) where TOp : struct, IMmxOp
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, TOp.Apply(Value(s, i->Operand0), Value(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>Memory form; <typeparamref name="T"/> is what is read, zero-extended.</summary>
    public static Insn* Memory<TOp, T, M>(CpuState* s, Insn* i) where TOp : struct, IMmxOp where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<T, M>(s, i, out T b))
            return null;
        Enter(s);
        Write(s, i->Operand0, TOp.Apply(Value(s, i->Operand0), ulong.CreateTruncating(b)));
        return i + 1;
    }

    public static Insn* ShiftRegister<TOp>(CpuState* s, Insn* i) where TOp : struct, IShiftOp
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, Shifted<TOp>(Value(s, i->Operand0), Value(s, i->Operand1)));
        return i + 1;
    }

    public static Insn* ShiftMemory<TOp, M>(CpuState* s, Insn* i) where TOp : struct, IShiftOp where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<ulong, M>(s, i, out ulong count))
            return null;
        Enter(s);
        Write(s, i->Operand0, Shifted<TOp>(Value(s, i->Operand0), count));
        return i + 1;
    }

    public static Insn* ShiftImmediate<TOp>(CpuState* s, Insn* i) where TOp : struct, IShiftOp
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, Shifted<TOp>(Value(s, i->Operand0), (byte)i->Immediate));
        return i + 1;
    }

    /// <summary>MOVD and MOVQ from a general-purpose register, zero-extended.</summary>
    public static Insn* FromGeneral<T>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, ulong.CreateTruncating(Instructions.Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>Loads from memory, zero-extended.</summary>
    public static Insn* Load<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<T, M>(s, i, out T value))
            return null;
        Enter(s);
        Write(s, i->Operand0, ulong.CreateTruncating(value));
        return i + 1;
    }

    public static Insn* ToGeneral<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Instructions.Register.Write(s, i->Operand0, *(T*)((byte*)s + i->Operand1));
        return i + 1;
    }

    public static Insn* Store<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Write<T, M>(s, i, *(T*)((byte*)s + i->Operand1)))
            return null;
        Enter(s);
        return i + 1;
    }

    public static Insn* Shuffle(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, Selectors.Words(Value(s, i->Operand1), (byte)i->Immediate));
        return i + 1;
    }

    public static Insn* ShuffleMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<ulong, M>(s, i, out ulong b))
            return null;
        Enter(s);
        Write(s, i->Operand0, Selectors.Words(b, (byte)i->Immediate));
        return i + 1;
    }

    public static Insn* AlignRight(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, Aligned(Value(s, i->Operand0), Value(s, i->Operand1), (byte)i->Immediate));
        return i + 1;
    }

    public static Insn* AlignRightMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<ulong, M>(s, i, out ulong b))
            return null;
        Enter(s);
        Write(s, i->Operand0, Aligned(Value(s, i->Operand0), b, (byte)i->Immediate));
        return i + 1;
    }

    public static Insn* ByteMask(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        uint mask = Vector128.CreateScalar(Value(s, i->Operand1)).AsByte().ExtractMostSignificantBits();
        Instructions.Register.Write(s, i->Operand0, (ulong)mask);
        return i + 1;
    }

    public static Insn* ExtractWord(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Instructions.Register.Write(s, i->Operand0, (ulong)(ushort)(Value(s, i->Operand1) >> ((int)i->Immediate & 3) * 16));
        return i + 1;
    }

    public static Insn* InsertWord(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, Inserted(s, i, Instructions.Register.Read<ushort>(s, i->Operand1)));
        return i + 1;
    }

    public static Insn* InsertWordMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Begin(s, i) || !Operand.Read<ushort, M>(s, i, out ushort word))
            return null;
        Enter(s);
        Write(s, i->Operand0, Inserted(s, i, word));
        return i + 1;
    }

    public static Insn* ToXmm(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        *Xmm.At(s, i->Operand0) = Vector128.CreateScalar(Value(s, i->Operand1)).AsByte();
        return i + 1;
    }

    public static Insn* FromXmm(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        Enter(s);
        Write(s, i->Operand0, *(ulong*)Xmm.At(s, i->Operand1));
        return i + 1;
    }

    public static Insn* MaskedStore<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Begin(s, i))
            return null;
        ulong data = Value(s, i->Operand1);
        uint mask = Vector128.CreateScalar(Value(s, i->Operand2)).AsByte().ExtractMostSignificantBits();
        // As processors do, the transition is made even where the store faults; the restart does not see it.
        Enter(s);
        return MaskedBytes.Store<M>(s, i, (byte*)&data, 8, mask) ? i + 1 : null;
    }

    /// <summary>EMMS: all registers become empty.</summary>
    public static Insn* Leave(CpuState* s, Insn* i)
    {
        if (!Begin(s, i))
            return null;
        s->FpuTop = 0;
        s->Ftw = 0;
        return i + 1;
    }

    /// <summary>An MMX register's value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Value(CpuState* s, ushort operand) => *(ulong*)((byte*)s + operand);

    public static void Add<TOp, M>(HandlerTable t, Code code) where TOp : struct, IMmxOp where M : struct, IAddressing =>
        t.Add(code, &Register<TOp>, &Memory<TOp, ulong, M>);

    public static void AddShift<TOp, M>(HandlerTable t, Code variable, Code immediate) where TOp : struct, IShiftOp where M : struct, IAddressing
    {
        t.Add(variable, &ShiftRegister<TOp>, &ShiftMemory<TOp, M>);
        t.Add(immediate, &ShiftImmediate<TOp>);
    }

    private static ulong Shifted<TOp>(ulong a, ulong count) where TOp : struct, IShiftOp =>
        TOp.Apply(Vector128.CreateScalar(a).AsByte(), count).AsUInt64().ToScalar();

    private static ulong Aligned(ulong a, ulong b, byte immediate) =>
        immediate >= 16 ? 0 : (ulong)(new UInt128(a, b) >> immediate * 8);

    private static ulong Inserted(CpuState* s, Insn* i, ushort word)
    {
        int shift = ((int)i->Immediate & 3) * 16;
        return (Value(s, i->Operand0) & ~(0xFFFFUL << shift)) | (ulong)word << shift;
    }
}
