using System.Numerics;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Handlers of two-operand arithmetic and logic, for every place that the operands can be.</summary>
public static unsafe class Binary
{
    /// <summary>Register with register.</summary>
    public static Insn* RegReg<O, T>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T>
    {
        T result = O.Apply(s, Register.Read<T>(s, i->Operand0), Register.Read<T>(s, i->Operand1));
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Register with immediate.</summary>
    public static Insn* RegImm<O, T>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T>
    {
        T result = O.Apply(s, Register.Read<T>(s, i->Operand0), Width.Immediate<T>(i));
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Register with memory.</summary>
    public static Insn* RegMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T b))
            return null;
        T result = O.Apply(s, Register.Read<T>(s, i->Operand0), b);
        if (O.Writes)
            Register.Write(s, i->Operand0, result);
        return i + 1;
    }

    /// <summary>Memory with register.</summary>
    public static Insn* MemReg<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (O.Writes)
        {
            if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
                return null;
            Operand.EndModify(s, i, cell, O.Apply(s, a, Register.Read<T>(s, i->Operand1)));
        }
        else
        {
            if (!Operand.Read<T, M>(s, i, out T a))
                return null;
            O.Apply(s, a, Register.Read<T>(s, i->Operand1));
        }
        return i + 1;
    }

    /// <summary>Memory with immediate.</summary>
    public static Insn* MemImm<O, T, M>(CpuState* s, Insn* i) where O : struct, IBinaryOperation where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (O.Writes)
        {
            if (!Operand.BeginModify<T, M>(s, i, out T a, out Cell cell))
                return null;
            Operand.EndModify(s, i, cell, O.Apply(s, a, Width.Immediate<T>(i)));
        }
        else
        {
            if (!Operand.Read<T, M>(s, i, out T a))
                return null;
            O.Apply(s, a, Width.Immediate<T>(i));
        }
        return i + 1;
    }
}
