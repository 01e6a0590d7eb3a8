using System.Runtime.Intrinsics.X86;
using Iced.Intel;
using Vmm.Processor.State;

namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// Where two processors may rightly disagree: what the manuals leave open, and what is known of Intel's and AMD's processors beyond
/// them. Ours does as Intel's where those are known to do one thing.
/// </summary>
internal static unsafe class HostDifferences
{
    private const int MaskedExceptions = 0x3F;
    private const uint GenuineIntel = 0x756E_6547;

    private static readonly bool HostIsIntel = X86Base.IsSupported && (uint)X86Base.CpuId(0, 0).Ebx == GenuineIntel;

    /// <summary>Whether the outcome as a whole is nothing to compare by.</summary>
    public static bool LeaveOpen(Sequence sequence, MachineState native, MachineState emulated) =>
        IsSplitLock(sequence, native) || IsLoose(sequence.At(native.Rip), native, emulated) || HasMisalignedMode(sequence, native, emulated) || HasWrapped(sequence, native, emulated)
            || HasPreventedStore(sequence, native, emulated) || (!HostIsIntel && sequence.Items.Exists(item => IsOnlyIntels(item.Instruction, sequence.Bitness)));

    /// <summary>
    /// Whether memory differs by a return address alone: an indirect CALL whose target is not canonical or beyond the limit. The SDM looks
    /// at the target first; Intel's processors have stored the address by then, below RSP, which stays.
    /// </summary>
    public static bool HasPushedReturn(Sequence sequence, MachineState native, MachineState emulated)
    {
        Instruction faulting = sequence.At(native.Rip);
        if (faulting.Mnemonic != Mnemonic.Call || native.Vector != Vector.Gp)
            return false;
        int first = native.Memory.CommonPrefixLength(emulated.Memory), last = native.Memory.Length - 1;
        while (native.Memory[last] == emulated.Memory[last])
            last--;
        ulong next = sequence.Behind(native.Rip);
        int size = faulting.Code switch { Code.Call_rm16 => 2, Code.Call_rm32 => 4, _ => 8 };
        for (int start = Math.Max(last - size + 1, 0); start <= first; start++)
        {
            ulong stored = 0;
            native.Memory.Slice(start, size).CopyTo(new Span<byte>(&stored, size));
            if (stored == next)
                return true;
        }
        return false;
    }

    /// <summary>
    /// Which bits of a register a fault in this instruction leaves as they should be: where a repetition with a 32-bit address size faults
    /// at once, some of Intel's have cleared the upper half of an index register and some have not.
    /// </summary>
    public static ulong Defined(in Instruction faulting, int register) =>
        register is Gpr.Rsi or Gpr.Rdi && IsNarrowRepetition(faulting) ? uint.MaxValue : ulong.MaxValue;

    // Linux slows down programs that lock across a cache line, on processors that tell it, and so much on a busy machine that the sequence
    // was taken for one that hangs.
    private static bool IsSplitLock(Sequence sequence, MachineState native)
    {
        Instruction at = sequence.At(native.Rip);
        return native.Vector == MachineState.NoVector && (at.HasLockPrefix || (at.Mnemonic == Mnemonic.Xchg && (at.Op0Kind == OpKind.Memory || at.Op1Kind == OpKind.Memory)));
    }

    // Whether the host, not being Intel's, may do otherwise than ours: RCX of a repetition with a 32-bit address size, the NaN of a dot
    // product, BOUND's second bound.
    private static bool IsOnlyIntels(Instruction instruction, int bitness) => instruction.Mnemonic switch
    {
        Mnemonic.Dpps or Mnemonic.Dppd or Mnemonic.Bound => true,
        _ => bitness == 64 && IsNarrowRepetition(instruction),
    };

