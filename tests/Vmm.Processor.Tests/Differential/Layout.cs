namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// The linear addresses that a sequence sees, the same ones in this process and in the guest. Everything else below 4 GiB is
/// unmapped on both sides.
/// </summary>
internal static class Layout
{
    public const ulong PageSize = 4096;

    /// <summary>One page of code: execute and read.</summary>
    public const ulong Code = 0x1000_0000;

    /// <summary>Readable and writable pages with nothing mapped on either side.</summary>
    public const ulong Data = 0x1001_0000;
    public const ulong DataSize = 3 * PageSize;

    /// <summary>A page that can be read only.</summary>
    public const ulong ReadOnly = 0x1001_8000;

    /// <summary>The stack, unmapped on either side.</summary>
    public const ulong Stack = 0x1002_0000;
    public const ulong StackSize = PageSize;

    /// <summary>GS.base; FS.base belongs to the host's thread.</summary>
    public const ulong GsBase = Data + 0x100;

    // 16-bit code sees segments: offset 0 of CS, DS and SS is the start of the code, data and stack pages. The limits of DS and ES leave
    // room for limit violations as well as for page faults.
    public const uint CodeLimit = 0xFFF, DataLimit = 0x3FFF, ExtraLimit = 0x1FFF, StackLimit = 0xFFF;

    /// <summary>
    /// Where the instruction pointer of code of some width starts. 16-bit code starts where hardly a branch through a random
    /// register leads: it would loop.
    /// </summary>
    public static ulong Start(int bitness) => bitness == 16 ? 0x340 : Code;

    /// <summary>All bytes that a sequence can change: data, then stack.</summary>
    public const int MutableSize = (int)(DataSize + StackSize);
}
