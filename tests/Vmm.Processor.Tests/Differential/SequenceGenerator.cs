using Iced.Intel;

namespace Vmm.Processor.Tests.Differential;

/// <summary>Draws sequences and what they start from. A function of its seed.</summary>
internal sealed class SequenceGenerator(InstructionPool pool)
{
    private static readonly (Register Base, Register Index)[] ShortAddresses =
    [
        (Register.BX, Register.SI), (Register.BX, Register.DI), (Register.BP, Register.SI), (Register.BP, Register.DI),
        (Register.SI, Register.None), (Register.DI, Register.None), (Register.BP, Register.None), (Register.BX, Register.None),
    ];
    private static readonly ulong[] Edges =
    [
        0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 0x7E, 0x7F, 0x80, 0x81, 0xFE, 0xFF, 0x100, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF, 0x10000,
        0x7FFF_FFFE, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFE, 0xFFFF_FFFF, 0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFE, 0x7FFF_FFFF_FFFF_FFFF,
        0x8000_0000_0000_0000, 0x8000_0000_0000_0001, 0xFFFF_FFFF_FFFF_FFFE, 0xFFFF_FFFF_FFFF_FFFF,
    ];

    // Bit patterns of float and double worth meeting: zeros, ones, limits, subnormals, infinities, quiet and signalling NaNs.
    private static readonly uint[] FloatEdges =
    [
        0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x3F80_0001, 0x3F7F_FFFF, 0x0080_0000, 0x007F_FFFF, 1, 0x8000_0001, 0x7F7F_FFFF, 0xFF7F_FFFF,
        0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC1_2345, 0x7F80_0001, 0xFFA0_0000, 0x4F00_0000, 0xCF00_0000, 0x5F00_0000, 0x4B00_0000, 0x3F00_0000, 0x4040_0000,
    ];
    private static readonly ulong[] DoubleEdges =
    [
        0, 0x8000_0000_0000_0000, 0x3FF0_0000_0000_0000, 0xBFF0_0000_0000_0000, 0x3FF0_0000_0000_0001, 0x3FEF_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF,
        1, 0x7FEF_FFFF_FFFF_FFFF, 0xFFEF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0xFFF8_1234_5678_9ABC,
        0x7FF0_0000_0000_0001, 0xFFF4_0000_0000_0000, 0x41DF_FFFF_FFC0_0000, 0xC1E0_0000_0000_0000, 0x43E0_0000_0000_0000, 0x3FE0_0000_0000_0000,
        0x47EF_FFFF_E000_0000, 0x47F0_0000_0000_0000, 0x3810_0000_0000_0000, 0x36A0_0000_0000_0000, 0x3690_0000_0000_0000, 0x4330_0000_0000_0000,
    ];

    private readonly bool _short = pool.Bitness == 16;
    private readonly bool _wide = pool.Bitness == 64;
    private readonly int _registers = pool.Bitness == 64 ? 16 : 8;

    // Registers by number: those that mostly hold addresses, those that mostly hold small numbers, those that results mostly go to.
    private readonly int[] _pointers = pool.Bitness == 64 ? [3, 6, 7, 13, 14, 15] : [3, 6, 7];
    private readonly int[] _indexes = pool.Bitness == 64 ? [8, 9] : [2];
    private readonly int[] _scratch = pool.Bitness == 64 ? [0, 1, 2, 5, 8, 9, 10, 11, 12] : [0, 1, 2, 5];
    private Random _random = new(0);

    /// <summary>The instructions drawn so far, for a look at coverage.</summary>
    public Dictionary<Code, int> Drawn { get; } = [];

    /// <summary>Draws a sequence of one to eight instructions and its input.</summary>
    public Sequence Next(int seed, MachineState input)
    {
        _random = new Random(seed);
        DrawInput(input);
        while (true)
        {
            var sequence = new Sequence(pool.Bitness);
            int length = _random.Next(4) == 0 ? 1 : _random.Next(2, 9);
            RflagsBits undefined = RflagsBits.None;
            while (sequence.Items.Count < length)
            {
                Item? item = _random.Next(8) == 0 ? DrawBytes() : Draw(pool.Codes[_random.Next(pool.Codes.Length)]);
                if (item == null || FlagRules.Reads(item.Instruction, undefined) || DependsOnUnmasked(item.Instruction, sequence, input))
                    continue;
                // Flags that a skipped instruction would have defined are not: forget nothing.
                undefined |= FlagRules.After(item.Instruction, undefined);
                sequence.Items.Add(item);
            }
            for (int k = 0; k < length; k++)
            {
                int target = _random.Next(k + 1, length + 1);
                if (sequence.Items[k].IsBranch && target < length)
                    sequence.Items[k].Target = sequence.Items[target];
            }
            if (!sequence.Encode())
                continue;
            foreach (Item item in sequence.Items)
                Drawn[item.Instruction.Code] = Drawn.GetValueOrDefault(item.Instruction.Code) + 1;
            return sequence;
        }
    }

