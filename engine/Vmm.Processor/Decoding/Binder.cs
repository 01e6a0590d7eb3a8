using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Decoding;

/// <summary>Turns one decoded instruction into a bound one: handler, operands, addressing.</summary>
internal static unsafe class Binder
{
    /// <summary>Binds everything but <see cref="Insn.Offset"/> and <see cref="Insn.Count"/>. Returns whether the trace must end here.</summary>
    /// <param name="instruction">The decoded instruction; its IP is the distance from the trace's first instruction.</param>
    /// <param name="mode">The trace's mode.</param>
    /// <param name="table">The handlers for that mode.</param>
    /// <param name="i">What to fill.</param>
    public static bool Bind(in Instruction instruction, TraceMode mode, HandlerTable table, Insn* i)
    {
        *i = default;
        i->Length = (byte)instruction.Length;
        i->Code = (ushort)instruction.Code;
        i->Base = i->Index = i->SegmentBase = CpuState.ZeroOffset;
        i->Segment = (byte)(instruction.IsStackInstruction ? Seg.Ss : Seg.Ds);
        i->AddressMask = ulong.MaxValue;
        if (instruction.HasLockPrefix)
            i->Prefixes |= InsnPrefixes.Lock;
        if (instruction.HasRepePrefix)
            i->Prefixes |= InsnPrefixes.Rep;
        if (instruction.HasRepnePrefix)
            i->Prefixes |= InsnPrefixes.Repne;

        bool memory = BindOperands(instruction, mode, i);
        Handler handler = Unavailable(instruction, mode);
        if (handler == null)
            handler = table.Find(instruction.Code, memory);
        if (handler == null)
        {
            i->Handler = &UndefinedOpcode;
            return true;
        }
        i->Handler = handler;
        return table.EndsTrace(instruction.Code)
            || instruction.FlowControl is not (FlowControl.Next or FlowControl.ConditionalBranch);
    }

    /// <summary>#UD.</summary>
    public static Insn* UndefinedOpcode(CpuState* s, Insn* i) => Fault.Raise(s, i, Vector.Ud);

    /// <summary>#GP(0): an instruction of more than 15 bytes.</summary>
    public static Insn* TooLong(CpuState* s, Insn* i) => Fault.Raise(s, i, Vector.Gp, 0);

    private static Insn* DeviceNotAvailable(CpuState* s, Insn* i) => Fault.Raise(s, i, Vector.Nm);

    private static bool BindOperands(in Instruction instruction, TraceMode mode, Insn* i)
    {
        bool memory = false;
        ushort* operands = &i->Operand0;
        int immediates = 0;
        for (int k = 0; k < instruction.OpCount; k++)
        {
            OpKind kind = instruction.GetOpKind(k);
            switch (kind)
            {
                case OpKind.Register:
                    if (k < 3)
                        operands[k] = RegisterOffsets.Of(instruction.GetOpRegister(k));
                    break;
                case OpKind.NearBranch16:
                case OpKind.NearBranch32:
                case OpKind.NearBranch64:
                    i->Immediate = instruction.NearBranchTarget;
                    break;
                case OpKind.FarBranch16:
                    i->Immediate = instruction.FarBranch16 | (ulong)instruction.FarBranchSelector << 32;
                    break;
                case OpKind.FarBranch32:
                    i->Immediate = instruction.FarBranch32 | (ulong)instruction.FarBranchSelector << 32;
                    break;
                case OpKind.Immediate8_2nd:
                    i->Immediate |= (ulong)instruction.Immediate8_2nd << 16;
                    immediates++;
                    break;
                case OpKind.Memory:
                    memory = true;
                    BindMemory(instruction, mode, i);
                    break;
                case OpKind.MemorySegSI or OpKind.MemorySegESI or OpKind.MemorySegRSI or OpKind.MemorySegDI or OpKind.MemorySegEDI
                    or OpKind.MemorySegRDI or OpKind.MemoryESDI or OpKind.MemoryESEDI or OpKind.MemoryESRDI:
                    BindString(instruction, kind, mode, i);
                    break;
                default:
                    i->Immediate = instruction.GetImmediate(k);
                    immediates++;
                    break;
            }
        }
        return memory;
    }

