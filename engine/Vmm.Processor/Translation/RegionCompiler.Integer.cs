using System.Numerics;
using System.Reflection.Emit;
using Iced.Intel;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <content>Integer instructions.</content>
internal sealed unsafe partial class RegionCompiler
{
    /// <summary>Whether an instruction has an emitter. What has none is a call of its handler.</summary>
    private static bool CanEmit(RegionNode node, int index)
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
        if (CanEmitSse(node, instruction))
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
        else if (!EmitSse(instruction))
            EmitMove(instruction);
        return false;
    }

    private static int SizeOf(in Instruction instruction, int operand) =>
        instruction.GetOpKind(operand) == OpKind.Register ? instruction.GetOpRegister(operand).GetSize() : instruction.MemorySize.GetSize();

    private ushort OperandOf(int index) => index switch { 0 => Bound.Operand0, 1 => Bound.Operand1, _ => Bound.Operand2 };

    /// <summary>The value of an operand that is a register, an immediate or memory, in a local of the size's stack type.</summary>
    private LocalBuilder EmitOperandValue(in Instruction instruction, int operand, int size)
    {
        if (instruction.GetOpKind(operand) == OpKind.Memory)
            return EmitRead(EmitLinear(), size);
        LocalBuilder value = _temporaries.Take(StackType(size));
        if (instruction.GetOpKind(operand) == OpKind.Register)
            PushRegister(OperandOf(operand), size);
        else
            EmitOperand((long)Bound.Immediate, size);
        _il.Emit(OpCodes.Stloc, value);
        return value;
    }

    private void EmitBinary(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        bool writes = instruction.Mnemonic is not (Mnemonic.Cmp or Mnemonic.Test);
        LocalBuilder? linear = null, host = null;
        LocalBuilder a, b;
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
        LocalBuilder? carry = null;
        if (instruction.Mnemonic is Mnemonic.Adc or Mnemonic.Sbb)
        {
            carry = _temporaries.Take(typeof(long));
            PushCarry();
            _il.Emit(OpCodes.Stloc, carry);
        }
        LocalBuilder result = _temporaries.Take(StackType(size));
        if (writes || instruction.Mnemonic == Mnemonic.Test)
        {
            _il.Emit(OpCodes.Ldloc, a);
            _il.Emit(OpCodes.Ldloc, b);
            _il.Emit(instruction.Mnemonic switch
            {
                Mnemonic.Add or Mnemonic.Adc => OpCodes.Add,
                Mnemonic.Sub or Mnemonic.Sbb => OpCodes.Sub,
                Mnemonic.Or => OpCodes.Or,
                Mnemonic.Xor => OpCodes.Xor,
                _ => OpCodes.And,
            });
            if (carry != null)
            {
                _il.Emit(OpCodes.Ldloc, carry);
                if (size != 8)
                    _il.Emit(OpCodes.Conv_I4);
                _il.Emit(instruction.Mnemonic == Mnemonic.Adc ? OpCodes.Add : OpCodes.Sub);
            }
            _il.Emit(OpCodes.Stloc, result);
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
    private void EmitResult(LocalBuilder result, int size, LocalBuilder? linear, LocalBuilder? host)
    {
        if (host != null)
        {
            EmitEndModify(linear!, host, result, size);
            return;
        }
        _il.Emit(OpCodes.Ldloc, result);
        PopRegister(Bound.Operand0, size);
    }

    private void EmitUnary(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        LocalBuilder? linear = null, host = null;
        LocalBuilder a;
        if (instruction.Op0Kind == OpKind.Memory)
        {
            linear = EmitLinear();
            (a, host) = EmitBeginModify(linear, size);
        }
        else
        {
            a = EmitOperandValue(instruction, 0, size);
        }
        LocalBuilder result = _temporaries.Take(StackType(size));
        _il.Emit(OpCodes.Ldloc, a);
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Not:
                _il.Emit(OpCodes.Not);
                break;
            case Mnemonic.Neg:
                _il.Emit(OpCodes.Neg);
                break;
            default:
                EmitOperand(1, size);
                _il.Emit(instruction.Mnemonic == Mnemonic.Inc ? OpCodes.Add : OpCodes.Sub);
                break;
        }
        _il.Emit(OpCodes.Stloc, result);
        if (instruction.Mnemonic == Mnemonic.Neg)
        {
            LocalBuilder zero = _temporaries.Take(StackType(size));
            EmitOperand(0, size);
            _il.Emit(OpCodes.Stloc, zero);
            SetFlags(FlagOperation.Sub, size, zero, a);
        }
        else if (instruction.Mnemonic != Mnemonic.Not && FlagsAreLive)
        {
            LocalBuilder carry = _temporaries.Take(typeof(long));
            PushCarry();
            _il.Emit(OpCodes.Stloc, carry);
            SetFlags(instruction.Mnemonic == Mnemonic.Inc ? FlagOperation.Inc : FlagOperation.Dec, size, a, null, carry);
        }
        EmitResult(result, size, linear, host);
    }

    private void EmitShift(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        LocalBuilder a = EmitOperandValue(instruction, 0, size), result = _temporaries.Take(StackType(size)), count = _temporaries.Take(typeof(int));
        Label unchanged = _il.DefineLabel();
        int? constant = ShiftCount(instruction);
        if (constant is { } known)
        {
            _il.Emit(OpCodes.Ldc_I4, known);
        }
        else
        {
            PushRegister(Gpr.Rcx * 8, 1);
            _il.Emit(OpCodes.Ldc_I4, size == 8 ? 63 : 31);
            _il.Emit(OpCodes.And);
        }
        _il.Emit(OpCodes.Stloc, count);
        FlagOperation operation = instruction.Mnemonic switch { Mnemonic.Shr => FlagOperation.Shr, Mnemonic.Sar => FlagOperation.Sar, _ => FlagOperation.Shl };
        _il.Emit(OpCodes.Ldloc, a);
        if (operation == FlagOperation.Sar)
            EmitNarrow(size, signed: true);
        _il.Emit(OpCodes.Ldloc, count);
        _il.Emit(operation switch { FlagOperation.Shr => OpCodes.Shr_Un, FlagOperation.Sar => OpCodes.Shr, _ => OpCodes.Shl });
        _il.Emit(OpCodes.Stloc, result);
        if (constant is > 0)
        {
            SetFlags(operation, size, a, count);
        }
        else if (constant == null && FlagsAreLive)
        {
            // A count of zero keeps the flags, so from here on only the local knows what set them.
            SettleFlagKind();
            _flags = FlagState.Dynamic;
            _il.Emit(OpCodes.Ldloc, count);
            _il.Emit(OpCodes.Brfalse, unchanged);
            SetFlags(operation, size, a, count);
            SettleFlagKind();
            _flags = FlagState.Dynamic;
            _il.MarkLabel(unchanged);
        }
        EmitResult(result, size, null, null);
    }

    private void EmitRotate(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        int count = ShiftCount(instruction)!.Value;
        Type type = TypeOf(size);
        LocalBuilder a = EmitOperandValue(instruction, 0, size), result = _temporaries.Take(StackType(size));
        if (FlagsAreLive)
            SettleFlags();
        _il.Emit(OpCodes.Ldloc, a);
        _il.Emit(OpCodes.Ldc_I4, count);
        _il.Emit(OpCodes.Call, typeof(BitOperations).GetMethod(instruction.Mnemonic == Mnemonic.Rol ? nameof(BitOperations.RotateLeft) : nameof(BitOperations.RotateRight), [type, typeof(int)])!);
        _il.Emit(OpCodes.Stloc, result);
        if (FlagsAreLive)
        {
            _il.Emit(OpCodes.Ldarg_0);
            _il.Emit(OpCodes.Ldloc, result);
            EmitCall(typeof(RotateFlags), instruction.Mnemonic == Mnemonic.Rol ? nameof(RotateFlags.Left) : nameof(RotateFlags.Right), type);
        }
        EmitResult(result, size, null, null);
    }

    private void EmitImul(in Instruction instruction)
    {
        int size = SizeOf(instruction, 0);
        bool three = instruction.OpCount == 3;
        LocalBuilder a = EmitOperandValue(instruction, three ? 1 : 0, size), b = EmitOperandValue(instruction, three ? 2 : 1, size);
        LocalBuilder result = _temporaries.Take(StackType(size));
        _il.Emit(OpCodes.Ldloc, a);
        _il.Emit(OpCodes.Ldloc, b);
        _il.Emit(OpCodes.Mul);
        _il.Emit(OpCodes.Stloc, result);
        SetFlags(FlagOperation.Imul, size, a, b);
        EmitResult(result, size, null, null);
    }

    /// <summary>The 128-bit product of RAX and a register.</summary>
    private void EmitMul()
    {
        LocalBuilder b = _temporaries.Take(typeof(long));
        PushRegister(Bound.Operand0, 8);
        _il.Emit(OpCodes.Stloc, b);
        LocalBuilder high = _temporaries.Take(typeof(long));
        PushRegister(Gpr.Rax * 8, 8);
        _il.Emit(OpCodes.Ldloc, b);
        _il.Emit(OpCodes.Call, typeof(WideProduct).GetMethod(nameof(WideProduct.High))!);
        _il.Emit(OpCodes.Stloc, high);
        PushRegister(Gpr.Rax * 8, 8);
        _il.Emit(OpCodes.Ldloc, b);
        _il.Emit(OpCodes.Mul);
        PopRegister(Gpr.Rax * 8, 8);
        _il.Emit(OpCodes.Ldloc, high);
        PopRegister(Gpr.Rdx * 8, 8);
        if (!FlagsAreLive)
            return;
        _il.Emit(OpCodes.Ldarg_0);
        PushRegister(Gpr.Rax * 8, 8);
        _il.Emit(OpCodes.Ldloc, high);
        EmitCall(typeof(WideProduct), nameof(WideProduct.SetFlags));
        _flags = FlagState.Settled;
    }

    private void EmitBitTest(in Instruction instruction)
    {
        if (!FlagsAreLive)
            return;
        int size = SizeOf(instruction, 0);
        SettleFlags();
        _il.Emit(OpCodes.Ldarg_0);
        _il.Emit(OpCodes.Ldloc, EmitOperandValue(instruction, 0, size));
        _il.Emit(OpCodes.Ldloc, EmitOperandValue(instruction, 1, size));
        if (size == 8)
            _il.Emit(OpCodes.Conv_I4);
        _il.Emit(OpCodes.Ldc_I4, size * 8 - 1);
        _il.Emit(OpCodes.And);
        _il.Emit(OpCodes.Shr_Un);
        if (size != 8)
            _il.Emit(OpCodes.Conv_U8);
        _il.Emit(OpCodes.Ldc_I4_1);
        _il.Emit(OpCodes.Conv_I8);
        _il.Emit(OpCodes.And);
        _il.Emit(OpCodes.Conv_I4);
        EmitCall(typeof(Flags), nameof(Flags.SetCarry));
    }
}

/// <summary>CF and OF of rotates by a count that is not zero.</summary>
internal static unsafe class RotateFlags
{
    public static void Left<T>(CpuState* s, T result) where T : unmanaged
    {
        ulong carry = Instructions.Integer.Width.Widen(result) & 1;
        Instructions.Integer.Shift.RecordRotate(s, carry, Instructions.Integer.Width.Top(result) ^ carry);
    }

    public static void Right<T>(CpuState* s, T result) where T : unmanaged
    {
        ulong wide = Instructions.Integer.Width.Widen(result), top = Instructions.Integer.Width.Top(result);
        Instructions.Integer.Shift.RecordRotate(s, top, top ^ wide >> sizeof(T) * 8 - 2 & 1);
    }
}

/// <summary>The unsigned product of two 64-bit operands.</summary>
internal static unsafe class WideProduct
{
    public static ulong High(ulong a, ulong b) => Math.BigMul(a, b, out _);

    public static void SetFlags(CpuState* s, ulong low, ulong high) => Flags.SetResult(s, low, high != 0, high != 0);
}