    /// <summary>An integer that is often interesting.</summary>
    private ulong Value() => _random.Next(5) switch
    {
        0 or 1 => Edges[_random.Next(Edges.Length)],
        2 => (ulong)_random.NextInt64(long.MinValue, long.MaxValue) >> _random.Next(64),
        3 => (ulong)-(long)(((ulong)_random.NextInt64(long.MinValue, long.MaxValue)) >> _random.Next(1, 64)),
        _ => (ulong)_random.NextInt64(long.MinValue, long.MaxValue),
    };

    private ulong Pointer()
    {
        if (_short)
            return ShortPointer();
        ulong offset = (ulong)_random.Next((int)Layout.DataSize);
        switch (_random.Next(16))
        {
            case 0 or 1 or 2:
                offset = (ulong)(_random.Next(4) * 4096 + _random.Next(-40, 40));
                break;
            case 3:
                return Layout.ReadOnly + (ulong)_random.Next(-16, 4096);
            case 4:
                return Layout.Stack + (ulong)_random.Next((int)Layout.StackSize);
            case 5:
                return _random.Next(3) switch { 0 => Value(), 1 => Layout.Code + 0x900 + (ulong)_random.Next(0x600), _ => 0x0000_7FFF_FFFF_FFF0 + (ulong)_random.Next(32) };
        }
        if (_random.Next(2) == 0)
            offset &= ~15UL;
        return Layout.Data + offset;
    }

    /// <summary>An offset for 16-bit code, with or without something above its 16 bits.</summary>
    private ulong ShortPointer()
    {
        ulong offset = _random.Next(8) switch
        {
            0 => (ulong)(_random.Next(5) * 4096 + _random.Next(-20, 20)) & 0xFFFF,
            1 => Value() & 0xFFFF,
            _ => (ulong)_random.Next((int)Layout.ExtraLimit),
        };
        return _random.Next(3) == 0 ? offset | Value() << 16 : offset;
    }

    private unsafe void DrawInput(MachineState input)
    {
        for (int k = 0; k < 16; k++)
            input.Gpr[k] = Value();
        foreach (int register in _pointers)
            input.Gpr[register] = Pointer();
        foreach (int register in _indexes)
            input.Gpr[register] = _random.Next(8) == 0 ? Value() : (ulong)_random.Next(-8, 64);
        if (_random.Next(2) == 0)
            input.Gpr[1] = (ulong)_random.Next(70);
        input.Gpr[4] = _random.Next(12) == 0 ? Pointer() : Layout.Stack + 0x200 + (ulong)_random.Next(0xC00) / 8 * 8;
        if (_random.Next(3) == 0)
            input.Gpr[5] = Layout.Stack + 0x200 + (ulong)_random.Next(0xC00) / 8 * 8;
        if (_short)
        {
            input.Gpr[4] = (_random.Next(6) == 0 ? ShortPointer() : (ulong)_random.Next(0x80, 0xF80) & ~1UL) | (_random.Next(2) == 0 ? Value() << 16 : 0);
            input.Gpr[5] = (ulong)_random.Next(6) == 0 ? ShortPointer() : (ulong)_random.Next(0x80, 0xF80);
        }
        for (int k = 0; k < 16 && !_wide; k++)
            input.Gpr[k] = k < 8 ? (uint)input.Gpr[k] : 0;
        input.Rip = Layout.Start(pool.Bitness);
        input.Flags = 0x202 | (_random.Next(4) == 0 ? 0x400u : 0);
        foreach (int bit in new[] { 0, 2, 4, 6, 7, 11 })
            input.Flags |= (uint)_random.Next(2) << bit;

        Span<byte> memory = input.Memory;
        _random.NextBytes(memory);
        for (int k = 0; k < 600; k++)
            BitConverter.TryWriteBytes(memory[(_random.Next(memory.Length / 8 - 1) * 8)..], InterestingQuad());
        DrawFx(input);
    }

