using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <content>Registers and fields of <see cref="CpuState"/>.</content>
internal abstract unsafe partial class RegionCompiler
{
    private static readonly Dictionary<string, int> Offsets = MeasureOffsets();

    private static Dictionary<string, int> MeasureOffsets()
    {
        CpuState state = default;
        CpuState* s = &state;
        int Offset(void* field) => (int)((byte*)field - (byte*)s);
        return new Dictionary<string, int>
        {
            [nameof(CpuState.TraceRip)] = Offset(&s->TraceRip),
            [nameof(CpuState.FlagKind)] = Offset(&s->FlagKind),
            [nameof(CpuState.FlagA)] = Offset(&s->FlagA),
            [nameof(CpuState.FlagB)] = Offset(&s->FlagB),
            [nameof(CpuState.FlagC)] = Offset(&s->FlagC),
            [nameof(CpuState.FlagResult)] = Offset(&s->FlagResult),
            [nameof(CpuState.FlagCarries)] = Offset(&s->FlagCarries),
            [nameof(CpuState.Budget)] = Offset(&s->Budget),
            [nameof(CpuState.Tlb)] = Offset(&s->Tlb),
            [nameof(CpuState.TlbContext)] = Offset(&s->TlbContext),
            [nameof(CpuState.Attention)] = Offset(&s->Attention),
            [nameof(CpuState.Scratch)] = Offset(s->Scratch),
            [nameof(CpuState.Mxcsr)] = Offset(&s->Mxcsr),
        };
    }

    /// <summary>The field of <see cref="CpuState"/> at an offset, of those that compiled code finds by name; null where there is none.</summary>
    public static string? NameOf(int offset) => Offsets.FirstOrDefault(each => each.Value == offset).Key;

    protected static int OffsetOf(string field) => Offsets[field];

    protected static bool AccessesMemory(in Instruction instruction)
    {
        if (instruction.IsStackInstruction || instruction.IsStringInstruction)
            return true;
        if (instruction.Mnemonic is Mnemonic.Lea or Mnemonic.Nop)
            return false;
        for (int k = 0; k < instruction.OpCount; k++)
        {
            if (instruction.GetOpKind(k) is OpKind.Memory or >= OpKind.MemorySegSI and <= OpKind.MemoryESRDI)
                return true;
        }
        return !IsPure(instruction);
    }

    // Instructions without a memory operand that touch no memory and no device either.
    private static bool IsPure(in Instruction instruction) =>
        instruction.FlowControl is FlowControl.Next or FlowControl.ConditionalBranch or FlowControl.UnconditionalBranch
        && !instruction.IsPrivileged && instruction.Mnemonic is not (Mnemonic.Monitor or Mnemonic.Mwait or Mnemonic.Maskmovq or Mnemonic.Maskmovdqu);

    /// <summary>The general registers that an instruction uses, and those of them that it may write, as bits.</summary>
    protected static uint RegistersOf(InstructionInfoFactory factory, in Instruction instruction, out uint written)
    {
        uint used = 0;
        written = 0;
        foreach (UsedRegister each in factory.GetInfo(instruction).GetUsedRegisters())
        {
            Register full = each.Register.GetFullRegister();
            if (full is < Register.RAX or > Register.R15)
                continue;
            uint bit = 1u << (full - Register.RAX);
            used |= bit;
            if (each.Access is not (OpAccess.Read or OpAccess.CondRead or OpAccess.NoMemAccess or OpAccess.None))
                written |= bit;
        }
        return used;
    }

    /// <summary>The register operand of an instruction: which of the 16, and whether it is AH, CH, DH or BH.</summary>
    protected static int RegisterOf(ushort offset, out bool high)
    {
        high = (offset & 7) == 1;
        return offset >> 3;
    }

    /// <summary>Pushes a register operand, zero-extended to 32 bits or, with a size of 8, whole.</summary>
    protected void PushRegister(ushort offset, int size)
    {
        _code.Load(_registers[RegisterOf(offset, out bool high)]!);
        if (high)
        {
            _code.Constant(8);
            _code.Emit(CodeOp.ShiftRight);
        }
        EmitNarrow(size, signed: false);
    }

    /// <summary>Pops a value into a register operand, as the processor does: 32 bits clear the upper half, 8 and 16 keep the rest.</summary>
    protected void PopRegister(ushort offset, int size)
    {
        int register = RegisterOf(offset, out bool high);
        CodeLocal local = _registers[register]!;
        if (size <= 2)
        {
            EmitNarrow(size, signed: false);
            _code.Emit(CodeOp.ZeroExtend32);
            if (high)
            {
                _code.Constant(8);
                _code.Emit(CodeOp.ShiftLeft);
            }
            _code.Load(local);
            _code.Constant(size == 2 ? ~0xFFFFL : high ? ~0xFF00L : ~0xFFL);
            _code.Emit(CodeOp.And);
            _code.Emit(CodeOp.Or);
        }
        else if (size == 4)
        {
            _code.Emit(CodeOp.ZeroExtend32);
        }
        _code.Store(local);
        _dirty |= 1u << register;
    }

    /// <summary>Tells that what the next operation computes goes into a register operand. Of 8 and 16 bits, the rest of the register is kept.</summary>
    private void Overwrite(ushort offset, int size)
    {
        if (size >= 4)
            _code.Overwrite(_registers[RegisterOf(offset, out _)]!);
    }

    /// <summary>Cuts the value on the stack to a size: a 32-bit value for sizes up to 4.</summary>
    protected void EmitNarrow(int size, bool signed)
    {
        switch (size)
        {
            case 1:
                _code.Emit(signed ? CodeOp.SignExtend8 : CodeOp.ZeroExtend8);
                break;
            case 2:
                _code.Emit(signed ? CodeOp.SignExtend16 : CodeOp.ZeroExtend16);
                break;
            case 4:
                _code.Emit(signed ? CodeOp.ToInt32 : CodeOp.ToInt32);
                break;
        }
    }

    /// <summary>Pushes a constant in the stack type of a size.</summary>
    protected void EmitOperand(long value, int size)
    {
        if (size == 8)
            _code.Constant(value);
        else
            _code.Constant(size == 1 ? (byte)value : size == 2 ? (ushort)value : (int)value);
    }

    protected static CodeType StackType(int size) => size switch { 16 => CodeType.Vector, 8 => CodeType.Int64, _ => CodeType.Int32 };

    protected void EmitPointer(void* pointer)
    {
        _code.Constant((long)pointer);
        _code.Emit(CodeOp.ToPointer);
    }

    protected void EmitPointer(Handler pointer) => EmitPointer((void*)pointer);

    /// <summary>Adds a constant to an address.</summary>
    protected void EmitOffset(int offset)
    {
        _code.Constant(offset);
        _code.Emit(CodeOp.ToPointer);
        _code.Emit(CodeOp.Add);
    }

    /// <summary>Pushes the address of a field of the state.</summary>
    protected void EmitField(string field)
    {
        _code.LoadState();
        EmitOffset(OffsetOf(field));
    }

    /// <summary>Pushes the RIP at a distance from the current trace's first instruction.</summary>
    protected void EmitRip(long distance)
    {
        _code.Load(_rip);
        _code.Constant(_node.Offset + distance);
        _code.Emit(CodeOp.Add);
    }
}
