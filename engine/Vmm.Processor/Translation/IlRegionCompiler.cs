using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <summary>
/// Compiles a region to a method that has the signature of a handler: it executes the region's instructions until it is left, and
/// returns what a handler returns. The general registers that the region uses and the budget are locals throughout; a way out
/// (<see cref="Leave"/>, a call of a handler, a slow access) brings the state up to date.
/// </summary>
internal sealed unsafe partial class IlRegionCompiler : RegionCompiler
{
    private readonly IlCode _il;
    private readonly CodeLabel[] _nodes;
    private readonly CodeLocal _budget;
    private readonly CodeLocal _result;
    private readonly CodeLabel _leave;

    // Of the region: which registers it writes.
    private uint _written;

    private IlRegionCompiler(Region region, IlCode code) : base(code, (type, _) => code.Declare(type))
    {
        _il = code;
        _nodes = [.. region.Nodes.Select(_ => code.DefineLabel())];
        _budget = code.Declare(CodeType.Int64);
        _result = code.Declare(CodeType.Pointer);
        _leave = code.DefineLabel();
        _kept = new FlagLocals(code.Declare(CodeType.Int32), code.Declare(CodeType.Int64), code.Declare(CodeType.Int64), code.Declare(CodeType.Int64));
    }

    /// <summary>Compiles a region.</summary>
    /// <returns>Its code, or null where it is not worthwhile (<see cref="TranslationOptions.EmittedPerHandler"/>).</returns>
    public static CompiledCode? Compile(Region region, int emittedPerHandler)
    {
        var code = new IlCode();
        var compiler = new IlRegionCompiler(region, code);
        compiler.Begin(region);
        compiler.FindEmitted();
        if (!compiler.IsWorthwhile(emittedPerHandler))
            return null;
        compiler.EmitRegion();
        return code.Compile();
    }

    /// <summary>A region's intermediate code as text, for people.</summary>
    public static IlListing List(Region region)
    {
        var listing = new IlListing();
        var compiler = new IlRegionCompiler(region, new IlCode(listing));
        compiler.Begin(region);
        compiler.FindEmitted();
        compiler.EmitRegion();
        return listing;
    }

    private void EmitRegion()
    {
        FindRegisters();
        FindLiveFlags();
        CodeLabel interpret = _code.DefineLabel();
        LoadState(_budget, nameof(CpuState.Budget));
        _code.Load(_budget);
        _code.Constant((long)_region.Head.LongestPath);
        _code.Branch(CodeBranch.Less, interpret);
        LoadState(_rip, nameof(CpuState.TraceRip));
        LoadState(_tlbContext, nameof(CpuState.TlbContext));
        EmitField(nameof(CpuState.Tlb));
        _code.Emit(CodeOp.ReadPointer);
        _code.Store(_tlb);
        for (int k = 0; k < 16; k++)
        {
            if (_registers[k] != null)
                LoadRegister(k);
        }
        _code.Constant(0);
        _code.Store(_live.Kind);
        foreach (RegionNode node in _region.Nodes)
        {
            _code.Mark(_nodes[node.Index]);
            _dirty = _written;
            EmitNode(node);
        }
        EmitOutOfLine();
        EmitLeave();
        // Too little of the budget is left: the head is interpreted, up to the end of the budget.
        _code.Mark(interpret);
        EmitHandlerCall(_region.Head, 0);
        _il.Return();
    }

    /// <summary>Decides which registers are locals: those that some emitted instruction uses.</summary>
    private void FindRegisters()
    {
        var factory = new InstructionInfoFactory();
        uint used = 0;
        foreach (RegionNode node in _region.Nodes)
        {
            for (int k = 0; k < node.Length; k++)
            {
                if (!node.Emits[k])
                    continue;
                used |= RegistersOf(factory, node.Decoded[k], out uint written);
                _written |= written;
            }
        }
        for (int k = 0; k < 16; k++)
        {
            if ((used >> k & 1) != 0)
                _registers[k] = _code.Declare(CodeType.Int64);
        }
    }

    protected override void EmitFallThrough()
    {
        if (TryEmitEdge(_node.Targets[_node.Length]))
            return;
        EmitPosition();
        _code.LoadState();
        EmitPointer(_node.Address(_index));
        EmitRip(_node.Bound[_index].Offset);
        _il.Call(typeof(RegionExits), nameof(RegionExits.Indirect));
        Leave();
    }

    protected override void EmitDirect()
    {
        if (TryEmitEdge(_node.Targets[_index]))
            return;
        LeaveToTarget();
    }

    protected override void LeaveToTarget()
    {
        EmitPosition();
        _code.LoadState();
        EmitPointer(_node.Address(_index));
        EmitRip((long)Bound.Immediate);
        _il.Call(typeof(RegionExits), nameof(RegionExits.Direct));
        Leave();
    }

    protected override void EmitIndirect(CodeLocal target)
    {
        if (Current.FlowControl == FlowControl.Return)
            EmitReturnsWithin(target);
        EmitPosition();
        _code.LoadState();
        EmitPointer(_node.Address(_index));
        _code.Load(target);
        _il.Call(typeof(RegionExits), nameof(RegionExits.Indirect));
        Leave();
    }