    private ulong InterestingQuad() => _random.Next(4) switch
    {
        0 => Value(),
        1 => DoubleEdges[_random.Next(DoubleEdges.Length)],
        2 => FloatEdges[_random.Next(FloatEdges.Length)] | (ulong)FloatEdges[_random.Next(FloatEdges.Length)] << 32,
        _ => (ulong)BitConverter.DoubleToInt64Bits((_random.NextDouble() - 0.5) * Math.Pow(2, _random.Next(-70, 70))),
    };

    private unsafe void DrawFx(MachineState input)
    {
        new Span<byte>(input.Fx, MachineState.FxBytes).Clear();
        for (int k = 0; k < 32; k++)
            ((ulong*)input.Xmm(0))[k] = InterestingQuad();
        uint mxcsr = 0x1F80;
        if (_random.Next(3) == 0)
            mxcsr |= (uint)_random.Next(4) << 13;
        if (_random.Next(6) == 0)
            mxcsr |= (uint)_random.Next(2) << 15 | (uint)_random.Next(2) << 6;
        if (_random.Next(6) == 0)
            mxcsr |= (uint)_random.Next(64);
        if (_random.Next(8) == 0)
            mxcsr &= ~((uint)_random.Next(64) << 7);
        input.Mxcsr = mxcsr;

        int precision = _random.Next(4) == 0 ? new[] { 0, 2, 3 }[_random.Next(3)] : 3;
        int rounding = _random.Next(3) == 0 ? _random.Next(4) : 0;
        int masks = _random.Next(8) == 0 ? _random.Next(64) : 63;
        input.Fcw = (ushort)(0x40 | masks | precision << 8 | rounding << 10);
        int codes = (_random.Next(8) & 7) << 8 | _random.Next(2) << 14;
        input.Fsw = (ushort)(_random.Next(8) << 11 | codes);
        input.Ftw = (byte)(_random.Next(3) == 0 ? _random.Next(256) : 255);
        for (int k = 0; k < 8; k++)
        {
            (ulong significand, ushort exponent) = Extended();
            *(ulong*)input.St(k) = significand;
            *(ushort*)(input.St(k) + 8) = exponent;
        }
    }

    private (ulong Significand, ushort Exponent) Extended()
    {
        ushort sign = (ushort)(_random.Next(2) << 15);
        const ulong Integer = 1UL << 63;
        ulong noise = (ulong)_random.NextInt64() & ~(ulong.MaxValue >> _random.Next(64) >> 1);
        return _random.Next(14) switch
        {
            0 => (0, sign),
            1 => (Integer, (ushort)(sign | 0x3FFF)),
            2 => (Integer, (ushort)(sign | 0x7FFF)),
            3 => (Integer | 1UL << 62 | noise >> 2, (ushort)(sign | 0x7FFF)),
            4 => (Integer | noise >> 2 | 1, (ushort)(sign | 0x7FFF)),
            5 => (noise >> _random.Next(1, 40), sign),
            6 => (Integer | noise, (ushort)(sign | _random.Next(1, 0x7FFF))),
            7 => (Integer | noise, (ushort)(sign | new[] { 1, 2, 0x7FFE, 0x3FFF - 1022, 0x3FFF + 1023, 0x3FFF + 1024, 0x3FFF - 126, 0x3FFF + 127 }[_random.Next(8)])),
            // Unsupported: unnormals, pseudo-denormals and their like.
            8 => ((ulong)_random.NextInt64(), (ushort)(sign | _random.Next(0x8000))),
            9 => (Integer | (ulong)_random.NextInt64(), sign),
            _ => (Integer | noise, (ushort)(sign | 0x3FFF + _random.Next(-70, 70))),
        };
    }

    /// <summary>Random bytes behind random prefixes, where they decode to something that can be compared.</summary>
    private Item? DrawBytes()
    {
        byte[] bytes = new byte[24];
        _random.NextBytes(bytes);
        int at = 0;
        for (int prefixes = _random.Next(3); prefixes > 0; prefixes--)
            bytes[at++] = (byte)new[] { 0x66, 0x67, 0xF2, 0xF3, 0x40 + _random.Next(16), 0x48, 0x65, 0x2E }[_random.Next(8)];
        if (_random.Next(3) == 0)
            bytes[at++] = 0x0F;
        var decoder = Decoder.Create(pool.Bitness, bytes);
        decoder.Decode(out Instruction instruction);
        if (instruction.IsInvalid || !pool.Contains(instruction.Code) || instruction.FlowControl != FlowControl.Next || IsAwkward(instruction))
            return null;
        return new Item { Instruction = instruction, Raw = bytes[..instruction.Length] };
    }

