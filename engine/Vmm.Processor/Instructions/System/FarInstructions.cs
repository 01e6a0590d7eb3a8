using Vmm.Processor.Events;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>Far transfers, software interrupts and fast system calls: the handlers around <see cref="Segmentation"/> and <see cref="Events"/>.</summary>
internal static unsafe class FarInstructions
{
    /// <summary>JMP ptr16:16 and ptr16:32.</summary>
    public static Insn* Jump(CpuState* s, Insn* i) => Jump(s, i, (ushort)(i->Immediate >> 32), (uint)i->Immediate);

    /// <summary>JMP m16:16, m16:32, m16:64.</summary>
    public static Insn* JumpMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        ReadPointer<T, M>(s, i, out ushort selector, out ulong offset) ? Jump(s, i, selector, offset) : null;

    /// <summary>CALL ptr16:16 and ptr16:32: <typeparamref name="T"/> is the operand size.</summary>
    public static Insn* Call<T>(CpuState* s, Insn* i) where T : unmanaged => Call<T>(s, i, (ushort)(i->Immediate >> 32), (uint)i->Immediate);

    /// <summary>CALL m16:16, m16:32, m16:64.</summary>
    public static Insn* CallMemory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        ReadPointer<T, M>(s, i, out ushort selector, out ulong offset) ? Call<T>(s, i, selector, offset) : null;

    /// <summary>RET far.</summary>
    public static Insn* Return<T>(CpuState* s, Insn* i) where T : unmanaged =>
        Finish(s, i, FarTransfer.Return(Begin(s), sizeof(T), 0));

    /// <summary>RET far with an immediate.</summary>
    public static Insn* ReturnRelease<T>(CpuState* s, Insn* i) where T : unmanaged =>
        Finish(s, i, FarTransfer.Return(Begin(s), sizeof(T), (ushort)i->Immediate));

    /// <summary>IRET.</summary>
    public static Insn* InterruptReturn<T>(CpuState* s, Insn* i) where T : unmanaged =>
        Finish(s, i, Segmentation.InterruptReturn.Execute(Begin(s), sizeof(T)));

    /// <summary>SYSCALL.</summary>
    public static Insn* Syscall(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Call(Begin(s), Insn.NextRip(s, i)));

    /// <summary>SYSRET to compatibility mode.</summary>
    public static Insn* Sysret(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Return(Begin(s), wide: false));

    /// <summary>SYSRET to 64-bit mode.</summary>
    public static Insn* SysretWide(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Return(Begin(s), wide: true));

    /// <summary>SYSENTER.</summary>
    public static Insn* Sysenter(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Enter(Begin(s)));

    /// <summary>SYSEXIT to 32-bit code.</summary>
    public static Insn* Sysexit(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Exit(Begin(s), wide: false));

    /// <summary>SYSEXIT to 64-bit code.</summary>
    public static Insn* SysexitWide(CpuState* s, Insn* i) => Finish(s, i, FastSystemCall.Exit(Begin(s), wide: true));

    /// <summary>INT n.</summary>
    public static Insn* Interrupt(CpuState* s, Insn* i) => Raise(s, i, (byte)i->Immediate, EventType.SoftwareInterrupt);

    /// <summary>INT3.</summary>
    public static Insn* Breakpoint(CpuState* s, Insn* i) => Raise(s, i, Vector.Bp, EventType.SoftwareException);

    /// <summary>INTO.</summary>
    public static Insn* Overflow(CpuState* s, Insn* i) => Flags.Overflow(s) ? Raise(s, i, Vector.Of, EventType.SoftwareException) : Flow.Leave(s, i);

    /// <summary>INT1 (ICEBP).</summary>
    public static Insn* Trap(CpuState* s, Insn* i) => Raise(s, i, Vector.Db, EventType.PrivilegedSoftwareException);

    private static Insn* Raise(CpuState* s, Insn* i, uint vector, EventType type)
    {
        s->Rip = Insn.Rip(s, i);
        if (EventDelivery.Dispatch(LogicalProcessor.Of(s), new GuestEvent(vector, type, InstructionLength: i->Length)))
            return Flow.LeaveAt(s, i);
        s->Budget -= i->Count - 1;
        return null;
    }

    private static Insn* Jump(CpuState* s, Insn* i, ushort selector, ulong offset) =>
        Finish(s, i, FarTransfer.Jump(Begin(s), selector, offset));

    private static Insn* Call<T>(CpuState* s, Insn* i, ushort selector, ulong offset) where T : unmanaged
    {
        ulong returnRip = Flow.Wrap(s, Insn.NextRip(s, i));
        return Finish(s, i, FarTransfer.Call(Begin(s), selector, offset, sizeof(T), returnRip));
    }

    private static bool ReadPointer<T, M>(CpuState* s, Insn* i, out ushort selector, out ulong offset) where T : unmanaged where M : struct, IAddressing
    {
        ulong address = Operand.EffectiveAddress(s, i);
        selector = 0;
        offset = 0;
        if (!Operand.ReadAt<T, M>(s, i, i->Segment, address, out T pointer))
            return false;
        offset = Width.Widen(pointer);
        return Operand.ReadAt<ushort, M>(s, i, i->Segment, (address + (ulong)sizeof(T)) & i->AddressMask, out selector);
    }

    // What was stopped for before must not be taken for an exit of this transfer.
    private static LogicalProcessor Begin(CpuState* s)
    {
        s->Stop = StopReason.Dispatch;
        return LogicalProcessor.Of(s);
    }

    private static Insn* Finish(CpuState* s, Insn* i, bool done)
    {
        if (done)
            return Flow.LeaveAt(s, i);
        if (s->Stop != StopReason.VmExit)
            return Fault.At(s, i);
        LogicalProcessor.Of(s).Vmcs![VmcsField.VmExitInstructionLength] = i->Length;
        s->Rip = Insn.Rip(s, i);
        s->Budget -= i->Count - 1;
        return null;
    }
}
