using Iced.Intel;
using Vmm.Processor.Decoding;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.Fpu;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// x87: the host executes the guest's instruction itself, under the guest's control word, where that has all exceptions masked and the
/// register stack neither overflows nor underflows; otherwise the interpreter does. Both is looked at where a run of such instructions
/// begins, for all of it.
/// </content>
internal sealed unsafe partial class NativeRegionCompiler
{
    private const int PrecisionControl = 0x300, ReservedPrecision = 0x100;

    /// <summary>By trace, for the first instruction of each run what it needs.</summary>
    private X87Stack[][] _runs = [];

    protected override bool CanEmitX87(RegionNode node, in Instruction instruction) =>
        X87Form.Of(instruction) is { } form
        && (node.Mode & (form.Kind == X87Kind.Wait ? TraceMode.WaitUnavailable : TraceMode.FpuUnavailable)) == 0;

    private static bool IsX87(in Instruction instruction) => X87Form.Of(instruction) != null;

    // Regions call handlers for all of x87.
    private static bool ComputesOnX87(RegionNode node)
    {
        int computations = 0;
        for (int k = 0; k < node.Length; k++)
        {
            if (node.Emits[k] && IsX87(node.Decoded[k]))
                computations++;
        }
        return computations * 8 >= node.Length && computations > 0;
    }

    /// <summary>Finds runs: x87 instructions with nothing between them that a handler executes. What certainly is a stack fault is a handler's.</summary>
    private void FindRuns() => _runs = [.. _region.Nodes.Select(FindRuns)];

    private static X87Stack[] FindRuns(RegionNode node)
    {
        var runs = new X87Stack[node.Length];
        int start = -1;
        X87Stack stack = default;
        for (int k = 0; k < node.Length; k++)
        {
            if (node.Emits[k])
            {
                if (X87Form.Of(node.Decoded[k]) is not { Waits: true } form)
                    continue;
                if (stack.TryApply(form, out X87Stack after))
                {
                    start = start < 0 ? k : start;
                    stack = after;
                    continue;
                }
                node.Emits[k] = false;
            }
            Close();
        }
        Close();
        return runs;

        void Close()
        {
            if (start >= 0)
                runs[start] = stack.AtBeginning;
            (start, stack) = (-1, default);
        }
    }

    protected override bool EmitX87(in Instruction instruction)
    {
        if (X87Form.Of(instruction) is not { } form)
            return false;
        if (form.Waits && !_x87.Active)
            BeginRun(_runs[_node.Index][_index]);
        switch (form.Kind)
        {
            case X87Kind.Wait:
                return true;
            case X87Kind.Nothing:
                NoteInstruction();
                return true;
            case X87Kind.ConditionalMove:
                EmitConditionalMove(instruction, form);
                return true;
            case X87Kind.StoreStatus:
                EmitStoreStatus(instruction);
                return true;
            case X87Kind.StoreControl:
                StoreStatus();
                _assembler.Load(HostRegister.Rax, NativeLayout.Fcw, 2);
                EmitStoreWord();
                return true;
            case X87Kind.LoadControl:
                EmitLoadControl();
                return true;
            case X87Kind.ClearExceptions:
                StoreStatus();
                Host(Instruction.Create(Code.And_rm16_imm16, InState(NativeLayout.Fsw.Displacement), (int)StatusWord.Conditions));
                Host(Instruction.Create(Code.Fnclex));
                return true;
            case X87Kind.Free or X87Kind.IncrementTop or X87Kind.DecrementTop:
                StoreStatus();
                Host(Instruction.Create(Code.And_rm16_imm16, InState(NativeLayout.Fsw.Displacement), 0xFFFF & ~StatusWord.C1));
                Applied(form, moved: 0);
                NoteInstruction();
                return true;
        }
        EmitComputation(instruction, form);
        return true;
    }

    private void EmitComputation(in Instruction instruction, in X87Form form)
    {
        // It leaves C1 as it is, or not, as the processor likes.
        if (form.Kind == X87Kind.CompareToFlags)
            StoreStatus();
        bool memory = instruction.Op0Kind == OpKind.Memory;
        CodeLocal? linear = memory ? EmitX87Operand(instruction.MemorySize.GetSize(), IsStore(instruction) ? WriteTagOffset : ReadTagOffset) : null;
        CatchUp();
        Fill(form.Reads);
        Instruction host = X87Form.ForHost(instruction, Pointed, out bool pops);
        if (pops)
            SaveTop();
        if (form.Pushes)
            MakeRoom();
        if (memory)
            _x64.Pop(HostRegister.Rax);
        Host(host);
        if (form.Kind == X87Kind.CompareToFlags)
            EmitOrderFlags();
        Applied(form, moved: pops ? 1 : form.Pushes ? -1 : 0);
        NoteInstruction();
        if (linear != null)
            NoteOperand(linear);
        switch (form.Kind)
        {
            case X87Kind.Compute:
                Reported(FloatFlags.All | StatusWord.C1);
                break;
            case X87Kind.Compare:
                Reported(FloatFlags.All | StatusWord.Conditions);
                // What computes next may leave the others alone, or not, as the processor likes.
                StoreStatus();
                break;
            default:
                Reported(FloatFlags.All);
                break;
        }
    }

