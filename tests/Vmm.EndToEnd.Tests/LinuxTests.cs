using System.Text.RegularExpressions;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.Testing;
using Xunit;

namespace Vmm.EndToEnd.Tests;

/// <summary>Debian's cloud kernel beside another emulator.</summary>
public sealed partial class LinuxTests
{
    [RequiresPackageFact("qemu-system-x86")]
    public async Task Kernel_log_has_no_warning_that_qemus_lacks()
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        // Raw lines begin with <facility * 8 + level>; levels to 4 are warnings and worse.
        var (kernel, initrd) = await DebianGuest.FilesAsync(new Initramfs { Script = "echo log begins; dmesg -r; echo log ends" });
        var theirs = await WarningsAsync(() => ConsoleProcess.Start(
            DebianTool.Find("qemu-system-x86")!,
            "-accel", "tcg", "-cpu", "max", "-m", "512", "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
            "-kernel", kernel, "-initrd", initrd, "-append", DebianGuest.Append));
        var ours = await WarningsAsync(() => ConsoleProcess.Vmmctl(
            "run", "--kernel", kernel, "--initrd", initrd, "--append", DebianGuest.Append, "--memory", "512", "--timeout", "600"));
        Assert.Empty(ours.Except(theirs));
    }

    private static async Task<HashSet<string>> WarningsAsync(Func<ConsoleProcess> start)
    {
        await using var guest = start();
        await guest.WaitForAsync("log begins", Installation.Patience);
        var text = await guest.WaitForAsync("log ends", Installation.Patience);
        await guest.WaitForExitAsync(Installation.Patience);
        Assert.Contains("Linux version", text, StringComparison.Ordinal);
        // Numbers differ between two boots of the same machine.
        return [.. WarningLine().Matches(text).Select(line => Number().Replace(line.Groups[1].Value.Trim(), "N"))];
    }

    [GeneratedRegex(@"^<[0-4]>\[[ 0-9.]+\](.*)$", RegexOptions.Multiline)]
    private static partial Regex WarningLine();

    [GeneratedRegex("(0x)?[0-9a-f]*[0-9][0-9a-f]*")]
    private static partial Regex Number();
}
