using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <content>Integer instructions.</content>
internal abstract unsafe partial class RegionCompiler
{
    /// <summary>Whether an instruction has an emitter. What has none is a call of its handler.</summary>
    private bool CanEmit(RegionNode node, int index)
    {
        ref readonly Instruction instruction = ref node.Decoded[index];
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Add or Mnemonic.Sub or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor
                or Mnemonic.Test or Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Neg or Mnemonic.Not or Mnemonic.Lea or Mnemonic.Movsxd:
                return true;
            case Mnemonic.Mov or Mnemonic.Movzx or Mnemonic.Movsx:
                return AreGeneral(instruction);
            case Mnemonic.Xchg or Mnemonic.Bswap:
                return instruction.Op0Kind == OpKind.Register && (instruction.OpCount == 1 || instruction.Op1Kind == OpKind.Register)
                    && instruction.Op0Register.GetSize() >= 4;
            case Mnemonic.Nop:
                return true;
            case Mnemonic.Cdqe or Mnemonic.Cwde or Mnemonic.Cdq or Mnemonic.Cqo:
                return true;
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar:
                return instruction.Op0Kind == OpKind.Register;
            case Mnemonic.Rol or Mnemonic.Ror:
                return instruction.Op0Kind == OpKind.Register && instruction.Op0Register.GetSize() >= 4 && ShiftCount(instruction) is > 0;
            case Mnemonic.Imul:
                return instruction.OpCount >= 2;
            case Mnemonic.Mul:
                return instruction.Op0Kind == OpKind.Register && instruction.Op0Register.GetSize() == 8;
            case Mnemonic.Bt:
                return instruction.Op0Kind == OpKind.Register && instruction.Op0Register.GetSize() >= 4;
            case Mnemonic.Push:
                return instruction.Op0Kind is OpKind.Register ? instruction.Op0Register is >= Register.RAX and <= Register.R15 : instruction.Op0Kind == OpKind.Immediate8to64 || instruction.Op0Kind == OpKind.Immediate32to64;
            case Mnemonic.Pop:
                return instruction.Op0Kind is OpKind.Register && instruction.Op0Register is >= Register.RAX and <= Register.R15;
            case Mnemonic.Jmp:
                return instruction.Code.IsJmpShortOrNear() || instruction.Code == Code.Jmp_rm64;
            case Mnemonic.Call:
                return instruction.Code == Code.Call_rel32_64 || instruction.Code == Code.Call_rm64;
            case Mnemonic.Ret:
                return instruction.Code is Code.Retnq or Code.Retnq_imm16;
        }
        if (instruction.Code.IsJccShortOrNear())
            return true;
        if (CanEmitSse(node, instruction) || CanEmitX87(node, instruction))
            return true;
        return instruction.ConditionCode != ConditionCode.None && (IsConditionalSet(instruction) || IsConditionalMove(instruction));
    }

    private static bool IsConditionalSet(in Instruction instruction) => instruction.OpCount == 1 && instruction.Code is >= Code.Seto_rm8 and <= Code.Setg_rm8;

    private static bool IsConditionalMove(in Instruction instruction) => instruction.Code is >= Code.Cmovo_r16_rm16 and <= Code.Cmovg_r64_rm64;

    private static bool AreGeneral(in Instruction instruction)
    {
        for (int k = 0; k < instruction.OpCount; k++)
        {
            if (instruction.GetOpKind(k) == OpKind.Register && !instruction.GetOpRegister(k).IsGPR())
                return false;
        }
        return true;
    }

    /// <summary>Emits the current instruction. True where it ends the trace.</summary>
    private bool EmitInstruction()
    {
        Instruction instruction = Current;
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Add or Mnemonic.Sub or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test:
                EmitBinary(instruction);
                return false;
            case Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Neg or Mnemonic.Not:
                EmitUnary(instruction);
                return false;
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar:
                EmitShift(instruction);
                return false;
            case Mnemonic.Rol or Mnemonic.Ror:
                EmitRotate(instruction);
                return false;
            case Mnemonic.Imul:
                EmitImul(instruction);
                return false;
            case Mnemonic.Mul:
                EmitMul();
                return false;
            case Mnemonic.Bt:
                EmitBitTest(instruction);
                return false;
            case Mnemonic.Nop:
                return false;
            case Mnemonic.Jmp or Mnemonic.Call or Mnemonic.Ret:
                EmitTransfer(instruction);
                return true;
        }
        if (instruction.Code.IsJccShortOrNear())
            EmitConditionalJump(instruction);
        else if (!EmitSse(instruction) && !EmitX87(instruction))
            EmitMove(instruction);
        return false;
    }

    protected static int SizeOf(in Instruction instruction, int operand) =>
        instruction.GetOpKind(operand) == OpKind.Register ? instruction.GetOpRegister(operand).GetSize() : instruction.MemorySize.GetSize();

    protected ushort OperandOf(int index) => index switch { 0 => Bound.Operand0, 1 => Bound.Operand1, _ => Bound.Operand2 };

    /// <summary>The value of an operand that is a register, an immediate or memory, in a local of the size's stack type.</summary>
    protected CodeLocal EmitOperandValue(in Instruction instruction, int operand, int size)
    {
        if (instruction.GetOpKind(operand) == OpKind.Memory)
            return EmitRead(EmitLinear(), size);
        CodeLocal value = _code.Temporary(StackType(size));
        if (instruction.GetOpKind(operand) == OpKind.Register)
            PushRegister(OperandOf(operand), size);
        else
            EmitOperand((long)Bound.Immediate, size);
        _code.Store(value);
        return value;
    }

    private void EmitBinary(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        bool writes = instruction.Mnemonic is not (Mnemonic.Cmp or Mnemonic.Test);
        CodeLocal? linear = null, host = null;
        CodeLocal a, b;
        if (instruction.Op0Kind == OpKind.Memory && writes)
        {
            linear = EmitLinear();
            (a, host) = EmitBeginModify(linear, size);
        }
        else
        {
            a = EmitOperandValue(instruction, 0, size);
        }
        b = EmitOperandValue(instruction, 1, size);
        CodeLocal? carry = null;
        if (instruction.Mnemonic is Mnemonic.Adc or Mnemonic.Sbb)
        {
            carry = _code.Temporary(CodeType.Int64);
            PushCarry();
            _code.Store(carry);
        }
        CodeLocal result = _code.Temporary(StackType(size));
        if (writes || instruction.Mnemonic == Mnemonic.Test)
        {
            _code.Load(a);
            _code.Load(b);
            if (writes && host == null)
                Overwrite(Bound.Operand0, size);
            if (!FlagsAreLive || instruction.Mnemonic is Mnemonic.And or Mnemonic.Or or Mnemonic.Xor)
                _code.Discard(a);
            _code.Emit(instruction.Mnemonic switch
            {
                Mnemonic.Add or Mnemonic.Adc => CodeOp.Add,
                Mnemonic.Sub or Mnemonic.Sbb => CodeOp.Sub,
                Mnemonic.Or => CodeOp.Or,
                Mnemonic.Xor => CodeOp.Xor,
                _ => CodeOp.And,
            });
            if (carry != null)
            {
                _code.Load(carry);
                if (size != 8)
                    _code.Emit(CodeOp.ToInt32);
                _code.Emit(instruction.Mnemonic == Mnemonic.Adc ? CodeOp.Add : CodeOp.Sub);
            }
            _code.Store(result);
        }
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Add:
                SetFlags(FlagOperation.Add, size, a, b);
                break;
            case Mnemonic.Sub or Mnemonic.Cmp:
                SetFlags(FlagOperation.Sub, size, a, b);
                break;
            case Mnemonic.Adc:
                SetFlags(FlagOperation.Adc, size, a, b, carry);
                break;
            case Mnemonic.Sbb:
                SetFlags(FlagOperation.Sbb, size, a, b, carry);
                break;
            default:
                SetFlags(FlagOperation.Logic, size, result);
                break;
        }
        if (writes)
            EmitResult(result, size, linear, host);
    }

    /// <summary>Stores a result into the first operand: memory that <see cref="EmitBeginModify"/> has read, or a register.</summary>
    private void EmitResult(CodeLocal result, int size, CodeLocal? linear, CodeLocal? host)
    {
        if (host != null)
        {
            EmitEndModify(linear!, host, result, size);
            return;
        }
        _code.Load(result);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitUnary(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        CodeLocal? linear = null, host = null;
        CodeLocal a;
        if (instruction.Op0Kind == OpKind.Memory)
        {
            linear = EmitLinear();
            (a, host) = EmitBeginModify(linear, size);
        }
        else
        {
            a = EmitOperandValue(instruction, 0, size);
        }
        CodeLocal result = _code.Temporary(StackType(size));
        _code.Load(a);
        if (host == null)
            Overwrite(Bound.Operand0, size);
        if (!FlagsAreLive || instruction.Mnemonic == Mnemonic.Not)
            _code.Discard(a);
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Not:
                _code.Emit(CodeOp.Not);
                break;
            case Mnemonic.Neg:
                _code.Emit(CodeOp.Negate);
                break;
            default:
                EmitOperand(1, size);
                _code.Emit(instruction.Mnemonic == Mnemonic.Inc ? CodeOp.Add : CodeOp.Sub);
                break;
        }
        _code.Store(result);
        if (instruction.Mnemonic == Mnemonic.Neg)
        {
            CodeLocal zero = _code.Temporary(StackType(size));
            EmitOperand(0, size);
            _code.Store(zero);
            SetFlags(FlagOperation.Sub, size, zero, a);
        }
        else if (instruction.Mnemonic != Mnemonic.Not)
        {
            SetFlagsButCarry(instruction.Mnemonic == Mnemonic.Inc ? FlagOperation.Inc : FlagOperation.Dec, size, a);
        }
        EmitResult(result, size, linear, host);
    }

    private void EmitShift(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        CodeLocal a = EmitOperandValue(instruction, 0, size), result = _code.Temporary(StackType(size)), count = _code.Temporary(CodeType.Int32);
        int? constant = ShiftCount(instruction);
        if (constant is { } known)
        {
            _code.Constant(known);
        }
        else
        {
            PushRegister(Gpr.Rcx * 8, 1);
            _code.Constant(size == 8 ? 63 : 31);
            _code.Emit(CodeOp.And);
        }
        _code.Store(count);
        FlagOperation operation = instruction.Mnemonic switch { Mnemonic.Shr => FlagOperation.Shr, Mnemonic.Sar => FlagOperation.Sar, _ => FlagOperation.Shl };
        _code.Load(a);
        if (operation == FlagOperation.Sar)
            EmitNarrow(size, signed: true);
        _code.Load(count);
        Overwrite(Bound.Operand0, size);
        if (!FlagsAreLive)
            _code.Discard(a);
        _code.Emit(operation switch { FlagOperation.Shr => CodeOp.ShiftRight, FlagOperation.Sar => CodeOp.ShiftRightSigned, _ => CodeOp.ShiftLeft });
        _code.Store(result);
        if (constant is > 0)
        {
            SetFlags(operation, size, a, count);
        }
        else if (constant == null && FlagsAreLive)
        {
            // A count of zero keeps the flags, so from here on only the local knows what set them.
            SettleFlagKind();
            SelectFlag(count, _live.A, () => PushWide(a));
            SelectFlag(count, _live.B, () => PushWide(count));
            SelectFlag(count, _live.Kind, () => _code.Constant(LazyFlags.Kind(operation, size)));
            _flags = FlagState.Dynamic;
        }
        EmitResult(result, size, null, null);
    }

    /// <summary>Replaces one of the flags' locals where a shift's count is not zero.</summary>
    private void SelectFlag(CodeLocal count, CodeLocal flag, Action push)
    {
        _code.Load(count);
        push();
        _code.Load(flag);
        _code.Select(CodeBranch.True, flag.Type);
        _code.Store(flag);
    }

    private void EmitRotate(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        bool left = instruction.Mnemonic == Mnemonic.Rol;
        CodeLocal a = EmitOperandValue(instruction, 0, size), result = _code.Temporary(StackType(size));
        if (FlagsAreLive)
            SettleFlags();
        _code.Load(a);
        Overwrite(Bound.Operand0, size);
        _code.Discard(a);
        _code.Constant(ShiftCount(instruction)!.Value);
        _code.Emit(size == 8 ? left ? CodeOp.RotateLeft64 : CodeOp.RotateRight64 : left ? CodeOp.RotateLeft32 : CodeOp.RotateRight32);
        _code.Store(result);
        if (FlagsAreLive)
        {
            // CF is the bit that came around last; OF is the difference of the top bit and, to the left, CF or, to the right, the bit below.
            CodeLocal carry = _code.Temporary(CodeType.Int64), overflow = _code.Temporary(CodeType.Int64);
            PushBit(result, left ? 0 : size * 8 - 1);
            _code.Store(carry);
            PushBit(result, left ? size * 8 - 1 : size * 8 - 2);
            _code.Load(carry);
            _code.Emit(CodeOp.Xor);
            _code.Store(overflow);
            EmitCarryOverflow(carry, overflow);
        }
        EmitResult(result, size, null, null);
    }

    private void EmitImul(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        bool three = instruction.OpCount == 3;
        CodeLocal a = EmitOperandValue(instruction, three ? 1 : 0, size), b = EmitOperandValue(instruction, three ? 2 : 1, size);
        CodeLocal result = _code.Temporary(StackType(size));
        _code.Load(a);
        _code.Load(b);
        Overwrite(Bound.Operand0, size);
        if (!FlagsAreLive)
            _code.Discard(a);
        _code.Emit(CodeOp.Multiply);
        _code.Store(result);
        SetFlags(FlagOperation.Imul, size, a, b);
        EmitResult(result, size, null, null);
    }

    /// <summary>The 128-bit product of RAX and a register.</summary>
    private void EmitMul()
    {
        CodeLocal b = _code.Temporary(CodeType.Int64);
        PushRegister(Bound.Operand0, 8);
        _code.Store(b);
        CodeLocal high = _code.Temporary(CodeType.Int64);
        PushRegister(Gpr.Rax * 8, 8);
        _code.Load(b);
        _code.Emit(CodeOp.MultiplyHigh);
        _code.Store(high);
        PushRegister(Gpr.Rax * 8, 8);
        _code.Load(b);
        _code.Emit(CodeOp.Multiply);
        PopRegister(Gpr.Rax * 8, 8);
        _code.Load(high);
        PopRegister(Gpr.Rdx * 8, 8);
        if (!FlagsAreLive)
            return;
        // CF and OF say whether there is an upper half.
        EmitField(nameof(CpuState.FlagResult));
        PushRegister(Gpr.Rax * 8, 8);
        _code.Emit(CodeOp.Write64);
        EmitField(nameof(CpuState.FlagCarries));
        _code.Load(high);
        _code.Constant(0L);
        _code.Emit(CodeOp.GreaterUnsigned);
        _code.Emit(CodeOp.ZeroExtend32);
        _code.Constant(63);
        _code.Emit(CodeOp.ShiftLeft);
        _code.Emit(CodeOp.Write64);
        _flags = FlagState.Settled;
    }

    private void EmitBitTest(in Instruction instruction)
    {
        if ((LiveFlags & FlagSet.Carry) == 0)
            return;
        int size = SizeOf(instruction, 0);
        bool alone = LiveFlags == FlagSet.Carry;
        if (!alone)
            SettleFlags();
        CodeLocal carry = _code.Temporary(CodeType.Int64);
        CodeLocal value = EmitOperandValue(instruction, 0, size), bit = EmitOperandValue(instruction, 1, size);
        _code.Load(value);
        _code.Load(bit);
        if (size == 8)
            _code.Emit(CodeOp.ToInt32);
        _code.Constant(size * 8 - 1);
        _code.Emit(CodeOp.And);
        _code.Emit(CodeOp.ShiftRight);
        if (size != 8)
            _code.Emit(CodeOp.ZeroExtend32);
        _code.Constant(1L);
        _code.Emit(CodeOp.And);
        _code.Store(carry);
        if (alone)
        {
            Remember(_live.C, carry);
            _flags = new FlagState(true, FlagOperation.Bt, size);
            return;
        }
        CodeLocal overflow = _code.Temporary(CodeType.Int64);
        // OF stays: it is the difference of the top two bits.
        PushSettledCondition(ConditionCode.o);
        _code.Emit(CodeOp.ZeroExtend32);
        _code.Store(overflow);
        EmitCarryOverflow(carry, overflow);
    }

    /// <summary>Pushes one bit of a value of 32 or 64 bits, as 64 bits.</summary>
    private void PushBit(CodeLocal value, int bit)
    {
        PushWide(value);
        if (bit != 0)
        {
            _code.Constant(bit);
            _code.Emit(CodeOp.ShiftRight);
        }
        _code.Constant(1L);
        _code.Emit(CodeOp.And);
    }

    /// <summary>Changes CF and OF in the state, where the flags are settled, and leaves the others.</summary>
    private void EmitCarryOverflow(CodeLocal carry, CodeLocal overflow)
    {
        EmitField(nameof(CpuState.FlagCarries));
        EmitField(nameof(CpuState.FlagCarries));
        _code.Emit(CodeOp.Read64);
        _code.Constant(long.MaxValue >> 1);
        _code.Emit(CodeOp.And);
        _code.Load(carry);
        _code.Constant(63);
        _code.Emit(CodeOp.ShiftLeft);
        _code.Emit(CodeOp.Or);
        _code.Load(carry);
        _code.Load(overflow);
        _code.Emit(CodeOp.Xor);
        _code.Constant(62);
        _code.Emit(CodeOp.ShiftLeft);
        _code.Emit(CodeOp.Or);
        _code.Emit(CodeOp.Write64);
    }
}
