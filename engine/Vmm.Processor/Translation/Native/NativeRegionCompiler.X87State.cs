using Iced.Intel;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.Fpu;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// What the host's x87 unit has of the guest's: within a run, host ST(i) is guest ST(i) or empty, the control word is the guest's, and the
/// exception flags are among those that the guest's status word has or has yet to be told of. A register that the guest has popped or freed keeps
/// its value, as FXSAVE shows, so it stays in the host's until it has been stored. Whoever leaves the code leaves the host's stack empty.
/// </content>
internal sealed unsafe partial class NativeRegionCompiler
{
    private static readonly int SelectorOffset = MeasureSelector();

    private X87State _x87;

    /// <summary>The state of a run.</summary>
    /// <param name="Active">Whether there is one.</param>
    /// <param name="Stack">The guest's stack.</param>
    /// <param name="Present">Registers that stand in the host's, numbered as in <paramref name="Stack"/>.</param>
    /// <param name="Changed">Those of them that may not be at home.</param>
    /// <param name="Lag">How far the guest's TOP has moved since the host's did, -4 to 3: moving clears C1, which may yet have to be told.</param>
    /// <param name="Status">Bits of the host's status word that the guest's has yet to be told of; exception flags are added to it, condition codes copied.</param>
    /// <param name="Instruction">Distance from TraceRip of the last instruction, of which the pointer has yet to be stored; -1 for none.</param>
    /// <param name="Segment">The segment of the last operand, of which the selector has yet to be stored; -1 for none.</param>
    private readonly record struct X87State(bool Active, X87Stack Stack, int Present, int Changed, int Lag, int Status, int Instruction, int Segment);

