namespace Vmm.Processor.Translation.Native;

/// <content>Operations on the values on the stack.</content>
internal sealed unsafe partial class X64Code
{
    public override void Emit(CodeOp op)
    {
        switch (op)
        {
            case CodeOp.Add:
                EmitAdd();
                return;
            case CodeOp.Sub:
                EmitSub();
                return;
            case CodeOp.And:
                EmitAnd();
                return;
            case CodeOp.Or or CodeOp.Xor:
                EmitOrXor(op == CodeOp.Or ? HostArithmetic.Or : HostArithmetic.Xor);
                return;
            case CodeOp.Multiply:
                EmitMultiply();
                return;
            case CodeOp.MultiplyHigh:
                EmitMultiplyHigh();
                return;
            case CodeOp.Not or CodeOp.Negate or CodeOp.ByteSwap32 or CodeOp.ByteSwap64:
                EmitUnary(op);
                return;
            case CodeOp.ShiftLeft:
                EmitShift(HostShift.Left);
                return;
            case CodeOp.ShiftRight:
                EmitShift(HostShift.Right);
                return;
            case CodeOp.ShiftRightSigned:
                EmitShift(HostShift.RightSigned);
                return;
            case CodeOp.RotateLeft32 or CodeOp.RotateLeft64:
                EmitShift(HostShift.RotateLeft);
                return;
            case CodeOp.RotateRight32 or CodeOp.RotateRight64:
                EmitShift(HostShift.RotateRight);
                return;
            case CodeOp.Equal or CodeOp.Less or CodeOp.LessUnsigned or CodeOp.Greater or CodeOp.GreaterUnsigned:
                EmitComparison(op);
                return;
            case >= CodeOp.SignExtend8 and <= CodeOp.ToPointer:
                EmitConversion(op);
                return;
            case CodeOp.Read8:
                EmitRead(1);
                return;
            case CodeOp.Read16:
                EmitRead(2);
                return;
            case CodeOp.Read32:
                EmitRead(4);
                return;
            case CodeOp.Read64 or CodeOp.ReadPointer:
                EmitRead(8);
                return;
            case CodeOp.Write8:
                EmitWrite(1);
                return;
            case CodeOp.Write16:
                EmitWrite(2);
                return;
            case CodeOp.Write32:
                EmitWrite(4);
                return;
            case CodeOp.Write64:
                EmitWrite(8);
                return;
            default:
                throw new ArgumentOutOfRangeException(nameof(op), op, "There is no code for this operation.");
        }
    }

    private void EmitAdd()
    {
        Value b = _stack.Pop(), a = _stack.Pop();
        if (a.IsConstant)
            (a, b) = (b, a);
        if (a.IsConstant)
        {
            _stack.Push(new Value(a.Wide, a.Constant + b.Constant));
            return;
        }
        if (b.IsConstant)
        {
            if (a.Constant + b.Constant is var sum && sum == (int)sum && b.Constant == (int)b.Constant)
            {
                _stack.Push(a with { Constant = sum });
                return;
            }
            b = Plain(b);
        }
        if (!CanCombine(a, b))
        {
            a = Plain(a);
            if (!CanCombine(a, b))
                b = Plain(b);
        }
        if (b.Index != HostRegister.None)
            (a, b) = (b, a);
        // Now b is a base alone, with a displacement.
        _stack.Push(a.Base == HostRegister.None
            ? a with { Base = b.Base, Constant = a.Constant + b.Constant }
            : a with { Index = b.Base, Scale = 0, Constant = a.Constant + b.Constant });
    }

    // One of them a base alone, the other a base alone or an index alone.
    private static bool CanCombine(in Value a, in Value b) =>
        (int)(a.Constant + b.Constant) == a.Constant + b.Constant
        && (a.Index == HostRegister.None && (b.Index == HostRegister.None || b.Base == HostRegister.None)
            || b.Index == HostRegister.None && a.Base == HostRegister.None);

    private void EmitSub()
    {
        Value b = _stack.Pop(), a = _stack.Pop();
        if (b.IsConstant && b.Constant != long.MinValue)
        {
            _stack.Push(a);
            _stack.Push(new Value(b.Wide, -b.Constant));
            EmitAdd();
            return;
        }
        int from = Materialise(b), to = Exclusive(a);
        _assembler.Arithmetic(HostArithmetic.Sub, to, from, a.Wide);
        _pins[from]--;
        Push(to, a.Wide, a.Wide ? 64 : 32);
    }

