using Vmm.Processor.Execution;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// Changes of control registers with their checks and consequences (SDM volume 3, sections 2.5, 4.1.2, 4.10.4 and 10.8.5).
/// Every method returns false with #GP(0) recorded and nothing changed. They serve the instructions and L0; the state must be
/// that of the guest, and L0 must store it back to the VMCS.
/// </summary>
public static unsafe class ControlRegisters
{
    private const ulong Cr0Defined = Cr0.Pe | Cr0.Mp | Cr0.Em | Cr0.Ts | Cr0.Et | Cr0.Ne | Cr0.Wp | Cr0.Am | Cr0.Nw | Cr0.Cd | Cr0.Pg;

    /// <summary>CR0. Turning paging on or off activates or leaves IA-32e mode as EFER.LME says.</summary>
    public static bool SetCr0(CpuState* s, ulong value)
    {
        if (value >> 32 != 0)
            return General(s);
        value = (value & Cr0Defined) | Cr0.Et;
        bool paging = (value & Cr0.Pg) != 0;
        if ((paging && (value & Cr0.Pe) == 0) || (value & (Cr0.Nw | Cr0.Cd)) == Cr0.Nw)
            return General(s);
        ulong changed = value ^ s->Cr0;
        ulong efer = s->Efer;
        if ((changed & Cr0.Pg) != 0)
        {
            if (paging && (efer & Efer.Lme) != 0)
            {
                bool wideTask = (s->Tr.Rights & 8) != 0 || s->Tr.Unusable;
                if ((s->Cr4 & Cr4.Pae) == 0 || (s->Cs.Rights & SegmentRights.Long) != 0 || !wideTask)
                    return General(s);
                efer |= Efer.Lma;
            }
            else if (!paging)
            {
                if (s->CodeSize == 64 || (s->Cr4 & Cr4.Pcide) != 0)
                    return General(s);
                efer &= ~Efer.Lma;
            }
        }
        bool pae = paging && (s->Cr4 & Cr4.Pae) != 0 && (efer & Efer.Lma) == 0;
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if (pae && (changed & (Cr0.Pg | Cr0.Cd | Cr0.Nw)) != 0 && !cpu.Mmu.LoadPdptes(s->Cr3))
            return false;
        s->Cr0 = value;
        s->Efer = efer;
        if ((changed & (Cr0.Pg | Cr0.Pe | Cr0.Wp)) != 0)
            cpu.Mmu.Flush(global: true);
        cpu.ModeChanged();
        return true;
    }

    /// <summary>CR3. With CR4.PCIDE, bit 63 of the value keeps what is cached for the new PCID.</summary>
    public static bool SetCr3(CpuState* s, ulong value)
    {
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        bool pcids = (s->Cr4 & Cr4.Pcide) != 0;
        bool keep = pcids && (value >> 63) != 0;
        if (pcids)
            value &= ~(1UL << 63);
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        if (value >> cpu.Environment.Features.PhysicalAddressBits != 0)
            return General(s);
        bool pae = (s->Cr0 & Cr0.Pg) != 0 && (s->Cr4 & Cr4.Pae) != 0 && !ia32e;
        if (pae && !cpu.Mmu.LoadPdptes(value))
            return false;
        s->Cr3 = value;
        if (pcids && !keep)
            cpu.Mmu.FlushPcid((uint)value & 0xFFF);
        else if (!pcids)
            cpu.Mmu.Flush(global: false);
        cpu.ModeChanged();
        return true;
    }

    /// <summary>CR4.</summary>
    public static bool SetCr4(CpuState* s, ulong value)
    {
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        ulong changed = value ^ s->Cr4;
        // In VMX operation CR4.VMXE is fixed at what it is.
        if ((value & ~(cpu.Environment.Features.Cr4Allowed | Cr4.Vmxe)) != 0 || (changed & Cr4.Vmxe) != 0)
            return General(s);
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        if (ia32e && ((value & Cr4.Pae) == 0 || (changed & Cr4.La57) != 0))
            return General(s);
        if ((changed & value & Cr4.Pcide) != 0 && (!ia32e || (s->Cr3 & 0xFFF) != 0))
            return General(s);
        bool pae = (s->Cr0 & Cr0.Pg) != 0 && (value & Cr4.Pae) != 0 && !ia32e;
        if (pae && (changed & (Cr4.Pae | Cr4.Pge | Cr4.Pse | Cr4.Smep)) != 0 && !cpu.Mmu.LoadPdptes(s->Cr3))
            return false;
        s->Cr4 = value;
        if ((changed & (Cr4.Pge | Cr4.Pae | Cr4.Pse | Cr4.Pcide | Cr4.Smep | Cr4.Smap | Cr4.La57)) != 0)
            cpu.Mmu.Flush(global: true);
        cpu.ModeChanged();
        return true;
    }

    /// <summary>IA32_EFER. LMA is read-only; LME cannot change while paging is on.</summary>
    public static bool SetEfer(CpuState* s, ulong value)
    {
        LogicalProcessor cpu = LogicalProcessor.Of(s);
        if ((value & ~cpu.Environment.Features.EferAllowed) != 0)
            return General(s);
        value = (value & ~Efer.Lma) | (s->Efer & Efer.Lma);
        ulong changed = value ^ s->Efer;
        if ((changed & Efer.Lme) != 0 && (s->Cr0 & Cr0.Pg) != 0)
            return General(s);
        s->Efer = value;
        if ((changed & Efer.Nxe) != 0)
            cpu.Mmu.Flush(global: true);
        cpu.ModeChanged();
        return true;
    }

    /// <summary>XCR0: x87 state always, AVX only with SSE, nothing that is not offered.</summary>
    public static bool SetXcr0(CpuState* s, ulong value)
    {
        if (!IsXcr0(value, LogicalProcessor.Of(s).Environment.Features))
            return General(s);
        s->Xcr0 = value;
        return true;
    }

    /// <summary>Whether XCR0 can have a value.</summary>
    public static bool IsXcr0(ulong value, ProcessorFeatures features) =>
        (value & ~features.Xcr0Allowed) == 0 && (value & 1) != 0 && (value & 6) != 4;

    private static bool General(CpuState* s) => Fault.Record(s, Vector.Gp, 0);
}
