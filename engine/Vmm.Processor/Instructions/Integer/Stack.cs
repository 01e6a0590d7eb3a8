using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;
using Vector = Vmm.Processor.State.Vector;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>
/// The stack: PUSH, POP, PUSHA, POPA, ENTER, LEAVE. The stack pointer has 64 bits in 64-bit mode, else 32 or 16 by SS.B
/// (SDM volume 1, section 6.2).
/// </summary>
public static unsafe class Stack
{
    private const ulong Word = 0xFFFF;

    /// <summary>The bits of RSP that address the stack.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Mask<M>(CpuState* s) where M : struct, IAddressing =>
        M.IsLong ? ulong.MaxValue : (s->Ss.Rights & SegmentRights.Big) != 0 ? uint.MaxValue : Word;

    /// <summary>Sets the stack pointer (or another register of its size); bits above a 16-bit one stay.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetPointer<M>(CpuState* s, ulong mask, ulong value, int register = Gpr.Rsp) where M : struct, IAddressing
    {
        if (M.IsLong)
            s->Gpr[register] = value;
        else
            s->Gpr[register] = mask == Word ? (s->Gpr[register] & ~Word) | (value & Word) : (uint)value;
    }

    /// <summary>Pushes a value. On false nothing has changed and the fault is settled.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Push<T, M>(CpuState* s, Insn* i, T value) where T : unmanaged where M : struct, IAddressing
    {
        ulong mask = Mask<M>(s);
        ulong pointer = (s->Gpr[Gpr.Rsp] - (uint)sizeof(T)) & mask;
        if (!Write<T, M>(s, i, pointer, value))
            return false;
        SetPointer<M>(s, mask, pointer);
        return true;
    }

    /// <summary>Reads the top of the stack without popping it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Peek<T, M>(CpuState* s, Insn* i, out T value) where T : unmanaged where M : struct, IAddressing =>
        Read<T, M>(s, i, s->Gpr[Gpr.Rsp] & Mask<M>(s), out value);

    /// <summary>Moves the stack pointer up.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Drop<M>(CpuState* s, ulong bytes) where M : struct, IAddressing =>
        SetPointer<M>(s, Mask<M>(s), s->Gpr[Gpr.Rsp] + bytes);

    /// <summary>Reads at an offset in SS.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Read<T, M>(CpuState* s, Insn* i, ulong offset, out T value) where T : unmanaged where M : struct, IAddressing =>
        Operand.ReadAt<T, M>(s, i, Seg.Ss, offset, out value) || Failed<M>(s);

    /// <summary>Writes at an offset in SS.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Write<T, M>(CpuState* s, Insn* i, ulong offset, T value) where T : unmanaged where M : struct, IAddressing =>
        Operand.WriteAt<T, M>(s, i, Seg.Ss, offset, value) || Failed<M>(s);

    /// <summary>PUSH r. PUSH RSP pushes the value before.</summary>
    public static Insn* PushReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Push<T, M>(s, i, Register.Read<T>(s, i->Operand0)) ? i + 1 : null;

    /// <summary>PUSH imm.</summary>
    public static Insn* PushImm<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Push<T, M>(s, i, Width.Immediate<T>(i)) ? i + 1 : null;

