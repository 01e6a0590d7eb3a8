using System.Globalization;
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

    /// <summary>With all code of vmmctl itself that the .NET JIT has compiled.</summary>
    [RequiresLinuxGuestFact]
    public async Task Boot_takes_less_than_256_mebibytes_for_code()
    {
        var (kernel, initrd) = await DebianGuest.FilesAsync(new Initramfs { Script = "echo up; read line" });
        await using var guest = ConsoleProcess.Vmmctl(
            "run", "--engine", "auto", "--kernel", kernel, "--initrd", initrd, "--append", DebianGuest.Append, "--memory", "512", "--timeout", "600");
        await guest.WaitForAsync("up", Installation.Patience);
        var (own, total) = CodeOf(guest.Id);
        Assert.InRange(own, 1 << 20, total);
        Assert.InRange(total, own, 256 << 20);
    }

    /// <summary>Bytes in memory of the code that Vmm has generated, and of all generated code, each page as often as it is mapped.</summary>
    private static (long Own, long Total) CodeOf(int process)
    {
        long own = 0, total = 0;
        string mapping = "";
        foreach (string line in File.ReadLines($"/proc/{process}/smaps"))
        {
            if (MappingLine().IsMatch(line))
                mapping = line;
            if (!line.StartsWith("Rss:", StringComparison.Ordinal) || MappingLine().Match(mapping) is not { Success: true } match)
                continue;
            string permissions = match.Groups[1].Value, name = match.Groups[2].Value;
            // Vmm and the .NET JIT map their code twice; with W^X turned off, the latter maps memory to write and to execute.
            bool generated = name.StartsWith("/memfd:vmm-code", StringComparison.Ordinal) || name.StartsWith("/memfd:doublemapper", StringComparison.Ordinal)
                || (name.Length == 0 && permissions.Contains('x', StringComparison.Ordinal));
            if (!generated)
                continue;
            long bytes = long.Parse(Number().Match(line).Value, CultureInfo.InvariantCulture) * 1024;
            total += bytes;
            own += name.Contains("vmm-code", StringComparison.Ordinal) ? bytes : 0;
        }
        return (own, total);
    }

    // Addresses, permissions, offset, device, inode, path.
    [GeneratedRegex("^[0-9a-f]+-[0-9a-f]+ ([-rwxsp]{4}) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ [0-9]+ *(.*)$")]
    private static partial Regex MappingLine();

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
