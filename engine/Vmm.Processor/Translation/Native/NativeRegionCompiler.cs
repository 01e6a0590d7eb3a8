using Iced.Intel;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Translation.Native;

/// <summary>
/// Compiles single traces and regions for an x86-64 host, within microseconds per instruction. Code is entered with the first trace's first
/// instruction in RAX and the state in RBX, with everything else at home, and goes on to other code in the same way. TraceRip is that of the
/// first trace all the time; <see cref="NativeLayout.Slice"/> takes the place of the budget.
/// </summary>
internal sealed unsafe partial class NativeRegionCompiler : RegionCompiler
{
    private readonly X64Code _x64;
    private readonly X64Assembler _assembler;
    [ThreadStatic]
    private static NativeRegionCompiler? _ofThread;

    // While it compiles.
    private NativeCodeSpace _space = null!;

    private NativeRegionCompiler(X64Code code) : base(code, (type, field) => code.Mirror(type, OffsetOf(field)))
    {
        _x64 = code;
        _assembler = code.Assembler;
        for (int k = 0; k < 16; k++)
            _registers[k] = code.Mirror(CodeType.Int64, CpuState.GprOffset(k));
    }

    private bool CallsHandlers => _region.Nodes.Any(node => node.Emits.Contains(false));

    /// <summary>Compiles a trace or a region. On any thread.</summary>
    /// <param name="region">The traces.</param>
    /// <param name="space">Where the code will be placed. Only the addresses of what all code shares are looked at.</param>
    /// <param name="options">
    /// What is worth compiling, and whether a trace's executions count down its <see cref="Trace.Coolness"/>, to <see cref="NativeExit.Hot"/>.
    /// </param>
    /// <returns>The code; null where interpreting takes no longer (<see cref="TranslationOptions.EmittedPerHandler"/>).</returns>
    /// <exception cref="CodeLimitException">The trace needs more of something than there is.</exception>
    public static NativeCode? Compile(Region region, NativeCodeSpace space, TranslationOptions options) =>
        (_ofThread ??= new NativeRegionCompiler(new X64Code(NativeLayout.Temporaries))).TryCompile(region, space, options);

    private NativeCode? TryCompile(Region region, NativeCodeSpace space, TranslationOptions options)
    {
        _space = space;
        Begin(region);
        FindEmitted();
        FindRuns();
        bool single = region.Nodes.Length == 1;
        if (!IsWorthwhile(single ? options.EmittedPerHandler : options.EmittedPerHandlerInRegion, within: !single))
            return null;
        FindLiveFlags();
        _x64.Begin();
        int hot = 0;
        _computesInFloats = single && ComputesInFloats(region.Head);
        // What computes in floats keeps them in host registers around its own loop only.
        bool counts = single && (options.NativeRegionThreshold > 0 || options.NativeHotThreshold > 0) && !_computesInFloats && !ComputesOnX87(region.Head);
        if (counts)
        {
            _assembler.ArithmeticImmediate(HostArithmetic.Sub, NativeLayout.InTrace(HostRegister.Rax, NativeLayout.Coolness), 1, false);
            hot = _assembler.JumpIf(HostCondition.Equal);
        }
        EmitNodes();
        EmitOutOfLine();
        if (counts)
        {
            _assembler.Patch(hot);
            _assembler.Store(NativeLayout.Insn, HostRegister.Rax, 8);
            Exit(NativeExit.Hot);
        }
        return new NativeCode(_assembler.Code.ToArray(), _assembler.References, _x64.Pieces) { IsLoop = HasNodes, CallsHandlers = CallsHandlers };
    }

    protected override bool EmitInterpreted()
    {
        bool last = Current.FlowControl is not (FlowControl.Next or FlowControl.ConditionalBranch);
        SettleFlagKind();
        _x64.Settle();
        SettleUnits();
        MoveTraceRip(_node.Offset);
        SetInsn(_node.Address(_index));
        SetFunction((nint)_node.HandlerOf(_index));
        _assembler.MoveImmediate(HostRegister.Rax, (int)NativeExit.Handler);
        _assembler.JumpForReturn(_space.Suspend);
        MoveTraceRip(-_node.Offset);
        _x64.Forget();
        _vectors = default;
        _x87 = default;
        _flags = FlagState.Settled;
        if (last)
        {
            Leave(NativeExit.Leave, _node.Address(_index + 1));
            return true;
        }
        if (AccessesMemory(Current))
        {
            CodeLabel changed = _code.DefineLabel();
            EmitBranchIfChanged(changed);
            OutOfLine(() =>
            {
                _code.Mark(changed);
                LeaveToNext();
            });
        }
        return false;
    }

