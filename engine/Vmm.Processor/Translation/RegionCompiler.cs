using System.Reflection;
using System.Reflection.Emit;
using Iced.Intel;
using Vmm.Processor.Execution;
using FlowControl = Iced.Intel.FlowControl;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <summary>
/// Turns a region into a method with the signature of a handler, which executes the region's instructions until it is left and
/// returns what a handler returns. Inside, the general registers that the region uses, the budget and the flags are locals; what
/// stands in <see cref="CpuState"/> is old until a way out (<see cref="Leave"/>, a call of a handler, a slow access) brings it up
/// to date. Whatever has no emitter here is a call of its handler.
/// </summary>
internal sealed unsafe partial class RegionCompiler
{
    private static readonly Type[] Signature = [typeof(nint), typeof(nint)];

    private readonly Region _region;
    private readonly DynamicMethod _method;
    private readonly ILGenerator _il;
    private readonly Label[] _nodes;
    private readonly LocalBuilder?[] _registers = new LocalBuilder?[16];
    private readonly LocalBuilder _rip;
    private readonly LocalBuilder _budget;
    private readonly LocalBuilder _tlb;
    private readonly LocalBuilder _tlbContext;
    private readonly LocalBuilder _result;
    private readonly Label _leave;
    private readonly List<Action> _outOfLine = [];
    private readonly TemporaryLocals _temporaries;

    // Of the region: which registers it writes. Of the point of emission: which of them may differ from CpuState.
    private uint _written;
    private uint _dirty;
    private RegionNode _node;
    private int _index;

    private RegionCompiler(Region region)
    {
        _region = region;
        _node = region.Head;
        _method = new DynamicMethod("region", typeof(nint), Signature, typeof(RegionCompiler).Module, skipVisibility: true) { InitLocals = false };
        _il = _method.GetILGenerator(4096);
        _nodes = [.. region.Nodes.Select(_ => _il.DefineLabel())];
        _rip = _il.DeclareLocal(typeof(long));
        _budget = _il.DeclareLocal(typeof(long));
        _tlb = _il.DeclareLocal(typeof(nint));
        _tlbContext = _il.DeclareLocal(typeof(long));
        _result = _il.DeclareLocal(typeof(nint));
        _flagKind = _il.DeclareLocal(typeof(int));
        _flagA = _il.DeclareLocal(typeof(long));
        _flagB = _il.DeclareLocal(typeof(long));
        _flagC = _il.DeclareLocal(typeof(long));
        _leave = _il.DefineLabel();
        _temporaries = new TemporaryLocals(_il);
    }

    /// <summary>Compiles a region.</summary>
    public static CompiledCode Compile(Region region)
    {
        foreach (RegionNode node in region.Nodes)
            Decode(node);
        var compiler = new RegionCompiler(region);
        compiler.EmitRegion();
        return new CompiledCode(compiler._method, compiler._il.ILOffset);
    }

