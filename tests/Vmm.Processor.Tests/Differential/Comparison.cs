using System.Text;
using Iced.Intel;
using Vmm.Processor.State;

namespace Vmm.Processor.Tests.Differential;

/// <summary>What counts as a difference between two outcomes of a sequence.</summary>
internal static unsafe class Comparison
{
    private static readonly string[] GprNames = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

    // The exception's RF and the like are the kernel's view of the moment, not the program's.
    private const ulong ComparedFlags = Rflags.Arithmetic | Rflags.Df;

    /// <summary>Where Linux's user addresses end: 48 bits less a guard page.</summary>
    private const ulong UserEnd = 0x7FFF_FFFF_F000;

    /// <summary>The differences, one per line; empty where there is none that counts.</summary>
    public static string Differences(Sequence sequence, MachineState native, MachineState emulated)
    {
        if (native.Vector == MachineState.NoVector && emulated.Vector == MachineState.NoVector)
            return "";
        Instruction faulting = sequence.At(native.Rip);
        if (HostDifferences.LeaveOpen(sequence, native, emulated))
            return "";
        var text = new StringBuilder();
        if (native.Vector != emulated.Vector)
            text.AppendLine($"exception: native {Name(native.Vector)}, emulated {Name(emulated.Vector)}");
        if (native.Rip != emulated.Rip)
            text.AppendLine($"rip: native {native.Rip:x}, emulated {emulated.Rip:x}");
        if (text.Length > 0)
            return text.ToString();
        if (((native.Error ^ emulated.Error) & ~HiddenErrorBits(native)) != 0)
            text.AppendLine($"error code: native {native.Error:x}, emulated {emulated.Error:x}");
        if (native.Vector == Vector.Pf && native.Address != emulated.Address)
            text.AppendLine($"cr2: native {native.Address:x}, emulated {emulated.Address:x}");
        // Where POPA faults in the middle, AMD's processors have loaded the registers before and do it over.
        if (faulting.Mnemonic is Mnemonic.Popa or Mnemonic.Popad)
            return text.ToString();
        // In compatibility mode the upper halves are nobody's.
        int registers = sequence.Bitness == 64 ? 16 : 8;
        ulong width = sequence.Bitness == 64 ? ulong.MaxValue : uint.MaxValue;
        for (int k = 0; k < registers; k++)
        {
            if (((native.Gpr[k] ^ emulated.Gpr[k]) & width & HostDifferences.Defined(faulting, k)) != 0)
                text.AppendLine($"{GprNames[k]}: native {native.Gpr[k]:x16}, emulated {emulated.Gpr[k]:x16}");
        }
        RflagsBits undefined = sequence.UndefinedBefore(sequence.IndexOf(native.Rip));
        ulong mask = ComparedFlags & ~Bits(undefined);
        if (FlagRules.IsRepeatedComparison(faulting))
            mask &= ~Rflags.Arithmetic;
        if (((native.Flags ^ emulated.Flags) & mask) != 0)
            text.AppendLine($"rflags: native {native.Flags:x}, emulated {emulated.Flags:x}, compared {mask:x}");
        for (int k = 0; k < registers; k++)
        {
            string a = Hex(native.Xmm(k), 16), b = Hex(emulated.Xmm(k), 16);
            if (a != b)
                text.AppendLine($"xmm{k}: native {a}, emulated {b}");
        }
        if (native.Mxcsr != emulated.Mxcsr)
            text.AppendLine($"mxcsr: native {native.Mxcsr:x}, emulated {emulated.Mxcsr:x}");
        if (HasSwitchedToMmx(faulting))
            return text.Append(MemoryDifference(sequence, native, emulated)).ToString();
        if (native.Fcw != emulated.Fcw || ((native.Fsw ^ emulated.Fsw) & ~ConditionCodes(undefined)) != 0 || native.Ftw != emulated.Ftw)
            text.AppendLine($"fcw/fsw/ftw: native {native.Fcw:x4} {native.Fsw:x4} {native.Ftw:x2}, emulated {emulated.Fcw:x4} {emulated.Fsw:x4} {emulated.Ftw:x2}");
        for (int k = 0; k < 8; k++)
        {
            string a = Hex(native.St(k), 10), b = Hex(emulated.St(k), 10);
            if (a != b)
                text.AppendLine($"st{k}: native {a}, emulated {b}");
        }
        return text.Append(MemoryDifference(sequence, native, emulated)).ToString();
    }