    protected override void EmitFallThrough()
    {
        if (TryEmitEdge(_node.Targets[_index]))
            return;
        EmitRip(_node.Bound[_index].Offset);
        EmitLookup();
    }

    protected override void EmitDirect()
    {
        if (TryEmitEdge(Target))
            return;
        long distance = (long)Bound.Immediate;
        long inPage = (long)(_node.Physical & 0xFFF) + distance;
        if (inPage is < 0 or >= 4096)
        {
            // Never linked.
            EmitRip(distance);
            EmitLookup();
            return;
        }
        SettleFlagKind();
        _x64.Settle();
        SettleUnits();
        Insn* address = _node.Address(_index);
        _assembler.MoveImmediate(HostRegister.Rax, (long)&address->Link);
        _assembler.Load(HostRegister.Rax, new HostMemory(HostRegister.Rax, 0), 8);
        _assembler.Test(HostRegister.Rax, HostRegister.Rax, true);
        int unlinked = _assembler.JumpIf(HostCondition.Equal);
        MoveTraceRip(_node.Offset + distance);
        _assembler.ArithmeticImmediate(HostArithmetic.Sub, NativeLayout.Slice, Bound.Count, true);
        int spent = _assembler.JumpIf(HostCondition.Less);
        _assembler.Jump(NativeLayout.InTrace(HostRegister.Rax, NativeLayout.Entry));
        _assembler.Patch(spent);
        _assembler.Store(NativeLayout.Insn, HostRegister.Rax, 8);
        Exit(NativeExit.Stop);
        _assembler.Patch(unlinked);
        MoveTraceRip(_node.Offset);
        SetInsn(address);
        Exit(NativeExit.Direct);
        _x64.End();
    }

    protected override void EmitIndirect(CodeLocal target)
    {
        if (Current.FlowControl == FlowControl.Return)
            EmitReturnsWithin(target);
        _code.Load(target);
        EmitLookup();
    }

    protected override void LeaveToNext() => Leave(NativeExit.Leave, _node.Address(_index + 1));

    // The first instruction's own handler is that which runs this code.
    protected override void LeaveToCurrent() => Leave(_index == 0 ? NativeExit.First : NativeExit.Leave, _node.Address(_index));

    protected override void LeaveToTarget() => Leave(NativeExit.Direct, _node.Address(_index));

    protected override void EmitSlowAccess(SlowAccessKind kind, CodeLocal linear, int size)
    {
        _code.LoadState();
        EmitOffset(NativeLayout.Argument.Displacement);
        _code.Load(linear);
        _code.Emit(CodeOp.Write64);
        SettleHome();
        SetInsn(_node.Address(_index));
        SetFunction(RegionAccess.Of(kind, size));
        SettleUnits();
        MoveTraceRip(_node.Offset);
        _assembler.MoveImmediate(HostRegister.Rax, (int)NativeExit.Access);
        _assembler.JumpForReturn(_space.SuspendSaving);
        MoveTraceRip(-_node.Offset);
        RestoreUnits();
    }

    protected override void BeforeEmitted()
    {
        // What may call managed code out of line and go on, for memory or for flags, loses the host's condition codes.
        if (_x87.Status != 0 && X87Form.Of(Current) is not { Waits: true }
            && (AccessesMemory(Current) || Current.Mnemonic is Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar))
            StoreStatus();
    }

    protected override void EmitSettle(FlagState flags, FlagLocals operands)
    {
        StoreStatus();
        if (flags.IsKnown)
        {
            CallSettle();
            return;
        }
        CodeLabel pending = _code.DefineLabel(), settled = _code.DefineLabel();
        _code.Load(operands.Kind);
        _code.Branch(CodeBranch.True, pending);
        _code.Mark(settled);
        OutOfLine(() =>
        {
            _code.Mark(pending);
            CallSettle();
            _code.Branch(CodeBranch.Always, settled);
        });
    }

    private void CallSettle()
    {
        SettleHome();
        // Managed code may do it.
        SettleUnits();
        _assembler.Call(_space.Settle);
        RestoreUnits();
    }

