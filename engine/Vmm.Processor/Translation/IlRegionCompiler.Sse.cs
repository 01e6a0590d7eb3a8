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
    /// <summary>Whether an instruction is of SSE, has an emitter, and may run in the trace's mode.</summary>
    protected override bool CanEmitSse(RegionNode node, in Instruction instruction) =>
        (node.Mode & (TraceMode.SseUndefined | TraceMode.TaskSwitched)) == 0
        && (SseMoves.Of(instruction.Code) != SseMove.None || SseMoves.Forms.FormOf(instruction.Code) != null);

    /// <summary>Whether an instruction that has an emitter may raise a floating-point exception.</summary>
    protected override bool MayFault(in Instruction instruction) => SseMoves.Forms.FormOf(instruction.Code) is FloatForm;

    /// <summary>Emits the current instruction if it is of SSE.</summary>
    protected override bool EmitSse(in Instruction instruction)
    {
        SseMove move = SseMoves.Of(instruction.Code);
        if (move != SseMove.None)
        {
            EmitSseMove(instruction, move);
            return true;
        }
        switch (SseMoves.Forms.FormOf(instruction.Code))
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
        int size = SseMoves.SizeOf(move, instruction.Code);
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
