using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Events;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Vmx.VirtualApic;

/// <summary>
/// APIC virtualization by the processor (SDM volume 3, chapter 30) for the VMCS that runs: the virtual-APIC page and the guest
/// interrupt status, with the pseudocode of the manual under its names. Which accesses come here is in the other part.
/// </summary>
internal sealed unsafe partial class ApicVirtualization(LogicalProcessor cpu) : IDisposable
{
    private readonly CpuState* _state = cpu.State;
    private Vmcs _vmcs = null!;
    private byte* _page;
    private byte* _absent;
    private bool _holdsCode;
    private ExitReason _exitReason;
    private uint _exitQualification;

    /// <summary>The virtual task priority (VTPR).</summary>
    public uint TaskPriority => Register(VirtualApicOffset.TaskPriority) & 0xFF;

    /// <summary>Whether a recognized virtual interrupt may be delivered now (SDM volume 3, section 30.2.2).</summary>
    public bool MayDeliver => (_state->ApicEvents & ApicEvents.Interrupt) != 0 && (_state->SystemFlags & Rflags.If) != 0
        && _state->InterruptShadow == 0 && (_state->ProcControls & ProcControls.InterruptWindowExiting) == 0;

    private bool DeliversInterrupts => (_state->SecondaryControls & SecondaryControls.VirtualInterruptDelivery) != 0;

    // The requesting (RVI) and the servicing virtual interrupt (SVI): the halves of the guest interrupt status.
    private uint Requesting
    {
        get => (uint)_vmcs[VmcsField.GuestInterruptStatus] & 0xFF;
        set => _vmcs[VmcsField.GuestInterruptStatus] = _vmcs[VmcsField.GuestInterruptStatus] & 0xFF00 | value;
    }

    private uint Servicing
    {
        get => (uint)_vmcs[VmcsField.GuestInterruptStatus] >> 8 & 0xFF;
        set => _vmcs[VmcsField.GuestInterruptStatus] = _vmcs[VmcsField.GuestInterruptStatus] & 0xFF | value << 8;
    }

    /// <summary>
    /// VM entry with a TPR shadow, after the guest state: PPR virtualization and the evaluation of pending virtual interrupts, or the VM exit for a
    /// task priority below its threshold (SDM volume 3, sections 27.3.2.5 and 27.7.7).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Enter(Vmcs vmcs)
    {
        _vmcs = vmcs;
        Locate(vmcs[VmcsField.VirtualApicAddress]);
        if (DeliversInterrupts)
        {
            VirtualizeProcessorPriority();
            Evaluate();
        }
        else if ((_state->SecondaryControls & SecondaryControls.VirtualizeApicAccesses) != 0
            && _state->Activity is ActivityState.Active or ActivityState.Hlt)
        {
            CheckThreshold();
        }
    }

    /// <summary>Brings about the VM exit that waited for the instruction's end.</summary>
    public void Leave()
    {
        _state->ApicEvents &= ~ApicEvents.Exit;
        VmExit.Record(_state, _exitReason, _exitQualification);
    }

    /// <summary>Virtual-interrupt delivery (SDM volume 3, section 30.2.2). False where delivery through the IDT ended in a VM exit.</summary>
    public bool Deliver()
    {
        uint vector = Requesting;
        cpu.Counters.VirtualInterrupts++;
        SetBit(VirtualApicOffset.InService, vector);
        Servicing = vector;
        SetRegister(VirtualApicOffset.ProcessorPriority, vector & 0xF0);
        ClearBit(VirtualApicOffset.Request, vector);
        Requesting = Highest(VirtualApicOffset.Request);
        _state->ApicEvents &= ~ApicEvents.Interrupt;
        return EventDelivery.Dispatch(cpu, new GuestEvent(vector, EventType.ExternalInterrupt));
    }

