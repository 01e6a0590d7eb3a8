using System.Reflection;
using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions;
using Vmm.Processor.Instructions.Sse;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <content>
/// SSE: the registers stay in <see cref="CpuState"/>, the general-purpose ones in their locals. Moves are emitted; everything else
/// is a call of what the handlers call once they have the operands.
/// </content>
internal sealed unsafe partial class IlRegionCompiler
{
    private static readonly Type VectorType = typeof(Vector128<byte>);
    private static readonly HandlerTable Forms = InstructionSet.Build<Long>(new ProcessorFeatures());

    private enum SseMove
    {
        None,
        /// <summary>Register to register all of it; memory form of 16 bytes.</summary>
        Whole,
        /// <summary>The same, and memory must be aligned.</summary>
        Aligned,
        /// <summary>The low part: a copy keeps the rest of the destination, a load clears it.</summary>
        Low,
        /// <summary>The low part: copies and loads clear the rest.</summary>
        LowClear,
        /// <summary>The low half with memory; the rest stays.</summary>
        LowHalf,
        /// <summary>The high half with memory; the rest stays.</summary>
        HighHalf,
        HighToLow,
        LowToHigh,
        /// <summary>The sign bits of the elements to a general-purpose register.</summary>
        Mask,
    }

    private static SseMove MoveOf(Code code)
    {
        switch (code)
        {
            case Code.Movups_xmm_xmmm128 or Code.Movupd_xmm_xmmm128 or Code.Movdqu_xmm_xmmm128 or Code.Lddqu_xmm_m128
                or Code.Movups_xmmm128_xmm or Code.Movupd_xmmm128_xmm or Code.Movdqu_xmmm128_xmm:
                return SseMove.Whole;
            case Code.Movaps_xmm_xmmm128 or Code.Movapd_xmm_xmmm128 or Code.Movdqa_xmm_xmmm128 or Code.Movntdqa_xmm_m128
                or Code.Movaps_xmmm128_xmm or Code.Movapd_xmmm128_xmm or Code.Movdqa_xmmm128_xmm
                or Code.Movntps_m128_xmm or Code.Movntpd_m128_xmm or Code.Movntdq_m128_xmm:
                return SseMove.Aligned;
            case Code.Movss_xmm_xmmm32 or Code.Movsd_xmm_xmmm64 or Code.Movss_xmmm32_xmm or Code.Movsd_xmmm64_xmm:
                return SseMove.Low;
            case Code.Movq_xmm_xmmm64 or Code.Movq_xmmm64_xmm or Code.Movd_xmm_rm32 or Code.Movq_xmm_rm64 or Code.Movd_rm32_xmm or Code.Movq_rm64_xmm
                or Code.Movnti_m32_r32 or Code.Movnti_m64_r64:
                return SseMove.LowClear;
            case Code.Movlps_xmm_m64 or Code.Movlpd_xmm_m64 or Code.Movlps_m64_xmm or Code.Movlpd_m64_xmm:
                return SseMove.LowHalf;
            case Code.Movhps_xmm_m64 or Code.Movhpd_xmm_m64 or Code.Movhps_m64_xmm or Code.Movhpd_m64_xmm:
                return SseMove.HighHalf;
            case Code.Movhlps_xmm_xmm:
                return SseMove.HighToLow;
            case Code.Movlhps_xmm_xmm:
                return SseMove.LowToHigh;
            case Code.Movmskps_r32_xmm or Code.Movmskps_r64_xmm or Code.Movmskpd_r32_xmm or Code.Movmskpd_r64_xmm
                or Code.Pmovmskb_r32_xmm or Code.Pmovmskb_r64_xmm:
                return SseMove.Mask;
            default:
                return SseMove.None;
        }
    }

    /// <summary>Whether an instruction is of SSE, has an emitter, and may run in the trace's mode.</summary>
    protected override bool CanEmitSse(RegionNode node, in Instruction instruction) =>
        (node.Mode & (TraceMode.SseUndefined | TraceMode.TaskSwitched)) == 0
        && (MoveOf(instruction.Code) != SseMove.None || Forms.FormOf(instruction.Code) != null);