    private static void BindMemory(in Instruction instruction, TraceMode mode, Insn* i)
    {
        Register @base = instruction.MemoryBase;
        Register index = instruction.MemoryIndex;
        i->Base = RegisterOffsets.Of(@base);
        i->Index = RegisterOffsets.Of(index);
        i->Scale = instruction.MemoryIndexScale switch { 2 => 1, 4 => 2, 8 => 3, _ => 0 };
        // For RIP-relative operands Iced has already added the next instruction's IP, which counts from the trace's start.
        i->Displacement = (long)instruction.MemoryDisplacement64;
        i->Segment = SegmentOf(instruction, mode);
        int bits = AddressBits(instruction, @base, index, mode);
        i->AddressMask = bits == 64 ? ulong.MaxValue : bits == 32 ? 0xFFFF_FFFF : 0xFFFF;
        SetSegmentBase(i);
    }

    private static void BindString(in Instruction instruction, OpKind kind, TraceMode mode, Insn* i)
    {
        int bits = kind switch
        {
            OpKind.MemorySegSI or OpKind.MemorySegDI or OpKind.MemoryESDI => 16,
            OpKind.MemorySegESI or OpKind.MemorySegEDI or OpKind.MemoryESEDI => 32,
            _ => 64,
        };
        i->AddressMask = bits == 64 ? ulong.MaxValue : bits == 32 ? 0xFFFF_FFFF : 0xFFFF;
        if (kind is OpKind.MemorySegSI or OpKind.MemorySegESI or OpKind.MemorySegRSI or OpKind.MemorySegDI or OpKind.MemorySegEDI or OpKind.MemorySegRDI)
            i->Segment = SegmentOf(instruction, mode);
        SetSegmentBase(i);
    }

    private static void SetSegmentBase(Insn* i)
    {
        if (i->Segment >= Seg.Fs)
            i->SegmentBase = (ushort)(CpuState.SegmentsOffset + i->Segment * sizeof(SegmentState));
    }

    private static int AddressBits(in Instruction instruction, Register @base, Register index, TraceMode mode)
    {
        Register any = @base != Register.None ? @base : index;
        if (any is >= Register.AX and <= Register.R15W)
            return 16;
        if (any is >= Register.EAX and <= Register.R15D or Register.EIP)
            return 32;
        if (any is >= Register.RAX and <= Register.R15 or Register.RIP)
            return 64;
        // A bare displacement: its size is the address size.
        return instruction.MemoryDisplSize switch
        {
            2 => 16,
            4 => (mode & TraceMode.SizeMask) == TraceMode.Code64 ? Displacement32In64(instruction) : 32,
            8 => 64,
            _ => (mode & TraceMode.SizeMask) switch { TraceMode.Code64 => 64, TraceMode.Code32 => 32, _ => 16 },
        };
    }

    // In 64-bit mode Iced reports a sign-extended disp32 with size 8 and a zero-extended one (67 prefix) with size 4.
    private static int Displacement32In64(in Instruction instruction) => instruction.MemoryDisplSize == 4 ? 32 : 64;

    private static byte SegmentOf(in Instruction instruction, TraceMode mode)
    {
        // 64-bit mode ignores overrides other than FS and GS; the base still decides between #SS and #GP.
        if ((mode & TraceMode.SizeMask) == TraceMode.Code64 && instruction.MemorySegment is not (Register.FS or Register.GS))
            return (byte)(instruction.MemoryBase is Register.RSP or Register.RBP or Register.ESP or Register.EBP ? Seg.Ss : Seg.Ds);
        return SegmentNumber(instruction.MemorySegment);
    }

    private static byte SegmentNumber(Register segment) => segment switch
    {
        Register.ES => Seg.Es,
        Register.CS => Seg.Cs,
        Register.SS => Seg.Ss,
        Register.FS => Seg.Fs,
        Register.GS => Seg.Gs,
        _ => Seg.Ds,
    };

