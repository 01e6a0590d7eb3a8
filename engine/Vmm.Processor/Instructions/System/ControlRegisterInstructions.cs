using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// MOV to and from control and debug registers, LMSW, SMSW and CLTS, as they behave in VMX non-root operation (SDM volume 2;
/// volume 3, sections 26.1.3 and 26.3).
/// </summary>
internal static unsafe class ControlRegisterInstructions
{
    private const ulong AccessMovTo = 0 << 4, AccessMovFrom = 1 << 4, AccessClts = 2 << 4, AccessLmsw = 3 << 4;
    private const ulong Dr6Fixed = 0xFFFF_0FF0, Dr6Writable = 0xE00F, Dr7Fixed = 0x400, Dr7Writable = 0xFFFF_23FF;

    /// <summary>MOV r, CRn.</summary>
    public static Insn* Read<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        int number = i->Operand1;
        if (!Exists<T>(number))
            return Fault.Raise(s, i, Vector.Ud);
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        ulong value;
        switch (number)
        {
            case 0:
                value = Visible(s->Cr0, vmcs[VmcsField.Cr0Mask], vmcs[VmcsField.Cr0Shadow]);
                break;
            case 2:
                value = s->Cr2;
                break;
            case 3:
                if ((s->ProcControls & ProcControls.Cr3StoreExiting) != 0)
                    return Exit(s, i, number, AccessMovFrom, i->Operand0);
                value = s->Cr3;
                break;
            case 4:
                value = Visible(s->Cr4, vmcs[VmcsField.Cr4Mask], vmcs[VmcsField.Cr4Shadow]);
                break;
            default:
                if ((s->ProcControls & ProcControls.Cr8StoreExiting) != 0)
                    return Exit(s, i, number, AccessMovFrom, i->Operand0);
                value = (s->ProcControls & ProcControls.TprShadow) != 0 ? LogicalProcessor.Of(s).VirtualApic.TaskPriority >> 4 : s->Cr8;
                break;
        }
        Register.Write(s, i->Operand0, Width.Narrow<T>(value));
        return i + 1;
    }

    /// <summary>MOV CRn, r.</summary>
    public static Insn* Write<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        int number = i->Operand0;
        if (!Exists<T>(number))
            return Fault.Raise(s, i, Vector.Ud);
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        ulong value = Width.Widen(Register.Read<T>(s, i->Operand1));
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        bool done;
        switch (number)
        {
            case 0:
                ulong mask0 = vmcs[VmcsField.Cr0Mask];
                if (((value ^ vmcs[VmcsField.Cr0Shadow]) & mask0) != 0)
                    return Exit(s, i, number, AccessMovTo, i->Operand1);
                value = (s->Cr0 & mask0) | (value & ~mask0);
                done = KeepsFixedBits(s, vmcs, value) && ControlRegisters.SetCr0(s, value);
                break;
            case 2:
                s->Cr2 = value;
                return Flow.Leave(s, i);
            case 3:
                if ((s->ProcControls & ProcControls.Cr3LoadExiting) != 0 && !IsTarget(vmcs, value))
                    return Exit(s, i, number, AccessMovTo, i->Operand1);
                done = ControlRegisters.SetCr3(s, value);
                break;
            case 4:
                ulong mask4 = vmcs[VmcsField.Cr4Mask];
                if (((value ^ vmcs[VmcsField.Cr4Shadow]) & mask4) != 0)
                    return Exit(s, i, number, AccessMovTo, i->Operand1);
                done = ControlRegisters.SetCr4(s, (s->Cr4 & mask4) | (value & ~mask4));
                break;
            default:
                if ((s->ProcControls & ProcControls.Cr8LoadExiting) != 0)
                    return Exit(s, i, number, AccessMovTo, i->Operand1);
                if (value > 15)
                    return Fault.Raise(s, i, Vector.Gp, 0);
                if ((s->ProcControls & ProcControls.TprShadow) != 0)
                    LogicalProcessor.Of(s).VirtualApic.SetTaskPriority((uint)value << 4);
                else
                    s->Cr8 = value;
                return Flow.Leave(s, i);
        }
        return done ? Flow.Leave(s, i) : Fault.At(s, i);
    }

    /// <summary>CLTS.</summary>
    public static Insn* ClearTaskSwitched(CpuState* s, Insn* i)
    {
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        if ((vmcs[VmcsField.Cr0Mask] & Cr0.Ts) != 0)
            return (vmcs[VmcsField.Cr0Shadow] & Cr0.Ts) != 0 ? VmExit.At(s, i, ExitReason.ControlRegister, AccessClts) : Flow.Leave(s, i);
        s->Cr0 &= ~Cr0.Ts;
        LogicalProcessor.Of(s).ModeChanged();
        return Flow.Leave(s, i);
    }

    /// <summary>SMSW r.</summary>
    public static Insn* StoreStatus<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        if (DescriptorTableInstructions.IsBarred(s))
            return Fault.Raise(s, i, Vector.Gp, 0);
        Register.Write(s, i->Operand0, Width.Narrow<T>(VisibleCr0(s)));
        return i + 1;
    }

    /// <summary>SMSW m16.</summary>
    public static Insn* StoreStatusMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (DescriptorTableInstructions.IsBarred(s))
            return Fault.Raise(s, i, Vector.Gp, 0);
        return Operand.Write<ushort, M>(s, i, (ushort)VisibleCr0(s)) ? i + 1 : null;
    }

    /// <summary>LMSW r.</summary>
    public static Insn* LoadStatus(CpuState* s, Insn* i) =>
        s->Cpl != 0 ? Fault.Raise(s, i, Vector.Gp, 0) : LoadStatus(s, i, Register.Read<ushort>(s, i->Operand0), 0);

    /// <summary>LMSW m16.</summary>
    public static Insn* LoadStatusMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (s->Cpl != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (!Operand.Read<ushort, M>(s, i, out ushort value))
            return null;
        LogicalProcessor.Of(s).Vmcs![VmcsField.GuestLinearAddress] =
            CpuState.Segment(s, i->Segment)->Base * (M.IsLong && i->Segment < Seg.Fs ? 0UL : 1) + Operand.EffectiveAddress(s, i);
        return LoadStatus(s, i, value, 1 << 6);
    }

    /// <summary>MOV r, DRn.</summary>
    public static Insn* ReadDebug<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        if (!MayAccessDebug(s, i, i->Operand1, 1 << 4 | (ulong)(i->Operand0 / 8) << 8, out int number))
            return null;
        ulong value = number switch { 6 => s->Dr6, 7 => s->Dr7, _ => s->Dr[number] };
        if (number == 6)
            value |= Dr6Fixed;
        else if (number == 7)
            value |= Dr7Fixed;
        Register.Write(s, i->Operand0, Width.Narrow<T>(value));
        return i + 1;
    }

    /// <summary>MOV DRn, r.</summary>
    public static Insn* WriteDebug<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        if (!MayAccessDebug(s, i, i->Operand0, (ulong)(i->Operand1 / 8) << 8, out int number))
            return null;
        ulong value = Width.Widen(Register.Read<T>(s, i->Operand1));
        if (number >= 6 && value >> 32 != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        switch (number)
        {
            case 6:
                s->Dr6 = (value & Dr6Writable) | Dr6Fixed;
                break;
            case 7:
                s->Dr7 = (value & Dr7Writable) | Dr7Fixed;
                break;
            default:
                s->Dr[number] = value;
                break;
        }
        LogicalProcessor.Of(s).DebugRegistersChanged();
        return Flow.Leave(s, i);
    }

    private static Insn* LoadStatus(CpuState* s, Insn* i, ushort source, ulong memory)
    {
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        ulong mask = vmcs[VmcsField.Cr0Mask];
        ulong shadow = vmcs[VmcsField.Cr0Shadow];
        const ulong Loadable = Cr0.Mp | Cr0.Em | Cr0.Ts;
        bool setsProtection = (source & ~shadow & mask & Cr0.Pe) != 0;
        if (((source ^ shadow) & mask & Loadable) != 0 || setsProtection)
            return VmExit.At(s, i, ExitReason.ControlRegister, AccessLmsw | memory | (ulong)source << 16);
        // PE can be set and not cleared.
        ulong changeable = (Loadable | (source & Cr0.Pe)) & ~mask;
        return ControlRegisters.SetCr0(s, (s->Cr0 & ~changeable) | (source & changeable)) ? Flow.Leave(s, i) : Fault.At(s, i);
    }

    /// <summary>
    /// Whether CR0 keeps the bits that VMX operation fixes; records #GP(0) if not (SDM volume 3, section 26.3). Who has the guest state
    /// of a VMCS unchecked, answers for these bits too.
    /// </summary>
    private static bool KeepsFixedBits(CpuState* s, Vmcs vmcs, ulong value)
    {
        bool unrestricted = (s->SecondaryControls & SecondaryControls.UnrestrictedGuest) != 0;
        return vmcs.EntryChecks != EntryCheckPolicy.Full
            || LogicalProcessor.Of(s).Environment.Vmx.AllowsCr0(value, unrestricted ? Cr0.Pe | Cr0.Pg : 0)
            || Fault.Record(s, Vector.Gp, 0);
    }

    // The VM exit comes before the faults for privilege and for DR4 and DR5 with CR4.DE (SDM volume 3, section 26.1.3), all of them
    // before DR7.GD.
    private static bool MayAccessDebug(CpuState* s, Insn* i, int operand, ulong qualification, out int number)
    {
        number = operand;
        if (number <= 7 && (s->ProcControls & ProcControls.MovDrExiting) != 0)
        {
            VmExit.At(s, i, ExitReason.MovDr, qualification | (uint)operand);
            return false;
        }
        if (number is 4 or 5 && (s->Cr4 & Cr4.De) == 0)
            number += 2;
        if (number is 4 or 5 or > 7)
        {
            Fault.Raise(s, i, Vector.Ud);
            return false;
        }
        if (s->Cpl != 0)
        {
            Fault.Raise(s, i, Vector.Gp, 0);
            return false;
        }
        if ((s->Dr7 & 1 << 13) != 0)
        {
            s->FaultAddress = DebugStatus.AccessDetected;
            Fault.Raise(s, i, Vector.Db);
            return false;
        }
        return true;
    }

    private static ulong VisibleCr0(CpuState* s)
    {
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        return Visible(s->Cr0, vmcs[VmcsField.Cr0Mask], vmcs[VmcsField.Cr0Shadow]);
    }

    private static ulong Visible(ulong actual, ulong mask, ulong shadow) => (actual & ~mask) | (shadow & mask);

    private static bool Exists<T>(int number) where T : unmanaged => number is 0 or 2 or 3 or 4 || (number == 8 && sizeof(T) == 8);

    private static bool IsTarget(Vmcs vmcs, ulong value)
    {
        uint count = Math.Min(vmcs.Read32(VmcsField.Cr3TargetCount), 4);
        for (uint k = 0; k < count; k++)
        {
            if (vmcs[VmcsField.Cr3Target0 + (ushort)(2 * k)] == value)
                return true;
        }
        return false;
    }

    private static Insn* Exit(CpuState* s, Insn* i, int number, ulong access, ushort register) =>
        VmExit.At(s, i, ExitReason.ControlRegister, (uint)number | access | (ulong)(register / 8) << 8);
}
