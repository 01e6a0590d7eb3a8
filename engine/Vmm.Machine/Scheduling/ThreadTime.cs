using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Vmm.Machine.Scheduling;

/// <summary>
/// The processor time that the calling thread has had from the host, to account for. It is nothing that a guest could see, and so not among
/// a machine's inputs.
/// </summary>
internal static partial class ThreadTime
{
    private static readonly int Clock = OperatingSystem.IsLinux() ? 3 : OperatingSystem.IsMacOS() ? 16 : -1; // CLOCK_THREAD_CPUTIME_ID

    /// <summary>In nanoseconds, from some moment on. Where the host does not say, all time that passes counts.</summary>
    public static ulong Nanoseconds => Clock >= 0 && GetTime(Clock, out TimeSpecification time) == 0
        ? (ulong)(time.Seconds * 1_000_000_000 + time.Nanoseconds)
        : (ulong)Stopwatch.GetElapsedTime(0).Ticks * 100;

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpecification
    {
        public nint Seconds;
        public nint Nanoseconds;
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static partial int GetTime(int clock, out TimeSpecification time);
}
