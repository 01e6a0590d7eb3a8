namespace Vmm.Hypervisor.Model;

/// <summary>Model-specific registers that L0 keeps, by number (SDM volume 4, table 2-2).</summary>
public static class Msr
{
    public const uint TimeStampCounter = 0x10, PlatformId = 0x17, ApicBase = 0x1B, FeatureControl = 0x3A, TscAdjust = 0x3B,
        BiosUpdateTrigger = 0x79, BiosSignature = 0x8B, PlatformInfo = 0xCE, MtrrCapability = 0xFE, ArchCapabilities = 0x10A,
        MiscFeatureEnables = 0x140, McgCapability = 0x179, McgStatus = 0x17A, McgControl = 0x17B, MiscEnable = 0x1A0,
        MtrrPhysicalBase0 = 0x200, MtrrFixed64K = 0x250, MtrrFixed16K80000 = 0x258, MtrrFixed16KA0000 = 0x259, MtrrFixed4KC0000 = 0x268,
        MtrrDefaultType = 0x2FF, McBank0 = 0x400, TscDeadline = 0x6E0, X2ApicFirst = 0x800, X2ApicLast = 0x8FF;
}
