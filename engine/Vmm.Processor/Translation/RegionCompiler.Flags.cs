using Iced.Intel;
using FlowControl = Iced.Intel.FlowControl;

namespace Vmm.Processor.Translation;

/// <content>
/// The arithmetic flags: instead of them, compiled code keeps the operands of the last instruction that set them in locals. Which
/// instruction that was is known at the point of emission, or else stands in a local too.
/// </content>
internal abstract unsafe partial class RegionCompiler
{
    private readonly List<FlagSet[]> _liveFlags = [];
    private FlagSet[] _liveAtStart = [];
    protected FlagState _flags;

    /// <summary>What is known about the flags at a point of the code.</summary>
    /// <param name="IsKnown">Whether the operation that set them is.</param>
    /// <param name="Operation">That operation.</param>
    /// <param name="Size">The size of its operands.</param>
    /// <param name="Carry">What CF is from, which INC or DEC kept.</param>
    protected readonly record struct FlagState(bool IsKnown, FlagOperation Operation, int Size, CarrySource Carry = default)
    {
        /// <summary>The local says which operation set them.</summary>
        public static FlagState Dynamic => default;

        /// <summary>They stand in <see cref="CpuState"/>.</summary>
        public static FlagState Settled => new(true, FlagOperation.None, 1);

        public int Kind => LazyFlags.Kind(Operation, Size);
    }

    /// <summary>Arithmetic flags, of which INC and BT tell one from the others.</summary>
    [Flags]
    private enum FlagSet : byte
    {
        None = 0,
        Carry = 1,
        Others = 2,
        All = Carry | Others,
    }

    /// <summary>The flags, as the current instruction leaves them, that anything can look at.</summary>
    private FlagSet LiveFlags => _liveFlags[_node.Index][_index];

    private bool FlagsAreLive => LiveFlags != FlagSet.None;

    /// <summary>
    /// Finds, for each instruction, whether anything can look at the flags that it leaves: a later instruction, or whoever runs after
    /// the region is left before they are overwritten.
    /// </summary>
    protected void FindLiveFlags()
    {
        _liveAtStart = new FlagSet[_region.Nodes.Length];
        foreach (RegionNode node in _region.Nodes)
        {
            _liveFlags.Add(new FlagSet[node.Length]);
            for (int k = 0; k < node.Length; k++)
                node.MayRaiseAttention |= !node.Emits[k] || AccessesMemory(node.Decoded[k]);
        }
        // Loops make this depend on itself: what is live only grows.
        bool changed = true;
        while (changed)
        {
            changed = false;
            for (int n = _region.Nodes.Length - 1; n >= 0; n--)
            {
                FlagSet live = FindLiveFlags(_region.Nodes[n]);
                changed |= live != _liveAtStart[n];
                _liveAtStart[n] = live;
            }
        }
    }

    private FlagSet FindLiveFlags(RegionNode node)
    {
        FlagSet live = Along(node.Targets[node.Length]);
        for (int k = node.Length - 1; k >= 0; k--)
        {
            ref readonly Instruction instruction = ref node.Decoded[k];
            bool leaves = !node.Emits[k] || AccessesMemory(instruction) || MayFault(instruction);
            if (leaves)
                live = FlagSet.All;
            else if (instruction.FlowControl is FlowControl.UnconditionalBranch)
                live = Along(node.Targets[k]);
            else if (instruction.FlowControl is FlowControl.ConditionalBranch)
                live |= Along(node.Targets[k]);
            _liveFlags[node.Index][k] = live;
            live = leaves ? FlagSet.All : live & ~Overwritten(instruction) | Read(instruction);
        }
        return live;

        // A branch that closes a loop or looks for what waits may leave the region.
        FlagSet Along(RegionNode? target) =>
            target == null || target.Index <= node.Index || node.MayRaiseAttention ? FlagSet.All : _liveAtStart[target.Index];
    }

    /// <summary>Whether a node looks at the flags that it finds, or lets others look.</summary>
    protected bool LooksAtFlags(RegionNode node) => _liveAtStart[node.Index] != FlagSet.None;

    /// <summary>Whether of the flags that a node finds it looks at CF alone, and lets others look at no more.</summary>
    protected bool LooksAtCarryAlone(RegionNode node) => _liveAtStart[node.Index] == FlagSet.Carry;

    private static FlagSet Read(in Instruction instruction)
    {
        RflagsBits read = instruction.RflagsRead & Arithmetic;
        return ((read & RflagsBits.CF) != 0 ? FlagSet.Carry : 0) | ((read & ~RflagsBits.CF) != 0 ? FlagSet.Others : 0);
    }