    /// <summary>Whether the manuals leave the result undefined or the host's thread would be in the way.</summary>
    private static bool IsAwkward(in Instruction instruction)
    {
        if (instruction.SegmentPrefix == Register.FS)
            return true;
        // Whether the operand is checked for writing where it does not change is each processor's choice.
        if (instruction.Mnemonic == Mnemonic.Arpl && instruction.Op0Kind == OpKind.Memory)
            return true;
        // With REX.B this is XCHG, F3 or not, which Iced takes for PAUSE. No assembler writes it.
        if (instruction.Code == Code.Pause && instruction.Length > 2)
            return true;
        // From memory, AMD does not switch the x87 to MMX.
        if (instruction.Code == Code.Cvtpi2ps_xmm_mmm64 && instruction.Op1Kind == OpKind.Memory)
            return true;
        if (instruction.Code is Code.Shld_rm16_r16_CL or Code.Shrd_rm16_r16_CL)
            return true;
        if (instruction.Code is Code.Shld_rm16_r16_imm8 or Code.Shrd_rm16_r16_imm8)
            return (instruction.Immediate8 & 31) > 16;
        return false;
    }

    /// <summary>
    /// Whether its outcome under an unmasked x87 exception is not the same on Intel's and AMD's processors. The control word is
    /// the one that the sequence starts with, so what loads another one comes last.
    /// </summary>
    private static bool DependsOnUnmasked(in Instruction instruction, Sequence sequence, MachineState input)
    {
        int needed = instruction.Mnemonic switch
        {
            // With invalid or denormal operands Intel leaves the flags or condition codes, AMD sets them.
            Mnemonic.Fcom or Mnemonic.Fcomp or Mnemonic.Fcompp or Mnemonic.Fucom or Mnemonic.Fucomp or Mnemonic.Fucompp or Mnemonic.Ftst
                or Mnemonic.Ficom or Mnemonic.Ficomp or Mnemonic.Fcomi or Mnemonic.Fcomip or Mnemonic.Fucomi or Mnemonic.Fucomip => 3,
            // A denormal in memory: the SDM leaves the stack as it is, AMD pushes.
            Mnemonic.Fld => 2,
            // A remainder that is denormal: Intel's does not underflow.
            Mnemonic.Fprem or Mnemonic.Fprem1 => 0x10,
            // Beyond what the adjusted exponent can hold: C1.
            Mnemonic.Fscale => 0x18,
            _ => 0,
        };
        return needed != 0 && ((input.Fcw & needed) != needed || sequence.Items.Exists(item => item.Instruction.Mnemonic is Mnemonic.Fldcw or Mnemonic.Fldenv));
    }

