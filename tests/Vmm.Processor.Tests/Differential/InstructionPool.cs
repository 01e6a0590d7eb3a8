using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using Vmm.Processor.Decoding;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Tests.Differential;

/// <summary>The instructions that can be compared: those that this engine implements, the host has, and whose results do not depend on the machine.</summary>
internal sealed class InstructionPool
{
    private readonly HashSet<Code> _allowed;

    /// <summary>Creates a pool.</summary>
    /// <param name="bitness">64, or 32 or 16 for compatibility mode.</param>
    /// <param name="among">Of which instructions; null for all.</param>
    public InstructionPool(int bitness, Predicate<Code>? among = null)
    {
        Bitness = bitness;
        var features = new ProcessorFeatures { Bmi = true };
        HandlerTable table = bitness == 64 ? InstructionSet.Build<Long>(features) : InstructionSet.Build<Legacy>(features);
        Codes = Enum.GetValues<Code>().Where(code => IsComparable(code, table) && among?.Invoke(code) != false).ToArray();
        _allowed = [.. Codes];
    }

    /// <summary>64, or 32 or 16 for compatibility mode.</summary>
    public int Bitness { get; }

    public Code[] Codes { get; }

    public bool Contains(Code code) => _allowed.Contains(code);

    private unsafe bool IsComparable(Code code, HandlerTable table)
    {
        if (table.Find(code, false) == null && table.Find(code, true) == null)
            return false;
        OpCodeInfo info = code.ToOpCode();
        bool known = Bitness == 64 ? info.Mode64 && info.IntelDecoder64 == info.AmdDecoder64 : Bitness == 32 ? info.Mode32 && info.IntelDecoder32 == info.AmdDecoder32
            : info.Mode16 && info.IntelDecoder16 == info.AmdDecoder16;
        if (!info.IsInstruction || !known || Excluded(code))
            return false;
        return code.CpuidFeatures().All(HostHas);
    }

    private bool Excluded(Code code)
    {
        switch (code.Mnemonic())
        {
            // What time, chance, the host's kernel or its configuration answers.
            case Mnemonic.Rdtsc or Mnemonic.Rdtscp or Mnemonic.Rdpmc or Mnemonic.Rdrand or Mnemonic.Rdseed or Mnemonic.Rdpid or Mnemonic.Cpuid or Mnemonic.Xgetbv:
            case Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Sldt or Mnemonic.Str or Mnemonic.Smsw or Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw:
            case Mnemonic.Syscall or Mnemonic.Sysenter or Mnemonic.Sysret or Mnemonic.Sysexit or Mnemonic.Int or Mnemonic.Int1 or Mnemonic.Int3 or Mnemonic.Into:
            case Mnemonic.Iret or Mnemonic.Iretd or Mnemonic.Iretq or Mnemonic.Retf:
            case Mnemonic.Monitor or Mnemonic.Mwait or Mnemonic.Monitorx or Mnemonic.Mwaitx or Mnemonic.Umonitor or Mnemonic.Umwait or Mnemonic.Tpause:
            case Mnemonic.Vmcall or Mnemonic.Vmmcall or Mnemonic.Vmfunc or Mnemonic.Rdpkru or Mnemonic.Wrpkru:
                return true;
            // What would take the thread's own segments or let single steps and alignment checks loose on it.
            case Mnemonic.Rdfsbase or Mnemonic.Wrfsbase or Mnemonic.Rdgsbase or Mnemonic.Wrgsbase or Mnemonic.Lds or Mnemonic.Les or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss:
            case Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq:
                return true;
            // The instruction and data pointers of the x87 differ between Intel's and AMD's processors, as do the layouts' reserved parts.
            case Mnemonic.Fxsave or Mnemonic.Fxsave64 or Mnemonic.Fnsave or Mnemonic.Fnstenv or Mnemonic.Fxrstor or Mnemonic.Fxrstor64 or Mnemonic.Frstor:
            case Mnemonic.Xsave or Mnemonic.Xsave64 or Mnemonic.Xsavec or Mnemonic.Xsavec64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64
                or Mnemonic.Xrstor or Mnemonic.Xrstor64 or Mnemonic.Xsaves or Mnemonic.Xsaves64 or Mnemonic.Xrstors or Mnemonic.Xrstors64 or Mnemonic.Xsetbv:
                return true;
            // Undocumented: AMD pops without looking at the tag.
            case Mnemonic.Fstpnce:
                return true;
            // Approximations: each processor family has its own.
            case Mnemonic.Rcpps or Mnemonic.Rcpss or Mnemonic.Rsqrtps or Mnemonic.Rsqrtss:
            case Mnemonic.Fsin or Mnemonic.Fcos or Mnemonic.Fsincos or Mnemonic.Fptan or Mnemonic.Fpatan or Mnemonic.F2xm1 or Mnemonic.Fyl2x or Mnemonic.Fyl2xp1:
                return true;
        }
        if (code.ToOpCode().OpCount > 0 && Enumerable.Range(0, code.ToOpCode().OpCount).Any(k => code.ToOpCode().GetOpKind(k) is OpCodeOperandKind.seg_reg
            or OpCodeOperandKind.es or OpCodeOperandKind.cs or OpCodeOperandKind.ss or OpCodeOperandKind.ds or OpCodeOperandKind.fs or OpCodeOperandKind.gs
            or OpCodeOperandKind.farbr2_2 or OpCodeOperandKind.farbr4_2))
            return true;
        return code is Code.Call_m1616 or Code.Call_m1632 or Code.Call_m1664 or Code.Jmp_m1616 or Code.Jmp_m1632 or Code.Jmp_m1664
            // Near branches with a 16-bit operand: AMD has them, Intel ignores the prefix.
            || Bitness == 64 && code is Code.Retnw or Code.Retnw_imm16 or Code.Jmp_rm16 or Code.Call_rm16
            // From memory, two bytes on Intel's processors and four on AMD's.
            || code is Code.Movsxd_r16_rm16
            // With a register, Intel has a NOP here and AMD an undefined opcode.
            || code is Code.Reservednop_rm16_r16_0F0D or Code.Reservednop_rm32_r32_0F0D or Code.Reservednop_rm64_r64_0F0D;
    }

