using System.Runtime.Intrinsics.X86;
using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <summary>What the compiler does about an x87 instruction.</summary>
internal enum X87Kind
{
    /// <summary>The host executes it.</summary>
    Compute,

    /// <summary>The same, and then all condition codes are the host's.</summary>
    Compare,

    /// <summary>The same, with the result in RFLAGS.</summary>
    CompareToFlags,

    /// <summary>FCMOVcc.</summary>
    ConditionalMove,

    /// <summary>FFREE.</summary>
    Free,

    /// <summary>FINCSTP.</summary>
    IncrementTop,

    /// <summary>FDECSTP.</summary>
    DecrementTop,

    /// <summary>FNOP: nothing but its instruction pointer.</summary>
    Nothing,

    /// <summary>FWAIT.</summary>
    Wait,

    /// <summary>FLDCW.</summary>
    LoadControl,

    /// <summary>FNSTCW.</summary>
    StoreControl,

    /// <summary>FNSTSW to AX or memory.</summary>
    StoreStatus,

    /// <summary>FNCLEX.</summary>
    ClearExceptions,
}

/// <summary>An x87 instruction that native code executes, and what it does to the register stack. ST(i) is bit i.</summary>
/// <param name="Kind">What is to be done.</param>
/// <param name="Reads">Registers that must not be empty.</param>
/// <param name="Writes">Registers that get a value, by their positions before the instruction; what it pushes apart.</param>
/// <param name="Pops">How many registers it pops.</param>
/// <param name="Pushes">Whether it pushes a value.</param>
internal readonly record struct X87Form(X87Kind Kind, int Reads = 0, int Writes = 0, int Pops = 0, bool Pushes = false)
{
    /// <summary>Whether a pending exception faults before the instruction (SDM volume 1, section 8.6).</summary>
    public bool Waits => Kind is not (X87Kind.StoreControl or X87Kind.StoreStatus or X87Kind.ClearExceptions);

    /// <summary>The form of an instruction; null where it is not one of x87, or has results that differ between processors, or is rare.</summary>
    public static X87Form? Of(in Instruction instruction)
    {
        int first = BitOf(instruction.Op0Register), second = BitOf(instruction.Op1Register);
        bool memory = instruction.Op0Kind == OpKind.Memory;
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Fld or Mnemonic.Fild:
                return new X87Form(X87Kind.Compute, Reads: memory ? 0 : first, Pushes: true);
            case Mnemonic.Fld1 or Mnemonic.Fldz or Mnemonic.Fldpi or Mnemonic.Fldl2t or Mnemonic.Fldl2e or Mnemonic.Fldlg2 or Mnemonic.Fldln2:
                return new X87Form(X87Kind.Compute, Pushes: true);
            case Mnemonic.Fst or Mnemonic.Fist:
                return new X87Form(X87Kind.Compute, Reads: 1, Writes: memory ? 0 : first);
            case Mnemonic.Fisttp when !Sse3.IsSupported:
                return null;
            case Mnemonic.Fstp or Mnemonic.Fistp or Mnemonic.Fisttp:
                return new X87Form(X87Kind.Compute, Reads: 1, Writes: memory ? 0 : first, Pops: 1);
            case Mnemonic.Fadd or Mnemonic.Fsub or Mnemonic.Fsubr or Mnemonic.Fmul or Mnemonic.Fdiv or Mnemonic.Fdivr
                or Mnemonic.Fiadd or Mnemonic.Fisub or Mnemonic.Fisubr or Mnemonic.Fimul or Mnemonic.Fidiv or Mnemonic.Fidivr:
                return memory ? new X87Form(X87Kind.Compute, Reads: 1, Writes: 1) : new X87Form(X87Kind.Compute, Reads: first | second, Writes: first);
            case Mnemonic.Faddp or Mnemonic.Fsubp or Mnemonic.Fsubrp or Mnemonic.Fmulp or Mnemonic.Fdivp or Mnemonic.Fdivrp:
                return new X87Form(X87Kind.Compute, Reads: first | second, Writes: first, Pops: 1);
            case Mnemonic.Fchs or Mnemonic.Fabs or Mnemonic.Fsqrt or Mnemonic.Frndint:
                return new X87Form(X87Kind.Compute, Reads: 1, Writes: 1);
            case Mnemonic.Fxch:
                return new X87Form(X87Kind.Compute, Reads: first | second, Writes: first | second);
            case Mnemonic.Fcom or Mnemonic.Fucom or Mnemonic.Ficom:
                return new X87Form(X87Kind.Compare, Reads: 1 | second);
            case Mnemonic.Fcomp or Mnemonic.Fucomp or Mnemonic.Ficomp:
                return new X87Form(X87Kind.Compare, Reads: 1 | second, Pops: 1);
            case Mnemonic.Fcompp or Mnemonic.Fucompp:
                return new X87Form(X87Kind.Compare, Reads: 3, Pops: 2);
            case Mnemonic.Ftst or Mnemonic.Fxam:
                return new X87Form(X87Kind.Compare, Reads: 1);
            case Mnemonic.Fcomi or Mnemonic.Fucomi:
                return new X87Form(X87Kind.CompareToFlags, Reads: 1 | second);
            case Mnemonic.Fcomip or Mnemonic.Fucomip:
                return new X87Form(X87Kind.CompareToFlags, Reads: 1 | second, Pops: 1);
            case Mnemonic.Fcmovb or Mnemonic.Fcmove or Mnemonic.Fcmovbe or Mnemonic.Fcmovu or Mnemonic.Fcmovnb or Mnemonic.Fcmovne or Mnemonic.Fcmovnbe or Mnemonic.Fcmovnu:
                return new X87Form(X87Kind.ConditionalMove, Reads: 1 | second, Writes: 1);
            case Mnemonic.Ffree:
                return new X87Form(X87Kind.Free, Writes: first);
            case Mnemonic.Fincstp:
                return new X87Form(X87Kind.IncrementTop);
            case Mnemonic.Fdecstp:
                return new X87Form(X87Kind.DecrementTop);
            case Mnemonic.Fnop:
                return new X87Form(X87Kind.Nothing);
            case Mnemonic.Wait:
                return new X87Form(X87Kind.Wait);
            case Mnemonic.Fldcw:
                return new X87Form(X87Kind.LoadControl);
            case Mnemonic.Fnstcw:
                return new X87Form(X87Kind.StoreControl);
            case Mnemonic.Fnstsw:
                return new X87Form(X87Kind.StoreStatus);
            case Mnemonic.Fnclex:
                return new X87Form(X87Kind.ClearExceptions);
            default:
                return null;
        }
    }

    /// <summary>
    /// What the host executes for an instruction: what does the same without popping, where there is such a thing, so that what the guest has popped can
    /// still be stored.
    /// </summary>
    /// <param name="instruction">The guest's instruction.</param>
    /// <param name="operand">Where the host has its memory operand.</param>
    /// <param name="pops">Whether it pops all the same.</param>
    public static Instruction ForHost(in Instruction instruction, in MemoryOperand operand, out bool pops)
    {
        Code code = WithoutPop(instruction.Code, out bool always);
        pops = always;
        if (instruction.Op0Kind == OpKind.Memory)
            return Instruction.Create(code, operand);
        if (code == instruction.Code)
            return instruction;
        return code switch
        {
            Code.Fst_sti => Instruction.Create(code, instruction.Op0Register),
            Code.Fcom_st0_sti or Code.Fucom_st0_sti or Code.Fcomi_st0_sti or Code.Fucomi_st0_sti =>
                Instruction.Create(code, Register.ST0, instruction.OpCount == 2 ? instruction.Op1Register : Register.ST1),
            _ => Instruction.Create(code, instruction.Op0Register, Register.ST0),
        };
    }

    private static Code WithoutPop(Code code, out bool pops)
    {
        pops = false;
        switch (code)
        {
            case Code.Fstp_m80fp or Code.Fistp_m64int or Code.Fisttp_m16int or Code.Fisttp_m32int or Code.Fisttp_m64int:
                pops = true;
                return code;
            case Code.Fstp_m32fp:
                return Code.Fst_m32fp;
            case Code.Fstp_m64fp:
                return Code.Fst_m64fp;
            case Code.Fistp_m16int:
                return Code.Fist_m16int;
            case Code.Fistp_m32int:
                return Code.Fist_m32int;
            case Code.Fstp_sti or Code.Fstp_sti_DFD0 or Code.Fstp_sti_DFD8:
                return Code.Fst_sti;
            case Code.Faddp_sti_st0:
                return Code.Fadd_sti_st0;
            case Code.Fsubp_sti_st0:
                return Code.Fsub_sti_st0;
            case Code.Fsubrp_sti_st0:
                return Code.Fsubr_sti_st0;
            case Code.Fmulp_sti_st0:
                return Code.Fmul_sti_st0;
            case Code.Fdivp_sti_st0:
                return Code.Fdiv_sti_st0;
            case Code.Fdivrp_sti_st0:
                return Code.Fdivr_sti_st0;
            case Code.Fcomp_m32fp:
                return Code.Fcom_m32fp;
            case Code.Fcomp_m64fp:
                return Code.Fcom_m64fp;
            case Code.Ficomp_m16int:
                return Code.Ficom_m16int;
            case Code.Ficomp_m32int:
                return Code.Ficom_m32int;
            case Code.Fcomp_st0_sti or Code.Fcomp_st0_sti_DCD8 or Code.Fcomp_st0_sti_DED0 or Code.Fcompp:
                return Code.Fcom_st0_sti;
            case Code.Fucomp_st0_sti or Code.Fucompp:
                return Code.Fucom_st0_sti;
            case Code.Fcomip_st0_sti:
                return Code.Fcomi_st0_sti;
            case Code.Fucomip_st0_sti:
                return Code.Fucomi_st0_sti;
            default:
                return code;
        }
    }

    private static int BitOf(Register register) => register is >= Register.ST0 and <= Register.ST7 ? 1 << register - Register.ST0 : 0;
}

