using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Translation;

/// <summary>
/// A random program of supervisor code in blocks: loops, branches, calls, stores into itself, changes of address space, faults. A
/// function of its random numbers.
/// </summary>
internal sealed class TierProgram
{
    private static readonly Register[] Bytes = [Register.AL, Register.CL, Register.DL, Register.AH, Register.CH, Register.DH, Register.BPL, Register.R8L, Register.R9L, Register.R10L, Register.R11L, Register.R13L];

    // By number: RAX, RCX, RDX, RBP, R8 to R11 and R13 take results; RBX, RSI, RDI and R14 hold addresses; R12 is small; R15 counts loops.
    private static readonly int[] Scratch = [0, 1, 2, 5, 8, 9, 10, 11, 13], Pointers = [3, 6, 7, 14];
    private static readonly Code[] Emitted = [.. Enum.GetValues<Code>().Where(c => IsDrawable(c) && IsEmitted(c))];
    private static readonly Code[] Vectors = [.. Enum.GetValues<Code>().Where(c => IsDrawable(c) && IsVector(c))];
    private static readonly Code[] Floats = [.. Enum.GetValues<Code>().Where(c => IsDrawable(c) && IsX87(c))];
    private static readonly Code[] Loads = [.. Floats.Where(c => c.Mnemonic() is Mnemonic.Fld or Mnemonic.Fild or Mnemonic.Fld1 or Mnemonic.Fldz or Mnemonic.Fldpi)];
    private static readonly Code[] Stores = [.. Floats.Where(c => c.Mnemonic() is Mnemonic.Fstp or Mnemonic.Fistp or Mnemonic.Fisttp)];
    private static readonly Code[] Handled = [.. Enum.GetValues<Code>().Where(c => IsDrawable(c) && IsHandled(c))];

    private readonly Random _random;
    private readonly Assembler _a = new(64);
    private readonly Label[] _labels;

    public TierProgram(Random random)
    {
        _random = random;
        _labels = [.. Enumerable.Range(0, random.Next(6, 24)).Select(_ => _a.CreateLabel())];
        // So that pages are crossed wherever the blocks end.
        ulong start = TierLayout.Code + (ulong)random.Next(0xC00, 0x1000);
        int gapAt = random.Next(_labels.Length);
        for (int k = 0; k < _labels.Length; k++)
        {
            _a.Label(ref _labels[k]);
            DrawBlock(k);
            if (k == gapAt)
                _a.db(new byte[random.Next(0x1800)].Select(_ => (byte)0x90).ToArray());
        }
        _a.jmp(_labels[0]);
        using var stream = new MemoryStream();
        AssemblerResult result = _a.Assemble(new StreamCodeWriter(stream), start, BlockEncoderOptions.ReturnNewInstructionOffsets);
        Code = stream.ToArray();
        Start = start;
        Blocks = [.. _labels.Select(label => result.GetLabelRIP(label))];
    }

    /// <summary>The program's bytes.</summary>
    public byte[] Code { get; }

    /// <summary>Where they stand, and where the program begins.</summary>
    public ulong Start { get; }

    /// <summary>Where its blocks begin.</summary>
    public ulong[] Blocks { get; }

    private void DrawBlock(int block)
    {
        bool loop = _random.Next(3) == 0, floats = loop && _random.Next(3) == 0;
        Label again = _a.CreateLabel();
        if (loop)
        {
            _a.mov(r15d, _random.Next(2, 12));
            _a.Label(ref again);
        }
        // A loop of x87 alone is short enough for one trace.
        for (int k = floats ? _random.Next(1, 3) : _random.Next(1, 9); k > 0; k--)
        {
            if (floats)
                DrawComputations();
            else
                DrawItem();
        }
        if (loop)
        {
            if (_random.Next(2) == 0)
                _a.dec(r15d);
            else
                _a.sub(r15d, 1);
            _a.jne(again);
        }
        switch (_random.Next(12))
        {
            case 0 or 1:
                _a.jmp(Next(block, _random.Next(1, 4)));
                break;
            case 2 or 3:
                _a.call(Next(block, _random.Next(1, 4)));
                break;
            case 4:
                _a.ret();
                break;
            case 5:
                _a.lea(rax, __[Any()]);
                if (_random.Next(3) == 0)
                {
                    _a.mov(r13, TierLayout.Alias);
                    _a.xor(rax, r13);
                }
                _a.jmp(rax);
                break;
            case 6:
                _a.lea(r11, __[Any()]);
                _a.call(r11);
                break;
        }
    }

