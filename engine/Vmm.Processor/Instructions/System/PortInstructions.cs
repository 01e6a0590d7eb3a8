using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>IN, OUT, INS and OUTS (SDM volume 2; volume 1, section 19.5; volume 3, section 26.1.3).</summary>
internal static unsafe class PortInstructions
{
    // Bits of the exit qualification (SDM volume 3, table 28-5).
    private const ulong Input = 1 << 3, String = 1 << 4, Repeated = 1 << 5, ImmediatePort = 1 << 6;

    // Iterations of a repeated string instruction between two looks at interrupts; one where each is a step.
    private const ulong Chunk = 64;

    /// <summary>IN with the port as an immediate.</summary>
    public static Insn* In<T>(CpuState* s, Insn* i) where T : unmanaged => In<T>(s, i, (byte)i->Immediate, ImmediatePort);

    /// <summary>IN with the port in DX.</summary>
    public static Insn* InDx<T>(CpuState* s, Insn* i) where T : unmanaged => In<T>(s, i, (ushort)s->Gpr[Gpr.Rdx], 0);

    /// <summary>OUT with the port as an immediate.</summary>
    public static Insn* Out<T>(CpuState* s, Insn* i) where T : unmanaged => Out<T>(s, i, (byte)i->Immediate, ImmediatePort);

    /// <summary>OUT with the port in DX.</summary>
    public static Insn* OutDx<T>(CpuState* s, Insn* i) where T : unmanaged => Out<T>(s, i, (ushort)s->Gpr[Gpr.Rdx], 0);

