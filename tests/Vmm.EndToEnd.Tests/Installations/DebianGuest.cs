using System.Text.RegularExpressions;
using Vmm.Guests;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>Debian's cloud kernel, as journeys have it.</summary>
internal static partial class DebianGuest
{
    /// <summary>
    /// Its command line. Without the last, Linux panics at its start where the host has so much other work that four ticks do not come within
    /// 40 ms, four times.
    /// </summary>
    public const string Append = "console=ttyS0 panic=-1 no_timer_check";

    /// <summary>A hypervisor: kvm-intel, and <c>l2</c>, whose guest executes until Ctrl-C comes.</summary>
    public static Initramfs Hypervisor { get; } = new()
    {
        Modules = ["kvm-intel"],
        Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/l2"] = NestedMonitor.Program() },
    };

    /// <summary>The paths of kernel and initial RAM file system.</summary>
    public static async Task<(string Kernel, string Initrd)> FilesAsync(Initramfs content)
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        return (kernel.KernelPath, await guests.BuildInitramfsAsync(content, null, CancellationToken.None));
    }

    /// <summary>What a healthy kernel does not print.</summary>
    [GeneratedRegex(@"WARNING:|BUG:|Oops|Call Trace|Kernel panic|soft lockup|unstable|segfault")]
    public static partial Regex Trouble();

    /// <summary>On a busy host Linux says that an interrupt took long, wherever in an answer it is then; the log has it all at the end.</summary>
    public static Task QuietenAsync(ConsoleProcess console) => console.AskAsync("dmesg -n 1", Installation.Patience);
}
