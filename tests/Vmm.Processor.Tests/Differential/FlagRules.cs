using Iced.Intel;

namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// Which arithmetic flags the manuals leave undefined, per instruction: Iced's table (from the SDM), with what it lacks or
/// where Intel's and AMD's processors are known to differ beyond it.
/// </summary>
internal static class FlagRules
{
    public const RflagsBits Arithmetic = RflagsBits.CF | RflagsBits.PF | RflagsBits.AF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF;

    /// <summary>The condition codes of the x87's status word.</summary>
    public const RflagsBits ConditionCodes = RflagsBits.C0 | RflagsBits.C1 | RflagsBits.C2 | RflagsBits.C3;

    /// <summary>The flags that are undefined after an instruction, given those before.</summary>
    public static RflagsBits After(in Instruction instruction, RflagsBits before)
    {
        RflagsBits undefined = instruction.RflagsUndefined | Extra(instruction);
        RflagsBits defined = (instruction.RflagsWritten | instruction.RflagsCleared | instruction.RflagsSet) & ~undefined;
        // A count or repetition of zero leaves the flags, also those that were undefined.
        if (IsCounted(instruction))
            defined = RflagsBits.None;
        return ((before & ~defined) | undefined) & (Arithmetic | ConditionCodes);
    }

    /// <summary>Whether the instruction's result depends on an undefined flag.</summary>
    public static bool Reads(in Instruction instruction, RflagsBits undefined) => (instruction.RflagsRead & undefined) != 0;

    /// <summary>Whether a fault in the middle leaves flags that the manual restores or not as it likes (repeated SCAS and CMPS).</summary>
    public static bool IsRepeatedComparison(in Instruction instruction) =>
        instruction.Mnemonic is Mnemonic.Cmpsb or Mnemonic.Cmpsw or Mnemonic.Cmpsd or Mnemonic.Cmpsq or Mnemonic.Scasb or Mnemonic.Scasw or Mnemonic.Scasd or Mnemonic.Scasq
        && (instruction.HasRepePrefix || instruction.HasRepnePrefix);

    private static RflagsBits Extra(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            // The rotate's OF is defined for counts of one only; AF after a shift never.
            case Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr:
                return IsByOne(instruction) ? RflagsBits.None : RflagsBits.OF;
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar:
                // CF is undefined where the count reaches an 8-bit or 16-bit operand's size.
                return (IsByOne(instruction) ? RflagsBits.AF : RflagsBits.AF | RflagsBits.OF)
                    | (IsShort(instruction) && !IsByOne(instruction) ? RflagsBits.CF : RflagsBits.None);
            case Mnemonic.Shld or Mnemonic.Shrd:
                return RflagsBits.AF | RflagsBits.OF;
            // The SDM has only ZF (and CF) here; AMD's manual agrees, the processors do not agree on the rest.
            case Mnemonic.Bsf or Mnemonic.Bsr:
                return Arithmetic & ~RflagsBits.ZF;
            case Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc:
                return Arithmetic & ~(RflagsBits.CF | RflagsBits.ZF);
            case Mnemonic.Mul or Mnemonic.Imul:
                return Arithmetic & ~(RflagsBits.CF | RflagsBits.OF);
            case Mnemonic.Div or Mnemonic.Idiv:
                return Arithmetic;
            // Intel clears C1, AMD leaves it.
            case Mnemonic.Fcmovb or Mnemonic.Fcmovbe or Mnemonic.Fcmove or Mnemonic.Fcmovnb or Mnemonic.Fcmovnbe or Mnemonic.Fcmovne or Mnemonic.Fcmovnu or Mnemonic.Fcmovu:
            case Mnemonic.Fcomi or Mnemonic.Fcomip or Mnemonic.Fucomi or Mnemonic.Fucomip or Mnemonic.Ffree or Mnemonic.Ffreep:
                return RflagsBits.C1;
            // With an invalid operand there are no quotient bits.
            case Mnemonic.Fprem or Mnemonic.Fprem1:
                return RflagsBits.C0 | RflagsBits.C1 | RflagsBits.C3;
            default:
                return RflagsBits.None;
        }
    }

    private static bool IsByOne(in Instruction instruction) =>
        instruction.GetOpKind(1) == OpKind.Immediate8 && (instruction.Immediate8 & 31) == 1 && (instruction.Immediate8 & 63) == 1;

    private static bool IsShort(in Instruction instruction)
    {
        int size = instruction.Op0Kind == OpKind.Register ? instruction.Op0Register.GetSize() : instruction.MemorySize.GetSize();
        return size <= 2;
    }

    private static bool IsCounted(in Instruction instruction) => instruction.Mnemonic switch
    {
        Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr or Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar
            or Mnemonic.Shld or Mnemonic.Shrd => true,
        _ => IsRepeatedComparison(instruction),
    };
}