    /// <summary>INS, with or without REP. The destination is ES:(E/R)DI.</summary>
    public static Insn* Ins<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!BeginString(s, i, sizeof(T), Input, out ulong count))
            return null;
        if (count == 0)
            return i + 1;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        ushort port = (ushort)s->Gpr[Gpr.Rdx];
        ulong chunk = ChunkOf(s);
        for (ulong done = 0; done < count && done < chunk; done++)
        {
            // The destination is probed first: a value that has been read from a port cannot be put back.
            if (!Operand.Linear<M>(s, i, Seg.Es, s->Gpr[Gpr.Rdi] & i->AddressMask, (uint)sizeof(T), write: true, out ulong linear))
                return null;
            if (!cpu.Mmu.ProbeWriteAs(s->Cpl, linear, sizeof(T)))
                return Fault.At(s, i);
            s->Position = i->Count - 1;
            uint value = cpu.Environment.Bus.ReadPort(port, sizeof(T));
            bool written = cpu.Mmu.Write(linear, (byte*)&value, sizeof(T));
            s->Position = 0;
            if (!written)
                return Fault.At(s, i);
            Advance<T>(s, i, Gpr.Rdi);
        }
        return EndString(s, i, count, chunk);
    }

    /// <summary>OUTS, with or without REP. The source is DS:(E/R)SI or another segment.</summary>
    public static Insn* Outs<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!BeginString(s, i, sizeof(T), 0, out ulong count))
            return null;
        if (count == 0)
            return i + 1;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        ushort port = (ushort)s->Gpr[Gpr.Rdx];
        ulong chunk = ChunkOf(s);
        for (ulong done = 0; done < count && done < chunk; done++)
        {
            if (!Operand.ReadAt<T, M>(s, i, i->Segment, s->Gpr[Gpr.Rsi] & i->AddressMask, out T value))
                return null;
            s->Position = i->Count - 1;
            cpu.Environment.Bus.WritePort(port, sizeof(T), (uint)Width.Widen(value));
            s->Position = 0;
            Advance<T>(s, i, Gpr.Rsi);
        }
        return EndString(s, i, count, chunk);
    }

    private static Insn* In<T>(CpuState* s, Insn* i, ushort port, ulong kind) where T : unmanaged
    {
        if (!MayAccess(s, i, port, sizeof(T), kind | Input))
            return null;
        s->Position = i->Count - 1;
        uint value = LogicalProcessor.Of(s).Environment.Bus.ReadPort(port, sizeof(T));
        s->Position = 0;
        Register.Write(s, (ushort)CpuState.GprOffset(Gpr.Rax), Width.Narrow<T>(value));
        return s->Attention != 0 ? Flow.Leave(s, i) : i + 1;
    }

    private static Insn* Out<T>(CpuState* s, Insn* i, ushort port, ulong kind) where T : unmanaged
    {
        if (!MayAccess(s, i, port, sizeof(T), kind))
            return null;
        s->Position = i->Count - 1;
        LogicalProcessor.Of(s).Environment.Bus.WritePort(port, sizeof(T), (uint)Width.Widen(Register.Read<T>(s, (ushort)CpuState.GprOffset(Gpr.Rax))));
        s->Position = 0;
        return s->Attention != 0 ? Flow.Leave(s, i) : i + 1;
    }

    /// <summary>Checks I/O privilege, then interception. False after a fault or a VM exit, settled.</summary>
    private static bool MayAccess(CpuState* s, Insn* i, ushort port, int size, ulong kind)
    {
        bool byBitmap = (s->Cr0 & Cr0.Pe) != 0 && ((s->SystemFlags & Rflags.Vm) != 0 || s->Cpl > InterruptReturn.Iopl(s));
        if (!byBitmap && (s->ProcControls & (ProcControls.UseIoBitmaps | ProcControls.UnconditionalIoExiting)) == 0)
            return true;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (byBitmap && !TaskState.AllowsPort(cpu, port, size))
        {
            Fault.At(s, i);
            return false;
        }
        if (!Exits(cpu, port, size))
            return true;
        VmExit.At(s, i, ExitReason.IoInstruction, (uint)(size - 1) | kind | (ulong)port << 16);
        return false;
    }

    private static bool Exits(LogicalProcessor cpu, ushort port, int size)
    {
        ProcControls controls = cpu.State->ProcControls;
        if ((controls & ProcControls.UseIoBitmaps) == 0)
            return (controls & ProcControls.UnconditionalIoExiting) != 0;
        if (port + size > 0x10000)
            return true;
        for (int k = port; k < port + size; k++)
        {
            ulong bitmap = cpu.Vmcs![k < 0x8000 ? VmcsField.IoBitmapA : VmcsField.IoBitmapB];
            byte* page = cpu.Environment.Memory.HostPage(bitmap);
            // A bitmap outside RAM reads as all ones.
            if (page == null || (page[(k & 0x7FFF) >> 3] >> (k & 7) & 1) != 0)
                return true;
        }
        return false;
    }

    private static bool BeginString(CpuState* s, Insn* i, int size, ulong kind, out ulong count)
    {
        bool repeated = (i->Prefixes & (InsnPrefixes.Rep | InsnPrefixes.Repne)) != 0;
        count = repeated ? s->Gpr[Gpr.Rcx] & i->AddressMask : 1;
        // An access that repeats zero times still needs the privilege; it exits too.
        if (MayAccess(s, i, (ushort)s->Gpr[Gpr.Rdx], size, kind | String | (repeated ? Repeated : 0)))
            return true;
        if (s->Stop == StopReason.VmExit)
            DescribeString(s, i, kind);
        return false;
    }

    private static void DescribeString(CpuState* s, Insn* i, ulong kind)
    {
        Vmcs vmcs = LogicalProcessor.Of(s).Vmcs!;
        int segment = kind == Input ? Seg.Es : i->Segment;
        uint size = i->AddressMask == 0xFFFF ? 0u : i->AddressMask == 0xFFFF_FFFF ? 1u : 2u;
        vmcs[VmcsField.VmExitInstructionInformation] = size << 7 | (uint)segment << 15;
        ulong linear = s->Gpr[kind == Input ? Gpr.Rdi : Gpr.Rsi] & i->AddressMask;
        if (s->CodeSize != 64)
            linear = (uint)(linear + CpuState.Segment(s, segment)->Base);
        else if (segment >= Seg.Fs)
            linear += CpuState.Segment(s, segment)->Base;
        vmcs[VmcsField.GuestLinearAddress] = linear;
    }

    private static void Advance<T>(CpuState* s, Insn* i, int pointer) where T : unmanaged
    {
        ulong step = (s->SystemFlags & Rflags.Df) != 0 ? (ulong)-sizeof(T) : (ulong)sizeof(T);
        Set(s, i, pointer, s->Gpr[pointer] + step);
        if ((i->Prefixes & (InsnPrefixes.Rep | InsnPrefixes.Repne)) != 0)
            Set(s, i, Gpr.Rcx, s->Gpr[Gpr.Rcx] - 1);
    }

    // A register of the address size: 16 bits leave the rest alone, 32 bits clear the upper half.
    private static void Set(CpuState* s, Insn* i, int register, ulong value) =>
        s->Gpr[register] = i->AddressMask == 0xFFFF ? (s->Gpr[register] & ~0xFFFFUL) | (value & 0xFFFF) : value & i->AddressMask;

    private static ulong ChunkOf(CpuState* s) =>
        (s->SystemFlags & Rflags.Tf) != 0 || (s->ProcControls & ProcControls.MonitorTrapFlag) != 0 ? 1 : Chunk;

    private static Insn* EndString(CpuState* s, Insn* i, ulong count, ulong chunk)
    {
        if (count > chunk)
            return Flow.Again(s, i);
        return s->Attention != 0 ? Flow.Leave(s, i) : i + 1;
    }
}
