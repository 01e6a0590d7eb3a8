using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Sse;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// SSE: the host executes the guest's instruction itself, on registers of the same numbers. From the first instruction under MXCSR on, the
/// host's MXCSR is the guest's. What has been written, and the flags that MXCSR gathers, go home before the code is left. Where the
/// guest has unmasked an exception, the interpreter executes such instructions.
/// </content>
internal sealed unsafe partial class NativeRegionCompiler
{
    private const int ExceptionMasks = 0x1F80;

    // The last two host registers are for one instruction: as its destination and source where those have no register of their own.
    private const int Cached = 14, Destination = 14, Source = 15;

    private static readonly MemoryOperand Pointed = new(Register.RAX);

    private VectorState _vectors;
    private bool _computesInFloats;

    /// <summary>What the host's registers have of the guest's.</summary>
    /// <param name="Present">Guest registers that stand in the host's.</param>
    /// <param name="Changed">Those of them that may not be at home.</param>
    /// <param name="Controls">Whether MXCSR is the guest's.</param>
    private readonly record struct VectorState(uint Present, uint Changed, bool Controls);

    protected override Action Here(Action emit)
    {
        (VectorState vectors, X87State x87) = (_vectors, _x87);
        return base.Here(() =>
        {
            (_vectors, _x87) = (vectors, x87);
            emit();
        });
    }

    // The JIT's code would be slower.
    private static bool ComputesInFloats(RegionNode node)
    {
        int floats = 0;
        for (int k = 0; k < node.Length; k++)
        {
            if (node.Emits[k] && IsFloat(node.Decoded[k]))
                floats++;
        }
        return floats > 0 && floats * 8 >= node.Length;
    }

    private static uint BitOf(Register register) => register is >= Register.XMM0 and < Register.XMM0 + Cached ? 1u << (register - Register.XMM0) : 0;

    protected override bool CanEmitSse(RegionNode node, in Instruction instruction) =>
        (node.Mode & (TraceMode.SseUndefined | TraceMode.TaskSwitched)) == 0
        && (SseMoves.Of(instruction.Code) != SseMove.None || SseMoves.Forms.FormOf(instruction.Code) != null && IsHosts(instruction));

    protected override bool MayFault(in Instruction instruction) => IsFloat(instruction) || IsX87(instruction);

    private static bool IsFloat(in Instruction instruction) => SseMoves.Forms.FormOf(instruction.Code) is FloatForm;

    /// <summary>Whether the host executes an instruction as every processor does, and its operands are of the kinds that are emitted.</summary>
    private static bool IsHosts(in Instruction instruction)
    {
        // Approximations differ between processors, and so may the order within sums of products.
        if (instruction.Mnemonic is Mnemonic.Rcpps or Mnemonic.Rcpss or Mnemonic.Rsqrtps or Mnemonic.Rsqrtss or Mnemonic.Dpps or Mnemonic.Dppd)
            return false;
        foreach (CpuidFeature feature in instruction.CpuidFeatures)
        {
            if (feature is not (CpuidFeature.SSE or CpuidFeature.SSE2)
                && !(feature == CpuidFeature.SSE3 && Sse3.IsSupported) && !(feature == CpuidFeature.SSSE3 && Ssse3.IsSupported)
                && !(feature == CpuidFeature.SSE4_1 && Sse41.IsSupported) && !(feature == CpuidFeature.SSE4_2 && Sse42.IsSupported)
                && !(feature == CpuidFeature.AES && Aes.IsSupported) && !(feature == CpuidFeature.PCLMULQDQ && Pclmulqdq.IsSupported))
                return false;
        }
        bool general = instruction.Op0Register.IsGPR();
        bool source = instruction.Op1Kind switch
        {
            OpKind.Register => instruction.Op1Register.IsXMM() || !general && instruction.Op1Register.IsGPR() && IsFloat(instruction),
            OpKind.Memory => instruction.MemorySize.GetSize() is 4 or 8 or 16,
            _ => instruction.Op1Kind == OpKind.Immediate8 && instruction.OpCount == 2,
        };
        return source && (instruction.Op0Register.IsXMM() || general && IsFloat(instruction))
            && (instruction.OpCount == 2 || instruction.OpCount == 3 && !general && instruction.Op2Kind == OpKind.Immediate8);
    }

