namespace Vmm.Processor.Translation;

/// <content>
/// The carry flag. INC and DEC keep it: behind them, code that has locals to spare keeps the operands of what set it before too, because in
/// most loops nothing ever looks.
/// </content>
internal abstract unsafe partial class RegionCompiler
{
    /// <summary>The locals that hold an operation and its operands.</summary>
    protected readonly record struct FlagLocals(CodeLocal Kind, CodeLocal A, CodeLocal B, CodeLocal C);

    /// <summary>What CF is from, where that is not the flags' own operation.</summary>
    /// <param name="IsDeferred">Whether it is in <see cref="_kept"/> what set it; otherwise the flags' operation has it, or its third operand.</param>
    /// <param name="IsKnown">Whether the operation is known.</param>
    /// <param name="Operation">That operation.</param>
    /// <param name="Size">The size of its operands.</param>
    protected readonly record struct CarrySource(bool IsDeferred, bool IsKnown, FlagOperation Operation, int Size)
    {
        public FlagState Flags => new(IsKnown, Operation, Size);
    }

    /// <summary>What is known of the flags behind <see cref="KeepCarryAlone"/>.</summary>
    protected static FlagState CarryAlone => new(true, FlagOperation.Bt, 1);

    // What set the flags, and, if there are such locals, what set CF before the last INC or DEC.
    protected readonly FlagLocals _live;
    protected FlagLocals? _kept;

    /// <summary>Remembers INC or DEC of <paramref name="a"/>.</summary>
    private void SetFlagsButCarry(FlagOperation operation, int size, CodeLocal a)
    {
        if ((LiveFlags & FlagSet.Others) == 0)
            return;
        CarrySource carry = default;
        if ((LiveFlags & FlagSet.Carry) != 0)
            carry = KeepCarry();
        Remember(_live.A, a);
        _flags = new FlagState(true, operation, size, carry);
    }

    /// <summary>Keeps what CF is from: its value as the third operand, or, where that would take more than copies, what set it.</summary>
    private CarrySource KeepCarry()
    {
        if (_flags.Carry.IsDeferred)
            return _flags.Carry;
        // It is the third operand already.
        if (_flags is { IsKnown: true, Operation: FlagOperation.Inc or FlagOperation.Dec or FlagOperation.Bt })
            return default;
        if (_kept is not { } kept || _flags is { IsKnown: true, Operation: FlagOperation.Logic })
        {
            if (!_flags.IsKnown)
            {
                KeepUnknownCarry();
                return default;
            }
            PushCarryBit();
            _code.Store(_live.C);
            return default;
        }
        if (!_flags.IsKnown)
            Copy(_live.Kind, kept.Kind);
        if (_flags is not { IsKnown: true, Operation: FlagOperation.None })
        {
            Copy(_live.A, kept.A);
            Copy(_live.B, kept.B);
            Copy(_live.C, kept.C);
        }
        return new CarrySource(true, _flags.IsKnown, _flags.Operation, _flags.Size);

        void Copy(CodeLocal from, CodeLocal to)
        {
            _code.Load(from);
            _code.Store(to);
        }
    }

