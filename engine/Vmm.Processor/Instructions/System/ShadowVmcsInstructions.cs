using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// VMREAD and VMWRITE with VMCS shadowing: where the bitmaps allow, they go to the VMCS that the link pointer names (SDM volume 3,
/// sections 26.1.3, 26.5.5 and chapter 31). Where the bitmaps do not, they exit as without.
/// </summary>
internal static unsafe class ShadowVmcsInstructions
{
    private const uint UnsupportedComponent = 12, ReadOnlyComponent = 13;

    /// <summary>VMREAD r, r.</summary>
    public static Insn* Read<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        ulong encoding = Width.Widen(Register.Read<T>(s, i->Operand1));
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (!IsShadowed(s, encoding, cpu.VmreadBitmap))
            return VmxInstructions.Read(s, i);
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (Find(s, cpu, encoding, out bool high) is not { } entry)
            return i + 1;
        Register.Write(s, i->Operand0, Width.Narrow<T>(Value(cpu, entry, high)));
        return Succeed(s, i);
    }

    /// <summary>VMREAD m, r.</summary>
    public static Insn* ReadToMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong encoding = Width.Widen(Register.Read<T>(s, i->Operand1));
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (!IsShadowed(s, encoding, cpu.VmreadBitmap))
            return VmxInstructions.ReadToMemory(s, i);
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (Find(s, cpu, encoding, out bool high) is not { } entry)
            return i + 1;
        return Operand.Write<T, M>(s, i, Width.Narrow<T>(Value(cpu, entry, high))) ? Succeed(s, i) : null;
    }

    /// <summary>VMWRITE r, r.</summary>
    public static Insn* Write<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        ulong encoding = Width.Widen(Register.Read<T>(s, i->Operand0));
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (!IsShadowed(s, encoding, cpu.VmwriteBitmap))
            return VmxInstructions.Write(s, i);
        return s->Cpl != 0 ? Fault.Raise(s, i, Vector.Gp, 0) : Store(s, i, cpu, encoding, Width.Widen(Register.Read<T>(s, i->Operand1)));
    }

    /// <summary>VMWRITE r, m.</summary>
    public static Insn* WriteFromMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        ulong encoding = Width.Widen(Register.Read<T>(s, i->Operand0));
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (!IsShadowed(s, encoding, cpu.VmwriteBitmap))
            return VmxInstructions.WriteFromMemory(s, i);
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        return Operand.Read<T, M>(s, i, out T value) ? Store(s, i, cpu, encoding, Width.Widen(value)) : null;
    }

    // A set bit exits, and so does an encoding that has none: one with a bit beyond 14.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool IsShadowed(CpuState* s, ulong encoding, byte* bitmap) =>
        (s->SecondaryControls & SecondaryControls.VmcsShadowing) != 0 && VmxInstructions.Exist(s) && encoding >> 15 == 0
        && bitmap != null && (bitmap[encoding >> 3] >> (int)(encoding & 7) & 1) == 0;

    /// <summary>The field that an encoding names; null where there is none or no VMCS to look into, with the flags set for the failure.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static VmcsFieldEntry? Find(CpuState* s, LogicalProcessor cpu, ulong encoding, out bool high)
    {
        VmcsFieldEntry? entry = VmcsCatalogue.Find(encoding, cpu.Environment.Vmx, out high);
        if (cpu.Vmcs!.Shadow is null)
            Flags.Write(s, Rflags.Cf);
        else if (entry is null)
            Fail(s, cpu, UnsupportedComponent);
        else
            return entry;
        return null;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Store(CpuState* s, Insn* i, LogicalProcessor cpu, ulong encoding, ulong value)
    {
        if (Find(s, cpu, encoding, out bool high) is not { } entry)
            return i + 1;
        if (entry.IsReadOnly && !cpu.Environment.Vmx.VmwriteToAll)
        {
            Fail(s, cpu, ReadOnlyComponent);
            return i + 1;
        }
        cpu.Counters.Vmwrites++;
        Vmcs shadow = cpu.Vmcs!.Shadow!;
        // Bits of the field beyond the operand's size are cleared (SDM volume 3, VMWRITE).
        shadow[entry.Field] = high ? (uint)shadow[entry.Field] | value << 32 : value & entry.ValueMask;
        return Succeed(s, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Value(LogicalProcessor cpu, VmcsFieldEntry entry, bool high)
    {
        cpu.Counters.Vmreads++;
        ulong value = cpu.Vmcs!.Shadow![entry.Field];
        return high ? value >> 32 : value;
    }

    private static void Fail(CpuState* s, LogicalProcessor cpu, uint error)
    {
        Flags.Write(s, Rflags.Zf);
        cpu.Vmcs![VmcsField.VmInstructionError] = error;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Succeed(CpuState* s, Insn* i)
    {
        Flags.Write(s, 0);
        return i + 1;
    }
}