    /// <summary>The flags that an emitted instruction sets, or leaves undefined, whatever they were.</summary>
    private static FlagSet Overwritten(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Add or Mnemonic.Sub or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor
                or Mnemonic.Test or Mnemonic.Neg or Mnemonic.Imul:
                return FlagSet.All;
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar when ShiftCount(instruction) is > 0:
                return FlagSet.All;
            case Mnemonic.Inc or Mnemonic.Dec:
                return FlagSet.Others;
            case Mnemonic.Bt:
                return FlagSet.Carry;
            default:
                return FlagSet.None;
        }
    }

    private const RflagsBits Arithmetic = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF;

    /// <summary>The masked count of a shift or rotate; null where it is in CL.</summary>
    private static int? ShiftCount(in Instruction instruction)
    {
        if (instruction.GetOpKind(1) == OpKind.Register)
            return null;
        int size = instruction.GetOpKind(0) == OpKind.Register ? instruction.Op0Register.GetSize() : instruction.MemorySize.GetSize();
        return instruction.Immediate8 & (size == 8 ? 63 : 31);
    }

    /// <summary>Remembers what sets the flags; the operands are values of the operation's size in locals or on the stack type of it.</summary>
    private void SetFlags(FlagOperation operation, int size, CodeLocal a, CodeLocal? b = null, CodeLocal? c = null)
    {
        if (!FlagsAreLive)
            return;
        Remember(_live.A, a);
        if (b != null)
            Remember(_live.B, b);
        if (c != null)
            Remember(_live.C, c);
        _flags = new FlagState(true, operation, size);
    }

    private void Remember(CodeLocal flag, CodeLocal value)
    {
        PushWide(value);
        _code.Store(flag);
    }

    /// <summary>Pushes a value, zero-extended to 64 bits.</summary>
    private void PushWide(CodeLocal value)
    {
        _code.Load(value);
        if (value.Type == CodeType.Int32)
            _code.Emit(CodeOp.ZeroExtend32);
    }

    /// <summary>
    /// Makes the local say what is known here, for code that does not know. What is known stays as it is: this may be one of several ways on.
    /// </summary>
    protected void SettleFlagKind()
    {
        if (!_flags.IsKnown)
            return;
        FlagState flags = _flags;
        ResolveCarry();
        _code.Constant(_flags.Operation == FlagOperation.None ? 0 : _flags.Kind);
        _code.Store(_live.Kind);
        _flags = flags;
    }

    /// <summary>Writes the flags into the state.</summary>
    protected void SettleFlags()
    {
        if (_flags is { IsKnown: true, Operation: FlagOperation.None })
            return;
        if (_flags is { IsKnown: true, Operation: FlagOperation.Logic })
        {
            EmitField(nameof(CpuState.FlagResult));
            PushFlag(_live.A, _flags.Size, signed: true);
            if (_flags.Size != 8)
                _code.Emit(CodeOp.SignExtend32);
            _code.Emit(CodeOp.Write64);
            EmitField(nameof(CpuState.FlagCarries));
            _code.Constant(0);
            _code.Emit(CodeOp.Write64);
            _flags = FlagState.Settled;
            return;
        }
        ResolveCarry();
        EmitSettle(_flags, _live);
        _flags = FlagState.Settled;
    }

    /// <summary>Pushes a remembered operand in its size.</summary>
    protected void PushFlag(CodeLocal flag, int size, bool signed)
    {
        _code.Load(flag);
        EmitNarrow(size, signed);
    }

    /// <summary>Pushes whether a condition holds, as 0 or 1.</summary>
    protected void PushCondition(ConditionCode condition)
    {
        (ConditionCode positive, bool inverted) = Positive(condition);
        if (!PushKnownCondition(positive))
        {
            SettleFlags();
            PushSettledCondition(positive);
        }
        if (inverted)
        {
            _code.Constant(0);
            _code.Emit(CodeOp.Equal);
        }
    }

    /// <summary>The condition of which the other of its pair is the opposite: o, b, e, be, s, p, l and le are the first ones.</summary>
    private static (ConditionCode Positive, bool Inverted) Positive(ConditionCode condition)
    {
        bool inverted = ((int)condition - (int)ConditionCode.o & 1) != 0;
        return (inverted ? Opposite(condition) : condition, inverted);
    }

    private static ConditionCode Opposite(ConditionCode condition) => (ConditionCode)(((int)condition - (int)ConditionCode.o ^ 1) + (int)ConditionCode.o);

    /// <summary>Branches where a condition holds.</summary>
    private void EmitBranchIf(ConditionCode condition, CodeLabel target) => _code.Branch(PushTest(condition), target);

    /// <summary>Pushes what decides whether a condition holds: the operands of the branch that is returned.</summary>
    private CodeBranch PushTest(ConditionCode condition)
    {
        if (_flags is { IsKnown: true, Operation: FlagOperation.Sub } && BranchOf(condition) is { } branch)
        {
            PushFlag(_live.A, _flags.Size, branch.Signed);
            PushFlag(_live.B, _flags.Size, branch.Signed);
            return branch.Condition;
        }
        // The operand decides, too, and is at hand.
        if (_flags is { IsKnown: true, Operation: FlagOperation.Inc or FlagOperation.Dec } && condition is ConditionCode.e or ConditionCode.ne)
        {
            PushFlag(_live.A, _flags.Size, signed: false);
            EmitOperand(_flags.Operation == FlagOperation.Dec ? 1 : -1, _flags.Size);
            return condition == ConditionCode.e ? CodeBranch.Equal : CodeBranch.NotEqual;
        }
        if (_flags is { IsKnown: true, Operation: FlagOperation.Logic or FlagOperation.Inc or FlagOperation.Dec or FlagOperation.Add }
            && condition is ConditionCode.e or ConditionCode.ne or ConditionCode.s or ConditionCode.ns)
        {
            PushResult();
            EmitOperand(0, _flags.Size);
            return condition switch
            {
                ConditionCode.e => CodeBranch.Equal,
                ConditionCode.ne => CodeBranch.NotEqual,
                ConditionCode.s => CodeBranch.Less,
                _ => CodeBranch.GreaterOrEqual,
            };
        }
        (ConditionCode positive, bool inverted) = Positive(condition);
        PushCondition(positive);
        return inverted ? CodeBranch.False : CodeBranch.True;
    }

    private static (CodeBranch Condition, bool Signed)? BranchOf(ConditionCode condition) => condition switch
    {
        ConditionCode.e => (CodeBranch.Equal, false),
        ConditionCode.ne => (CodeBranch.NotEqual, false),
        ConditionCode.b => (CodeBranch.LessUnsigned, false),
        ConditionCode.ae => (CodeBranch.GreaterOrEqualUnsigned, false),
        ConditionCode.be => (CodeBranch.LessOrEqualUnsigned, false),
        ConditionCode.a => (CodeBranch.GreaterUnsigned, false),
        ConditionCode.l => (CodeBranch.Less, true),
        ConditionCode.ge => (CodeBranch.GreaterOrEqual, true),
        ConditionCode.le => (CodeBranch.LessOrEqual, true),
        ConditionCode.g => (CodeBranch.Greater, true),
        _ => null,
    };

    /// <summary>Pushes the result of the operation that set the flags, sign-extended to its stack type.</summary>
    private void PushResult()
    {
        PushFlag(_live.A, _flags.Size, signed: true);
        switch (_flags.Operation)
        {
            case FlagOperation.Logic:
                return;
            case FlagOperation.Inc or FlagOperation.Dec:
                EmitOperand(1, _flags.Size);
                _code.Emit(_flags.Operation == FlagOperation.Inc ? CodeOp.Add : CodeOp.Sub);
                break;
            default:
                PushFlag(_live.B, _flags.Size, signed: true);
                _code.Emit(_flags.Operation == FlagOperation.Add ? CodeOp.Add : CodeOp.Sub);
                break;
        }
        EmitNarrow(_flags.Size, signed: true);
    }

    private bool PushKnownCondition(ConditionCode condition)
    {
        switch (_flags)
        {
            case { IsKnown: true, Operation: FlagOperation.Sub }:
                return PushComparison(condition);
            case { IsKnown: true, Operation: FlagOperation.Logic }:
                return PushLogicCondition(condition);
            case { IsKnown: true, Operation: FlagOperation.Add or FlagOperation.Inc or FlagOperation.Dec } when condition is ConditionCode.e or ConditionCode.s:
                PushResult();
                EmitOperand(0, _flags.Size);
                _code.Emit(condition == ConditionCode.e ? CodeOp.Equal : CodeOp.Less);
                return true;
        }
        if (condition != ConditionCode.b || !_flags.IsKnown || _flags.Operation is not (FlagOperation.Add or FlagOperation.Inc or FlagOperation.Dec or FlagOperation.Shr or FlagOperation.Bt))
            return false;
        PushCarry();
        _code.Emit(CodeOp.ToInt32);
        return true;
    }

    private bool PushComparison(ConditionCode condition)
    {
        if (condition is ConditionCode.o or ConditionCode.p)
            return false;
        if (condition == ConditionCode.s)
        {
            PushResult();
            EmitOperand(0, _flags.Size);
            _code.Emit(CodeOp.Less);
            return true;
        }
        bool signed = condition is ConditionCode.l or ConditionCode.le;
        PushFlag(_live.A, _flags.Size, signed);
        PushFlag(_live.B, _flags.Size, signed);
        switch (condition)
        {
            case ConditionCode.e:
                _code.Emit(CodeOp.Equal);
                break;
            case ConditionCode.b:
                _code.Emit(CodeOp.LessUnsigned);
                break;
            case ConditionCode.l:
                _code.Emit(CodeOp.Less);
                break;
            default:
                _code.Emit(signed ? CodeOp.Greater : CodeOp.GreaterUnsigned);
                _code.Constant(0);
                _code.Emit(CodeOp.Equal);
                break;
        }
        return true;
    }

    private bool PushLogicCondition(ConditionCode condition)
    {
        if (condition == ConditionCode.p)
            return false;
        if (condition is ConditionCode.o or ConditionCode.b)
        {
            _code.Constant(0);
            return true;
        }
        PushResult();
        EmitOperand(0, _flags.Size);
        switch (condition)
        {
            case ConditionCode.e or ConditionCode.be:
                _code.Emit(CodeOp.Equal);
                break;
            case ConditionCode.s or ConditionCode.l:
                _code.Emit(CodeOp.Less);
                break;
            default:
                _code.Emit(CodeOp.Greater);
                _code.Constant(0);
                _code.Emit(CodeOp.Equal);
                break;
        }
        return true;
    }

    /// <summary>Pushes whether a condition holds by the flags in the state, as 0 or 1: what <see cref="Flags"/> says of its two words.</summary>
    private void PushSettledCondition(ConditionCode condition)
    {
        switch (condition)
        {
            case ConditionCode.b:
                PushCarries(0);
                _code.Constant(0L);
                _code.Emit(CodeOp.Less);
                return;
            case ConditionCode.e:
                PushState(nameof(CpuState.FlagResult));
                _code.Constant(0L);
                _code.Emit(CodeOp.Equal);
                return;
            case ConditionCode.be:
                PushSettledCondition(ConditionCode.b);
                PushSettledCondition(ConditionCode.e);
                _code.Emit(CodeOp.Or);
                return;
            case ConditionCode.le:
                PushSettledCondition(ConditionCode.l);
                PushSettledCondition(ConditionCode.e);
                _code.Emit(CodeOp.Or);
                return;
            case ConditionCode.p:
                PushSettledParity();
                return;
        }
        // The sign bits of: the result, and the correction of SF; the carries out of and into the top bit.
        if (condition is ConditionCode.s or ConditionCode.l)
        {
            PushState(nameof(CpuState.FlagResult));
            PushCarries(59);
            _code.Emit(CodeOp.Xor);
        }
        if (condition is ConditionCode.o or ConditionCode.l)
        {
            PushCarries(0);
            PushCarries(1);
            _code.Emit(CodeOp.Xor);
        }
        if (condition == ConditionCode.l)
            _code.Emit(CodeOp.Xor);
        _code.Constant(0L);
        _code.Emit(CodeOp.Less);
    }

    /// <summary>Pushes PF: whether the low byte of the result has an even number of bits, or the opposite where bit 8 of the carries says so.</summary>
    private void PushSettledParity()
    {
        PushState(nameof(CpuState.FlagResult));
        PushState(nameof(CpuState.FlagResult));
        _code.Constant(4);
        _code.Emit(CodeOp.ShiftRight);
        _code.Emit(CodeOp.Xor);
        _code.Constant(15L);
        _code.Emit(CodeOp.And);
        CodeLocal nibble = _code.Temporary(CodeType.Int64);
        _code.Store(nibble);
        // Bit n is set where n has an even number of bits.
        _code.Constant(0x9669L);
        _code.Load(nibble);
        _code.Emit(CodeOp.ToInt32);
        _code.Emit(CodeOp.ShiftRight);
        PushState(nameof(CpuState.FlagCarries));
        _code.Constant(8);
        _code.Emit(CodeOp.ShiftRight);
        _code.Emit(CodeOp.Xor);
        _code.Constant(1L);
        _code.Emit(CodeOp.And);
        _code.Emit(CodeOp.ToInt32);
    }

    private void PushCarries(int shift)
    {
        PushState(nameof(CpuState.FlagCarries));
        if (shift == 0)
            return;
        _code.Constant(shift);
        _code.Emit(CodeOp.ShiftLeft);
    }

    private void PushState(string field)
    {
        EmitField(field);
        _code.Emit(CodeOp.Read64);
    }
}