    private void EmitAnd()
    {
        Value b = _stack.Pop(), a = _stack.Pop();
        Order(ref a, ref b);
        if (a.IsConstant)
        {
            _stack.Push(new Value(a.Wide, a.Constant & b.Constant));
            return;
        }
        if (!b.IsImmediate)
        {
            int from = Materialise(b), to = Exclusive(a);
            _assembler.Arithmetic(HostArithmetic.And, to, from, a.Wide);
            _pins[from]--;
            Push(to, a.Wide, Math.Min(Math.Min(_widths[to], _widths[from]), a.Wide ? 64 : 32));
            return;
        }
        int mask = (int)b.Constant;
        // A mask with the sign bit keeps the upper half of 64 bits, and says nothing of the width.
        int covered = mask >= 0 ? 32 - int.LeadingZeroCount(mask) : a.Wide ? 64 : 32;
        if (a.IsPlain && a.Base != State && mask >= 0 && _widths[a.Base] < 32 && (mask & (1 << _widths[a.Base]) - 1) == (1 << _widths[a.Base]) - 1)
        {
            _stack.Push(a);
            return;
        }
        int register = Exclusive(a);
        _assembler.ArithmeticImmediate(HostArithmetic.And, register, mask, a.Wide && mask < 0);
        Push(register, a.Wide, Math.Min(_widths[register], covered));
    }

    private void EmitOrXor(HostArithmetic operation)
    {
        Value b = _stack.Pop(), a = _stack.Pop();
        Order(ref a, ref b);
        if (a.IsConstant)
        {
            _stack.Push(new Value(a.Wide, operation == HostArithmetic.Or ? a.Constant | b.Constant : a.Constant ^ b.Constant));
            return;
        }
        int to, width;
        if (b.IsImmediate)
        {
            to = Exclusive(a);
            _assembler.ArithmeticImmediate(operation, to, (int)b.Constant, a.Wide);
            width = a.Wide ? 64 : 32;
        }
        else
        {
            int from = Materialise(b);
            to = Exclusive(a);
            _assembler.Arithmetic(operation, to, from, a.Wide);
            width = Math.Min(Math.Max(_widths[to], _widths[from]), a.Wide ? 64 : 32);
            _pins[from]--;
        }
        Push(to, a.Wide, width);
    }

    private void EmitMultiply()
    {
        Value b = _stack.Pop(), a = _stack.Pop();
        Order(ref a, ref b);
        if (a.IsConstant)
        {
            _stack.Push(new Value(a.Wide, a.Constant * b.Constant));
            return;
        }
        int to;
        if (b.IsImmediate)
        {
            to = Exclusive(a);
            _assembler.MultiplyImmediate(to, to, (int)b.Constant, a.Wide);
        }
        else
        {
            int from = Materialise(b);
            to = Exclusive(a);
            _assembler.Multiply(to, from, a.Wide);
            _pins[from]--;
        }
        Push(to, a.Wide, a.Wide ? 64 : 32);
    }

    private void EmitMultiplyHigh()
    {
        int by = Materialise(_stack.Pop()), of = Materialise(_stack.Pop());
        _assembler.Move(HostRegister.Rax, of, true);
        _assembler.MultiplyWide(by);
        _pins[by]--;
        _pins[of]--;
        int to = Allocate();
        _assembler.Move(to, HostRegister.Rdx, true);
        Push(to, true, 64);
    }

    private void EmitUnary(CodeOp op)
    {
        Value a = _stack.Pop();
        int to = Exclusive(a);
        switch (op)
        {
            case CodeOp.Not:
                _assembler.Not(to, a.Wide);
                break;
            case CodeOp.Negate:
                _assembler.Negate(to, a.Wide);
                break;
            default:
                _assembler.ByteSwap(to, op == CodeOp.ByteSwap64);
                break;
        }
        Push(to, a.Wide, a.Wide ? 64 : 32);
    }

    private void EmitShift(HostShift operation)
    {
        Value count = _stack.Pop(), a = _stack.Pop();
        if (!count.IsConstant)
        {
            int by = Materialise(count), shifted = Exclusive(a);
            _assembler.Move(HostRegister.Rcx, by, false);
            _assembler.Shift(operation, shifted, a.Wide);
            _pins[by]--;
            Push(shifted, a.Wide, a.Wide ? 64 : 32);
            return;
        }
        int known = (int)count.Constant & (a.Wide ? 63 : 31);
        if (known == 0)
        {
            _stack.Push(a);
            return;
        }
        if (operation == HostShift.Left && known <= 3 && a.IsPlain && a.Wide)
        {
            _stack.Push(new Value(true, false, HostRegister.None, a.Base, known, 0));
            return;
        }
        int to = Exclusive(a);
        _assembler.Shift(operation, to, known, a.Wide);
        Push(to, a.Wide, operation == HostShift.Right && a.Wide ? 64 - known : a.Wide ? 64 : 32);
    }

    private void EmitComparison(CodeOp op)
    {
        HostCondition condition = Compare(op switch
        {
            CodeOp.Equal => CodeBranch.Equal,
            CodeOp.Less => CodeBranch.Less,
            CodeOp.LessUnsigned => CodeBranch.LessUnsigned,
            CodeOp.Greater => CodeBranch.Greater,
            _ => CodeBranch.GreaterUnsigned,
        });
        _assembler.Set(condition, HostRegister.Rax);
        int to = Allocate();
        _assembler.Extend(to, HostRegister.Rax, 1, signed: false);
        Push(to, false, 8);
    }

