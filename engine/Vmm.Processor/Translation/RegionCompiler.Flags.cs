using System.Reflection.Emit;
using Iced.Intel;
using FlowControl = Iced.Intel.FlowControl;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <content>
/// The arithmetic flags: instead of them, compiled code keeps the operands of the last instruction that set them in locals. Which
/// instruction that was is known at the point of emission, or else stands in a local too.
/// </content>
internal sealed unsafe partial class RegionCompiler
{
    private readonly LocalBuilder _flagKind;
    private readonly LocalBuilder _flagA;
    private readonly LocalBuilder _flagB;
    private readonly LocalBuilder _flagC;

    private readonly List<bool[]> _liveFlags = [];
    private FlagState _flags;

    /// <summary>What is known about the flags at a point of the code.</summary>
    private readonly record struct FlagState(bool IsKnown, FlagOperation Operation, int Size)
    {
        /// <summary>The local says which operation set them.</summary>
        public static FlagState Dynamic => default;

        /// <summary>They stand in <see cref="CpuState"/>.</summary>
        public static FlagState Settled => new(true, FlagOperation.None, 1);

        public int Kind => LazyFlags.Kind(Operation, Size);
    }

    private bool FlagsAreLive => _liveFlags[_node.Index][_index];

    /// <summary>
    /// Finds, for each instruction, whether anything can look at the flags that it leaves: a later instruction, or whoever runs after
    /// the region is left before they are overwritten.
    /// </summary>
    private void FindLiveFlags()
    {
        var liveAtStart = new bool[_region.Nodes.Length];
        foreach (RegionNode _ in _region.Nodes)
            _liveFlags.Add([]);
        for (int n = _region.Nodes.Length - 1; n >= 0; n--)
        {
            RegionNode node = _region.Nodes[n];
            var after = new bool[node.Length];
            bool live = node.Targets[node.Length] is not { } next || next.Index <= n || node.MayRaiseAttention || liveAtStart[next.Index];
            for (int k = node.Length - 1; k >= 0; k--)
            {
                ref readonly Instruction instruction = ref node.Decoded[k];
                bool leaves = !CanEmit(node, k) || AccessesMemory(instruction) || MayFault(instruction);
                if (leaves)
                    live = true;
                if (instruction.FlowControl is FlowControl.UnconditionalBranch && CanEmit(node, k))
                    live = node.Targets[k] is not { } target || target.Index <= n || node.MayRaiseAttention || liveAtStart[target.Index];
                after[k] = live;
                live = leaves || UseOf(instruction) switch
                {
                    FlagUse.Writes => false,
                    FlagUse.Changes => live,
                    FlagUse.Reads => true,
                    _ => live,
                };
            }
            liveAtStart[n] = live;
            _liveFlags[n] = after;
        }
    }

    private enum FlagUse
    {
        None,
        /// <summary>Sets all six, whatever they were.</summary>
        Writes,
        /// <summary>Sets some, or only sometimes.</summary>
        Changes,
        Reads,
    }

    private static FlagUse UseOf(in Instruction instruction)
    {
        if ((instruction.RflagsRead & Arithmetic) != 0)
            return FlagUse.Reads;
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Add or Mnemonic.Sub or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test or Mnemonic.Neg or Mnemonic.Imul:
                return FlagUse.Writes;
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar when ShiftCount(instruction) is > 0:
                return FlagUse.Writes;
        }
        return (instruction.RflagsModified & Arithmetic) != 0 ? FlagUse.Changes : FlagUse.None;
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
    private void SetFlags(FlagOperation operation, int size, LocalBuilder a, LocalBuilder? b = null, LocalBuilder? c = null)
    {
        if (!FlagsAreLive)
            return;
        Remember(_flagA, a);
        if (b != null)
            Remember(_flagB, b);
        if (c != null)
            Remember(_flagC, c);
        _flags = new FlagState(true, operation, size);
    }

    private void Remember(LocalBuilder flag, LocalBuilder value)
    {
        _il.Emit(OpCodes.Ldloc, value);
        if (value.LocalType == typeof(int))
            _il.Emit(OpCodes.Conv_U8);
        _il.Emit(OpCodes.Stloc, flag);
    }

    /// <summary>Makes the local say what is known here, for code that does not know.</summary>
    private void SettleFlagKind()
    {
        if (!_flags.IsKnown)
            return;
        _il.Emit(OpCodes.Ldc_I4, _flags.Operation == FlagOperation.None ? 0 : _flags.Kind);
        _il.Emit(OpCodes.Stloc, _flagKind);
    }