    private Label Any() => _labels[_random.Next(_labels.Length)];

    // Mostly onward, so that the program comes around.
    private Label Next(int block, int distance) => _random.Next(4) == 0 ? Any() : _labels[(block + distance) % _labels.Length];

    private void DrawItem()
    {
        switch (_random.Next(100))
        {
            case < 38:
                DrawInstruction(Emitted);
                break;
            case < 50:
                DrawInstruction(Vectors);
                break;
            case < 60:
                DrawX87();
                break;
            case < 68:
                DrawInstruction(Handled);
                break;
            case < 76:
                DrawBranch();
                break;
            case < 84:
                _a.mov(Pointer64(), DrawAddress());
                break;
            case < 86:
                _a.mov(r12d, _random.Next(64));
                break;
            case < 90:
                DrawPatch();
                break;
            default:
                DrawSystem();
                break;
        }
    }

    private AssemblerRegister64 Pointer64() => new[] { rbx, rsi, rdi, r14 }[_random.Next(4)];

    private void DrawBranch()
    {
        Action<Label>[] jumps = [_a.jo, _a.jno, _a.jb, _a.jae, _a.je, _a.jne, _a.jbe, _a.ja, _a.js, _a.jns, _a.jp, _a.jnp, _a.jl, _a.jge, _a.jle, _a.jg];
        jumps[_random.Next(jumps.Length)](Any());
    }

    private ulong DrawAddress()
    {
        ulong address = _random.Next(24) switch
        {
            < 12 => TierLayout.Data + (ulong)_random.Next(0x1800),
            < 15 => TierLayout.Data + 0x1000 - (ulong)_random.Next(12),
            < 17 => TierLayout.Data + 0x1FF0 + (ulong)_random.Next(0x100),
            17 => TierLayout.Data + 0x2000 + (ulong)_random.Next(0x1000),
            18 => TierLayout.ReadOnly + (ulong)_random.Next(0x1000),
            19 => TierLayout.Absent - (ulong)_random.Next(16),
            < 22 => TierLayout.Device + (ulong)_random.Next(0x40),
            22 => TierLayout.Code + (ulong)_random.Next(TierLayout.CodeSize),
            _ => 0x0000_7FFF_FFFF_FFF0 + (ulong)_random.Next(32),
        };
        return _random.Next(6) == 0 && address < TierLayout.MemorySize ? address + TierLayout.Alias : address;
    }

    /// <summary>A store into the program: the operation of an instruction to come or gone, its immediate, or anything anywhere. Mostly skipped.</summary>
    private void DrawPatch()
    {
        Label patched = _a.CreateLabel();
        _a.inc(__dword_ptr[TierLayout.Data + 0xF00]);
        _a.test(__byte_ptr[TierLayout.Data + 0xF00], _random.Next(3) == 0 ? 1 : 7);
        _a.jne(patched);
        switch (_random.Next(5))
        {
            case 0:
                _a.lea(rdi, __[patched]);
                _a.add(__byte_ptr[rdi + 1], _random.Next(1, 5));
                break;
            case 1:
                _a.lea(rdi, __[patched]);
                // ADD to SUB and back.
                _a.xor(__byte_ptr[rdi + 5], 0x28);
                break;
            case 2:
                _a.lea(rdi, __[Any()]);
                _a.mov(__dword_ptr[rdi], 0x90909090);
                break;
            case 3:
                _a.lea(rdi, __[Any()]);
                _a.@lock.xadd(__[rdi + _random.Next(8)], eax);
                break;
            default:
                // What executes next, by a push.
                _a.mov(rbp, rsp);
                _a.mov(rdx, 0x11_B8EC_8948 | (ulong)_random.Next(256) << 40);
                _a.lea(rsp, __[patched]);
                _a.add(rsp, 5);
                _a.push(rdx);
                _a.mov(rsp, rbp);
                break;
        }
        _a.Label(ref patched);
        _a.mov(eax, _random.Next());
        _a.add(ecx, eax);
    }

