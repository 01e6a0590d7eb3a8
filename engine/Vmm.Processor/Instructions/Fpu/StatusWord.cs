namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Bits of the x87 status word (SDM volume 1, section 8.1.3). Bits 5:0 are the exception flags.</summary>
internal static class StatusWord
{
    public const ushort StackFault = 1 << 6, Summary = 1 << 7, C0 = 1 << 8, C1 = 1 << 9, C2 = 1 << 10, C3 = 1 << 14, Busy = 1 << 15;

    public const ushort Conditions = C0 | C1 | C2 | C3;

    /// <summary>TOP in the status word as programs see it; the state keeps it apart.</summary>
    public const int TopShift = 11, TopMask = 7 << TopShift;
}
