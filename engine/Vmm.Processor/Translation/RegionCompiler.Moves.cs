using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <content>Moves, the stack, and what depends on a condition.</content>
internal abstract unsafe partial class RegionCompiler
{
    private void EmitMove(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Mov:
                EmitMov(instruction);
                return;
            case Mnemonic.Movzx:
                EmitExtend(instruction, signed: false);
                return;
            case Mnemonic.Movsx or Mnemonic.Movsxd:
                EmitExtend(instruction, signed: true);
                return;
            case Mnemonic.Lea:
                EmitEffectiveAddress();
                Overwrite(Bound.Operand0, SizeOf(instruction, 0));
                EmitNarrow(SizeOf(instruction, 0), signed: false);
                PopRegister(Bound.Operand0, SizeOf(instruction, 0));
                return;
            case Mnemonic.Xchg:
                EmitExchange(SizeOf(instruction, 0));
                return;
            case Mnemonic.Bswap:
                EmitByteSwap(SizeOf(instruction, 0));
                return;
            case Mnemonic.Push:
                EmitPush(EmitOperandValue(instruction, 0, 8));
                return;
            case Mnemonic.Pop:
                EmitPop();
                return;
            case Mnemonic.Cdqe:
                PushRegister(Gpr.Rax * 8, 4);
                _code.Emit(CodeOp.SignExtend32);
                PopRegister(Gpr.Rax * 8, 8);
                return;
            case Mnemonic.Cwde:
                PushRegister(Gpr.Rax * 8, 2);
                EmitNarrow(2, signed: true);
                PopRegister(Gpr.Rax * 8, 4);
                return;
            case Mnemonic.Cdq or Mnemonic.Cqo:
                int size = instruction.Mnemonic == Mnemonic.Cqo ? 8 : 4;
                PushRegister(Gpr.Rax * 8, size);
                _code.Constant(size * 8 - 1);
                _code.Emit(CodeOp.ShiftRightSigned);
                PopRegister(Gpr.Rdx * 8, size);
                return;
        }
        if (IsConditionalSet(instruction))
            EmitConditionalSet(instruction);
        else
            EmitConditionalMove(instruction);
    }

    private void EmitMov(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        CodeLocal value = EmitOperandValue(instruction, 1, size);
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitWrite(EmitLinear(), value, size);
            return;
        }
        _code.Load(value);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitExtend(in Instruction instruction, bool signed)
    {
        int size = SizeOf(instruction, 0), from = SizeOf(instruction, 1);
        // MOVSXD with a 16-bit destination reads 16 bits.
        if (from > size)
            from = size;
        _code.Load(EmitOperandValue(instruction, 1, from));
        Overwrite(Bound.Operand0, size);
        EmitNarrow(from, signed);
        if (size == 8)
            _code.Emit(signed ? CodeOp.SignExtend32 : CodeOp.ZeroExtend32);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitExchange(int size)
    {
        CodeLocal first = _code.Temporary(StackType(size));
        PushRegister(Bound.Operand0, size);
        _code.Store(first);
        PushRegister(Bound.Operand1, size);
        PopRegister(Bound.Operand0, size);
        _code.Load(first);
        PopRegister(Bound.Operand1, size);
    }

    private void EmitByteSwap(int size)
    {
        PushRegister(Bound.Operand0, size);
        Overwrite(Bound.Operand0, size);
        _code.Emit(size == 8 ? CodeOp.ByteSwap64 : CodeOp.ByteSwap32);
        PopRegister(Bound.Operand0, size);
    }

    /// <summary>Pushes 64 bits on the guest's stack; <paramref name="complete"/> is what the instruction does besides.</summary>
    private void EmitPush(CodeLocal value, Action? complete = null)
    {
        CodeLocal pointer = _code.Temporary(CodeType.Int64);
        PushRegister(Gpr.Rsp * 8, 8);
        _code.Constant(8L);
        _code.Emit(CodeOp.Sub);
        _code.Store(pointer);
        EmitWrite(pointer, value, 8, () =>
        {
            _code.Load(pointer);
            PopRegister(Gpr.Rsp * 8, 8);
            complete?.Invoke();
        });
    }

    private void EmitPop()
    {
        CodeLocal pointer = _code.Temporary(CodeType.Int64);
        PushRegister(Gpr.Rsp * 8, 8);
        _code.Store(pointer);
        CodeLocal value = EmitRead(pointer, 8);
        _code.Load(pointer);
        _code.Constant(8L);
        _code.Emit(CodeOp.Add);
        PopRegister(Gpr.Rsp * 8, 8);
        _code.Load(value);
        PopRegister(Bound.Operand0, 8);
    }

    private void EmitConditionalSet(in Instruction instruction)
    {
        CodeLocal value = _code.Temporary(CodeType.Int32);
        PushCondition(instruction.ConditionCode);
        _code.Store(value);
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitWrite(EmitLinear(), value, 1);
            return;
        }
        _code.Load(value);
        PopRegister(Bound.Operand0, 1);
    }

    private void EmitConditionalMove(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        CodeLocal value = EmitOperandValue(instruction, 1, size);
        // The 32-bit form clears the upper half either way.
        CodeBranch condition = PushTest(instruction.ConditionCode);
        _code.Load(value);
        PushRegister(Bound.Operand0, size);
        _code.Select(condition, StackType(size));
        PopRegister(Bound.Operand0, size);
    }
}