    /// <summary>Some instructions of x87, now and then behind another control word or with an empty stack.</summary>
    private void DrawX87()
    {
        switch (_random.Next(8))
        {
            case 0:
                if (_random.Next(2) == 0)
                    _a.emms();
                else
                    _a.fninit();
                break;
            case 1:
                _a.mov(__word_ptr[TierLayout.Data + 0xF10], _random.Next(5) == 0 ? _random.Next(0x10000) : 0x3F | _random.Next(0x10000) & 0x1F00);
                _a.fldcw(__word_ptr[TierLayout.Data + 0xF10]);
                break;
        }
        DrawComputations();
    }

    /// <summary>Some instructions of x87, mostly with as many loads as pops.</summary>
    private void DrawComputations()
    {
        int loads = _random.Next(3);
        for (int k = 0; k < loads; k++)
            DrawInstruction(Loads);
        for (int k = _random.Next(1, 5); k > 0; k--)
            DrawInstruction(_random.Next(5) == 0 ? Emitted : Floats);
        for (int k = 0; k < loads; k++)
            DrawInstruction(_random.Next(12) == 0 ? Loads : Stores);
    }

    private void DrawSystem()
    {
        switch (_random.Next(24))
        {
            case 0:
                _a.sti();
                break;
            case 1:
                _a.cli();
                break;
            case 2:
                _a.hlt();
                break;
            case 3 or 4:
                _a.mov(rax, (_random.Next(2) == 0 ? TierLayout.Tables : TierLayout.OtherTables) | (uint)_random.Next(2) << 0);
                _a.mov(cr3, rax);
                break;
            case 5:
                // Another frame for a page of data, and the word to the processor.
                _a.xor(__dword_ptr[TierLayout.Tables + 0x3000 + (TierLayout.Data + 0x1000 >> 12) * 8], 0xB000);
                _a.invlpg(__[TierLayout.Data + 0x1000]);
                _a.mov(r9, TierLayout.Alias + TierLayout.Data + 0x1000);
                _a.invlpg(__[r9]);
                break;
            case 6:
                _a.xor(__dword_ptr[TierLayout.Tables + 0x3000 + (TierLayout.Code + 0x2000 >> 12) * 8], 0x1000);
                _a.mov(rcx, cr3);
                _a.mov(cr3, rcx);
                break;
            case 7:
                _a.pushfq();
                _a.or(__dword_ptr[rsp], _random.Next(2) == 0 ? 0x100 : 0x200);
                _a.popfq();
                break;
            case 8:
                _a.rdtsc();
                break;
            case 9:
                _a.cpuid();
                break;
            case 10:
                _a.ud2();
                break;
            case 11:
                _a.int3();
                break;
            case 12:
                _a.mov(eax, ss);
                _a.mov(ss, eax);
                break;
            case 13:
                _a.mov(ecx, _random.Next(12));
                _a.rep.movsb();
                break;
            case 14:
                _a.mov(ecx, _random.Next(12));
                _a.rep.stosq();
                break;
            case 15:
                _a.@out(dx, al);
                break;
            case 16:
                _a.@in(eax, dx);
                break;
            case 17:
                _a.xor(edx, edx);
                _a.div(Scratch32());
                break;
            case 18:
                _a.lodsd();
                break;
            case 19:
                _a.mov(rsp, TierLayout.StackTop - (ulong)_random.Next(64) * 8);
                break;
            case 20:
                _a.jrcxz(Any());
                break;
            case 21:
                // All masks mostly, any rounding, denormals and flags.
                _a.mov(__dword_ptr[TierLayout.Data + 0xF08], _random.Next(6) == 0 ? _random.Next(0x10000) : 0x1F80 | _random.Next(0x10000) & 0xE07F);
                _a.ldmxcsr(__dword_ptr[TierLayout.Data + 0xF08]);
                break;
            case 22:
                _a.stmxcsr(__dword_ptr[TierLayout.Data + 0xF08]);
                break;
            default:
                _a.invlpg(__[TierLayout.Code + (ulong)_random.Next(TierLayout.CodeSize)]);
                break;
        }
    }

