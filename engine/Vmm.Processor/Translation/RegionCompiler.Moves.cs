using System.Buffers.Binary;
using System.Reflection.Emit;
using Iced.Intel;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <content>Moves, the stack, and what depends on a condition.</content>
internal sealed unsafe partial class RegionCompiler
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
                _il.Emit(OpCodes.Conv_I8);
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
                _il.Emit(OpCodes.Ldc_I4, size * 8 - 1);
                _il.Emit(OpCodes.Shr);
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
        LocalBuilder value = EmitOperandValue(instruction, 1, size);
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitWrite(EmitLinear(), value, size);
            return;
        }
        _il.Emit(OpCodes.Ldloc, value);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitExtend(in Instruction instruction, bool signed)
    {
        int size = SizeOf(instruction, 0), from = SizeOf(instruction, 1);
        // MOVSXD with a 16-bit destination reads 16 bits.
        if (from > size)
            from = size;
        _il.Emit(OpCodes.Ldloc, EmitOperandValue(instruction, 1, from));
        EmitNarrow(from, signed);
        if (size == 8)
            _il.Emit(signed ? OpCodes.Conv_I8 : OpCodes.Conv_U8);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitExchange(int size)
    {
        LocalBuilder first = _temporaries.Take(StackType(size));
        PushRegister(Bound.Operand0, size);
        _il.Emit(OpCodes.Stloc, first);
        PushRegister(Bound.Operand1, size);
        PopRegister(Bound.Operand0, size);
        _il.Emit(OpCodes.Ldloc, first);
        PopRegister(Bound.Operand1, size);
    }

    private void EmitByteSwap(int size)
    {
        PushRegister(Bound.Operand0, size);
        _il.Emit(OpCodes.Call, typeof(BinaryPrimitives).GetMethod(nameof(BinaryPrimitives.ReverseEndianness), [TypeOf(size)])!);
        PopRegister(Bound.Operand0, size);
    }

    /// <summary>Pushes 64 bits on the guest's stack; <paramref name="complete"/> is what the instruction does besides.</summary>
    private void EmitPush(LocalBuilder value, Action? complete = null)
    {
        LocalBuilder pointer = _temporaries.Take(typeof(long));
        PushRegister(Gpr.Rsp * 8, 8);
        EmitConstant(8);
        _il.Emit(OpCodes.Sub);
        _il.Emit(OpCodes.Stloc, pointer);
        EmitWrite(pointer, value, 8, () =>
        {
            _il.Emit(OpCodes.Ldloc, pointer);
            PopRegister(Gpr.Rsp * 8, 8);
            complete?.Invoke();
        });
    }

    private void EmitPop()
    {
        LocalBuilder pointer = _temporaries.Take(typeof(long));
        PushRegister(Gpr.Rsp * 8, 8);
        _il.Emit(OpCodes.Stloc, pointer);
        LocalBuilder value = EmitRead(pointer, 8);
        _il.Emit(OpCodes.Ldloc, pointer);
        EmitConstant(8);
        _il.Emit(OpCodes.Add);
        PopRegister(Gpr.Rsp * 8, 8);
        _il.Emit(OpCodes.Ldloc, value);
        PopRegister(Bound.Operand0, 8);
    }

    private void EmitConditionalSet(in Instruction instruction)
    {
        LocalBuilder value = _temporaries.Take(typeof(int));
        PushCondition(instruction.ConditionCode);
        _il.Emit(OpCodes.Stloc, value);
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitWrite(EmitLinear(), value, 1);
            return;
        }
        _il.Emit(OpCodes.Ldloc, value);
        PopRegister(Bound.Operand0, 1);
    }

    private void EmitConditionalMove(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        LocalBuilder value = EmitOperandValue(instruction, 1, size);
        Label keep = _il.DefineLabel(), done = _il.DefineLabel();
        EmitBranchIf(Opposite(instruction.ConditionCode), keep);
        _il.Emit(OpCodes.Ldloc, value);
        PopRegister(Bound.Operand0, size);
        if (size != 4)
        {
            _il.MarkLabel(keep);
            return;
        }
        _il.Emit(OpCodes.Br, done);
        // The 32-bit form clears the upper half either way.
        _il.MarkLabel(keep);
        PushRegister(Bound.Operand0, 4);
        PopRegister(Bound.Operand0, 4);
        _il.MarkLabel(done);
    }
}