    /// <summary>Whether an instruction that has an emitter may raise a floating-point exception.</summary>
    protected override bool MayFault(in Instruction instruction) => Forms.FormOf(instruction.Code) is FloatForm;

    /// <summary>Emits the current instruction if it is of SSE.</summary>
    protected override bool EmitSse(in Instruction instruction)
    {
        SseMove move = MoveOf(instruction.Code);
        if (move != SseMove.None)
        {
            EmitSseMove(instruction, move);
            return true;
        }
        switch (Forms.FormOf(instruction.Code))
        {
            case PureForm pure:
                EmitPure(instruction, pure.Operation.GetMethod(nameof(IPackedOp.Apply), BindingFlags.Static | BindingFlags.Public)!);
                return true;
            case FloatForm form:
                EmitFloat(instruction, form);
                return true;
            default:
                return false;
        }
    }

    private void EmitSseMove(in Instruction instruction, SseMove move)
    {
        int size = move switch
        {
            SseMove.Whole or SseMove.Aligned => 16,
            SseMove.Low or SseMove.LowClear => LowSize(instruction),
            _ => 8,
        };
        if (instruction.Op0Kind == OpKind.Memory)
        {
            CodeLocal value = EmitSseSource(instruction, 1, size, move == SseMove.HighHalf ? 8 : 0);
            CodeLocal linear = EmitLinear();
            if (move == SseMove.Aligned)
                EmitAlignmentCheck(linear);
            EmitWrite(linear, value, size);
            return;
        }
        if (move == SseMove.Mask)
        {
            EmitVector(Bound.Operand1);
            _il.Call(typeof(FastForms), instruction.Mnemonic switch
            {
                Mnemonic.Movmskps => nameof(FastForms.MaskSingles),
                Mnemonic.Movmskpd => nameof(FastForms.MaskDoubles),
                _ => nameof(FastForms.MaskBytes),
            });
            PopRegister(Bound.Operand0, 4);
            return;
        }
        CodeLocal source = EmitSseSource(instruction, 1, size, move == SseMove.HighToLow ? 8 : 0, move == SseMove.Aligned);
        if (instruction.Op0Register.IsGPR())
        {
            _code.Load(source);
            PopRegister(Bound.Operand0, size);
            return;
        }
        bool clear = move == SseMove.LowClear || move == SseMove.Low && instruction.Op1Kind == OpKind.Memory;
        EmitStateAddress(Bound.Operand0 + (move is SseMove.HighHalf or SseMove.LowToHigh ? 8 : 0));
        _code.Load(source);
        if (clear)
            EmitWiden(size);
        EmitStore(clear ? 16 : size);
    }

    private static int LowSize(in Instruction instruction) => instruction.Code switch
    {
        Code.Movss_xmm_xmmm32 or Code.Movss_xmmm32_xmm or Code.Movd_xmm_rm32 or Code.Movd_rm32_xmm or Code.Movnti_m32_r32 => 4,
        _ => 8,
    };

    /// <summary>Turns the value on the stack into a vector of which it is the low part, the rest being zero.</summary>
    private void EmitWiden(int size) => _il.Call(typeof(FastForms), size == 8 ? nameof(FastForms.Low64) : nameof(FastForms.Low32));

    /// <summary>An operand in a local: a part of an XMM register, a general-purpose register or memory.</summary>
    private CodeLocal EmitSseSource(in Instruction instruction, int operand, int size, int part = 0, bool aligned = false)
    {
        if (instruction.GetOpKind(operand) == OpKind.Memory)
        {
            CodeLocal linear = EmitLinear();
            if (aligned)
                EmitAlignmentCheck(linear);
            return EmitRead(linear, size);
        }
        if (instruction.GetOpRegister(operand).IsGPR())
            return EmitOperandValue(instruction, operand, size);
        CodeLocal value = _code.Temporary(StackType(size));
        EmitStateAddress(OperandOf(operand) + part);
        EmitLoad(size);
        _code.Store(value);
        return value;
    }

    /// <summary>Leaves to the interpreter, which raises #GP, where an address is not a multiple of 16.</summary>
    private void EmitAlignmentCheck(CodeLocal linear)
    {
        CodeLabel rare = _code.DefineLabel();
        _code.Load(linear);
        _code.Constant(15);
        _code.Emit(CodeOp.And);
        _code.Branch(CodeBranch.True, rare);
        OutOfLine(() =>
        {
            _code.Mark(rare);
            LeaveToCurrent();
        });
    }