    private void EmitConditionalMove(in Instruction instruction, in X87Form form)
    {
        // C1 stays as it is.
        StoreStatus();
        PushCondition(instruction.Mnemonic switch
        {
            Mnemonic.Fcmovb => ConditionCode.b,
            Mnemonic.Fcmove => ConditionCode.e,
            Mnemonic.Fcmovbe => ConditionCode.be,
            Mnemonic.Fcmovu => ConditionCode.p,
            Mnemonic.Fcmovnb => ConditionCode.ae,
            Mnemonic.Fcmovne => ConditionCode.ne,
            Mnemonic.Fcmovnbe => ConditionCode.a,
            _ => ConditionCode.np,
        });
        _x64.Pop(HostRegister.Rax);
        CatchUp();
        Fill(form.Reads);
        _assembler.Test(HostRegister.Rax, HostRegister.Rax, false);
        Host(Instruction.Create(Code.Fcmovne_st0_sti, Register.ST0, instruction.Op1Register));
        Applied(form, moved: 0);
        NoteInstruction();
    }

    private static bool IsStore(in Instruction instruction) =>
        instruction.Mnemonic is Mnemonic.Fst or Mnemonic.Fstp or Mnemonic.Fist or Mnemonic.Fistp or Mnemonic.Fisttp;

    /// <summary>Pushes the host address of the memory operand, whose linear address it returns. What the translation cache does not know is the interpreter's.</summary>
    private CodeLocal EmitX87Operand(int size, int tagOffset)
    {
        CodeLocal linear = EmitLinear();
        CodeLabel slow = _code.DefineLabel();
        EmitHostAddress(linear, size, tagOffset, slow);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            LeaveToCurrent();
        });
        return linear;
    }

    private void EmitStoreStatus(in Instruction instruction)
    {
        StoreStatus();
        _assembler.Load(HostRegister.Rcx, NativeLayout.FpuTop, 4);
        EmitTop(HostRegister.Rcx);
        _assembler.Shift(HostShift.Left, HostRegister.Rcx, StatusWord.TopShift, false);
        _assembler.Load(HostRegister.Rax, NativeLayout.Fsw, 2);
        _assembler.Arithmetic(HostArithmetic.Or, HostRegister.Rax, HostRegister.Rcx, false);
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitStoreWord();
            return;
        }
        _x64.PushFrom(HostRegister.Rax, false);
        PopRegister(Gpr.Rax * 8, 2);
    }

    /// <summary>Writes AX to the memory operand.</summary>
    private void EmitStoreWord()
    {
        CodeLocal value = _code.Temporary(CodeType.Int32);
        _x64.PushFrom(HostRegister.Rax, false);
        _code.Store(value);
        EmitWrite(EmitLinear(), value, 2);
    }

    /// <summary>FLDCW, as <see cref="FpuControl.SetControl"/>; the interpreter's where exceptions are unmasked then.</summary>
    private void EmitLoadControl()
    {
        StoreStatus();
        EmitX87Operand(2, ReadTagOffset);
        _x64.Pop(HostRegister.Rax);
        _assembler.Load(HostRegister.Rax, new HostMemory(HostRegister.Rax, 0), 2);
        LeaveUnlessUsual();
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rax, FpuControl.WritableControl, false);
        _assembler.ArithmeticImmediate(HostArithmetic.Or, HostRegister.Rax, FpuControl.FixedControl, false);
        _assembler.Store(NativeLayout.Fcw, HostRegister.Rax, 2);
        LoadControlWord();
    }

    /// <summary>Leaves to the interpreter unless the control word in RAX has all exceptions masked, and a precision that is not reserved.</summary>
    private void LeaveUnlessUsual()
    {
        CodeLabel unusual = _code.DefineLabel();
        _assembler.Move(HostRegister.Rcx, HostRegister.Rax, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rcx, (int)FloatFlags.All, false);
        _assembler.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rcx, (int)FloatFlags.All, false);
        _x64.JumpIf(HostCondition.NotEqual, unusual);
        _assembler.Move(HostRegister.Rcx, HostRegister.Rax, false);
        _assembler.ArithmeticImmediate(HostArithmetic.And, HostRegister.Rcx, PrecisionControl, false);
        _assembler.ArithmeticImmediate(HostArithmetic.Compare, HostRegister.Rcx, ReservedPrecision, false);
        _x64.JumpIf(HostCondition.Equal, unusual);
        OutOfLine(() =>
        {
            _code.Mark(unusual);
            LeaveToCurrent();
        });
    }
}