    protected override bool EmitSse(in Instruction instruction)
    {
        SseMove move = SseMoves.Of(instruction.Code);
        if (move != SseMove.None)
        {
            EmitSseMove(instruction, move);
            return true;
        }
        if (SseMoves.Forms.FormOf(instruction.Code) is not { } form)
            return false;
        if (form is FloatForm)
            EmitControls();
        EmitOperation(instruction, form);
        return true;
    }

    private void EmitSseMove(in Instruction instruction, SseMove move)
    {
        int size = SseMoves.SizeOf(move, instruction.Code);
        bool whole = move is SseMove.Whole or SseMove.Aligned;
        if (instruction.Op0Kind == OpKind.Memory)
        {
            EmitStoringMove(instruction, move, size);
            return;
        }
        if (instruction.Op0Register.IsGPR())
        {
            Host(Instruction.Create(instruction.Code, instruction.Op0Register.GetSize() == 8 ? Register.RAX : Register.EAX, Xmm(Read(instruction.Op1Register, Source))));
            PopGeneral(move == SseMove.Mask ? 4 : size);
            return;
        }
        if (instruction.Op1Kind == OpKind.Memory)
        {
            EmitSourcePointer(instruction, size, aligned: move == SseMove.Aligned);
            bool keeps = move is SseMove.LowHalf or SseMove.HighHalf;
            int loaded = keeps ? Read(instruction.Op0Register, Destination) : Overwrite(instruction.Op0Register);
            Host(Instruction.Create(whole ? Code.Movups_xmm_xmmm128 : instruction.Code, Xmm(loaded), Pointed));
            Written(instruction.Op0Register, loaded);
            return;
        }
        if (instruction.Op1Register.IsGPR())
        {
            PushRegister(Bound.Operand1, size);
            _x64.Pop(HostRegister.Rax);
            int moved = Overwrite(instruction.Op0Register);
            Host(Instruction.Create(instruction.Code, Xmm(moved), size == 8 ? Register.RAX : Register.EAX));
            Written(instruction.Op0Register, moved);
            return;
        }
        int from = Read(instruction.Op1Register, Source);
        int copied = whole || move == SseMove.LowClear ? Overwrite(instruction.Op0Register) : Read(instruction.Op0Register, Destination);
        Host(Instruction.Create(instruction.Code, Xmm(copied), Xmm(from)));
        Written(instruction.Op0Register, copied);
    }

