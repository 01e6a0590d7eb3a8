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

    /// <summary>All bytes that a sequence can change: data, then stack.</summary>
    public const int MutableSize = (int)(DataSize + StackSize);
}