    /// <summary>Writes the flags into the state.</summary>
    private void SettleFlags()
    {
        if (_flags is { IsKnown: true, Operation: FlagOperation.None })
            return;
        if (_flags is { IsKnown: true, Operation: FlagOperation.Logic })
        {
            EmitField(nameof(CpuState.FlagResult));
            PushFlag(_flagA, _flags.Size, signed: true);
            if (_flags.Size != 8)
                _il.Emit(OpCodes.Conv_I8);
            _il.Emit(OpCodes.Stind_I8);
            EmitField(nameof(CpuState.FlagCarries));
            EmitConstant(0);
            _il.Emit(OpCodes.Stind_I8);
            _flags = FlagState.Settled;
            return;
        }
        Label settled = _il.DefineLabel();
        if (!_flags.IsKnown)
        {
            _il.Emit(OpCodes.Ldloc, _flagKind);
            _il.Emit(OpCodes.Brfalse, settled);
        }
        _il.Emit(OpCodes.Ldarg_0);
        if (_flags.IsKnown)
            _il.Emit(OpCodes.Ldc_I4, _flags.Kind);
        else
            _il.Emit(OpCodes.Ldloc, _flagKind);
        _il.Emit(OpCodes.Ldloc, _flagA);
        _il.Emit(OpCodes.Ldloc, _flagB);
        _il.Emit(OpCodes.Ldloc, _flagC);
        EmitCall(typeof(LazyFlags), nameof(LazyFlags.Settle));
        _il.MarkLabel(settled);
        _flags = FlagState.Settled;
    }

    /// <summary>Pushes a remembered operand in its size.</summary>
    private void PushFlag(LocalBuilder flag, int size, bool signed)
    {
        _il.Emit(OpCodes.Ldloc, flag);
        EmitNarrow(size, signed);
    }