    /// <summary>
    /// Goes on with another node of the region. A branch that may close a loop looks at the budget and at whether something waits; a branch
    /// forward looks at the latter where the node may have brought it about itself.
    /// </summary>
    protected override void EmitEdge(RegionNode target, bool loop)
    {
        _code.Load(_budget);
        _code.Constant((long)_node.Bound[_index].Count);
        _code.Emit(CodeOp.Sub);
        _code.Store(_budget);
        if (loop || _node.MayRaiseAttention)
        {
            CodeLabel stop = _code.DefineLabel();
            EmitField(nameof(CpuState.Attention));
            _code.Emit(CodeOp.Read32);
            _code.Branch(CodeBranch.True, stop);
            if (loop)
            {
                _code.Load(_budget);
                _code.Constant((long)target.LongestPath);
                _code.Branch(CodeBranch.Less, stop);
            }
            OutOfLine(() =>
            {
                _code.Mark(stop);
                StoreState(_budget, nameof(CpuState.Budget));
                _code.LoadState();
                EmitPointer(target.Address(0));
                _code.Load(_rip);
                _code.Constant((long)target.Offset);
                _code.Emit(CodeOp.Add);
                _il.Call(typeof(RegionExits), nameof(RegionExits.Stop));
                Leave();
            });
        }
        if (LooksAtFlags(target))
            SettleFlagKind();
        _code.Branch(CodeBranch.Always, _nodes[target.Index]);
    }

    protected override bool EmitInterpreted()
    {
        bool last = Current.FlowControl is not (FlowControl.Next or FlowControl.ConditionalBranch);
        SettleFlags();
        StoreRegisters(_dirty);
        _dirty = 0;
        EmitPosition();
        EmitHandlerCall(_node, _index);
        if (last)
        {
            _il.Return();
            return true;
        }
        CodeLocal next = _code.Temporary(CodeType.Pointer);
        _code.Store(next);
        CodeLabel left = _code.DefineLabel();
        _code.Load(next);
        EmitPointer(_node.Address(_index + 1));
        _code.Branch(CodeBranch.NotEqual, left);
        if (AccessesMemory(Current))
            EmitBranchIfChanged(left);
        ReloadAfterHandler();
        OutOfLine(() =>
        {
            _code.Mark(left);
            _code.Load(next);
            _il.Return();
        });
        return false;
    }

    private void EmitHandlerCall(RegionNode node, int index)
    {
        _code.LoadState();
        EmitPointer(node.Address(index));
        EmitPointer(node.HandlerOf(index));
        _il.CallHandler();
    }

    protected override void LeaveToNext()
    {
        EmitPosition();
        EmitPointer(_node.Address(_index + 1));
        Leave();
    }

    protected override void LeaveToCurrent()
    {
        EmitPosition();
        if (_index != 0)
        {
            EmitPointer(_node.Address(_index));
            Leave();
            return;
        }
        // The first instruction's own handler may be this region.
        SettleFlags();
        StoreRegisters(_written);
        EmitHandlerCall(_node, _index);
        _il.Return();
    }

    protected override void EmitSlowAccess(SlowAccessKind kind, CodeLocal linear, int size)
    {
        CodeLabel fine = _code.DefineLabel();
        EmitPosition();
        _code.LoadState();
        EmitPointer(_node.Address(_index));
        _code.Load(linear);
        EmitPointer((void*)RegionAccess.Of(kind, size));
        _il.CallPointer(typeof(bool), typeof(nint), typeof(nint), typeof(ulong));
        _code.Branch(CodeBranch.True, fine);
        _code.Constant(0);
        _code.Emit(CodeOp.ToPointer);
        Leave();
        _code.Mark(fine);
    }

    protected override void EmitSettle(FlagState flags, FlagLocals operands)
    {
        CodeLabel settled = _code.DefineLabel();
        if (!flags.IsKnown)
        {
            _code.Load(operands.Kind);
            _code.Branch(CodeBranch.False, settled);
        }
        _code.LoadState();
        if (flags.IsKnown)
            _code.Constant(flags.Kind);
        else
            _code.Load(operands.Kind);
        _code.Load(operands.A);
        _code.Load(operands.B);
        _code.Load(operands.C);
        _il.Call(typeof(LazyFlags), nameof(LazyFlags.Settle));
        _code.Mark(settled);
    }

    /// <summary>Leaves the region with the result on the evaluation stack.</summary>
    private void Leave()
    {
        _code.Store(_result);
        SettleFlagKind();
        _code.Branch(CodeBranch.Always, _leave);
    }

    private void EmitLeave()
    {
        _code.Mark(_leave);
        StoreRegisters(_written);
        _flags = FlagState.Dynamic;
        SettleFlags();
        _code.Load(_result);
        _il.Return();
    }

    /// <summary>Brings TraceRip and Budget up to date for the current node.</summary>
    private void EmitPosition()
    {
        StoreState(_budget, nameof(CpuState.Budget));
        EmitField(nameof(CpuState.TraceRip));
        EmitRip(0);
        _code.Emit(CodeOp.Write64);
    }

    private void LoadState(CodeLocal local, string field)
    {
        EmitField(field);
        _code.Emit(CodeOp.Read64);
        _code.Store(local);
    }

    private void StoreState(CodeLocal local, string field)
    {
        EmitField(field);
        _code.Load(local);
        _code.Emit(CodeOp.Write64);
    }

    private void LoadRegister(int register)
    {
        _code.LoadState();
        EmitOffset(register * 8);
        _code.Emit(CodeOp.Read64);
        _code.Store(_registers[register]!);
    }

    private void StoreRegisters(uint mask)
    {
        for (int k = 0; k < 16; k++)
        {
            if ((mask >> k & 1) == 0)
                continue;
            _code.LoadState();
            EmitOffset(k * 8);
            _code.Load(_registers[k]!);
            _code.Emit(CodeOp.Write64);
        }
    }

    private void ReloadAfterHandler()
    {
        RegistersOf(new InstructionInfoFactory(), Current, out uint written);
        for (int k = 0; k < 16; k++)
        {
            if ((written >> k & 1) != 0 && _registers[k] != null)
                LoadRegister(k);
        }
    }
}
