using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Execution;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>The x87 format in memory: 10 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1, Size = 10)]
internal struct Float80
{
    public ulong Significand;
    public ushort SignExponent;
}

/// <summary>
/// The x87 register stack and its exceptions. An unmasked exception does not fault here: it sets the summary bit, and the next
/// waiting instruction faults (SDM volume 1, section 8.7).
/// </summary>
internal static unsafe class X87
{
    /// <summary>The control word after FNINIT.</summary>
    public const ushort DefaultControl = 0x037F;

    /// <summary>Starts a waiting instruction: false after #MF for a pending exception.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Begin(CpuState* s, Insn* i)
    {
        if ((s->Fsw & StatusWord.Summary) == 0)
            return true;
        Fault.Raise(s, i, Vector.Mf);
        return false;
    }

    /// <summary>Notes the instruction pointer of a non-control instruction.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void NoteInstruction(CpuState* s, Insn* i)
    {
        s->Fip = Insn.Rip(s, i);
        s->Fcs = s->Cs.Selector;
    }

    /// <summary>Notes the instruction and its memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void NoteOperand(CpuState* s, Insn* i)
    {
        NoteInstruction(s, i);
        s->Fdp = Operand.EffectiveAddress(s, i);
        s->Fds = CpuState.Segment(s, i->Segment)->Selector;
    }

    /// <summary>The stack position of a register operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Position(ushort operand) => (operand - CpuState.FpuOffset) >> 4;

    /// <summary>The two words of ST(n): significand, then sign and exponent.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong* Slot(CpuState* s, int n) => s->Fpu + 2 * ((s->FpuTop + n) & 7);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsEmpty(CpuState* s, int n) => (s->Ftw >> ((s->FpuTop + n) & 7) & 1) == 0;

    public static Real Load(CpuState* s, int n)
    {
        ulong* slot = Slot(s, n);
        return Real.FromExtended(slot[0], (ushort)slot[1]);
    }

    public static void Store(CpuState* s, int n, in Real value)
    {
        ulong* slot = Slot(s, n);
        slot[0] = value.ToExtended(out ushort signExponent);
        slot[1] = signExponent;
        s->Ftw |= (ushort)(1 << ((s->FpuTop + n) & 7));
    }

    public static void StoreRaw(CpuState* s, int n, ulong significand, ulong signExponent)
    {
        ulong* slot = Slot(s, n);
        slot[0] = significand;
        slot[1] = (ushort)signExponent;
        s->Ftw |= (ushort)(1 << ((s->FpuTop + n) & 7));
    }

    public static void Pop(CpuState* s)
    {
        s->Ftw &= (ushort)~(1 << s->FpuTop);
        s->FpuTop = (s->FpuTop + 1) & 7;
    }

    public static void Push(CpuState* s, in Real value)
    {
        s->FpuTop = (s->FpuTop - 1) & 7;
        Store(s, 0, value);
    }

    public static void PushRaw(CpuState* s, ulong significand, ulong signExponent)
    {
        s->FpuTop = (s->FpuTop - 1) & 7;
        StoreRaw(s, 0, significand, signExponent);
    }

    /// <summary>Whether a push would hit an occupied register.</summary>
    public static bool IsFull(CpuState* s) => !IsEmpty(s, 7);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void ClearC1(CpuState* s) => s->Fsw &= unchecked((ushort)~StatusWord.C1);

    /// <summary>Sets exception flags; true when one of them is unmasked, and so pending now.</summary>
    public static bool Raise(CpuState* s, Insn* i, uint flags)
    {
        s->Fsw |= (ushort)flags;
        if ((flags & ~s->Fcw & FloatFlags.All) == 0)
            return false;
        s->Fsw |= StatusWord.Summary | StatusWord.Busy;
        NoteOpcode(s, i);
        return true;
    }

    /// <summary>A stack underflow; true when it is unmasked.</summary>
    public static bool Underflow(CpuState* s, Insn* i)
    {
        ClearC1(s);
        return Raise(s, i, FloatFlags.Invalid | StatusWord.StackFault);
    }

    /// <summary>A stack overflow; true when it is unmasked.</summary>
    public static bool Overflow(CpuState* s, Insn* i)
    {
        s->Fsw |= StatusWord.C1;
        return Raise(s, i, FloatFlags.Invalid | StatusWord.StackFault);
    }

    /// <summary>Settles a result for a register: false where an unmasked exception keeps it from being stored.</summary>
    public static bool Settle(CpuState* s, Insn* i, ref FloatContext c)
    {
        ClearC1(s);
        if (c.Flags == 0)
            return true;
        bool early = (c.Unmasked & FloatFlags.BeforeComputation) != 0;
        if (early)
            c.Flags &= FloatFlags.BeforeComputation;
        else if ((c.Flags & FloatFlags.Inexact) != 0 && c.RoundedUp)
            s->Fsw |= StatusWord.C1;
        Raise(s, i, c.Flags);
        return !early;
    }

    /// <summary>Recomputes the summary bit after the control or status word was loaded.</summary>
    public static void UpdateSummary(CpuState* s)
    {
        if ((s->Fsw & ~s->Fcw & FloatFlags.All) != 0)
            s->Fsw |= StatusWord.Summary | StatusWord.Busy;
        else
            s->Fsw &= unchecked((ushort)~(StatusWord.Summary | StatusWord.Busy));
    }

    /// <summary>The status word with TOP.</summary>
    public static ushort Status(CpuState* s) => (ushort)((s->Fsw & ~StatusWord.TopMask) | s->FpuTop << StatusWord.TopShift);

    /// <summary>Takes apart a status word that was loaded.</summary>
    public static void SetStatus(CpuState* s, ushort word)
    {
        s->Fsw = (ushort)(word & ~StatusWord.TopMask);
        s->FpuTop = (word & StatusWord.TopMask) >> StatusWord.TopShift;
    }

    /// <summary>FNINIT.</summary>
    public static void Initialise(CpuState* s)
    {
        s->Fcw = DefaultControl;
        s->Fsw = 0;
        s->Ftw = 0;
        s->FpuTop = 0;
        s->Fop = 0;
        s->Fip = s->Fdp = 0;
        s->Fcs = s->Fds = 0;
    }

    /// <summary>
    /// The last opcode, which newer processors record only for an unmasked exception (SDM volume 1, section 8.1.9.1). It is read
    /// back from the code; where that fails the old value stays.
    /// </summary>
    private static void NoteOpcode(CpuState* s, Insn* i)
    {
        byte* bytes = stackalloc byte[16];
        ulong linear = (s->CodeSize == 64 ? 0 : s->Cs.Base) + Insn.Rip(s, i);
        if (s->CodeSize != 64)
            linear = (uint)linear;
        int length = Math.Min((int)i->Length, 15);
        if (!LogicalProcessor.Of(s).Mmu.Read(linear, bytes, length))
            return;
        for (int n = 0; n + 1 < length; n++)
        {
            if ((bytes[n] & 0xF8) == 0xD8)
            {
                s->Fop = (ushort)((bytes[n] & 7) << 8 | bytes[n + 1]);
                return;
            }
        }
    }
}
