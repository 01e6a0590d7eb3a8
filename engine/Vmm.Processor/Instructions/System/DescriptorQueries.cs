using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;

namespace Vmm.Processor.Instructions.System;

/// <summary>LAR, LSL, VERR, VERW and ARPL: what a program may learn about descriptors (SDM volume 3, section 5.10).</summary>
internal static unsafe class DescriptorQueries
{
    /// <summary>LAR from a register.</summary>
    public static Insn* Rights<T>(CpuState* s, Insn* i) where T : unmanaged => Rights<T>(s, i, Register.Read<ushort>(s, i->Operand1));

    /// <summary>LAR from memory: 16 bits whatever the operand size.</summary>
    public static Insn* RightsMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Read<M>(s, i, out ushort selector) ? Rights<T>(s, i, selector) : null;

    /// <summary>LSL from a register.</summary>
    public static Insn* Limit<T>(CpuState* s, Insn* i) where T : unmanaged => Limit<T>(s, i, Register.Read<ushort>(s, i->Operand1));

    /// <summary>LSL from memory.</summary>
    public static Insn* LimitMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        Read<M>(s, i, out ushort selector) ? Limit<T>(s, i, selector) : null;

    /// <summary>VERR from a register.</summary>
    public static Insn* VerifyRead(CpuState* s, Insn* i) => Verify(s, i, Register.Read<ushort>(s, i->Operand0), write: false);

    /// <summary>VERR from memory.</summary>
    public static Insn* VerifyReadMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Read<M>(s, i, out ushort selector) ? Verify(s, i, selector, write: false) : null;

    /// <summary>VERW from a register.</summary>
    public static Insn* VerifyWrite(CpuState* s, Insn* i) => Verify(s, i, Register.Read<ushort>(s, i->Operand0), write: true);

    /// <summary>VERW from memory.</summary>
    public static Insn* VerifyWriteMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        Read<M>(s, i, out ushort selector) ? Verify(s, i, selector, write: true) : null;

    /// <summary>ARPL r16, r16.</summary>
    public static Insn* AdjustRpl(CpuState* s, Insn* i)
    {
        if (FarTransfer.IsRealStyle(s))
            return Fault.Raise(s, i, Vector.Ud);
        ushort destination = Register.Read<ushort>(s, i->Operand0);
        ushort source = Register.Read<ushort>(s, i->Operand1);
        bool raise = (destination & 3) < (source & 3);
        if (raise)
            Register.Write(s, i->Operand0, (ushort)((destination & ~3) | (source & 3)));
        Flags.SetZero(s, raise);
        return i + 1;
    }

    /// <summary>ARPL m16, r16.</summary>
    public static Insn* AdjustRplMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (FarTransfer.IsRealStyle(s))
            return Fault.Raise(s, i, Vector.Ud);
        if (!Operand.BeginModify<ushort, M>(s, i, out ushort destination, out Cell cell))
            return null;
        ushort source = Register.Read<ushort>(s, i->Operand1);
        bool raise = (destination & 3) < (source & 3);
        if (raise)
            Operand.EndModify(s, i, cell, (ushort)((destination & ~3) | (source & 3)));
        Flags.SetZero(s, raise);
        return i + 1;
    }

    private static bool Read<M>(CpuState* s, Insn* i, out ushort selector) where M : struct, IAddressing
    {
        if (!FarTransfer.IsRealStyle(s))
            return Operand.Read<ushort, M>(s, i, out selector);
        selector = 0;
        Fault.Raise(s, i, Vector.Ud);
        return false;
    }

    private static Insn* Rights<T>(CpuState* s, Insn* i, ushort selector) where T : unmanaged
    {
        if (!Look(s, i, selector, out Descriptor descriptor, out bool found))
            return null;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        bool visible = found && (!descriptor.IsSystem || (ia32e
            ? descriptor.Type is SystemType.Ldt or SystemType.Tss32 or SystemType.BusyTss32 or SystemType.CallGate32
            : descriptor.Type is SystemType.Tss16 or SystemType.Ldt or SystemType.BusyTss16 or SystemType.CallGate16 or SystemType.TaskGate
                or SystemType.Tss32 or SystemType.BusyTss32 or SystemType.CallGate32));
        if (visible)
            Register.Write(s, i->Operand0, Width.Narrow<T>(descriptor.Low >> 32 & 0xF0_FF00));
        Flags.SetZero(s, visible);
        return i + 1;
    }

    private static Insn* Limit<T>(CpuState* s, Insn* i, ushort selector) where T : unmanaged
    {
        if (!Look(s, i, selector, out Descriptor descriptor, out bool found))
            return null;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        bool visible = found && (!descriptor.IsSystem || (ia32e
            ? descriptor.Type is SystemType.Ldt or SystemType.Tss32 or SystemType.BusyTss32
            : descriptor.Type is SystemType.Tss16 or SystemType.Ldt or SystemType.BusyTss16 or SystemType.Tss32 or SystemType.BusyTss32));
        if (visible)
            Register.Write(s, i->Operand0, Width.Narrow<T>(descriptor.Limit));
        Flags.SetZero(s, visible);
        return i + 1;
    }

    private static Insn* Verify(CpuState* s, Insn* i, ushort selector, bool write)
    {
        if (!Look(s, i, selector, out Descriptor descriptor, out bool found))
            return null;
        Flags.SetZero(s, found && (write ? descriptor.IsWritable : descriptor.IsReadable));
        return i + 1;
    }

    /// <summary>Reads a descriptor that the program may see at its privilege level. False after a fault, settled.</summary>
    private static bool Look(CpuState* s, Insn* i, ushort selector, out Descriptor descriptor, out bool found)
    {
        found = false;
        descriptor = default;
        if (FarTransfer.IsRealStyle(s))
        {
            Fault.Raise(s, i, Vector.Ud);
            return false;
        }
        if (Selector.IsNull(selector))
            return true;
        switch (DescriptorTable.TryFetch(LogicalProcessor.Of(s), selector, out descriptor))
        {
            case DescriptorTable.Lookup.Fault:
                Fault.At(s, i);
                return false;
            case DescriptorTable.Lookup.Found:
                found = descriptor.IsConforming || (descriptor.Dpl >= s->Cpl && descriptor.Dpl >= Selector.Rpl(selector));
                return true;
            default:
                return true;
        }
    }
}
