using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <content>Branches: within the region they are branches of the compiled code, out of it they do what their handlers do.</content>
internal abstract unsafe partial class RegionCompiler
{
    private void EmitConditionalJump(in Instruction instruction)
    {
        if (ClosesLoop)
        {
            CodeLabel ends = _code.DefineLabel();
            EmitBranchIf(Opposite(instruction.ConditionCode), ends);
            Action behind = Here(() => _code.Mark(ends));
            EmitDirect();
            behind();
            return;
        }
        CodeLabel taken = _code.DefineLabel();
        EmitBranchIf(instruction.ConditionCode, taken);
        OutOfLineBranch(() =>
        {
            _code.Mark(taken);
            EmitDirect();
        });
    }

    /// <summary>Emits where the current branch goes to if it is taken at another place, as <see cref="OutOfLine"/> does.</summary>
    protected virtual void OutOfLineBranch(Action emit) => OutOfLine(emit);

    private void EmitTransfer(in Instruction instruction)
    {
        switch (instruction.Code)
        {
            case Code.Jmp_rel8_64 or Code.Jmp_rel32_64:
                EmitDirect();
                return;
            case Code.Call_rel32_64:
                EmitCallDirect();
                return;
            case Code.Retnq or Code.Retnq_imm16:
                EmitReturn();
                return;
            case Code.Jmp_rm64:
                EmitIndirect(EmitTarget(instruction));
                return;
            case Code.Call_rm64:
                EmitCallIndirect(instruction);
                return;
            default:
                throw new InvalidOperationException($"{instruction.Code} has no emitter.");
        }
    }

    /// <summary>Has the interpreter execute the current instruction where an address is not canonical with 48 bits.</summary>
    private void EmitCanonicalCheck(CodeLocal address)
    {
        CodeLabel rare = _code.DefineLabel();
        _code.Load(address);
        _code.Constant(16);
        _code.Emit(CodeOp.ShiftLeft);
        _code.Constant(16);
        _code.Emit(CodeOp.ShiftRightSigned);
        _code.Load(address);
        _code.Branch(CodeBranch.NotEqual, rare);
        OutOfLine(() =>
        {
            _code.Mark(rare);
            LeaveToCurrent();
        });
    }

    private CodeLocal EmitTarget(in Instruction instruction) =>
        instruction.Op0Kind == OpKind.Memory ? EmitReadOrLeave(EmitLinear()) : EmitOperandValue(instruction, 0, 8);

    /// <summary>
    /// Reads where a branch goes to. What the translation cache does not know is the interpreter's from the start: it may be a device, which
    /// must not be read again where the address then turns out not to be canonical.
    /// </summary>
    private CodeLocal EmitReadOrLeave(CodeLocal linear)
    {
        CodeLocal value = _code.Temporary(CodeType.Int64);
        CodeLabel slow = _code.DefineLabel();
        EmitHostAddress(linear, 8, ReadTagOffset, slow);
        EmitLoad(8);
        _code.Store(value);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            LeaveToCurrent();
        });
        return value;
    }

    private CodeLocal EmitReturnAddress()
    {
        CodeLocal address = _code.Temporary(CodeType.Int64);
        EmitRip(Bound.Offset + Bound.Length);
        _code.Store(address);
        return address;
    }

    private void EmitCallDirect()
    {
        if (_node.Targets[_index] == null)
        {
            CodeLocal target = _code.Temporary(CodeType.Int64);
            EmitRip((long)Bound.Immediate);
            _code.Store(target);
            EmitCanonicalCheck(target);
        }
        EmitPushForCall(EmitReturnAddress());
        EmitDirect();
    }

    private void EmitCallIndirect(in Instruction instruction)
    {
        CodeLocal target = EmitTarget(instruction);
        EmitCanonicalCheck(target);
        EmitPushForCall(EmitReturnAddress());
        EmitIndirect(target);
    }

    /// <summary>
    /// Pushes a return address. Where that has made the region's code stale, the target of a call within the region is too: the call is
    /// then completed as one that leaves.
    /// </summary>
    private void EmitPushForCall(CodeLocal address)
    {
        CodeLocal pointer = _code.Temporary(CodeType.Int64);
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        PushRegister(Gpr.Rsp * 8, 8);
        _code.Constant(8L);
        _code.Emit(CodeOp.Sub);
        _code.Store(pointer);
        EmitHostAddress(pointer, 8, WriteTagOffset, slow);
        _code.Load(address);
        EmitStore(8);
        _code.Mark(done);
        _code.Load(pointer);
        PopRegister(Gpr.Rsp * 8, 8);
        RegionNode? target = Current.Code == Code.Call_rel32_64 ? _node.Targets[_index] : null;
        OutOfLine(() =>
        {
            _code.Mark(slow);
            EmitScratch();
            _code.Load(address);
            EmitStore(8);
            EmitSlowAccess(SlowAccessKind.Write, pointer, 8);
            if (target == null)
            {
                _code.Branch(CodeBranch.Always, done);
                return;
            }
            CodeLabel changed = _code.DefineLabel();
            EmitBranchIfChanged(changed);
            _code.Branch(CodeBranch.Always, done);
            _code.Mark(changed);
            _code.Load(pointer);
            PopRegister(Gpr.Rsp * 8, 8);
            LeaveToTarget();
        });
    }

    /// <summary>A return to behind a call of the region stays in it.</summary>
    protected void EmitReturnsWithin(CodeLocal target)
    {
        foreach (RegionNode point in _returnPoints)
        {
            CodeLabel here = _code.DefineLabel();
            _code.Load(target);
            _code.Load(_rip);
            _code.Constant((long)point.Offset);
            _code.Emit(CodeOp.Add);
            _code.Branch(CodeBranch.Equal, here);
            OutOfLine(() =>
            {
                _code.Mark(here);
                EmitEdge(point, loop: true);
            });
        }
    }

    private void EmitReturn()
    {
        CodeLocal pointer = _code.Temporary(CodeType.Int64);
        PushRegister(Gpr.Rsp * 8, 8);
        _code.Store(pointer);
        CodeLocal target = EmitReadOrLeave(pointer);
        EmitCanonicalCheck(target);
        _code.Load(pointer);
        _code.Constant(8L + (Current.Code == Code.Retnq_imm16 ? (ushort)Bound.Immediate : 0));
        _code.Emit(CodeOp.Add);
        PopRegister(Gpr.Rsp * 8, 8);
        EmitIndirect(target);
    }
}