    /// <summary>Destination = Apply(destination, source), with the immediate or the count where the operation has one.</summary>
    private void EmitPure(in Instruction instruction, MethodInfo apply)
    {
        ParameterInfo[] parameters = apply.GetParameters();
        bool shift = parameters[1].ParameterType == typeof(ulong), immediate = shift && instruction.Op1Kind == OpKind.Immediate8;
        CodeLocal? source = null;
        int size = 16;
        if (!immediate)
        {
            if (instruction.Op1Kind == OpKind.Memory)
                size = instruction.MemorySize.GetSize();
            source = EmitSseSource(instruction, 1, size, aligned: size == 16);
        }
        EmitStateAddress(Bound.Operand0);
        EmitVector(Bound.Operand0);
        if (source == null)
        {
            _code.Constant((long)(byte)Bound.Immediate);
        }
        else
        {
            _code.Load(source);
            if (size < 16)
                EmitWiden(size);
            if (shift)
                _il.Call(typeof(FastForms), nameof(FastForms.LowHalf));
        }
        if (parameters.Length == 3)
            _code.Constant((int)(byte)Bound.Immediate);
        _il.Call(apply);
        _code.Emit(CodeOp.WriteVector);
    }

    /// <summary>An instruction under MXCSR: the common case in line, the rest out of line, where it may fault.</summary>
    private void EmitFloat(in Instruction instruction, FloatForm form)
    {
        int size = form.Source == VectorType ? 16 : form.Source == typeof(float) || form.Source == typeof(int) || form.Source == typeof(uint) ? 4 : 8;
        CodeLocal source = EmitSseSource(instruction, 1, size, aligned: size == 16);
        if (form.Source == typeof(float) || form.Source == typeof(double))
            source = EmitReinterpreted(source, form.Source);
        CodeLabel rare = _code.DefineLabel(), done = _code.DefineLabel();
        if (form.Fast != null)
        {
            _code.LoadState();
            EmitStateAddress(Bound.Operand0);
            _code.Load(source);
            _il.Call(typeof(FastForms), form.Fast, form.Operation);
        }
        else
        {
            EmitCore(form, source);
        }
        _code.Branch(CodeBranch.False, rare);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(rare);
            if (form.Fast != null)
            {
                EmitCore(form, source);
                _code.Branch(CodeBranch.True, done);
            }
            _code.Constant(0);
            _code.Emit(CodeOp.ToPointer);
            Leave();
        });
        if (form.WritesFlags)
            _flags = FlagState.Settled;
        if (!instruction.Op0Register.IsGPR())
            return;
        int register = RegisterOf(Bound.Operand0, out _);
        LoadRegister(register);
        _dirty &= ~(1u << register);
    }

    private CodeLocal EmitReinterpreted(CodeLocal bits, Type type)
    {
        CodeLocal value = _code.Temporary(type == typeof(float) ? CodeType.Single : CodeType.Double);
        _code.Load(bits);
        _il.Call(typeof(BitConverter), type == typeof(float) ? nameof(BitConverter.Int32BitsToSingle) : nameof(BitConverter.Int64BitsToDouble));
        _code.Store(value);
        return value;
    }

    /// <summary>Pushes what the core of the current instruction returns: null after a fault.</summary>
    private void EmitCore(FloatForm form, CodeLocal source)
    {
        EmitPosition();
        _code.LoadState();
        EmitPointer(_node.Address(_index));
        _code.Load(source);
        EmitPointer((void*)form.Core);
        _il.CallPointer(typeof(nint), typeof(nint), typeof(nint), form.Source);
    }

    /// <summary>Pushes an address within the state.</summary>
    private void EmitStateAddress(int offset)
    {
        _code.LoadState();
        EmitOffset(offset);
    }

    /// <summary>Pushes an XMM register.</summary>
    private void EmitVector(int offset)
    {
        EmitStateAddress(offset);
        _code.Emit(CodeOp.ReadVector);
    }
}