    private AssemblerRegister32 Scratch32() => new[] { eax, ecx, ebp, r8d, r9d }[_random.Next(5)];

    private static bool IsDrawable(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        return info.IsInstruction && info.Mode64 && info.Encoding == EncodingKind.Legacy;
    }

    private static bool IsEmitted(Code code) => code.Mnemonic() switch
    {
        Mnemonic.Add or Mnemonic.Sub or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test
            or Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Neg or Mnemonic.Not or Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Rol or Mnemonic.Ror
            or Mnemonic.Imul or Mnemonic.Mul or Mnemonic.Bt or Mnemonic.Movzx or Mnemonic.Movsx or Mnemonic.Movsxd or Mnemonic.Lea or Mnemonic.Xchg or Mnemonic.Bswap
            or Mnemonic.Cdqe or Mnemonic.Cwde or Mnemonic.Cdq or Mnemonic.Cqo or Mnemonic.Nop => true,
        Mnemonic.Mov or Mnemonic.Push or Mnemonic.Pop => true,
        _ => code is >= Iced.Intel.Code.Seto_rm8 and <= Iced.Intel.Code.Setg_rm8 || code is >= Iced.Intel.Code.Cmovo_r16_rm16 and <= Iced.Intel.Code.Cmovg_r64_rm64,
    };

    private static bool IsVector(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        return code.CpuidFeatures().All(feature => feature is CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.SSE3 or CpuidFeature.SSSE3 or CpuidFeature.SSE4_1 or CpuidFeature.SSE4_2 or CpuidFeature.AES or CpuidFeature.PCLMULQDQ)
            && Enumerable.Range(0, info.OpCount).Any(k => info.GetOpKind(k) is OpCodeOperandKind.xmm_reg or OpCodeOperandKind.xmm_rm or OpCodeOperandKind.xmm_or_mem);
    }

    private static bool IsX87(Code code) =>
        code.CpuidFeatures().Any(feature => feature is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387) || code.Mnemonic() is Mnemonic.Fisttp or Mnemonic.Fcomi or Mnemonic.Fcomip
            or Mnemonic.Fucomi or Mnemonic.Fucomip || code.Mnemonic().ToString().StartsWith("Fcmov", StringComparison.Ordinal);

    private static bool IsHandled(Code code) => code.Mnemonic() is Mnemonic.Idiv or Mnemonic.Div or Mnemonic.Xadd or Mnemonic.Cmpxchg or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Shld or Mnemonic.Shrd
        or Mnemonic.Rcl or Mnemonic.Rcr or Mnemonic.Lahf or Mnemonic.Sahf or Mnemonic.Cmc or Mnemonic.Stc or Mnemonic.Clc or Mnemonic.Std or Mnemonic.Cld or Mnemonic.Popcnt
        or Mnemonic.Movdqu or Mnemonic.Movups or Mnemonic.Movq or Mnemonic.Paddd or Mnemonic.Pxor or Mnemonic.Addsd or Mnemonic.Mulps or Mnemonic.Cvtsi2sd or Mnemonic.Comisd
        or Mnemonic.Pshufb or Mnemonic.Bsf or Mnemonic.Bsr or Mnemonic.Xlatb;

    private void DrawInstruction(Code[] pool)
    {
        for (int tries = 0; tries < 100; tries++)
        {
            if (Draw(pool[_random.Next(pool.Length)]) is not { } instruction)
                continue;
            // A length to see that it can be encoded; branches have other ways.
            if (Encoder.Create(64, new StreamCodeWriter(Stream.Null)).TryEncode(instruction, TierLayout.Code, out _, out _))
            {
                _a.AddInstruction(instruction);
                return;
            }
        }
    }

