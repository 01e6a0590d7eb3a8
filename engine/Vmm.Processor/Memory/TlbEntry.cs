using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <summary>
/// One cached translation of a 4 KiB page of linear addresses to host memory. A tag is the linear page address with the
/// address-space tag (<see cref="CpuState.TlbContext"/>) in its low 12 bits; zero where the access needs the slow path.
/// </summary>
[StructLayout(LayoutKind.Sequential, Size = 32)]
public struct TlbEntry
{
    /// <summary>The tag that a read must match.</summary>
    public ulong ReadTag;

    /// <summary>The tag that a write must match: only where the page is writable, dirty already, holds no cached code, and no dirty log waits for its first write.</summary>
    public ulong WriteTag;

    /// <summary>Host address minus linear address.</summary>
    public long Addend;

    /// <summary>The host-physical page address, with a bit for <see cref="TranslationCache"/>.</summary>
    public ulong Physical;
}

/// <summary>The shape of the translation caches.</summary>
public static class Tlb
{
    /// <summary>Entries in one set: 64 MiB of linear addresses.</summary>
    public const int Entries = 16384;

    /// <summary>A tag that matches nothing: address-space tags start at 1.</summary>
    public const ulong NoTag = 0;

    /// <summary>Sets per processor: user, supervisor with user pages barred (SMAP), supervisor, and one that stays empty.</summary>
    public const int Sets = 4;

    public const int UserSet = 0, SupervisorSet = 1, SupervisorUserAllowedSet = 2, CheckedSet = 3;
}