    /// <summary>Begins a run, or leaves to the interpreter where some instruction of it would be unusual.</summary>
    private void BeginRun(in X87Stack run)
    {
        X87Stack stack = run;
        CodeLabel unusual = _code.DefineLabel();
        _assembler.Load(HostRegister.Rcx, NativeLayout.Fsw, 2);
        Host(Instruction.Create(Code.Test_rm8_imm8, Register.CL, (int)StatusWord.Summary));
        _x64.JumpIf(HostCondition.NotEqual, unusual);
        CodeLabel other = _code.DefineLabel(), loaded = _code.DefineLabel();
        _assembler.Load(HostRegister.Rax, NativeLayout.Fcw, 2);
        _assembler.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rax, X87.DefaultControl, false);
        _x64.JumpIf(HostCondition.NotEqual, other);
        _code.Mark(loaded);
        OutOfLine(() =>
        {
            _code.Mark(other);
            LeaveUnlessUsual();
            LoadControlWord();
            _code.Branch(CodeBranch.Always, loaded);
        });
        if ((stack.NeedFull | stack.NeedEmpty) != 0)
        {
            _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
            _assembler.Load(HostRegister.Rax, NativeLayout.Ftw, 2);
            Host(Instruction.Create(Code.Ror_rm8_CL, Register.AL, Register.CL));
            _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rax, stack.NeedFull | stack.NeedEmpty, false);
            _assembler.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rax, stack.NeedFull, false);
            _x64.JumpIf(HostCondition.NotEqual, unusual);
        }
        OutOfLine(() =>
        {
            _code.Mark(unusual);
            LeaveToCurrent();
        });
        ClearForeignExceptions();
        _x87 = new X87State(true, stack, 0, 0, 0, 0, -1, -1);
    }

    private void LoadControlWord() => Host(Instruction.Create(Code.Fldcw_m2byte, InState(NativeLayout.Fcw.Displacement)));

    /// <summary>Clears the host's exception flags if there are some that the guest's status word does not have.</summary>
    private void ClearForeignExceptions()
    {
        Host(Instruction.Create(Code.Fnstsw_AX, Register.AX));
        _assembler.Load(HostRegister.Rcx, NativeLayout.Fsw, 2);
        _assembler.Not(HostRegister.Rcx, false);
        _assembler.Arithmetic(HostArithmetic.And, HostRegister.Rax, HostRegister.Rcx, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rax, (int)FloatFlags.All, false);
        int none = _assembler.JumpIf(HostCondition.Equal);
        Host(Instruction.Create(Code.Fnclex));
        _assembler.Patch(none);
    }

    /// <summary>Gets registers at positions ST(i), which are bits, into the host's.</summary>
    private void Fill(int positions)
    {
        int missing = _x87.Stack.At(positions) & ~_x87.Present;
        if (missing == 0)
            return;
        Load(missing);
        _x87 = _x87 with { Present = _x87.Present | missing };
    }

    /// <summary>Loads registers, numbered as where the run began, while host TOP is the guest's.</summary>
    private void Load(int registers)
    {
        int deepest = 7;
        while ((_x87.Stack.At(1 << deepest) & registers) == 0)
            deepest--;
        for (int k = 0; k <= deepest; k++)
            Host(Instruction.Create(Code.Fincstp));
        _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        for (int k = deepest; k >= 0; k--)
        {
            int register = _x87.Stack.At(1 << k);
            Host((register & registers) != 0 ? Instruction.Create(Code.Fld_m80fp, EmitHome(register)) : Instruction.Create(Code.Fdecstp));
        }
    }

    /// <summary>The home of a register, by TOP in RCX. RDX is lost.</summary>
    private MemoryOperand EmitHome(int register)
    {
        _assembler.LoadAddress(HostRegister.Rdx, new HostMemory(HostRegister.Rcx, int.Log2(register)), false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rdx, 7, false);
        _assembler.Shift(HostShift.Left, HostRegister.Rdx, 4, false);
        return new MemoryOperand(Register.RBX, Register.RDX, 1, CpuState.FpuOffset, 8);
    }

    /// <summary>Moves the host's TOP to where the guest's is.</summary>
    private void CatchUp()
    {
        Move(_x87.Lag);
        _x87 = _x87 with { Lag = 0 };
    }

    private void Move(int positions)
    {
        for (int k = 0; k < Math.Abs(positions); k++)
            Host(Instruction.Create(positions > 0 ? Code.Fincstp : Code.Fdecstp));
    }

    /// <summary>Stores ST(0), which the host is about to pop, where it is not at home.</summary>
    private void SaveTop()
    {
        int register = _x87.Stack.At(1);
        if ((_x87.Changed & register) == 0)
            return;
        _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        MemoryOperand home = EmitHome(register);
        Host(Instruction.Create(Code.Fstp_m80fp, home));
        Host(Instruction.Create(Code.Fld_m80fp, home));
    }

    /// <summary>Empties the register that the host is about to push to.</summary>
    private void MakeRoom()
    {
        if ((_x87.Present & _x87.Stack.At(0x80)) != 0)
            Host(Instruction.Create(Code.Ffree_sti, Register.ST7));
    }

    /// <summary>Notes what an instruction has done to the stack.</summary>
    /// <param name="form">The instruction.</param>
    /// <param name="moved">How far the host has moved its TOP: 1 for a pop, -1 for a push.</param>
    private void Applied(in X87Form form, int moved)
    {
        X87Stack before = _x87.Stack;
        if (!before.TryApply(form, out X87Stack after) || (after.NeedFull, after.NeedEmpty) != (before.NeedFull, before.NeedEmpty))
            throw new InvalidOperationException("A run needs more than was found.");
        int written = before.WrittenBy(form);
        int popped = moved > 0 ? before.At(1) : 0;
        // The sum modulo 8, between -4 and 3.
        int lag = (_x87.Lag + after.Top - before.Top - moved + 4 & 7) - 4;
        _x87 = _x87 with { Stack = after, Present = (_x87.Present | written) & ~popped, Changed = (_x87.Changed | written) & ~popped, Lag = lag };
    }

    private void NoteInstruction() => _x87 = _x87 with { Instruction = Bound.Offset };

    /// <summary>Stores the pointer to the memory operand.</summary>
    private void NoteOperand(CodeLocal linear)
    {
        _code.LoadState();
        EmitOffset(NativeLayout.Fdp.Displacement);
        if (Bound.Segment >= Seg.Fs)
            EmitEffectiveAddress();
        else
            _code.Load(linear);
        _code.Emit(CodeOp.Write64);
        _x87 = _x87 with { Segment = Bound.Segment };
    }

    /// <summary>Notes which bits of its status word the host has set or cleared.</summary>
    private void Reported(uint bits) => _x87 = _x87 with { Status = _x87.Status | (int)bits };

    /// <summary>Tells the guest's status word what the host's says.</summary>
    private void StoreStatus()
    {
        EmitStatus();
        _x87 = _x87 with { Status = 0 };
    }

    private void EmitStatus()
    {
        if (_x87.Status == 0)
            return;
        Host(Instruction.Create(Code.Fnstsw_AX, Register.AX));
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rax, _x87.Status, false);
        _assembler.Load(HostRegister.Rcx, NativeLayout.Fsw, 2);
        if ((_x87.Status & StatusWord.Conditions) != 0)
            _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rcx, ~(_x87.Status & StatusWord.Conditions), false);
        _assembler.Arithmetic(HostArithmetic.Or, HostRegister.Rax, HostRegister.Rcx, false);
        _assembler.Store(NativeLayout.Fsw, HostRegister.Rax, 2);
    }

    /// <summary>Brings home what is not, and leaves the host's stack empty, for whoever runs next. The control word is whoever leaves native code's to restore.</summary>
    private void SettleX87()
    {
        if (!_x87.Active)
            return;
        // First: loads and stores change C1.
        EmitStatus();
        Move(_x87.Lag);
        EmptyHost();
        EmitTags();
        EmitPointers();
    }

    private void EmitPointers()
    {
        if (_x87.Instruction >= 0)
        {
            _assembler.Load(HostRegister.Rax, NativeLayout.TraceRip, 8);
            _assembler.ArithmeticImmediate(HostArithmetic.Add, HostRegister.Rax, _node.Offset + _x87.Instruction, true);
            _assembler.Store(NativeLayout.Fip, HostRegister.Rax, 8);
            EmitSelector(NativeLayout.Fcs, Seg.Cs);
        }
        if (_x87.Segment >= 0)
            EmitSelector(NativeLayout.Fds, _x87.Segment);
    }

    private void EmptyHost()
    {
        if (_x87.Changed != 0)
            _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        int left = _x87.Present;
        for (int k = 0; left != 0; k++)
        {
            int register = _x87.Stack.At(1 << k);
            if ((_x87.Changed & register) != 0)
                Host(Instruction.Create(Code.Fstp_m80fp, EmitHome(register)));
            else if ((left & register) != 0)
                Host(Instruction.Create(Code.Fstp_sti, Register.ST0));
            else
                Host(Instruction.Create(Code.Fincstp));
            left &= ~register;
        }
    }

    private void EmitTags()
    {
        X87Stack stack = _x87.Stack;
        int filled = stack.Full & ~stack.NeedFull, freed = stack.Empty & ~stack.NeedEmpty;
        if ((filled | freed | stack.Top) == 0)
            return;
        _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        ChangeTags(filled, freed);
        if (stack.Top == 0)
            return;
        EmitTop(HostRegister.Rcx);
        _assembler.Store(NativeLayout.FpuTop, HostRegister.Rcx, 4);
    }

    /// <summary>Makes the tags of registers say that they are filled or freed, with TOP as where the run began in RCX.</summary>
    private void ChangeTags(int filled, int freed)
    {
        if ((filled | freed) == 0)
            return;
        _assembler.Load(HostRegister.Rax, NativeLayout.Ftw, 2);
        Host(Instruction.Create(Code.Ror_rm8_CL, Register.AL, Register.CL));
        _assembler.ArithmeticImmediate(HostArithmetic.Or, HostRegister.Rax, filled, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rax, ~freed, false);
        Host(Instruction.Create(Code.Rol_rm8_CL, Register.AL, Register.CL));
        _assembler.Store(NativeLayout.Ftw, HostRegister.Rax, 2);
    }

    /// <summary>Turns TOP as it was where the run began into what it is here.</summary>
    private void EmitTop(int register)
    {
        if (_x87.Stack.Top == 0)
            return;
        _assembler.ArithmeticImmediate(HostArithmetic.Add, register, _x87.Stack.Top, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, register, 7, false);
    }

    private void EmitSelector(in HostMemory to, int segment)
    {
        _assembler.Load(HostRegister.Rax, new HostMemory(HostRegister.Rbx, CpuState.SegmentsOffset + segment * sizeof(SegmentState) + SelectorOffset), 2);
        _assembler.Store(to, HostRegister.Rax, 2);
    }

    /// <summary>Gets everything back after a call of managed code, which has found everything at home.</summary>
    private void RestoreX87()
    {
        if (!_x87.Active)
            return;
        // TOP and tags as they were where the run began: what has changed since is told when all is settled again.
        X87Stack stack = _x87.Stack;
        _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        if (stack.Top != 0)
        {
            _assembler.ArithmeticImmediate(HostArithmetic.Sub, HostRegister.Rcx, stack.Top, false);
            _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rcx, 7, false);
            _assembler.Store(NativeLayout.FpuTop, HostRegister.Rcx, 4);
        }
        ChangeTags(stack.Empty & stack.NeedFull, stack.Full & stack.NeedEmpty);
        LoadControlWord();
        ClearForeignExceptions();
        if (_x87.Present == 0)
            return;
        Load(_x87.Present);
        Move(-_x87.Lag);
    }

    private static int MeasureSelector()
    {
        SegmentState segment = default;
        return (int)((byte*)&segment.Selector - (byte*)&segment);
    }
}