    /// <summary>In most loops INC or DEC set the flags the round before, and the carry is the third operand already.</summary>
    private void KeepUnknownCarry()
    {
        CodeLabel other = _code.DefineLabel(), done = _code.DefineLabel();
        _code.Vary(_live.C);
        _code.Load(_live.Kind);
        _code.Constant(LazyFlags.Kind(FlagOperation.Inc, 1));
        _code.Emit(CodeOp.Sub);
        _code.Constant(LazyFlags.Kind(FlagOperation.Dec, 8) - LazyFlags.Kind(FlagOperation.Inc, 1) + 1);
        _code.Branch(CodeBranch.GreaterOrEqualUnsigned, other);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(other);
            PushCarry();
            _code.Store(_live.C);
            _code.Branch(CodeBranch.Always, done);
        });
    }

    /// <summary>Makes the carry that INC or DEC kept the third operand, for code that knows of nothing else.</summary>
    private void ResolveCarry()
    {
        if (!_flags.Carry.IsDeferred)
            return;
        PushCarry();
        _code.Store(_live.C);
        _flags = _flags with { Carry = default };
    }

    /// <summary>Pushes CF as 0 or 1, a 64-bit value.</summary>
    private void PushCarry()
    {
        if (_flags.Carry.IsDeferred)
        {
            // The flags in the state are old: they may become those that CF is from.
            if (PushKnownCarry(_flags.Carry.Flags, _kept!.Value))
                return;
            if (_flags.Carry is not { IsKnown: true, Operation: FlagOperation.None })
                EmitSettle(_flags.Carry.Flags, _kept.Value);
        }
        else if (PushKnownCarry(_flags, _live))
        {
            return;
        }
        else
        {
            SettleFlags();
        }
        PushState(nameof(CpuState.FlagCarries));
        _code.Constant(63);
        _code.Emit(CodeOp.ShiftRight);
    }

    /// <summary>Makes CF all that is known of the flags.</summary>
    protected void KeepCarryAlone()
    {
        PushCarry();
        _code.Store(_live.C);
        _flags = CarryAlone;
    }

    /// <summary>Pushes a 64-bit value of which bit 0 is CF: what is at hand, where that is a bit of a value.</summary>
    private void PushCarryBit()
    {
        switch (_flags)
        {
            case { IsKnown: true, Operation: FlagOperation.Shr }:
                PushLastShiftedOut(_flags, _live);
                return;
            case { IsKnown: true, Operation: FlagOperation.Inc or FlagOperation.Dec }:
                _code.Load(_live.C);
                return;
            default:
                PushCarry();
                return;
        }
    }

    /// <summary>Pushes the operand of SHR, less the bits that were shifted out before the last one.</summary>
    private void PushLastShiftedOut(FlagState flags, FlagLocals operands)
    {
        PushFlag(operands.A, flags.Size, signed: false);
        _code.Load(operands.B);
        _code.Emit(CodeOp.ToInt32);
        _code.Constant(1);
        _code.Emit(CodeOp.Sub);
        _code.Emit(CodeOp.ShiftRight);
        if (flags.Size != 8)
            _code.Emit(CodeOp.ZeroExtend32);
    }

    private bool PushKnownCarry(FlagState flags, FlagLocals operands)
    {
        switch (flags)
        {
            case { IsKnown: true, Operation: FlagOperation.Logic }:
                _code.Constant(0L);
                return true;
            case { IsKnown: true, Operation: FlagOperation.Sub }:
                PushFlag(operands.A, flags.Size, signed: false);
                PushFlag(operands.B, flags.Size, signed: false);
                _code.Emit(CodeOp.LessUnsigned);
                _code.Emit(CodeOp.ZeroExtend32);
                return true;
            case { IsKnown: true, Operation: FlagOperation.Add }:
                PushFlag(operands.A, flags.Size, signed: false);
                PushFlag(operands.B, flags.Size, signed: false);
                _code.Emit(CodeOp.Add);
                EmitNarrow(flags.Size, signed: false);
                PushFlag(operands.A, flags.Size, signed: false);
                _code.Emit(CodeOp.LessUnsigned);
                _code.Emit(CodeOp.ZeroExtend32);
                return true;
            case { IsKnown: true, Operation: FlagOperation.Bt }:
                _code.Load(operands.C);
                return true;
            case { IsKnown: true, Operation: FlagOperation.Inc or FlagOperation.Dec }:
                _code.Load(operands.C);
                _code.Constant(1L);
                _code.Emit(CodeOp.And);
                return true;
            case { IsKnown: true, Operation: FlagOperation.Shr }:
                PushLastShiftedOut(flags, operands);
                _code.Constant(1L);
                _code.Emit(CodeOp.And);
                return true;
            default:
                return false;
        }
    }
}
