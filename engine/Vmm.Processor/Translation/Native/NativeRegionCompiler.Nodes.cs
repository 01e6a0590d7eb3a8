using System.Runtime.InteropServices;
using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// The nodes of a region, and a trace that jumps to its own beginning and of which nothing is interpreted until there, keep the general registers that they use
/// most in the host's from one node to another; such a trace its vectors and x87 registers too, if it computes in them. While the code runs, only its own
/// stores can change what it stands for, and those look.
/// </content>
internal sealed unsafe partial class NativeRegionCompiler
{
    // Of ten host registers for locals, those that a single instruction needs must be left.
    private const int MostKept = 7, MostKeptBesideTlb = 6;

    // What a use of a register in a trace that is a loop by itself counts, and elsewhere.
    private const int InLoop = 4, Elsewhere = 1;

    private readonly HashSet<RegionNode> _emitted = [];
    private RegionNode? _following;

    // Branches to nodes that come later. One of them is emitted right before its node.
    private readonly Dictionary<RegionNode, Action> _ahead = [];
    private bool _follows, _isFollowed;
    private bool _isLoop;

    // What stands in vector registers and in those of x87 at the loop's beginning.
    private VectorState _loopVectors;
    private X87State _loopX87;

    /// <summary>The node that the current branch, or the end of the trace, leads to; null where that leaves the code.</summary>
    private RegionNode? Target => _isLoop ? (StaysInLoop ? _node : null) : _node.Targets[_index];

    // With vector registers and the stack of x87 as they are at the beginning.
    private bool StaysInLoop =>
        _index < _node.Length && Bound.Immediate == 0 && (!_loopVectors.Controls || _vectors.Controls && (_loopVectors.Present & ~_vectors.Present) == 0)
        && (!_loopX87.Active || _x87.Active && _x87.Stack == _loopX87.Stack);

    protected override bool ClosesLoop => Target is { } target && target.Index <= _node.Index;

    /// <summary>Emits all nodes, each one behind that which leads to it without a branch, where that is possible.</summary>
    private void EmitNodes()
    {
        _emitted.Clear();
        _ahead.Clear();
        _follows = _isFollowed = false;
        _loopVectors = default;
        _loopX87 = default;
        _isLoop = _region.Nodes.Length == 1 && LengthOfLoop(_region.Head) > 0;
        for (RegionNode? node = _region.Head; node != null; node = _following)
        {
            if (_ahead.Remove(node, out Action? branch))
                EmitBefore(branch);
            _emitted.Add(node);
            _following = Following(node);
            _isFollowed = false;
            EmitNode(node);
        }
    }

    /// <summary>Emits a branch to the next node, where there is no other way that leads there without a jump.</summary>
    private void EmitBefore(Action branch)
    {
        if (_isFollowed)
        {
            OutOfLine(branch);
            return;
        }
        _follows = true;
        branch();
        _follows = false;
    }

    private RegionNode? Following(RegionNode node)
    {
        RegionNode? next = node.Targets[node.Length] ?? node.Targets[node.Length - 1];
        return next != null && !_emitted.Contains(next) ? next : Array.Find(_region.Nodes, each => !_emitted.Contains(each));
    }

    protected override void EmitStart()
    {
        _vectors = default;
        _x87 = default;
        if (!HasNodes)
            return;
        if (_emitted.Count == 1)
            BeginNodes();
        _x64.BeginNode(_node.Index, loop: _isLoop || Array.Exists(_region.Nodes, each => each.Index >= _node.Index && each.Targets.Contains(_node)));
    }

    private bool HasNodes => _isLoop || _region.Nodes.Length > 1;

    /// <summary>Decides what stands in host registers where nodes begin, at the beginning of the code.</summary>
    private void BeginNodes()
    {
        if (_flags.IsKnown)
        {
            // The code is entered with flags of which nothing is known.
            _flags = FlagState.Dynamic;
            KeepCarryAlone();
            DiscardFlagsButCarry();
            _x64.Settle();
            _x64.Forget();
        }
        Span<int> uses = stackalloc int[16];
        uint written = 0;
        bool usesTlb = false;
        if (_isLoop)
        {
            if (_computesInFloats)
                LoadLoopVectors();
            int length = LengthOfLoop(_node);
            LoadLoopX87(length);
            CountUses(_node, length, Elsewhere, uses, ref written, ref usesTlb);
        }
        else
        {
            foreach (RegionNode node in _region.Nodes)
                CountUses(node, LengthWithin(node), LengthOfLoop(node) > 0 ? InLoop : Elsewhere, uses, ref written, ref usesTlb);
        }
        List<CodeLocal> changed = [], constant = [];
        int room = usesTlb ? MostKeptBesideTlb : MostKept;
        for (; room > 0 && MostUsed(uses) is { } register; room--)
            ((written >> register & 1) != 0 ? changed : constant).Add(_registers[register]!);
        if (usesTlb)
            constant.Add(_tlb);
        _x64.BeginNodes(_region.Nodes.Length, CollectionsMarshal.AsSpan(changed), CollectionsMarshal.AsSpan(constant));
    }

