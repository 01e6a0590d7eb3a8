using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Near branches, calls and returns. The operand type is that of the instruction pointer: a shorter one truncates the target.</summary>
public static unsafe class Branch
{
    /// <summary>JMP rel.</summary>
    public static Insn* Jump<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing => Take<T, M>(s, i);

    /// <summary>Jcc.</summary>
    public static Insn* JumpIf<C, T, M>(CpuState* s, Insn* i) where C : struct, ICondition where T : unmanaged where M : struct, IAddressing =>
        C.Holds(s) ? Take<T, M>(s, i) : i + 1;

    /// <summary>JMP r.</summary>
    public static Insn* JumpReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        To<M>(s, i, Width.Widen(Register.Read<T>(s, i->Operand0)));

    /// <summary>JMP m.</summary>
    public static Insn* JumpMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T target))
            return null;
        return To<M>(s, i, Width.Widen(target));
    }

    /// <summary>CALL rel.</summary>
    public static Insn* Call<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong target = Target<T>(s, i);
        if (!Flow.CheckTarget<M>(s, target))
            return Fault.At(s, i);
        return Stack.Push<T, M>(s, i, Width.Narrow<T>(Insn.NextRip(s, i))) ? Flow.ToDirect(s, i, target) : null;
    }

    /// <summary>CALL r.</summary>
    public static Insn* CallReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Call<T, M>(s, i, Width.Widen(Register.Read<T>(s, i->Operand0)));

    /// <summary>CALL m.</summary>
    public static Insn* CallMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T target))
            return null;
        return Call<T, M>(s, i, Width.Widen(target));
    }

    /// <summary>RET.</summary>
    public static Insn* Return<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing => Return<T, M>(s, i, 0);

    /// <summary>RET imm16.</summary>
    public static Insn* ReturnImm<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Return<T, M>(s, i, (ushort)i->Immediate);

    /// <summary>LOOP: the counter has the address size.</summary>
    public static Insn* Loop<K, T, M>(CpuState* s, Insn* i) where K : unmanaged, IBinaryInteger<K> where T : unmanaged where M : struct, IAddressing =>
        Loop<K, T, M>(s, i, true);

    /// <summary>LOOPE and LOOPNE, by the condition.</summary>
    public static Insn* LoopIf<C, K, T, M>(CpuState* s, Insn* i) where C : struct, ICondition where K : unmanaged, IBinaryInteger<K> where T : unmanaged where M : struct, IAddressing =>
        Loop<K, T, M>(s, i, C.Holds(s));

    /// <summary>JCXZ, JECXZ, JRCXZ.</summary>
    public static Insn* JumpIfCounterZero<K, T, M>(CpuState* s, Insn* i) where K : unmanaged, IBinaryInteger<K> where T : unmanaged where M : struct, IAddressing =>
        Register.Read<K>(s, Gpr.Rcx * 8) == K.Zero ? Take<T, M>(s, i) : i + 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Take<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong target = Target<T>(s, i);
        return Flow.CheckTarget<M>(s, target) ? Flow.ToDirect(s, i, target) : Fault.At(s, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Target<T>(CpuState* s, Insn* i) where T : unmanaged => Width.Widen(Width.Narrow<T>(s->TraceRip + i->Immediate));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* To<M>(CpuState* s, Insn* i, ulong target) where M : struct, IAddressing =>
        Flow.CheckTarget<M>(s, target) ? Flow.To(s, i, target) : Fault.At(s, i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Call<T, M>(CpuState* s, Insn* i, ulong target) where T : unmanaged where M : struct, IAddressing
    {
        if (!Flow.CheckTarget<M>(s, target))
            return Fault.At(s, i);
        return Stack.Push<T, M>(s, i, Width.Narrow<T>(Insn.NextRip(s, i))) ? Flow.To(s, i, target) : null;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Return<T, M>(CpuState* s, Insn* i, ulong release) where T : unmanaged where M : struct, IAddressing
    {
        if (!Stack.Peek<T, M>(s, i, out T value))
            return null;
        ulong target = Width.Widen(value);
        if (!Flow.CheckTarget<M>(s, target))
            return Fault.At(s, i);
        Stack.Drop<M>(s, (uint)sizeof(T) + release);
        return Flow.To(s, i, target);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Loop<K, T, M>(CpuState* s, Insn* i, bool condition) where K : unmanaged, IBinaryInteger<K> where T : unmanaged where M : struct, IAddressing
    {
        K counter = Register.Read<K>(s, Gpr.Rcx * 8) - K.One;
        if (counter == K.Zero || !condition)
        {
            Register.Write(s, Gpr.Rcx * 8, counter);
            return i + 1;
        }
        ulong target = Target<T>(s, i);
        if (!Flow.CheckTarget<M>(s, target))
            return Fault.At(s, i);
        Register.Write(s, Gpr.Rcx * 8, counter);
        return Flow.ToDirect(s, i, target);
    }
}