    private static bool HostHas(CpuidFeature feature)
    {
        (int _, int _, int ecx1, int edx1) = X86Base.CpuId(1, 0);
        (int _, int ebx7, int _, int _) = X86Base.CpuId(7, 0);
        (int _, int _, int ecxExtended, int edxExtended) = X86Base.CpuId(unchecked((int)0x8000_0001), 0);
        return feature switch
        {
            CpuidFeature.INTEL8086 or CpuidFeature.INTEL186 or CpuidFeature.INTEL286 or CpuidFeature.INTEL386 or CpuidFeature.INTEL486
                or CpuidFeature.X64 or CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.CMOV or CpuidFeature.CX8
                or CpuidFeature.MMX or CpuidFeature.FXSR or CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.MULTIBYTENOP or CpuidFeature.CLFSH
                or CpuidFeature.PAUSE => true,
            // As NOPs, they are on every processor.
            CpuidFeature.CET_IBT or CpuidFeature.PREFETCHW => true,
            CpuidFeature.SSE3 => Sse3.IsSupported,
            CpuidFeature.SSSE3 => Ssse3.IsSupported,
            CpuidFeature.SSE4_1 => Sse41.IsSupported,
            CpuidFeature.SSE4_2 => Sse42.IsSupported,
            CpuidFeature.AES => Aes.IsSupported,
            CpuidFeature.PCLMULQDQ => Pclmulqdq.IsSupported,
            CpuidFeature.POPCNT => Popcnt.IsSupported,
            CpuidFeature.BMI1 => Bmi1.IsSupported,
            CpuidFeature.BMI2 => Bmi2.IsSupported,
            CpuidFeature.LZCNT => Lzcnt.IsSupported,
            CpuidFeature.ADX => (ebx7 & 1 << 19) != 0,
            CpuidFeature.CMPXCHG16B => (ecx1 & 1 << 13) != 0,
            CpuidFeature.MOVBE => (ecx1 & 1 << 22) != 0,
            CpuidFeature.MONITOR => false,
            _ => false,
        };
    }
}