    // A repetition with a 32-bit address size.
    private static bool IsNarrowRepetition(Instruction instruction) =>
        (instruction.HasRepePrefix || instruction.HasRepnePrefix) && instruction.IsStringInstruction
            && Enumerable.Range(0, instruction.OpCount).Any(k => instruction.GetOpKind(k) is OpKind.MemorySegESI or OpKind.MemorySegEDI or OpKind.MemoryESEDI);

    // Where an access goes beyond the end of 4 GiB, a segment with the greatest limit may fault or wrap around, as the processor likes
    // (SDM volume 3, section 6.3).
    private static bool HasWrapped(Sequence sequence, MachineState native, MachineState emulated) =>
        sequence.Bitness != 64 && native.Vector == Vector.Pf && emulated.Vector is Vector.Gp or Vector.Ss && native.Rip == emulated.Rip
            && (uint)native.Address + 128 < 256;

    // An x87 store that an unmasked exception prevents: AMD's processors check the memory operand first, Intel's do not look at it.
    private static bool HasPreventedStore(Sequence sequence, MachineState native, MachineState emulated) =>
        native.Vector is Vector.Pf or Vector.Gp or Vector.Ss && native.Rip != emulated.Rip && (emulated.Fcw & MaskedExceptions) != MaskedExceptions
            && sequence.At(native.Rip).Mnemonic is Mnemonic.Fst or Mnemonic.Fstp or Mnemonic.Fist or Mnemonic.Fistp or Mnemonic.Fisttp or Mnemonic.Fbstp;

    /// <summary>Whether two processors may rightly disagree on the exception or on its address.</summary>
    private static bool IsLoose(in Instruction faulting, MachineState native, MachineState emulated) => faulting.Mnemonic switch
    {
        // The target is not canonical and the stack cannot be written: the SDM's order is the target first, AMD's the stack.
        Mnemonic.Call => native.Vector is Vector.Pf or Vector.Ss && emulated.Vector == Vector.Gp,
        // Whether bytes that are not stored are checked, the manuals leave to the processor.
        Mnemonic.Maskmovq or Mnemonic.Maskmovdqu => native.Vector is Vector.Pf or Vector.Gp,
        // So they do the order in which the parts of an environment, or of an operand of 80 bits, are checked.
        Mnemonic.Fldenv or Mnemonic.Fbld or Mnemonic.Fbstp or Mnemonic.Fld or Mnemonic.Fstp when faulting.Mnemonic == Mnemonic.Fldenv || faulting.MemorySize.GetSize() == 10 => native.Vector is Vector.Pf or Vector.Gp or Vector.Ss && emulated.Vector is Vector.Pf or Vector.Gp or Vector.Ss,
        Mnemonic.Cmpsb or Mnemonic.Cmpsw or Mnemonic.Cmpsd or Mnemonic.Cmpsq when faulting.Code is Code.Cmpsb_m8_m8 or Code.Cmpsw_m16_m16 or Code.Cmpsd_m32_m32 or Code.Cmpsq_m64_m64 =>
            IsByDestination(native) && emulated.Vector is Vector.Pf or Vector.Gp or Vector.Ss && (native.Vector, native.Address) != (emulated.Vector, emulated.Address),
        _ => false,
    };

    // Where both operands of CMPS fault, the manuals leave open which is first. Ours, and some of AMD's processors, begin with the
    // source; others of AMD's with the destination, as this host's may. CR2 tells, but not where a limit is violated.
    private static bool IsByDestination(MachineState native) =>
        native.Vector == Vector.Gp || (native.Vector == Vector.Pf && (ushort)(native.Address - native.Gpr[Gpr.Rdi]) < sizeof(ulong));

    // Bit 17 of MXCSR (MM) is AMD's own: elsewhere it is reserved, and LDMXCSR refuses it.
    private static bool HasMisalignedMode(Sequence sequence, MachineState native, MachineState emulated) =>
        (native.Mxcsr & 1 << 17) != 0 && emulated.Vector == Vector.Gp && sequence.At(emulated.Rip).Mnemonic == Mnemonic.Ldmxcsr;
}