    private static string MemoryDifference(Sequence sequence, MachineState native, MachineState emulated)
    {
        if (native.Memory.SequenceEqual(emulated.Memory) || HostDifferences.HasPushedReturn(sequence, native, emulated))
            return "";
        int at = native.Memory.CommonPrefixLength(emulated.Memory);
        ulong linear = at < (int)Layout.DataSize ? Layout.Data + (ulong)at : Layout.Stack + (ulong)at - Layout.DataSize;
        int length = Math.Min(16, native.Memory.Length - at);
        return $"memory from {linear:x}: native {Convert.ToHexString(native.Memory.Slice(at, length))}, emulated {Convert.ToHexString(emulated.Memory.Slice(at, length))}\n";
    }

    /// <summary>All registers, to reproduce by hand.</summary>
    public static string Describe(MachineState state)
    {
        var text = new StringBuilder();
        for (int k = 0; k < 16; k++)
            text.Append($"{GprNames[k]}={state.Gpr[k]:x16}{(k % 4 == 3 ? "\n" : " ")}");
        text.AppendLine($"rip={state.Rip:x} rflags={state.Flags:x} mxcsr={state.Mxcsr:x} fcw={state.Fcw:x4} fsw={state.Fsw:x4} ftw={state.Ftw:x2}");
        for (int k = 0; k < 16; k++)
            text.Append($"xmm{k}={Hex(state.Xmm(k), 16)}{(k % 2 == 1 ? "\n" : " ")}");
        for (int k = 0; k < 8; k++)
            text.Append($"st{k}={Hex(state.St(k), 10)}{(k % 4 == 3 ? "\n" : " ")}");
        return text.ToString();
    }

    // An instruction of MMX that faults has made the x87 registers those of MMX already on AMD's processors, not on Intel's.
    private static bool HasSwitchedToMmx(Instruction faulting) =>
        Enumerable.Range(0, faulting.OpCount).Any(k => faulting.GetOpKind(k) == OpKind.Register && faulting.GetOpRegister(k).IsMM());

    // Linux hides from programs which of the kernel's own addresses are mapped: it sets P for all of them (set_signal_archinfo).
    private static uint HiddenErrorBits(MachineState native) =>
        native.Vector == Vector.Pf && native.Address >= UserEnd ? 1u : 0;

    /// <summary>How a sequence ended.</summary>
    public static string End(MachineState state) => $"{Name(state.Vector)} at {state.Rip:x}";

    private static string Name(uint vector) => vector switch
    {
        MachineState.NoVector => "none",
        Vector.De => "#DE",
        Vector.Br => "#BR",
        Vector.Ud => "#UD",
        Vector.Nm => "#NM",
        Vector.Ss => "#SS",
        Vector.Gp => "#GP",
        Vector.Pf => "#PF",
        Vector.Mf => "#MF",
        Vector.Ac => "#AC",
        Vector.Xm => "#XM",
        _ => $"vector {vector}",
    };

    /// <summary>Bytes as one number, most significant first.</summary>
    private static string Hex(byte* bytes, int count)
    {
        var text = new StringBuilder(count * 2);
        for (int k = count - 1; k >= 0; k--)
            text.Append($"{bytes[k]:x2}");
        return text.ToString();
    }

    private static int ConditionCodes(RflagsBits flags) =>
        ((flags & RflagsBits.C0) != 0 ? 1 << 8 : 0) | ((flags & RflagsBits.C1) != 0 ? 1 << 9 : 0)
        | ((flags & RflagsBits.C2) != 0 ? 1 << 10 : 0) | ((flags & RflagsBits.C3) != 0 ? 1 << 14 : 0);

    private static ulong Bits(RflagsBits flags) =>
        ((flags & RflagsBits.CF) != 0 ? Rflags.Cf : 0) | ((flags & RflagsBits.PF) != 0 ? Rflags.Pf : 0) | ((flags & RflagsBits.AF) != 0 ? Rflags.Af : 0)
        | ((flags & RflagsBits.ZF) != 0 ? Rflags.Zf : 0) | ((flags & RflagsBits.SF) != 0 ? Rflags.Sf : 0) | ((flags & RflagsBits.OF) != 0 ? Rflags.Of : 0);
}