    /// <summary>The handler that a control-register setting forces on x87, MMX, SSE and XSAVE instructions, or null.</summary>
    private static Handler Unavailable(in Instruction instruction, TraceMode mode)
    {
        if ((mode & ~TraceMode.SizeMask) == 0)
            return null;
        switch (ExtensionOf(instruction))
        {
            case Extension.Wait:
                return (mode & TraceMode.WaitUnavailable) != 0 ? &DeviceNotAvailable : null;
            case Extension.Fpu:
                return (mode & TraceMode.FpuUnavailable) != 0 ? &DeviceNotAvailable : null;
            case Extension.Mmx:
                return (mode & TraceMode.Emulated) != 0 ? &UndefinedOpcode : (mode & TraceMode.TaskSwitched) != 0 ? &DeviceNotAvailable : null;
            case Extension.Fxsr:
                return (mode & TraceMode.FpuUnavailable) != 0 ? &DeviceNotAvailable : null;
            case Extension.Sse:
                return (mode & TraceMode.SseUndefined) != 0 ? &UndefinedOpcode : (mode & TraceMode.TaskSwitched) != 0 ? &DeviceNotAvailable : null;
            case Extension.Xsave:
                return (mode & TraceMode.NoXsave) != 0 ? &UndefinedOpcode : (mode & TraceMode.TaskSwitched) != 0 && instruction.Code is not (Code.Xgetbv or Code.Xsetbv) ? &DeviceNotAvailable : null;
            default:
                return null;
        }
    }

    private enum Extension
    {
        None,
        Wait,
        Fpu,
        Mmx,
        Fxsr,
        Sse,
        Xsave,
    }

    private static Extension ExtensionOf(in Instruction instruction)
    {
        switch (instruction.Code)
        {
            case Code.Wait:
                return Extension.Wait;
            // Of the SSE groups but not gated by the SSE state: fences, hints, non-temporal stores of general registers.
            case Code.Sfence or Code.Lfence or Code.Mfence or Code.Prefetchnta_m8 or Code.Prefetcht0_m8 or Code.Prefetcht1_m8
                or Code.Prefetcht2_m8 or Code.Clflush_m8 or Code.Pause or Code.Movnti_m32_r32 or Code.Movnti_m64_r64
                or Code.Crc32_r32_rm8 or Code.Crc32_r64_rm8 or Code.Crc32_r32_rm16 or Code.Crc32_r32_rm32 or Code.Crc32_r64_rm64:
                return Extension.None;
        }
        if (instruction.Encoding != EncodingKind.Legacy)
            return Extension.None;
        foreach (CpuidFeature feature in instruction.Code.CpuidFeatures())
        {
            switch (feature)
            {
                case CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.CMOV when instruction.Code.IsFpu():
                    return Extension.Fpu;
                case CpuidFeature.MMX:
                    return Extension.Mmx;
                case CpuidFeature.FXSR:
                    return Extension.Fxsr;
                case CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.SSE3 or CpuidFeature.SSSE3 or CpuidFeature.SSE4_1 or CpuidFeature.SSE4_2
                    or CpuidFeature.AES or CpuidFeature.PCLMULQDQ:
                    return instruction.Code.IsFpu() ? Extension.Fpu : UsesMmxOnly(instruction) ? Extension.Mmx : Extension.Sse;
                case CpuidFeature.XSAVE or CpuidFeature.XSAVEOPT or CpuidFeature.XSAVEC or CpuidFeature.XSAVES:
                    return Extension.Xsave;
            }
        }
        return Extension.None;
    }

    private static bool UsesMmxOnly(in Instruction instruction)
    {
        bool mmx = false;
        for (int k = 0; k < instruction.OpCount; k++)
        {
            if (instruction.GetOpKind(k) != OpKind.Register)
                continue;
            Register register = instruction.GetOpRegister(k);
            if (register.IsXMM())
                return false;
            mmx |= register.IsMM();
        }
        return mmx;
    }

    private static bool IsFpu(this Code code)
    {
        uint opcode = code.ToOpCode().OpCode;
        return code.ToOpCode().Table == OpCodeTableKind.Normal && (opcode is >= 0xD8 and <= 0xDF || opcode >> 8 is >= 0xD8 and <= 0xDF);
    }
}
