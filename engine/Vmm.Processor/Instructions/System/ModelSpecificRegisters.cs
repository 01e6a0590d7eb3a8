using Vmm.Processor.Execution;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// The model-specific registers that the processor itself acts on (SDM volume 4, table 2-2). L0 answers RDMSR and WRMSR exits
/// with these and adds its own; where MSR bitmaps let an access through, the instructions use them directly.
/// </summary>
public static unsafe class ModelSpecificRegisters
{
    private const uint SysenterCs = 0x174, SysenterEsp = 0x175, SysenterEip = 0x176, DebugCtl = 0x1D9, Pat = 0x277, Xss = 0xDA0,
        ExtendedFeatures = 0xC000_0080, Star = 0xC000_0081, Lstar = 0xC000_0082, Cstar = 0xC000_0083, Fmask = 0xC000_0084,
        FsBase = 0xC000_0100, GsBase = 0xC000_0101, KernelGsBase = 0xC000_0102, TscAux = 0xC000_0103;

    /// <summary>The bits of IA32_DEBUGCTL that exist. LBR does nothing, but software expects to be able to set it.</summary>
    internal const ulong DebugCtlDefined = DebugControl.LastBranch | DebugControl.BranchStep;

    /// <summary>Reads a register. False where it is not one of the processor's.</summary>
    public static bool TryRead(CpuState* s, uint index, out ulong value)
    {
        ulong* location = Location(s, index);
        if (location == null)
        {
            value = 0;
            return false;
        }
        value = *location;
        return true;
    }

    /// <summary>
    /// Writes a register, with its effects. False, and nothing changed, where it is not one of the processor's or the value is
    /// one that the register refuses (not canonical, reserved bits): both are #GP(0).
    /// </summary>
    public static bool TryWrite(CpuState* s, uint index, ulong value)
    {
        switch (index)
        {
            case ExtendedFeatures:
                return ControlRegisters.SetEfer(s, value);
            case SysenterEsp or SysenterEip or Lstar or Cstar or FsBase or GsBase or KernelGsBase:
                if (!Canonical.IsForBase(s, value))
                    return false;
                break;
            case SysenterCs or TscAux:
                value = (uint)value;
                break;
            case Fmask:
                if (value >> 32 != 0)
                    return false;
                break;
            case Pat:
                if (!IsPat(value))
                    return false;
                break;
            case DebugCtl:
                if ((value & ~DebugCtlDefined) != 0)
                    return false;
                break;
            case Xss:
                if ((value & ~LogicalProcessor.Of(s).Environment.Features.XssAllowed) != 0)
                    return false;
                break;
        }
        ulong* location = Location(s, index);
        if (location == null)
            return false;
        *location = value;
        return true;
    }

    private static ulong* Location(CpuState* s, uint index) => index switch
    {
        SysenterCs => &s->SysenterCs,
        SysenterEsp => &s->SysenterEsp,
        SysenterEip => &s->SysenterEip,
        DebugCtl => &s->DebugCtl,
        Pat => &s->Pat,
        Xss => &s->Xss,
        ExtendedFeatures => &s->Efer,
        Star => &s->Star,
        Lstar => &s->Lstar,
        Cstar => &s->Cstar,
        Fmask => &s->Fmask,
        FsBase => &s->Fs.Base,
        GsBase => &s->Gs.Base,
        KernelGsBase => &s->KernelGsBase,
        TscAux => &s->TscAux,
        _ => null,
    };

    // Memory types 0, 1, 4, 5, 6 and 7 exist (SDM volume 3, table 12-10).
    private static bool IsPat(ulong value)
    {
        for (int k = 0; k < 8; k++)
        {
            byte type = (byte)(value >> (k * 8));
            if (type > 7 || type is 2 or 3)
                return false;
        }
        return true;
    }
}