    /// <summary>
    /// Brings the state up to date for a call of managed code that comes back. What set the flags goes past its local, which must stay
    /// as it is where this is out of line: while the kind is known, nothing reads it.
    /// </summary>
    private void SettleHome()
    {
        _x64.Settle();
        if (_flags.IsKnown)
            _assembler.StoreImmediate(NativeLayout.FlagKind, _flags.Operation == FlagOperation.None ? 0 : _flags.Kind, 8);
    }

    private void Leave(NativeExit exit, Insn* insn)
    {
        SettleFlagKind();
        _x64.Settle();
        SettleUnits();
        MoveTraceRip(_node.Offset);
        SetInsn(insn);
        Exit(exit);
        _x64.End();
    }

    /// <summary>Goes to the address on the stack if the jump cache knows its trace, as <see cref="Flow.To"/> does.</summary>
    private void EmitLookup()
    {
        SettleFlagKind();
        _x64.Settle();
        SettleUnits();
        _x64.Pop(HostRegister.Rcx);
        _assembler.Store(NativeLayout.Argument, HostRegister.Rcx, 8);
        SetInsn(_node.Address(_index));
        _assembler.Move(HostRegister.Rdx, HostRegister.Rcx, true);
        _assembler.Shift(HostShift.Right, HostRegister.Rdx, 12, true);
        _assembler.Arithmetic(HostArithmetic.Xor, HostRegister.Rdx, HostRegister.Rcx, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rdx, JumpCache.Entries - 1, false);
        _assembler.Shift(HostShift.Left, HostRegister.Rdx, 5, false);
        _assembler.Arithmetic(HostArithmetic.Add, HostRegister.Rdx, NativeLayout.JumpCache, true);
        _assembler.Arithmetic(HostArithmetic.Compare, HostRegister.Rcx, NativeLayout.InEntry(nameof(JumpCacheEntry.Rip)), true);
        int unknown = _assembler.JumpIf(HostCondition.NotEqual);
        _assembler.Load(HostRegister.Rax, NativeLayout.JumpKey, 8);
        _assembler.Arithmetic(HostArithmetic.Compare, HostRegister.Rax, NativeLayout.InEntry(nameof(JumpCacheEntry.Key)), true);
        int outdated = _assembler.JumpIf(HostCondition.NotEqual);
        int count = _node.Bound[_index].Count;
        _assembler.ArithmeticImmediate(HostArithmetic.Sub, NativeLayout.Slice, count, true);
        int spent = _assembler.JumpIf(HostCondition.Less);
        _assembler.Store(NativeLayout.TraceRip, HostRegister.Rcx, 8);
        _assembler.Load(HostRegister.Rax, NativeLayout.InEntry(nameof(JumpCacheEntry.First)), 8);
        _assembler.Jump(NativeLayout.InTrace(HostRegister.Rax, NativeLayout.Entry));
        _assembler.Patch(spent);
        _assembler.ArithmeticImmediate(HostArithmetic.Add, NativeLayout.Slice, count, true);
        _assembler.Patch(unknown);
        _assembler.Patch(outdated);
        MoveTraceRip(_node.Offset);
        Exit(NativeExit.Indirect);
        _x64.End();
    }

    /// <summary>Brings home what stands in the host's vector and x87 registers, for whoever runs next.</summary>
    private void SettleUnits()
    {
        SettleVectors();
        SettleX87();
    }

    private void RestoreUnits()
    {
        RestoreVectors();
        RestoreX87();
    }

    /// <summary>Makes TraceRip that of a trace at a distance from the first, for whoever runs next, or the other way round.</summary>
    private void MoveTraceRip(long distance)
    {
        if (distance != 0)
            _assembler.ArithmeticImmediate(HostArithmetic.Add, NativeLayout.TraceRip, (int)distance, true);
    }

    private void SetInsn(Insn* insn)
    {
        _assembler.MoveImmediate(HostRegister.Rax, (long)insn);
        _assembler.Store(NativeLayout.Insn, HostRegister.Rax, 8);
    }

    private void SetFunction(nint function)
    {
        _assembler.MoveImmediate(HostRegister.Rax, function);
        _assembler.Store(NativeLayout.Function, HostRegister.Rax, 8);
    }

    private void Exit(NativeExit exit)
    {
        _assembler.MoveImmediate(HostRegister.Rax, (int)exit);
        _assembler.Jump(_space.Exit);
    }
}
