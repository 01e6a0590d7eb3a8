namespace Vmm.Processor.Translation;

/// <summary>The operations of <see cref="RegionCode"/>: those of the Common Intermediate Language with the same operands (ECMA-335 partition III), under plainer names.</summary>
internal enum CodeOp : byte
{
    Add,
    Sub,
    Multiply,
    And,
    Or,
    Xor,
    Not,
    Negate,
    ShiftLeft,
    ShiftRight,
    ShiftRightSigned,

    /// <summary>Comparisons push 0 or 1.</summary>
    Equal,
    Less,
    LessUnsigned,
    Greater,
    GreaterUnsigned,

    /// <summary>Conversions of either integer type to 32 bits: of the low 8 or 16 bits, or of all.</summary>
    SignExtend8,
    ZeroExtend8,
    SignExtend16,
    ZeroExtend16,
    ToInt32,

    /// <summary>Conversions to 64 bits; of no effect on 64 bits.</summary>
    SignExtend32,
    ZeroExtend32,

    /// <summary>The conversion of 64 bits, or of 32 with sign, to an address.</summary>
    ToPointer,

    /// <summary>Reads at an address: to 32 bits, zero-extended, or 64.</summary>
    Read8,
    Read16,
    Read32,
    Read64,
    ReadPointer,
    ReadVector,

    /// <summary>Writes a value at an address that was pushed before it.</summary>
    Write8,
    Write16,
    Write32,
    Write64,
    WriteVector,

    /// <summary>The upper half of the unsigned product of two 64-bit values.</summary>
    MultiplyHigh,

    /// <summary>Rotates of a value of 32 or 64 bits by a count that was pushed last, a constant between 1 and the width less 1.</summary>
    RotateLeft32,
    RotateLeft64,
    RotateRight32,
    RotateRight64,

    /// <summary>Reversals of the bytes of a value of 32 or 64 bits.</summary>
    ByteSwap32,
    ByteSwap64,
}

/// <summary>When <see cref="RegionCode.Branch"/> branches: always, on the value on the stack, or on the two values there.</summary>
internal enum CodeBranch : byte
{
    Always,
    True,
    False,
    Equal,
    NotEqual,
    Less,
    LessUnsigned,
    GreaterOrEqual,
    GreaterOrEqualUnsigned,
    LessOrEqual,
    LessOrEqualUnsigned,
    Greater,
    GreaterUnsigned,
}

/// <summary>The types of values.</summary>
internal enum CodeType : byte
{
    Int32,
    Int64,
    Pointer,
    Vector,
    Single,
    Double,
}

/// <summary>A local of <see cref="RegionCode"/>.</summary>
/// <param name="type">Its type.</param>
/// <param name="slot">Its number, whose meaning is up to what generates code.</param>
internal sealed class CodeLocal(CodeType type, int slot)
{
    public CodeType Type { get; } = type;

    public int Slot { get; } = slot;
}

/// <summary>A place in <see cref="RegionCode"/> to branch to.</summary>
/// <param name="Number">Which one.</param>
internal readonly record struct CodeLabel(int Number);

/// <summary>
/// What the instructions of a guest are compiled to: code for a stack machine with typed locals, which is turned into something that
/// executes as it is emitted.
/// </summary>
internal abstract class RegionCode
{
    /// <summary>A local that lives as long as the code.</summary>
    public abstract CodeLocal Declare(CodeType type);

    /// <summary>A local that lives no longer than one instruction of the guest, its out-of-line code included.</summary>
    public abstract CodeLocal Temporary(CodeType type);

    /// <summary>Tells which instruction of the guest the code stands for that follows; for one, there may be several pieces. For listings.</summary>
    public abstract void BeginInstruction(RegionNode node, int index);

    /// <summary>Ends an instruction of the guest, and with it the temporaries, but for what was put out of line.</summary>
    public virtual void EndInstruction()
    {
    }

    public abstract CodeLabel DefineLabel();

    /// <summary>Puts a label here.</summary>
    public abstract void Mark(CodeLabel label);

    /// <summary>Pushes a local.</summary>
    public abstract void Load(CodeLocal local);

    /// <summary>Pops a value into a local.</summary>
    public abstract void Store(CodeLocal local);

    /// <summary>Tells that a local gets different values on ways that come together.</summary>
    public virtual void Vary(CodeLocal local)
    {
    }

    /// <summary>Tells that nothing looks at a local's value any more.</summary>
    public virtual void Discard(CodeLocal local)
    {
    }

    /// <summary>Tells that nothing looks at a local's value any more, because that which the next operation computes will be stored there.</summary>
    public virtual void Overwrite(CodeLocal local)
    {
    }

    /// <summary>Pushes the address of <see cref="CpuState"/>.</summary>
    public abstract void LoadState();

    /// <summary>Pushes a constant of 32 bits.</summary>
    public abstract void Constant(int value);

    /// <summary>Pushes a constant of 64 bits.</summary>
    public abstract void Constant(long value);

    /// <summary>Pops the operands of an operation and pushes its result.</summary>
    public abstract void Emit(CodeOp op);

    /// <summary>Pops a value of 64 bits and pushes what it and a local give with OR.</summary>
    public virtual void Or(CodeLocal local)
    {
        Load(local);
        Emit(CodeOp.Or);
    }

    /// <summary>Pops the operands of a branch.</summary>
    public abstract void Branch(CodeBranch condition, CodeLabel target);

    /// <summary>Pops an address and, below it, a value of 64 bits: branches where other 64 bits are there.</summary>
    public virtual void BranchUnlessAt(CodeLabel target)
    {
        Emit(CodeOp.Read64);
        Branch(CodeBranch.NotEqual, target);
    }

    /// <summary>Pops two values of a type and, below them, the operands of a branch: pushes the first where it would be taken, else the second.</summary>
    public abstract void Select(CodeBranch condition, CodeType type);
}