    /// <summary>PUSH m.</summary>
    public static Insn* PushMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T value))
            return null;
        return Push<T, M>(s, i, value) ? i + 1 : null;
    }

    /// <summary>POP r. POP RSP takes the value, not the increment.</summary>
    public static Insn* PopReg<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Peek<T, M>(s, i, out T value))
            return null;
        Drop<M>(s, (uint)sizeof(T));
        Register.Write(s, i->Operand0, value);
        return i + 1;
    }

    /// <summary>POP m: an address based on RSP uses its value after the increment.</summary>
    public static Insn* PopMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Peek<T, M>(s, i, out T value))
            return null;
        ulong before = s->Gpr[Gpr.Rsp];
        Drop<M>(s, (uint)sizeof(T));
        if (Operand.Write<T, M>(s, i, value))
            return i + 1;
        s->Gpr[Gpr.Rsp] = before;
        return null;
    }

    /// <summary>PUSHA.</summary>
    public static Insn* PushAll<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        ulong mask = Mask<Legacy>(s);
        ulong pointer = s->Gpr[Gpr.Rsp];
        for (int register = 0; register < 8; register++)
        {
            pointer = (pointer - (uint)sizeof(T)) & mask;
            if (!Write<T, Legacy>(s, i, pointer, Width.Narrow<T>(s->Gpr[register])))
                return null;
        }
        SetPointer<Legacy>(s, mask, pointer);
        return i + 1;
    }

    /// <summary>POPA: the stack pointer's own slot is skipped.</summary>
    public static Insn* PopAll<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        ulong mask = Mask<Legacy>(s);
        ulong pointer = s->Gpr[Gpr.Rsp];
        T* values = stackalloc T[8];
        for (int register = 7; register >= 0; register--)
        {
            if (!Read<T, Legacy>(s, i, pointer & mask, out values[register]))
                return null;
            pointer += (uint)sizeof(T);
        }
        for (int register = 0; register < 8; register++)
        {
            if (register != Gpr.Rsp)
                Register.Write(s, (ushort)(register * 8), values[register]);
        }
        SetPointer<Legacy>(s, mask, pointer);
        return i + 1;
    }

    /// <summary>ENTER: the final stack pointer is probed for a write, as the manual says.</summary>
    public static Insn* Enter<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        uint size = (ushort)i->Immediate;
        int level = (int)(i->Immediate >> 16) & 31;
        ulong mask = Mask<M>(s);
        ulong frame = s->Gpr[Gpr.Rbp];
        ulong pointer = (s->Gpr[Gpr.Rsp] - (uint)sizeof(T)) & mask;
        if (!Write<T, M>(s, i, pointer, Width.Narrow<T>(frame)))
            return null;
        // With a 16-bit stack a 32-bit frame pointer takes the upper half of ESP along.
        ulong newFrame = (s->Gpr[Gpr.Rsp] & ~mask) | pointer;
        if (level > 0)
        {
            for (int k = 1; k < level; k++)
            {
                frame -= (uint)sizeof(T);
                if (!Read<T, M>(s, i, frame & mask, out T display))
                    return null;
                pointer = (pointer - (uint)sizeof(T)) & mask;
                if (!Write<T, M>(s, i, pointer, display))
                    return null;
            }
            pointer = (pointer - (uint)sizeof(T)) & mask;
            if (!Write<T, M>(s, i, pointer, Width.Narrow<T>(newFrame)))
                return null;
        }
        pointer = (pointer - size) & mask;
        if (!Implicit.BeginModify<T, M>(s, i, Seg.Ss, pointer, out _, out _))
        {
            Failed<M>(s);
            return null;
        }
        Register.Write(s, Gpr.Rbp * 8, Width.Narrow<T>(newFrame));
        SetPointer<M>(s, mask, pointer);
        return i + 1;
    }

    /// <summary>LEAVE.</summary>
    public static Insn* Leave<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong mask = Mask<M>(s);
        ulong pointer = s->Gpr[Gpr.Rbp] & mask;
        if (!Read<T, M>(s, i, pointer, out T frame))
            return null;
        SetPointer<M>(s, mask, pointer + (uint)sizeof(T));
        Register.Write(s, Gpr.Rbp * 8, frame);
        return i + 1;
    }

    /// <summary>A stack address that is not canonical is #SS(0), where any other would be #GP(0). Returns false.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static bool Failed<M>(CpuState* s) where M : struct, IAddressing
    {
        if (M.IsLong && s->FaultVector == Vector.Gp)
            s->FaultVector = Vector.Ss;
        return false;
    }
}