    private void EmitStoringMove(in Instruction instruction, SseMove move, int size)
    {
        if (instruction.Op1Register.IsGPR())
        {
            CodeLocal value = EmitOperandValue(instruction, 1, size);
            EmitWrite(EmitLinear(), value, size);
            return;
        }
        CodeLocal linear = EmitLinear();
        if (move == SseMove.Aligned)
            EmitAlignmentCheck(linear);
        int from = Read(instruction.Op1Register, Source);
        Code code = move is SseMove.Whole or SseMove.Aligned ? Code.Movups_xmmm128_xmm : instruction.Code;
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        EmitHostAddress(linear, size, WriteTagOffset, slow);
        _x64.Pop(HostRegister.Rax);
        Host(Instruction.Create(code, Pointed, Xmm(from)));
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            Host(Instruction.Create(code, InState(OffsetOf(nameof(CpuState.Scratch))), Xmm(from)));
            EmitSlowWrite(SlowAccessKind.Write, linear, size, done);
        });
    }

    /// <summary>An instruction that computes: destination, source, or only a source, and perhaps an immediate.</summary>
    private void EmitOperation(in Instruction instruction, SseForm form)
    {
        if (instruction.Op1Kind == OpKind.Immediate8)
        {
            int shifted = Read(instruction.Op0Register, Destination);
            Host(Instruction.Create(instruction.Code, Xmm(shifted), (uint)instruction.Immediate8));
            Written(instruction.Op0Register, shifted);
            return;
        }
        Register source = EmitSource(instruction);
        if (instruction.Op0Register.IsGPR())
        {
            int size = instruction.Op0Register.GetSize();
            Host(Instruction.Create(instruction.Code, size == 8 ? Register.RAX : Register.EAX, source));
            PopGeneral(size);
            return;
        }
        int to = Read(instruction.Op0Register, Destination);
        Host(instruction.OpCount == 3
            ? Instruction.Create(instruction.Code, Xmm(to), source, (uint)instruction.Immediate8)
            : Instruction.Create(instruction.Code, Xmm(to), source));
        if (form is FloatForm { WritesFlags: true })
            EmitOrderFlags();
        else
            Written(instruction.Op0Register, to);
    }

    /// <summary>The register in which the source of an operation is.</summary>
    private Register EmitSource(in Instruction instruction)
    {
        if (instruction.Op1Kind == OpKind.Register && instruction.Op1Register.IsXMM())
            return Xmm(Read(instruction.Op1Register, Source));
        int size = SizeOf(instruction, 1);
        if (instruction.Op1Kind == OpKind.Register)
        {
            PushRegister(Bound.Operand1, size);
            _x64.Pop(HostRegister.Rax);
            return size == 8 ? Register.RAX : Register.EAX;
        }
        EmitSourcePointer(instruction, size, aligned: size == 16);
        if (instruction.Mnemonic is Mnemonic.Cvtsi2sd or Mnemonic.Cvtsi2ss)
        {
            _assembler.Load(HostRegister.Rax, new HostMemory(HostRegister.Rax, 0), size);
            return size == 8 ? Register.RAX : Register.EAX;
        }
        Host(Instruction.Create(LoadOf(size), Xmm(Source), Pointed));
        return Xmm(Source);
    }

    /// <summary>Gets a pointer to the memory operand into RAX: guest memory, or a copy.</summary>
    private void EmitSourcePointer(in Instruction instruction, int size, bool aligned)
    {
        CodeLocal linear = EmitLinear(), host = _code.Temporary(CodeType.Pointer);
        if (aligned)
            EmitAlignmentCheck(linear);
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        EmitHostAddress(linear, size, ReadTagOffset, slow);
        _code.Store(host);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            EmitSlowAccess(SlowAccessKind.Read, linear, size);
            EmitScratch();
            _code.Store(host);
            _code.Branch(CodeBranch.Always, done);
        });
        _code.Load(host);
        _x64.Pop(HostRegister.Rax);
    }

    /// <summary>
    /// The flags of COMISD and its like, as the state has them: ZF where the result is zero, CF in the top bit of the carries, which with the next
    /// makes OF, and PF as the result has it, or the opposite where bit 8 says so.
    /// </summary>
    private void EmitOrderFlags()
    {
        _assembler.Set(HostCondition.Below, HostRegister.Rax);
        _assembler.Set(HostCondition.Equal, HostRegister.Rcx);
        _assembler.Set(HostCondition.NotParity, HostRegister.Rdx);
        for (int register = HostRegister.Rax; register <= HostRegister.Rdx; register++)
            _assembler.Extend(register, register, 1, signed: false);
        _assembler.Arithmetic(HostArithmetic.And, HostRegister.Rdx, HostRegister.Rcx, false);
        _assembler.Shift(HostShift.Left, HostRegister.Rdx, 8, false);
        _assembler.Negate(HostRegister.Rax, true);
        _assembler.Shift(HostShift.Left, HostRegister.Rax, 62, true);
        _assembler.Arithmetic(HostArithmetic.Or, HostRegister.Rax, HostRegister.Rdx, true);
        _assembler.Store(NativeLayout.FlagCarries, HostRegister.Rax, 8);
        _assembler.ArithmeticImmediate(HostArithmetic.Xor, HostRegister.Rcx, 1, false);
        _assembler.Store(NativeLayout.FlagResult, HostRegister.Rcx, 8);
        _flags = FlagState.Settled;
    }

    /// <summary>Makes the host's MXCSR the guest's, or leaves to the interpreter where that has exceptions unmasked.</summary>
    private void EmitControls()
    {
        if (_vectors.Controls)
            return;
        CodeLabel unmasked = _code.DefineLabel();
        EmitField(nameof(CpuState.Mxcsr));
        _code.Emit(CodeOp.Read32);
        _code.Constant(ExceptionMasks);
        _code.Emit(CodeOp.And);
        _code.Constant(ExceptionMasks);
        _code.Branch(CodeBranch.NotEqual, unmasked);
        OutOfLine(() =>
        {
            _code.Mark(unmasked);
            LeaveToCurrent();
        });
        LoadControls();
        _vectors = _vectors with { Controls = true };
    }

    private void LoadControls() => Host(Instruction.Create(Code.Ldmxcsr_m32, InState(OffsetOf(nameof(CpuState.Mxcsr)))));

    /// <summary>Brings home what is not, for whoever runs next.</summary>
    private void SettleVectors()
    {
        for (int k = 0; k < Cached; k++)
        {
            if ((_vectors.Changed >> k & 1) != 0)
                Host(Instruction.Create(Code.Movups_xmmm128_xmm, Home(Xmm(k)), Xmm(k)));
        }
        if (_vectors.Controls)
            Host(Instruction.Create(Code.Stmxcsr_m32, InState(OffsetOf(nameof(CpuState.Mxcsr)))));
    }

    /// <summary>Gets everything back after a call of managed code.</summary>
    private void RestoreVectors()
    {
        Restore(_vectors.Present);
        if (_vectors.Controls)
            LoadControls();
    }

    private void Restore(uint present)
    {
        for (int k = 0; k < Cached; k++)
        {
            if ((present >> k & 1) != 0)
                Host(Instruction.Create(Code.Movups_xmm_xmmm128, Xmm(k), Home(Xmm(k))));
        }
    }

    /// <summary>The host register that holds a guest register; <paramref name="scratch"/> where there is none for it.</summary>
    private int Read(Register guest, int scratch)
    {
        uint bit = BitOf(guest);
        int host = bit != 0 ? guest - Register.XMM0 : scratch;
        if ((_vectors.Present & bit) != 0)
            return host;
        Host(Instruction.Create(Code.Movups_xmm_xmmm128, Xmm(host), Home(guest)));
        _vectors = _vectors with { Present = _vectors.Present | bit };
        return host;
    }

    private static int Overwrite(Register guest) => Math.Min(guest - Register.XMM0, Destination);

    /// <summary>Notes that a guest register has been written.</summary>
    private void Written(Register guest, int host)
    {
        uint bit = BitOf(guest);
        if (bit == 0)
            Host(Instruction.Create(Code.Movups_xmmm128_xmm, Home(guest), Xmm(host)));
        _vectors = _vectors with { Present = _vectors.Present | bit, Changed = _vectors.Changed | bit };
    }

    private void PopGeneral(int size)
    {
        _x64.PushFrom(HostRegister.Rax, size == 8);
        PopRegister(Bound.Operand0, size);
    }

    private void Host(in Instruction instruction) => _assembler.Add(instruction);

    private static Code LoadOf(int size) => size switch { 4 => Code.Movss_xmm_xmmm32, 8 => Code.Movsd_xmm_xmmm64, _ => Code.Movups_xmm_xmmm128 };

    private static Register Xmm(int number) => Register.XMM0 + number;

    private static MemoryOperand Home(Register guest, int part = 0) => InState(CpuState.XmmOffset + (guest - Register.XMM0) * 16 + part);

    private static MemoryOperand InState(int offset) => new(Register.RBX, offset, 8);
}