    /// <summary>Pushes CF as 0 or 1, a 64-bit value.</summary>
    private void PushCarry()
    {
        switch (_flags)
        {
            case { IsKnown: true, Operation: FlagOperation.Logic }:
                EmitConstant(0);
                return;
            case { IsKnown: true, Operation: FlagOperation.Sub }:
                PushFlag(_flagA, _flags.Size, signed: false);
                PushFlag(_flagB, _flags.Size, signed: false);
                _il.Emit(OpCodes.Clt_Un);
                _il.Emit(OpCodes.Conv_U8);
                return;
            case { IsKnown: true, Operation: FlagOperation.Add }:
                PushFlag(_flagA, _flags.Size, signed: false);
                PushFlag(_flagB, _flags.Size, signed: false);
                _il.Emit(OpCodes.Add);
                EmitNarrow(_flags.Size, signed: false);
                PushFlag(_flagA, _flags.Size, signed: false);
                _il.Emit(OpCodes.Clt_Un);
                _il.Emit(OpCodes.Conv_U8);
                return;
            case { IsKnown: true, Operation: FlagOperation.Inc or FlagOperation.Dec }:
                _il.Emit(OpCodes.Ldloc, _flagC);
                return;
            case { IsKnown: true, Operation: FlagOperation.Shr }:
                PushFlag(_flagA, _flags.Size, signed: false);
                _il.Emit(OpCodes.Ldloc, _flagB);
                _il.Emit(OpCodes.Conv_I4);
                _il.Emit(OpCodes.Ldc_I4_1);
                _il.Emit(OpCodes.Sub);
                _il.Emit(OpCodes.Shr_Un);
                if (_flags.Size != 8)
                    _il.Emit(OpCodes.Conv_U8);
                EmitConstant(1);
                _il.Emit(OpCodes.And);
                return;
        }
        SettleFlags();
        EmitField(nameof(CpuState.FlagCarries));
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Ldc_I4, 63);
        _il.Emit(OpCodes.Shr_Un);
    }

    /// <summary>Pushes whether a condition holds, as 0 or 1.</summary>
    private void PushCondition(ConditionCode condition)
    {
        (ConditionCode positive, bool inverted) = Positive(condition);
        if (!PushKnownCondition(positive))
        {
            SettleFlags();
            PushSettledCondition(positive);
        }
        if (inverted)
        {
            _il.Emit(OpCodes.Ldc_I4_0);
            _il.Emit(OpCodes.Ceq);
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
    private void EmitBranchIf(ConditionCode condition, Label target)
    {
        if (_flags is { IsKnown: true, Operation: FlagOperation.Sub } && BranchOf(condition) is { } branch)
        {
            PushFlag(_flagA, _flags.Size, branch.Signed);
            PushFlag(_flagB, _flags.Size, branch.Signed);
            _il.Emit(branch.Code, target);
            return;
        }
        if (_flags is { IsKnown: true, Operation: FlagOperation.Logic or FlagOperation.Inc or FlagOperation.Dec or FlagOperation.Add }
            && condition is ConditionCode.e or ConditionCode.ne or ConditionCode.s or ConditionCode.ns && PushResult())
        {
            EmitOperand(0, _flags.Size);
            _il.Emit(condition switch
            {
                ConditionCode.e => OpCodes.Beq,
                ConditionCode.ne => OpCodes.Bne_Un,
                ConditionCode.s => OpCodes.Blt,
                _ => OpCodes.Bge,
            }, target);
            return;
        }
        (ConditionCode positive, bool inverted) = Positive(condition);
        PushCondition(positive);
        _il.Emit(inverted ? OpCodes.Brfalse : OpCodes.Brtrue, target);
    }

    private static (OpCode Code, bool Signed)? BranchOf(ConditionCode condition) => condition switch
    {
        ConditionCode.e => (OpCodes.Beq, false),
        ConditionCode.ne => (OpCodes.Bne_Un, false),
        ConditionCode.b => (OpCodes.Blt_Un, false),
        ConditionCode.ae => (OpCodes.Bge_Un, false),
        ConditionCode.be => (OpCodes.Ble_Un, false),
        ConditionCode.a => (OpCodes.Bgt_Un, false),
        ConditionCode.l => (OpCodes.Blt, true),
        ConditionCode.ge => (OpCodes.Bge, true),
        ConditionCode.le => (OpCodes.Ble, true),
        ConditionCode.g => (OpCodes.Bgt, true),
        _ => null,
    };

    /// <summary>Pushes the result of the operation that set the flags, sign-extended to its stack type.</summary>
    private bool PushResult()
    {
        PushFlag(_flagA, _flags.Size, signed: true);
        switch (_flags.Operation)
        {
            case FlagOperation.Logic:
                return true;
            case FlagOperation.Inc or FlagOperation.Dec:
                EmitOperand(1, _flags.Size);
                _il.Emit(_flags.Operation == FlagOperation.Inc ? OpCodes.Add : OpCodes.Sub);
                break;
            default:
                PushFlag(_flagB, _flags.Size, signed: true);
                _il.Emit(_flags.Operation == FlagOperation.Add ? OpCodes.Add : OpCodes.Sub);
                break;
        }
        EmitNarrow(_flags.Size, signed: true);
        return true;
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
                _il.Emit(condition == ConditionCode.e ? OpCodes.Ceq : OpCodes.Clt);
                return true;
        }
        if (condition != ConditionCode.b || !_flags.IsKnown || _flags.Operation is not (FlagOperation.Add or FlagOperation.Inc or FlagOperation.Dec or FlagOperation.Shr))
            return false;
        PushCarry();
        _il.Emit(OpCodes.Conv_I4);
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
            _il.Emit(OpCodes.Clt);
            return true;
        }
        bool signed = condition is ConditionCode.l or ConditionCode.le;
        PushFlag(_flagA, _flags.Size, signed);
        PushFlag(_flagB, _flags.Size, signed);
        switch (condition)
        {
            case ConditionCode.e:
                _il.Emit(OpCodes.Ceq);
                break;
            case ConditionCode.b:
                _il.Emit(OpCodes.Clt_Un);
                break;
            case ConditionCode.l:
                _il.Emit(OpCodes.Clt);
                break;
            default:
                _il.Emit(signed ? OpCodes.Cgt : OpCodes.Cgt_Un);
                _il.Emit(OpCodes.Ldc_I4_0);
                _il.Emit(OpCodes.Ceq);
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
            _il.Emit(OpCodes.Ldc_I4_0);
            return true;
        }
        PushResult();
        EmitOperand(0, _flags.Size);
        switch (condition)
        {
            case ConditionCode.e or ConditionCode.be:
                _il.Emit(OpCodes.Ceq);
                break;
            case ConditionCode.s or ConditionCode.l:
                _il.Emit(OpCodes.Clt);
                break;
            default:
                _il.Emit(OpCodes.Cgt);
                _il.Emit(OpCodes.Ldc_I4_0);
                _il.Emit(OpCodes.Ceq);
                break;
        }
        return true;
    }

    private void PushSettledCondition(ConditionCode condition)
    {
        _il.Emit(OpCodes.Ldarg_0);
        EmitCall(typeof(SettledConditions), condition switch
        {
            ConditionCode.o => nameof(SettledConditions.Overflow),
            ConditionCode.b => nameof(SettledConditions.Below),
            ConditionCode.e => nameof(SettledConditions.Equal),
            ConditionCode.be => nameof(SettledConditions.BelowOrEqual),
            ConditionCode.s => nameof(SettledConditions.Sign),
            ConditionCode.p => nameof(SettledConditions.Parity),
            ConditionCode.l => nameof(SettledConditions.Less),
            _ => nameof(SettledConditions.LessOrEqual),
        });
    }
}

/// <summary>The conditions on flags that stand in the state.</summary>
internal static unsafe class SettledConditions
{
    public static bool Overflow(CpuState* s) => Flags.Overflow(s);
    public static bool Below(CpuState* s) => Flags.Carry(s);
    public static bool Equal(CpuState* s) => Flags.Zero(s);
    public static bool BelowOrEqual(CpuState* s) => Flags.Carry(s) || Flags.Zero(s);
    public static bool Sign(CpuState* s) => Flags.Sign(s);
    public static bool Parity(CpuState* s) => Flags.Parity(s);
    public static bool Less(CpuState* s) => Flags.Less(s);
    public static bool LessOrEqual(CpuState* s) => Flags.Zero(s) || Flags.Less(s);
}