    private Instruction? Draw(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        var instruction = new Instruction { Code = code };
        for (int k = 0; k < info.OpCount; k++)
        {
            OpCodeOperandKind kind = info.GetOpKind(k);
            switch (kind)
            {
                case OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r64_or_mem or OpCodeOperandKind.xmm_or_mem when _random.Next(2) == 0:
                case OpCodeOperandKind.mem:
                    DrawMemory(ref instruction, k);
                    break;
                case OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r8_reg or OpCodeOperandKind.r8_opcode:
                    SetRegister(ref instruction, k, Bytes[_random.Next(Bytes.Length)]);
                    break;
                case OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r16_reg or OpCodeOperandKind.r16_rm or OpCodeOperandKind.r16_opcode:
                    SetRegister(ref instruction, k, Register.AX + DrawGpr());
                    break;
                case OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r32_reg or OpCodeOperandKind.r32_rm or OpCodeOperandKind.r32_opcode:
                    SetRegister(ref instruction, k, Register.EAX + DrawGpr());
                    break;
                case OpCodeOperandKind.r64_or_mem or OpCodeOperandKind.r64_reg or OpCodeOperandKind.r64_rm or OpCodeOperandKind.r64_opcode:
                    SetRegister(ref instruction, k, Register.RAX + DrawGpr());
                    break;
                case OpCodeOperandKind.xmm_or_mem or OpCodeOperandKind.xmm_reg or OpCodeOperandKind.xmm_rm:
                    SetRegister(ref instruction, k, Register.XMM0 + _random.Next(16));
                    break;
                case OpCodeOperandKind.sti_opcode:
                    SetRegister(ref instruction, k, Register.ST0 + _random.Next(_random.Next(2) == 0 ? 8 : 3));
                    break;
                default:
                    if (!CodedOperand.TrySet(ref instruction, k, kind, Value))
                        return null;
                    break;
            }
        }
        if (info.CanUseLockPrefix && instruction.Op0Kind == OpKind.Memory && _random.Next(8) == 0)
            instruction.HasLockPrefix = true;
        return instruction;
    }

    private void DrawMemory(ref Instruction instruction, int operand)
    {
        instruction.SetOpKind(operand, OpKind.Memory);
        bool aligned = IsVector(instruction.Code) && _random.Next(3) != 0;
        if (aligned || _random.Next(12) == 0)
        {
            instruction.MemoryBase = Register.RIP;
            instruction.MemoryDisplSize = 8;
            instruction.MemoryDisplacement64 = aligned ? DrawAddress() & ~15UL : DrawAddress();
            return;
        }
        instruction.MemoryBase = Register.RAX + (_random.Next(30) == 0 ? Scratch[_random.Next(Scratch.Length)] : _random.Next(16) == 0 ? 4 : Pointers[_random.Next(Pointers.Length)]);
        if (_random.Next(4) == 0)
        {
            instruction.MemoryIndex = _random.Next(20) == 0 ? Register.RCX : Register.R12;
            instruction.MemoryIndexScale = 1 << _random.Next(4);
        }
        long displacement = _random.Next(3) == 0 ? 0 : _random.Next(8) == 0 ? _random.Next(-0x800, 0x800) : _random.Next(-64, 64);
        instruction.MemoryDisplacement64 = (ulong)displacement;
        instruction.MemoryDisplSize = displacement == 0 ? 0 : displacement is >= -128 and <= 127 ? 1 : 8;
        if (_random.Next(12) == 0)
            instruction.SegmentPrefix = _random.Next(2) == 0 ? Register.GS : Register.FS;
    }

    private int DrawGpr() => _random.Next(60) == 0 ? Pointers[_random.Next(Pointers.Length)] : Scratch[_random.Next(Scratch.Length)];

    private ulong Value() => _random.Next(4) switch
    {
        0 => (ulong)_random.Next(-2, 3),
        1 => 1UL << _random.Next(64),
        2 => (1UL << _random.Next(64)) - 1,
        _ => (ulong)_random.NextInt64(long.MinValue, long.MaxValue),
    };

    private static void SetRegister(ref Instruction instruction, int operand, Register register)
    {
        instruction.SetOpKind(operand, OpKind.Register);
        instruction.SetOpRegister(operand, register);
    }
}