    /// <summary>Sets VTPR as MOV to CR8 does (SDM volume 3, section 30.3): TPR virtualization follows.</summary>
    /// <param name="priority">Bits 7:4; the others are 0.</param>
    public void SetTaskPriority(uint priority)
    {
        SetRegister(VirtualApicOffset.TaskPriority, priority);
        VirtualizeTaskPriority();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_absent);
        _absent = null;
        _page = null;
    }

    // SDM volume 3, section 30.1.2.
    private void VirtualizeTaskPriority()
    {
        if (!DeliversInterrupts)
        {
            CheckThreshold();
            return;
        }
        VirtualizeProcessorPriority();
        Evaluate();
    }

    private void CheckThreshold()
    {
        if ((_vmcs.Read32(VmcsField.TprThreshold) & 15) > (TaskPriority >> 4))
            ExitAfter(ExitReason.TprBelowThreshold, 0);
    }

    // SDM volume 3, section 30.1.3.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void VirtualizeProcessorPriority()
    {
        uint task = TaskPriority;
        uint servicing = Servicing;
        SetRegister(VirtualApicOffset.ProcessorPriority, task >> 4 >= servicing >> 4 ? task : servicing & 0xF0);
    }

    // SDM volume 3, section 30.1.4.
    private void VirtualizeEndOfInterrupt()
    {
        uint vector = Servicing;
        ClearBit(VirtualApicOffset.InService, vector);
        Servicing = Highest(VirtualApicOffset.InService);
        VirtualizeProcessorPriority();
        // The four fields of the EOI-exit bitmap are neighbours.
        if ((_vmcs.Location(VmcsField.EoiExitBitmap0)[vector >> 6] >> (int)(vector & 63) & 1) != 0)
            ExitAfter(ExitReason.VirtualizedEoi, vector);
        else
            Evaluate();
    }

    // SDM volume 3, section 30.1.5.
    private void VirtualizeSelfInterrupt(uint vector)
    {
        SetBit(VirtualApicOffset.Request, vector);
        Requesting = Math.Max(Requesting, vector);
        Evaluate();
    }

    // SDM volume 3, section 30.2.1.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Evaluate()
    {
        bool pending = (_state->ProcControls & ProcControls.InterruptWindowExiting) == 0
            && Requesting >> 4 > (Register(VirtualApicOffset.ProcessorPriority) >> 4 & 15);
        if (!pending)
        {
            _state->ApicEvents &= ~ApicEvents.Interrupt;
            return;
        }
        _state->ApicEvents |= ApicEvents.Interrupt;
        AttendBoundary();
    }

    private void ExitAfter(ExitReason reason, uint qualification)
    {
        _exitReason = reason;
        _exitQualification = qualification;
        _state->ApicEvents |= ApicEvents.Exit;
        AttendBoundary();
    }

    private void AttendBoundary() => Interlocked.CompareExchange(ref _state->Attention, LogicalProcessor.AttentionBoundary, 0);

    // Where there is no memory, reads give ones and writes are lost with the entry.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Locate(ulong physical)
    {
        PhysicalMemory memory = cpu.Environment.Memory;
        _page = memory.HostPage(physical);
        _holdsCode = _page != null && memory.Page(physical) != null;
        if (_page == null)
            TakeAbsent();
    }

    private void TakeAbsent()
    {
        if (_absent == null)
            _absent = (byte*)NativeMemory.AlignedAlloc(PhysicalMemory.PageSize, PhysicalMemory.PageSize);
        NativeMemory.Fill(_absent, PhysicalMemory.PageSize, 0xFF);
        _page = _absent;
    }

    private uint Register(uint offset) => *(uint*)(_page + offset);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void SetRegister(uint offset, uint value)
    {
        *(uint*)(_page + offset) = value;
        Written(offset, sizeof(uint));
    }

    private void Written(uint offset, int size)
    {
        if (_holdsCode)
            cpu.Package.Code.Written(_page + offset, size);
    }

    private void SetBit(uint register, uint vector)
    {
        uint offset = register + (vector >> 5) * 16;
        SetRegister(offset, Register(offset) | 1u << (int)(vector & 31));
    }

    private void ClearBit(uint register, uint vector)
    {
        uint offset = register + (vector >> 5) * 16;
        SetRegister(offset, Register(offset) & ~(1u << (int)(vector & 31)));
    }

    private uint Highest(uint register)
    {
        for (uint word = 8; word-- > 0;)
        {
            uint bits = Register(register + word * 16);
            if (bits != 0)
                return word * 32 + (uint)BitOperations.Log2(bits);
        }
        return 0;
    }
}