    private Item? Draw(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        var instruction = new Instruction { Code = code };
        bool branch = false;
        bool memory = false;
        bool narrow = _random.Next(12) == 0;
        for (int k = 0; k < info.OpCount; k++)
        {
            OpCodeOperandKind kind = info.GetOpKind(k);
            switch (kind)
            {
                case OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r64_or_mem
                    or OpCodeOperandKind.mm_or_mem or OpCodeOperandKind.xmm_or_mem when _random.Next(2) == 0:
                case OpCodeOperandKind.mem:
                    memory = true;
                    DrawMemory(ref instruction, k, narrow);
                    break;
                case OpCodeOperandKind.mem_offs:
                    memory = true;
                    instruction.SetOpKind(k, OpKind.Memory);
                    instruction.MemoryDisplSize = _wide ? 8 : _short != narrow ? 2 : 4;
                    instruction.MemoryDisplacement64 = _wide ? Pointer() : _short != narrow ? (ushort)Pointer() : (uint)Pointer();
                    break;
                case OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r8_reg or OpCodeOperandKind.r8_opcode:
                    SetRegister(ref instruction, k, DrawByteRegister());
                    break;
                case OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r16_reg or OpCodeOperandKind.r16_rm or OpCodeOperandKind.r16_opcode:
                    SetRegister(ref instruction, k, Register.AX + DrawGpr());
                    break;
                case OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r32_reg or OpCodeOperandKind.r32_rm or OpCodeOperandKind.r32_opcode or OpCodeOperandKind.r32_vvvv:
                    SetRegister(ref instruction, k, Register.EAX + DrawGpr());
                    break;
                case OpCodeOperandKind.r64_or_mem or OpCodeOperandKind.r64_reg or OpCodeOperandKind.r64_rm or OpCodeOperandKind.r64_opcode or OpCodeOperandKind.r64_vvvv:
                    SetRegister(ref instruction, k, Register.RAX + DrawGpr());
                    break;
                case OpCodeOperandKind.mm_or_mem or OpCodeOperandKind.mm_reg or OpCodeOperandKind.mm_rm:
                    SetRegister(ref instruction, k, Register.MM0 + _random.Next(8));
                    break;
                case OpCodeOperandKind.xmm_or_mem or OpCodeOperandKind.xmm_reg or OpCodeOperandKind.xmm_rm:
                    SetRegister(ref instruction, k, Register.XMM0 + _random.Next(_registers));
                    break;
                case OpCodeOperandKind.sti_opcode:
                    SetRegister(ref instruction, k, Register.ST0 + _random.Next(8));
                    break;
                case OpCodeOperandKind.imm8 when k == 1 && info.GetOpKind(0) == OpCodeOperandKind.imm16:
                    instruction.SetOpKind(k, OpKind.Immediate8_2nd);
                    instruction.Immediate8_2nd = (byte)(_random.Next(4) == 0 ? Value() : (ulong)_random.Next(4));
                    break;
                case OpCodeOperandKind.imm16 when info.OpCount == 2 && k == 0:
                    instruction.SetOpKind(k, OpKind.Immediate16);
                    instruction.Immediate16 = (ushort)_random.Next(256);
                    break;
                case OpCodeOperandKind.seg_rSI:
                    instruction.SetOpKind(k, _wide ? narrow ? OpKind.MemorySegESI : OpKind.MemorySegRSI : narrow != _short ? OpKind.MemorySegSI : OpKind.MemorySegESI);
                    break;
                case OpCodeOperandKind.es_rDI:
                    instruction.SetOpKind(k, _wide ? narrow ? OpKind.MemoryESEDI : OpKind.MemoryESRDI : narrow != _short ? OpKind.MemoryESDI : OpKind.MemoryESEDI);
                    break;
                case OpCodeOperandKind.seg_rDI:
                    instruction.SetOpKind(k, _wide ? narrow ? OpKind.MemorySegEDI : OpKind.MemorySegRDI : narrow != _short ? OpKind.MemorySegDI : OpKind.MemorySegEDI);
                    break;
                case OpCodeOperandKind.seg_rBX_al:
                    instruction.SetOpKind(k, OpKind.Memory);
                    instruction.MemoryBase = _wide ? narrow ? Register.EBX : Register.RBX : narrow != _short ? Register.BX : Register.EBX;
                    instruction.MemoryIndex = Register.AL;
                    break;
                case OpCodeOperandKind.br64_1 or OpCodeOperandKind.br64_4:
                    instruction.SetOpKind(k, OpKind.NearBranch64);
                    branch = true;
                    break;
                case OpCodeOperandKind.br32_1 or OpCodeOperandKind.br32_4:
                    instruction.SetOpKind(k, OpKind.NearBranch32);
                    branch = true;
                    break;
                // In 32-bit code this truncates the target to where nothing is mapped.
                case OpCodeOperandKind.br16_1 or OpCodeOperandKind.br16_2 when !_wide:
                    instruction.SetOpKind(k, OpKind.NearBranch16);
                    branch = true;
                    break;
                default:
                    if (!CodedOperand.TrySet(ref instruction, k, kind, Value))
                        return null;
                    break;
            }
        }
        if (instruction.IsStringInstruction && _random.Next(2) == 0)
        {
            if (_random.Next(3) == 0)
                instruction.HasRepnePrefix = true;
            else
                instruction.HasRepePrefix = true;
        }
        if (memory && info.CanUseLockPrefix && instruction.Op0Kind == OpKind.Memory && _random.Next(6) == 0)
            instruction.HasLockPrefix = true;
        return IsAwkward(instruction) ? null : new Item { Instruction = instruction, IsBranch = branch };
    }