/// <summary>
/// What is known of the guest's register stack within a run of x87 instructions. Registers are bits, numbered from TOP as it is where the
/// run begins: register 0 is ST(0) there.
/// </summary>
/// <param name="NeedFull">Registers that must not be empty at the beginning.</param>
/// <param name="NeedEmpty">Registers that must be empty there.</param>
/// <param name="Full">Registers that are known not to be empty.</param>
/// <param name="Empty">Registers that are known to be empty.</param>
/// <param name="Top">How far TOP has moved, 0 to 7.</param>
internal readonly record struct X87Stack(int NeedFull, int NeedEmpty, int Full, int Empty, int Top)
{
    /// <summary>The stack where a run begins, of which the needs have been found.</summary>
    public X87Stack AtBeginning => new(NeedFull, NeedEmpty, NeedFull, NeedEmpty, 0);

    /// <summary>The registers at positions ST(i), which are bits too.</summary>
    public int At(int positions) => (positions << Top | positions >> 8 - Top) & 0xFF;

    /// <summary>The registers that an instruction writes here.</summary>
    public int WrittenBy(in X87Form form) => form.Kind == X87Kind.Free ? 0 : At(form.Writes) | (form.Pushes ? At(0x80) : 0);

    /// <summary>Executes an instruction. False where the stack overflows or underflows for certain.</summary>
    public bool TryApply(in X87Form form, out X87Stack after)
    {
        int reads = At(form.Reads), pushed = form.Pushes ? At(0x80) : 0;
        int needFull = NeedFull | reads & ~Full, needEmpty = NeedEmpty | pushed & ~Empty;
        int full = Full | reads, empty = Empty | pushed;
        if ((full & empty) != 0)
        {
            after = default;
            return false;
        }
        (int filled, int freed) = form.Kind == X87Kind.Free ? (0, At(form.Writes)) : (At(form.Writes) | pushed, 0);
        int top = Top + form.Kind switch { X87Kind.IncrementTop => 1, X87Kind.DecrementTop => 7, _ => form.Pushes ? 7 : 0 };
        for (int n = 0; n < form.Pops; n++)
            freed |= 1 << (top++ & 7);
        after = new X87Stack(needFull, needEmpty, (full | filled) & ~freed, (empty & ~filled) | freed, top & 7);
        return true;
    }
}
