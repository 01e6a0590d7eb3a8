using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Handlers of two-operand arithmetic and logic, for every place that the operands can be.</summary>
public static unsafe class Binary
{
    /// <summary>Register with register.</summary>
    public static Insn* RegReg<O, T>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged
    {
        T result = Apply<O, T>(s, Register.Read<T>(s, i->Operand0), Register.Read<T>(s, i->Operand1));
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Register with immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged
    {
        T result = Apply<O, T>(s, Register.Read<T>(s, i->Operand0), Width.Immediate<T>(i));
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Register with memory.</summary>
    public static Insn* RegMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        T result = Apply<O, T>(s, Register.Read<T>(s, i->Operand0), b);
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Memory with register.</summary>
    public static Insn* MemReg<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged where M : struct, IAddressing
    {
        if (O.Writes)
        {
            if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
                return null;
            Operand.EndModify(s, i, cell, Apply<O, T>(s, a, Register.Read<T>(s, i->Operand1)));
        }
        else
        {
            if (!Operand.Read<T, M>(s, i, out T a))
                return null;
            Apply<O, T>(s, a, Register.Read<T>(s, i->Operand1));
        }
        return i + 1;
    }

    /// <summary>Memory with immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged where M : struct, IAddressing
    {
        if (O.Writes)
        {
            if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
                return null;
            Operand.EndModify(s, i, cell, Apply<O, T>(s, a, Width.Immediate<T>(i)));
        }
        else
        {
            if (!Operand.Read<T, M>(s, i, out T a))
                return null;
            Apply<O, T>(s, a, Width.Immediate<T>(i));
        }
        return i + 1;
    }

    /// <summary>The operation on operands of a width.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static T Apply<O, T>(CpuState* s, T a, T b) where O : struct, IBinaryOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(a), Width.Widen(b), Width.Bits<T>()));
}
