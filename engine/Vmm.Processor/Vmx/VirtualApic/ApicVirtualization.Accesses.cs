using System.Runtime.CompilerServices;

namespace Vmm.Processor.Vmx.VirtualApic;

/// <content>Accesses to the APIC-access page and to the x2APIC MSRs (SDM volume 3, sections 30.4 and 30.5).</content>
internal sealed unsafe partial class ApicVirtualization
{
    private const uint FirstMsr = 0x800, TaskPriorityMsr = 0x808, EndOfInterruptMsr = 0x80B, SelfIpiMsr = 0x83F;

    // Of the low half of the interrupt command register: what must be 0 for a self-IPI to be virtualized, and the shorthand.
    private const uint CommandFixed = 0xFFF3_B700, ShorthandMask = 3 << 18, ShorthandSelf = 1 << 18;

    private bool HasRegisters => (_state->SecondaryControls & SecondaryControls.ApicRegisterVirtualization) != 0;

    /// <summary>Whether a read of the APIC-access page is served by the virtual-APIC page (SDM volume 3, section 30.4.2).</summary>
    public bool VirtualizesRead(uint offset, int size)
    {
        if (!FitsRegister(offset, size))
            return false;
        uint register = offset & 0xFF0;
        if (!HasRegisters)
            return register == VirtualApicOffset.TaskPriority;
        return register switch
        {
            0x020 or 0x030 or 0x080 or 0x0B0 or 0x0D0 or 0x0E0 or 0x0F0 => true,
            >= 0x100 and <= 0x280 => true,
            0x300 or 0x310 => true,
            >= 0x320 and <= 0x380 => true,
            0x3E0 => true,
            _ => false,
        };
    }

    /// <summary>Whether a write to the APIC-access page goes to the virtual-APIC page (SDM volume 3, section 30.4.3).</summary>
    public bool VirtualizesWrite(uint offset, int size)
    {
        if (!FitsRegister(offset, size))
            return false;
        uint register = offset & 0xFF0;
        if (!HasRegisters)
            return register == VirtualApicOffset.TaskPriority
                || (DeliversInterrupts && register is VirtualApicOffset.EndOfInterrupt or VirtualApicOffset.CommandLow);
        return register switch
        {
            0x020 or 0x080 or 0x0B0 or 0x0D0 or 0x0E0 or 0x0F0 => true,
            0x280 or 0x300 or 0x310 => true,
            >= 0x320 and <= 0x380 => true,
            0x3E0 => true,
            _ => false,
        };
    }

    /// <summary>A read that <see cref="VirtualizesRead"/>.</summary>
    public void Read(uint offset, byte* data, int size) => Unsafe.CopyBlockUnaligned(data, _page + offset, (uint)size);

    /// <summary>A write that <see cref="VirtualizesWrite"/>, with the APIC-write emulation that follows it (SDM volume 3, section 30.4.3.2).</summary>
    public void Write(uint offset, byte* data, int size)
    {
        Unsafe.CopyBlockUnaligned(_page + offset, data, (uint)size);
        Written(offset, size);
        uint register = offset & 0xFF0;
        switch (register)
        {
            case VirtualApicOffset.TaskPriority:
                SetTaskPriority(TaskPriority);
                return;
            case VirtualApicOffset.EndOfInterrupt when DeliversInterrupts:
                SetRegister(register, 0);
                VirtualizeEndOfInterrupt();
                return;
            case VirtualApicOffset.CommandLow when DeliversInterrupts && IsSelfInterrupt(Register(register)):
                VirtualizeSelfInterrupt(Register(register) & 0xFF);
                return;
            case VirtualApicOffset.CommandHigh:
                SetRegister(register, Register(register) & 0xFF00_0000);
                return;
            default:
                ExitAfter(ExitReason.ApicWrite, register);
                return;
        }
    }

    /// <summary>RDMSR with "virtualize x2APIC mode", where it does not exit. False where it is not virtualized.</summary>
    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        if (msr - FirstMsr > 0xFF || (!HasRegisters && msr != TaskPriorityMsr))
            return false;
        value = Unsafe.ReadUnaligned<ulong>(_page + ((msr & 0xFF) << 4));
        return true;
    }

    /// <summary>WRMSR with "virtualize x2APIC mode", where it does not exit. False where it is not virtualized.</summary>
    /// <param name="msr">The register.</param>
    /// <param name="value">EDX:EAX.</param>
    /// <param name="refused">Whether it is #GP(0), for a reserved bit; nothing is changed then.</param>
    public bool TryWriteMsr(uint msr, ulong value, out bool refused)
    {
        refused = value > (msr == EndOfInterruptMsr ? 0u : 0xFF);
        switch (msr)
        {
            case TaskPriorityMsr:
                if (!refused)
                {
                    Store(VirtualApicOffset.TaskPriority, value);
                    VirtualizeTaskPriority();
                }
                return true;
            case EndOfInterruptMsr when DeliversInterrupts:
                if (!refused)
                {
                    Store(VirtualApicOffset.EndOfInterrupt, 0);
                    VirtualizeEndOfInterrupt();
                }
                return true;
            case SelfIpiMsr when DeliversInterrupts:
                if (!refused)
                {
                    Store(VirtualApicOffset.SelfIpi, value);
                    if (value >= 16)
                        VirtualizeSelfInterrupt((uint)value);
                    else
                        ExitAfter(ExitReason.ApicWrite, VirtualApicOffset.SelfIpi);
                }
                return true;
            default:
                return false;
        }
    }

    private static bool IsSelfInterrupt(uint command) =>
        (command & (CommandFixed | ShorthandMask)) == ShorthandSelf && (command & 0xF0) != 0;

    // Registers are the low four bytes of 16; the whole access must lie in them.
    private bool FitsRegister(uint offset, int size) =>
        (_state->ProcControls & ProcControls.TprShadow) != 0 && size <= 4 && (offset & 15) + (uint)size <= 4;

    private void Store(uint offset, ulong value)
    {
        Unsafe.WriteUnaligned(_page + offset, value);
        Written(offset, sizeof(ulong));
    }
}