    /// <summary>Counts how often instructions use the general registers.</summary>
    private static void CountUses(RegionNode node, int length, int weight, Span<int> uses, ref uint written, ref bool usesTlb)
    {
        var factory = new InstructionInfoFactory();
        for (int k = 0; k < length; k++)
        {
            if (!node.Emits[k])
                continue;
            uint used = RegistersOf(factory, node.Decoded[k], out uint here);
            written |= here;
            usesTlb |= AccessesMemory(node.Decoded[k]);
            for (int register = 0; register < 16; register++)
                uses[register] += (int)(used >> register & 1) * weight;
        }
    }

    /// <summary>The register with the most uses, which are then none; null where there are no more.</summary>
    private static int? MostUsed(Span<int> uses)
    {
        int most = 0;
        for (int register = 1; register < uses.Length; register++)
        {
            if (uses[register] > uses[most])
                most = register;
        }
        if (uses[most] == 0)
            return null;
        uses[most] = 0;
        return most;
    }

    /// <summary>Loads what a loop of floats uses before it begins.</summary>
    private void LoadLoopVectors()
    {
        EmitControls();
        uint used = 0, written = 0;
        for (int k = 0; k < _node.Length; k++)
        {
            Instruction instruction = _node.Decoded[k];
            used |= BitOf(instruction.Op0Register) | BitOf(instruction.Op1Register);
            written |= BitOf(instruction.Op0Register);
        }
        _vectors = new VectorState(used, written, true);
        Restore(used);
        _loopVectors = _vectors;
    }

    /// <summary>Begins the run of a loop before it, with all registers that it uses in the host's, if the stack is as it was when the loop closes.</summary>
    private void LoadLoopX87(int length)
    {
        int first = 0, written = 0;
        while (first < length && X87Form.Of(_node.Decoded[first]) is not { Waits: true })
            first++;
        if (first == length)
            return;
        X87Stack begin = _runs[_node.Index][first], stack = begin;
        for (int k = first; k < length; k++)
        {
            if (X87Form.Of(_node.Decoded[k]) is not { Waits: true } form)
                continue;
            written |= stack.WrittenBy(form);
            stack.TryApply(form, out stack);
        }
        if (stack != begin)
            return;
        BeginRun(begin);
        if ((begin.NeedFull | written) is var used && used != 0)
            Load(used);
        _x87 = _loopX87 = _x87 with { Present = used, Changed = written };
    }

    /// <summary>Makes the state of x87 what it is at the loop's beginning, with pointers and condition codes at home.</summary>
    private void CloseLoopX87()
    {
        if (!_loopX87.Active)
        {
            SettleX87();
            return;
        }
        EmitStatus();
        EmitPointers();
        Move(_x87.Lag);
        if ((_loopX87.Present & ~_x87.Present) is var missing && missing != 0)
            Load(missing);
    }

    /// <summary>Goes to another node, or this one again. A branch back looks at what is left of the slice, any other one where the node may have cut that short.</summary>
    protected override void EmitEdge(RegionNode target, bool loop)
    {
        _assembler.ArithmeticImmediate(HostArithmetic.Sub, NativeLayout.Slice, _node.Bound[_index].Count, true);
        if (loop || _node.MayRaiseAttention)
        {
            CodeLabel stop = _code.DefineLabel();
            _x64.JumpIf(HostCondition.Less, stop);
            OutOfLine(() =>
            {
                _code.Mark(stop);
                SettleFlagKind();
                _x64.Settle();
                SettleUnits();
                MoveTraceRip(target.Offset);
                SetInsn(target.Address(0));
                Exit(NativeExit.Stop);
                _x64.End();
            });
        }
        if (!LooksAtFlags(target))
        {
            DiscardFlags();
        }
        else if (FlagsAtStart(target).IsKnown)
        {
            KeepCarryAlone();
            DiscardFlagsButCarry();
        }
        else
        {
            SettleFlagKind();
        }
        if (!_loopVectors.Controls)
            SettleVectors();
        CloseLoopX87();
        bool ends = _index == _node.Length || _index == _node.Length - 1 && Current.FlowControl is not FlowControl.ConditionalBranch;
        bool follows = _follows || ends && target == _following;
        _x64.GoTo(target.Index, follows);
        _isFollowed |= follows;
    }

    protected override FlagState FlagsAtStart(RegionNode node) => HasNodes && LooksAtCarryAlone(node) ? CarryAlone : FlagState.Dynamic;

    protected override void OutOfLineBranch(Action emit)
    {
        if (Target is { } target && !_emitted.Contains(target))
        {
            Action here = Here(emit);
            if (_ahead.TryAdd(target, here))
                return;
        }
        OutOfLine(emit);
    }

    private void DiscardFlags()
    {
        DiscardFlagsButCarry();
        _x64.Discard(_live.C);
    }

    private void DiscardFlagsButCarry()
    {
        _x64.Discard(_live.Kind);
        _x64.Discard(_live.A);
        _x64.Discard(_live.B);
    }

    /// <summary>How many instructions there are up to the last one that jumps to the first; 0 where some of them is interpreted, or none jumps.</summary>
    private static int LengthOfLoop(RegionNode node)
    {
        int length = 0;
        for (int k = 0; k < node.Length && node.Emits[k]; k++)
        {
            if ((node.Decoded[k].Code.IsJccShortOrNear() || node.Decoded[k].Code.IsJmpShortOrNear()) && node.Bound[k].Immediate == 0)
                length = k + 1;
        }
        return length;
    }
}