    private void EmitConversion(CodeOp op)
    {
        Value a = _stack.Pop();
        if (a.IsConstant)
        {
            long value = a.Constant;
            _stack.Push(op switch
            {
                CodeOp.SignExtend8 => new Value(false, (long)(sbyte)value),
                CodeOp.ZeroExtend8 => new Value(false, (long)(byte)value),
                CodeOp.SignExtend16 => new Value(false, (long)(short)value),
                CodeOp.ZeroExtend16 => new Value(false, (long)(ushort)value),
                CodeOp.ToInt32 => new Value(false, value),
                CodeOp.ZeroExtend32 => new Value(true, a.Wide ? value : (uint)value),
                _ => new Value(true, value),
            });
            return;
        }
        switch (op)
        {
            case CodeOp.ToInt32:
                // A scaled index may have been computed in 64 bits; its low half is the same.
                _stack.Push(a with { Wide = false });
                return;
            case CodeOp.ZeroExtend32:
                EmitZeroExtend32(a);
                return;
            case CodeOp.SignExtend32 or CodeOp.ToPointer:
                EmitSignExtend32(a);
                return;
        }
        int size = op is CodeOp.SignExtend8 or CodeOp.ZeroExtend8 ? 1 : 2;
        bool signed = op is CodeOp.SignExtend8 or CodeOp.SignExtend16;
        int from = Materialise(a);
        if (!signed && _widths[from] <= size * 8)
        {
            _stack.Push(new Value(false, from));
            return;
        }
        _pins[from]--;
        int to = Allocate();
        _assembler.Extend(to, from, size, signed);
        Push(to, false, signed ? 32 : size * 8);
    }

    private void EmitZeroExtend32(in Value a)
    {
        if (a.Wide)
        {
            _stack.Push(a);
            return;
        }
        int from = Materialise(a);
        if (_widths[from] <= 32)
        {
            _stack.Push(new Value(true, from));
            return;
        }
        _pins[from]--;
        int to = Allocate();
        _assembler.Move(to, from, false);
        Push(to, true, 32);
    }

    private void EmitSignExtend32(in Value a)
    {
        if (a.Wide)
        {
            _stack.Push(a);
            return;
        }
        int from = Materialise(a);
        _pins[from]--;
        int to = Allocate();
        _assembler.ExtendSigned32(to, from);
        Push(to, true, 64);
    }

    private void EmitRead(int size)
    {
        Value address = Address(_stack.Pop());
        Release(address);
        int to = Allocate();
        _assembler.Load(to, address.Memory, size);
        Push(to, size == 8, size * 8);
    }

    private void EmitWrite(int size)
    {
        Value value = _stack.Pop();
        int from = value.IsImmediate ? HostRegister.None : Materialise(value);
        Value address = Address(_stack.Pop());
        if (from == HostRegister.None)
        {
            _assembler.StoreImmediate(address.Memory, (int)value.Constant, size);
        }
        else
        {
            _assembler.Store(address.Memory, from, size);
            _pins[from]--;
        }
        Release(address);
    }

    /// <summary>Compares the operands of a branch. The host's condition under which it is taken.</summary>
    private HostCondition Compare(CodeBranch condition)
    {
        if (condition is CodeBranch.True or CodeBranch.False)
        {
            Value tested = _stack.Pop();
            int register = Materialise(tested);
            _assembler.Test(register, register, tested.Wide);
            _pins[register]--;
            return condition == CodeBranch.True ? HostCondition.NotEqual : HostCondition.Equal;
        }
        Value b = _stack.Pop(), a = _stack.Pop();
        bool swapped = a.IsConstant && !b.IsConstant;
        if (swapped)
            (a, b) = (b, a);
        bool wide = a.Wide;
        if (b.IsImmediate)
        {
            int left = Materialise(a);
            if (b.Constant == 0)
                _assembler.Test(left, left, wide);
            else
                _assembler.ArithmeticImmediate(HostArithmetic.Compare, left, (int)b.Constant, wide);
            _pins[left]--;
        }
        else
        {
            int right = Materialise(b), left = Materialise(a);
            _assembler.Arithmetic(HostArithmetic.Compare, left, right, wide);
            _pins[left]--;
            _pins[right]--;
        }
        return ConditionOf(condition, swapped);
    }

    private static HostCondition ConditionOf(CodeBranch condition, bool swapped) => condition switch
    {
        CodeBranch.Equal => HostCondition.Equal,
        CodeBranch.NotEqual => HostCondition.NotEqual,
        CodeBranch.Less => swapped ? HostCondition.Greater : HostCondition.Less,
        CodeBranch.LessUnsigned => swapped ? HostCondition.Above : HostCondition.Below,
        CodeBranch.GreaterOrEqual => swapped ? HostCondition.LessOrEqual : HostCondition.GreaterOrEqual,
        CodeBranch.GreaterOrEqualUnsigned => swapped ? HostCondition.BelowOrEqual : HostCondition.AboveOrEqual,
        CodeBranch.LessOrEqual => swapped ? HostCondition.GreaterOrEqual : HostCondition.LessOrEqual,
        CodeBranch.LessOrEqualUnsigned => swapped ? HostCondition.AboveOrEqual : HostCondition.BelowOrEqual,
        CodeBranch.Greater => swapped ? HostCondition.Less : HostCondition.Greater,
        _ => swapped ? HostCondition.Below : HostCondition.Above,
    };
}
