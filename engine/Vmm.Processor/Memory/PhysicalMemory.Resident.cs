using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <content>How much of it the host has in memory.</content>
public sealed unsafe partial class PhysicalMemory
{
    /// <summary>
    /// Bytes of RAM that the host has in memory just now; pages that nobody has touched are none. Where RAM began as a file, what the host
    /// keeps of the file in its cache counts, which is there once for all who map it. All of it where the host does not say.
    /// </summary>
    public ulong CountResident()
    {
        if (OperatingSystem.IsWindows())
            return Size;
        Span<byte> pages = stackalloc byte[4096];
        ulong resident = 0;
        for (ulong at = 0; at < Size; at += (ulong)pages.Length * PageSize)
        {
            int count = (int)Math.Min((ulong)pages.Length, (Size - at) / PageSize);
            fixed (byte* vector = pages)
                if (MemoryInCore(_base + at, (nuint)count * PageSize, vector) != 0)
                    return Size;
            // The other bits of each are not defined.
            foreach (byte page in pages[..count])
                resident += (ulong)(page & 1) * PageSize;
        }

        return resident;
    }

    [LibraryImport("libc", EntryPoint = "mincore")]
    private static partial int MemoryInCore(void* address, nuint length, byte* vector);
}