    private static void Decode(RegionNode node)
    {
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(node.Bytes), DecoderOptions.None);
        node.Decoded = new Instruction[node.Length];
        for (int k = 0; k < node.Length; k++)
            decoder.Decode(out node.Decoded[k]);
    }

    private Instruction Current => _node.Decoded[_index];

    private ref Insn Bound => ref _node.Bound[_index];

    private bool EmitsCurrent => CanEmit(_node, _index);

    private void EmitRegion()
    {
        FindRegisters();
        FindLiveFlags();
        Label interpret = _il.DefineLabel();
        EmitField(nameof(CpuState.Budget));
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Stloc, _budget);
        _il.Emit(OpCodes.Ldloc, _budget);
        EmitConstant(_region.Head.LongestPath);
        _il.Emit(OpCodes.Blt, interpret);
        LoadState(_rip, nameof(CpuState.TraceRip));
        LoadState(_tlbContext, nameof(CpuState.TlbContext));
        EmitField(nameof(CpuState.Tlb));
        _il.Emit(OpCodes.Ldind_I);
        _il.Emit(OpCodes.Stloc, _tlb);
        for (int k = 0; k < 16; k++)
        {
            if (_registers[k] != null)
                LoadRegister(k);
        }
        _il.Emit(OpCodes.Ldc_I4_0);
        _il.Emit(OpCodes.Stloc, _flagKind);
        foreach (RegionNode node in _region.Nodes)
            EmitNode(node);
        for (int k = 0; k < _outOfLine.Count; k++)
            _outOfLine[k]();
        EmitLeave();
        // Too little of the budget is left: the head is interpreted, up to the end of the budget.
        _il.MarkLabel(interpret);
        EmitHandlerCall(_region.Head, 0);
        _il.Emit(OpCodes.Ret);
    }

    private void EmitNode(RegionNode node)
    {
        _node = node;
        _il.MarkLabel(_nodes[node.Index]);
        _dirty = _written;
        _flags = FlagState.Dynamic;
        bool ended = false;
        for (_index = 0; _index < node.Length && !ended; _index++)
        {
            ended = EmitsCurrent ? EmitInstruction() : EmitInterpreted();
        }
        if (!ended)
            EmitFallThrough();
    }

    /// <summary>The end of a trace that was cut: on to the next one.</summary>
    private void EmitFallThrough()
    {
        _index = _node.Length;
        if (!EmitEdge(_node.Targets[_node.Length]))
        {
            EmitPosition();
            _il.Emit(OpCodes.Ldarg_0);
            EmitPointer(_node.Address(_index));
            EmitRip(_node.Bound[_index].Offset);
            EmitCall(typeof(RegionExits), nameof(RegionExits.Indirect));
            Leave();
        }
    }

    /// <summary>
    /// Goes on with another node of the region: false where there is none. A branch that closes a loop looks at the budget and at
    /// whether something waits; a branch forward looks at the latter where the node may have brought it about itself.
    /// </summary>
    private bool EmitEdge(RegionNode? target)
    {
        if (target == null)
            return false;
        bool loop = target.Index <= _node.Index;
        _il.Emit(OpCodes.Ldloc, _budget);
        EmitConstant(_node.Bound[_index].Count);
        _il.Emit(OpCodes.Sub);
        _il.Emit(OpCodes.Stloc, _budget);
        if (loop || _node.MayRaiseAttention)
        {
            Label stop = _il.DefineLabel();
            EmitField(nameof(CpuState.Attention));
            _il.Emit(OpCodes.Ldind_I4);
            _il.Emit(OpCodes.Brtrue, stop);
            if (loop)
            {
                _il.Emit(OpCodes.Ldloc, _budget);
                EmitConstant(target.LongestPath);
                _il.Emit(OpCodes.Blt, stop);
            }
            OutOfLine(() =>
            {
                _il.MarkLabel(stop);
                StoreState(_budget, nameof(CpuState.Budget));
                _il.Emit(OpCodes.Ldarg_0);
                EmitPointer(target.Address(0));
                _il.Emit(OpCodes.Ldloc, _rip);
                EmitConstant(target.Offset);
                _il.Emit(OpCodes.Add);
                EmitCall(typeof(RegionExits), nameof(RegionExits.Stop));
                Leave();
            });
        }
        SettleFlagKind();
        _il.Emit(OpCodes.Br, _nodes[target.Index]);
        return true;
    }

    /// <summary>Executes the current instruction by its handler. True where the trace ends with it.</summary>
    private bool EmitInterpreted()
    {
        bool last = Current.FlowControl is not (FlowControl.Next or FlowControl.ConditionalBranch);
        SettleFlags();
        StoreDirtyRegisters();
        EmitPosition();
        EmitHandlerCall(_node, _index);
        if (last)
        {
            _il.Emit(OpCodes.Ret);
            return true;
        }
        LocalBuilder next = _temporaries.Take(typeof(nint));
        _il.Emit(OpCodes.Stloc, next);
        Label left = _il.DefineLabel();
        _il.Emit(OpCodes.Ldloc, next);
        EmitPointer(_node.Address(_index + 1));
        _il.Emit(OpCodes.Bne_Un, left);
        if (AccessesMemory(Current))
            EmitBranchIfChanged(left);
        ReloadAfterHandler();
        OutOfLine(() =>
        {
            _il.MarkLabel(left);
            _il.Emit(OpCodes.Ldloc, next);
            _il.Emit(OpCodes.Ret);
        });
        return false;
    }

    private void EmitHandlerCall(RegionNode node, int index)
    {
        _il.Emit(OpCodes.Ldarg_0);
        EmitPointer(node.Address(index));
        EmitPointer(node.HandlerOf(index));
        _il.EmitCalli(OpCodes.Calli, CallingConventions.Standard, typeof(nint), Signature, null);
    }

    /// <summary>
    /// Branches where the following instruction has got another handler: a store has made the code stale, or a device has asked for
    /// attention at the next instruction.
    /// </summary>
    private void EmitBranchIfChanged(Label changed)
    {
        EmitPointer(_node.Address(_index + 1));
        _il.Emit(OpCodes.Ldind_I);
        EmitPointer(_node.Bound[_index + 1].Handler);
        _il.Emit(OpCodes.Bne_Un, changed);
    }

    /// <summary>Out of line: execution goes on in the interpreter with the instruction behind the current one.</summary>
    private void LeaveToNext()
    {
        EmitPosition();
        EmitPointer(_node.Address(_index + 1));
        Leave();
    }

    /// <summary>Out of line: the interpreter executes the current instruction, of which nothing has been done.</summary>
    private void LeaveToCurrent()
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
        _il.Emit(OpCodes.Ret);
    }

    /// <summary>Leaves the region with the result on the evaluation stack.</summary>
    private void Leave()
    {
        _il.Emit(OpCodes.Stloc, _result);
        SettleFlagKind();
        _il.Emit(OpCodes.Br, _leave);
    }

    private void EmitLeave()
    {
        _il.MarkLabel(_leave);
        StoreRegisters(_written);
        _flags = FlagState.Dynamic;
        SettleFlags();
        _il.Emit(OpCodes.Ldloc, _result);
        _il.Emit(OpCodes.Ret);
    }

    /// <summary>Brings TraceRip and Budget up to date for the current node.</summary>
    private void EmitPosition()
    {
        StoreState(_budget, nameof(CpuState.Budget));
        _il.Emit(OpCodes.Ldarg_0);
        EmitConstant(OffsetOf(nameof(CpuState.TraceRip)));
        _il.Emit(OpCodes.Conv_I);
        _il.Emit(OpCodes.Add);
        EmitRip(0);
        _il.Emit(OpCodes.Stind_I8);
    }

    /// <summary>Emits code behind everything else, at this point's state of flags and registers.</summary>
    private void OutOfLine(Action emit)
    {
        (RegionNode node, int index, FlagState flags, uint dirty) = (_node, _index, _flags, _dirty);
        _outOfLine.Add(() =>
        {
            (_node, _index, _flags, _dirty) = (node, index, flags, dirty);
            emit();
        });
    }
}
