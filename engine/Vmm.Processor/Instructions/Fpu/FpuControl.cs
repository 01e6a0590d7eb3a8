using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Control instructions: initialisation, control and status words, stack manipulation.</summary>
internal static unsafe class FpuControl
{
    /// <summary>The bits of the control word that programs set; of the others, one is set.</summary>
    public const ushort WritableControl = 0x1F3F, FixedControl = 0x40;

    public static Insn* Initialise(CpuState* s, Insn* i)
    {
        X87.Initialise(s);
        return i + 1;
    }

    /// <summary>FNCLEX.</summary>
    public static Insn* ClearExceptions(CpuState* s, Insn* i)
    {
        s->Fsw &= StatusWord.Conditions;
        return i + 1;
    }

    public static Insn* LoadControl<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!X87.Begin(s, i) || !Operand.Read<ushort, M>(s, i, out ushort value))
            return null;
        SetControl(s, value);
        X87.UpdateSummary(s);
        return i + 1;
    }

    /// <summary>Sets the control word; its reserved bits keep the values that FNINIT gives them.</summary>
    public static void SetControl(CpuState* s, ushort value) => s->Fcw = (ushort)((value & WritableControl) | FixedControl);

    public static Insn* StoreControl<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Write<ushort, M>(s, i, s->Fcw) ? i + 1 : null;

    public static Insn* StoreStatus<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Operand.Write<ushort, M>(s, i, X87.Status(s)) ? i + 1 : null;

    public static Insn* StoreStatusAx(CpuState* s, Insn* i)
    {
        *(ushort*)&s->Gpr[Gpr.Rax] = X87.Status(s);
        return i + 1;
    }

    /// <summary>FWAIT and FNOP: nothing but the check for a pending exception.</summary>
    public static Insn* Wait(CpuState* s, Insn* i) => X87.Begin(s, i) ? i + 1 : null;

    public static Insn* NoOperation(CpuState* s, Insn* i)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        return i + 1;
    }

    /// <summary>FNENI, FNDISI and FNSETPM: the 8087's and 80287's, without effect since.</summary>
    public static Insn* Ignored(CpuState* s, Insn* i) => i + 1;

    public static Insn* IncrementTop(CpuState* s, Insn* i) => MoveTop(s, i, 1);

    public static Insn* DecrementTop(CpuState* s, Insn* i) => MoveTop(s, i, -1);

    /// <summary>FFREE, and FFREEP with its pop.</summary>
    public static Insn* Free<P>(CpuState* s, Insn* i) where P : struct, IPops
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        s->Ftw &= (ushort)~(1 << ((s->FpuTop + X87.Position(i->Operand0)) & 7));
        if (P.Count == 1)
            X87.Pop(s);
        X87.ClearC1(s);
        return i + 1;
    }

    private static Insn* MoveTop(CpuState* s, Insn* i, int step)
    {
        if (!X87.Begin(s, i))
            return null;
        X87.NoteInstruction(s, i);
        s->FpuTop = (s->FpuTop + step) & 7;
        X87.ClearC1(s);
        return i + 1;
    }
}
