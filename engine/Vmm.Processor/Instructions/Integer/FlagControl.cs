namespace Vmm.Processor.Instructions.Integer;

/// <summary>Instructions that set or copy single flags.</summary>
public static unsafe class FlagControl
{
    private const ulong Saved = Rflags.Cf | Rflags.Pf | Rflags.Af | Rflags.Zf | Rflags.Sf;

    /// <summary>LAHF.</summary>
    public static Insn* Lahf(CpuState* s, Insn* i)
    {
        Register.Write(s, Gpr.Rax * 8 + 1, (byte)((Flags.Read(s) & Saved) | Rflags.Fixed1));
        return i + 1;
    }

    /// <summary>SAHF.</summary>
    public static Insn* Sahf(CpuState* s, Insn* i)
    {
        Flags.Write(s, (Register.Read<byte>(s, Gpr.Rax * 8 + 1) & Saved) | (Flags.Overflow(s) ? Rflags.Of : 0));
        return i + 1;
    }

    /// <summary>CLC.</summary>
    public static Insn* Clc(CpuState* s, Insn* i)
    {
        Flags.SetCarry(s, false);
        return i + 1;
    }

    /// <summary>STC.</summary>
    public static Insn* Stc(CpuState* s, Insn* i)
    {
        Flags.SetCarry(s, true);
        return i + 1;
    }

    /// <summary>CMC.</summary>
    public static Insn* Cmc(CpuState* s, Insn* i)
    {
        Flags.SetCarry(s, !Flags.Carry(s));
        return i + 1;
    }

    /// <summary>CLD.</summary>
    public static Insn* Cld(CpuState* s, Insn* i)
    {
        s->SystemFlags &= ~Rflags.Df;
        return i + 1;
    }

    /// <summary>STD.</summary>
    public static Insn* Std(CpuState* s, Insn* i)
    {
        s->SystemFlags |= Rflags.Df;
        return i + 1;
    }

    /// <summary>SALC: AL all ones or zero by CF.</summary>
    public static Insn* Salc(CpuState* s, Insn* i)
    {
        Register.Write(s, Gpr.Rax * 8, Flags.Carry(s) ? (byte)0xFF : (byte)0);
        return i + 1;
    }
}