    private void DrawMemory(ref Instruction instruction, int operand, bool narrow)
    {
        instruction.SetOpKind(operand, OpKind.Memory);
        if (!_wide && narrow != _short)
        {
            DrawShortAddress(ref instruction);
            return;
        }
        Register @base = _random.Next(20) switch
        {
            0 or 1 => Register.RSP,
            2 => Register.RBP,
            3 when _wide => Register.RIP,
            3 or 4 => Register.None,
            5 => Register.RAX + _random.Next(_registers),
            _ => Register.RAX + _pointers[_random.Next(_pointers.Length)],
        };
        Register index = Register.None;
        if (@base != Register.RIP && _random.Next(3) == 0)
        {
            index = Register.RAX + (_random.Next(12) == 0 ? _random.Next(_registers) : _indexes[_random.Next(_indexes.Length)]);
            if (index == Register.RSP)
                index = Register.None;
            instruction.MemoryIndexScale = 1 << _random.Next(4);
        }
        if (@base is Register.RIP or Register.None)
        {
            instruction.MemoryDisplacement64 = (_short ? 0 : Layout.Data) + (ulong)_random.Next((int)Layout.DataSize);
            instruction.MemoryDisplSize = !_wide || (narrow && @base == Register.None && index == Register.None) ? 4 : 8;
        }
        else
        {
            long displacement = _random.Next(20) switch
            {
                < 7 => 0,
                < 15 => _random.Next(-64, 65),
                < 19 => _random.Next(-4096, 4097),
                _ => (int)Value(),
            };
            instruction.MemoryDisplacement64 = (ulong)displacement;
            instruction.MemoryDisplSize = displacement == 0 ? 0 : displacement is >= -128 and <= 127 ? 1 : 8;
        }
        if (narrow || !_wide)
        {
            @base = @base == Register.RIP ? Register.EIP : @base == Register.None ? @base : Register.EAX + (@base - Register.RAX);
            index = index == Register.None ? index : Register.EAX + (index - Register.RAX);
            if (@base != Register.None || index != Register.None)
            {
                instruction.MemoryDisplacement64 = (uint)instruction.MemoryDisplacement64;
                if (instruction.MemoryDisplSize == 8)
                    instruction.MemoryDisplSize = 4;
            }
        }
        instruction.MemoryBase = @base;
        instruction.MemoryIndex = index;
        if (_random.Next(24) == 0)
            instruction.SegmentPrefix = _wide ? Register.GS : new[] { Register.ES, Register.CS, Register.SS, Register.DS, Register.GS }[_random.Next(5)];
    }

    private void DrawShortAddress(ref Instruction instruction)
    {
        if (_random.Next(6) > 0)
            (instruction.MemoryBase, instruction.MemoryIndex) = ShortAddresses[_random.Next(3) > 0 ? _random.Next(4, 8) : _random.Next(8)];
        int displacement = _random.Next(5) switch { 0 or 1 => 0, 2 or 3 => _random.Next(-64, 65), _ => (int)(Value() & 0xFFFF) };
        if (instruction.MemoryBase == Register.None)
            displacement = (int)(ShortPointer() & 0xFFFF);
        bool small = displacement is >= -128 and <= 127;
        instruction.MemoryDisplSize = instruction.MemoryBase == Register.None || !small ? 2 : displacement == 0 && instruction.MemoryBase != Register.BP ? 0 : 1;
        instruction.MemoryDisplacement64 = (ushort)displacement;
        if (_random.Next(12) == 0)
            instruction.SegmentPrefix = new[] { Register.ES, Register.CS, Register.SS, Register.DS, Register.GS }[_random.Next(5)];
    }

    /// <summary>A register's number: mostly one that no address depends on.</summary>
    private int DrawGpr() => _random.Next(5) == 0 ? _random.Next(_registers) : _scratch[_random.Next(_scratch.Length)];

    private Register DrawByteRegister()
    {
        if (_random.Next(4) == 0)
            return Register.AH + _random.Next(4);
        int number = _wide ? DrawGpr() : _random.Next(4);
        return number < 4 ? Register.AL + number : Register.SPL + (number - 4);
    }

    private static void SetRegister(ref Instruction instruction, int operand, Register register)
    {
        instruction.SetOpKind(operand, OpKind.Register);
        instruction.SetOpRegister(operand, register);
    }
}
