using System.Text.RegularExpressions;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Server;
using Vmm.Testing;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>Debian's cloud kernel, unmodified, from vmmctl through gRPC to the processor and back.</summary>
public sealed partial class LinuxTests(ITestOutputHelper log)
{
    // Without the last, Linux panics at its start where the host has so much other work that four ticks do not come within 40 ms, four times.
    private const string Append = "console=ttyS0 panic=-1 no_timer_check";
    private static readonly TimeSpan BootPatience = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan CommandPatience = TimeSpan.FromMinutes(3);

    [RequiresLinuxGuestTheory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Linux_boots_to_a_prompt_and_powers_off(int cpus)
    {
        var (kernel, initrd) = await GuestAsync(new Initramfs());
        await using var guest = ConsoleProcess.Vmmctl(
            "run", "--kernel", kernel, "--initrd", initrd, "--append", Append, "--memory", "512", "--cpus", $"{cpus}", "--timeout", "600");
        await guest.WaitForAsync(Initramfs.ReadyLine, BootPatience);
        await guest.WaitForAsync(Initramfs.Prompt, CommandPatience);
        // On a busy host Linux says that an interrupt took long, wherever in an answer it is then; the log has it all at the end.
        await guest.AskAsync("dmesg -n 1", CommandPatience);
        Assert.Equal($"{cpus}", await guest.AskAsync("nproc", CommandPatience));
        Assert.Equal("42", await guest.AskAsync("echo $((6 * 7))", CommandPatience));
        Assert.Equal("x86_64", await guest.AskAsync("uname -m", CommandPatience));
        Assert.Equal("5000050000", await guest.AskAsync("seq 100000 | awk '{ s += $1 } END { print s }'", CommandPatience));
        Assert.Equal("5d41402abc4b2a76b9719d911017c592  -", await guest.AskAsync("printf hello | md5sum", CommandPatience));
        Assert.Contains("Linux version", await guest.AskAsync("dmesg", CommandPatience), StringComparison.Ordinal);
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(CommandPatience));
        Assert.DoesNotMatch(Trouble(), guest.Output);
    }

    [RequiresLinuxGuestFact]
    public async Task Two_runs_under_the_virtual_clock_are_the_same_under_both_engines()
    {
        var (kernel, initrd) = await GuestAsync(new Initramfs { Script = "cat /proc/interrupts /proc/uptime /proc/meminfo; date +%s.%N; head -c 64 /dev/urandom | md5sum" });
        await using var server = await EmbeddedServer.StartAsync();
        using var connection = VmmConnection.Open(server.Address);
        var first = await RunAsync("first", ExecutionEngine.Auto);
        var second = await RunAsync("second", ExecutionEngine.Interpreter);
        log.WriteLine($"{first.Console.Length} bytes, {first.Instructions} instructions");
        Assert.Contains(Initramfs.ReadyLine, first.Console, StringComparison.Ordinal);
        Assert.Equal(first.Console, second.Console);
        Assert.Equal(first.Instructions, second.Instructions);

        async Task<(string Console, ulong Instructions)> RunAsync(string id, ExecutionEngine engine)
        {
            var spec = new VmSpec
            {
                Engine = engine,
                MemoryMib = 512,
                Cpus = 2,
                Kernel = new FileSource { Path = kernel },
                Initrd = new FileSource { Path = initrd },
                CommandLine = Append,
                Clock = Clock.Virtual,
            };
            var vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = ResourceNames.Project(), VmId = id, Vm = new V1.Vm { Spec = spec } });
            using var console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = vm.Name, Until = ConsoleAttach.Types.Until.RunEnd });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
            using var output = new MemoryStream();
            using var limit = new CancellationTokenSource(BootPatience);
            var end = await console.CopyToAsync(output, onDropped: lost => Assert.Fail($"{lost} bytes of output were dropped."), limit.Token);
            Assert.Equal(VmEndReason.PowerOff, end?.Reason);
            var status = (await connection.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status;
            return (System.Text.Encoding.Latin1.GetString(output.ToArray()), status.InstructionsRetired);
        }
    }

    [RequiresLinuxGuestFact]
    public async Task Quickstart_does_what_the_readme_says()
    {
        await using var quickstart = ConsoleProcess.Vmmctl("quickstart");
        Assert.Equal(0, await quickstart.WaitForExitAsync(BootPatience));
        Assert.Contains("What ran", quickstart.Output, StringComparison.Ordinal);
        Assert.Contains("sum 4999950000", quickstart.Output, StringComparison.Ordinal);
        Assert.Contains(NestedMonitor.Greeting, quickstart.Output, StringComparison.Ordinal);
        Assert.Matches(@"vmmctl apicv inhibit blockirq\s+\d+  vCPU 0 runs L2: deferred, APICv is active as before\s+\d+  vCPU 0 leaves L2: applied to vmcs01 before L1 executes, APICv is off; \d+ instructions later", quickstart.Output);
        Assert.Matches(@"vmmctl apicv allow blockirq\s+\d+  vCPU 0 runs L2: deferred, APICv is off as before\s+\d+  vCPU 0 leaves L2: applied to vmcs01 before L1 executes, APICv is active; \d+ instructions later", quickstart.Output);
        Assert.Contains("Try next", quickstart.Output, StringComparison.Ordinal);
    }

    [RequiresPackageFact("qemu-system-x86")]
    public async Task Kernel_log_has_no_warning_that_qemus_lacks()
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        // Raw lines begin with <facility * 8 + level>; levels to 4 are warnings and worse.
        var (kernel, initrd) = await GuestAsync(new Initramfs { Script = "echo log begins; dmesg -r; echo log ends" });
        var theirs = await WarningsAsync(() => ConsoleProcess.Start(
            DebianTool.Find("qemu-system-x86")!,
            "-accel", "tcg", "-cpu", "max", "-m", "512", "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio",
            "-kernel", kernel, "-initrd", initrd, "-append", Append));
        var ours = await WarningsAsync(() => ConsoleProcess.Vmmctl(
            "run", "--kernel", kernel, "--initrd", initrd, "--append", Append, "--memory", "512", "--timeout", "600"));
        Assert.Empty(ours.Except(theirs));
    }

    private static async Task<HashSet<string>> WarningsAsync(Func<ConsoleProcess> start)
    {
        await using var guest = start();
        await guest.WaitForAsync("log begins", BootPatience);
        var text = await guest.WaitForAsync("log ends", CommandPatience);
        await guest.WaitForExitAsync(CommandPatience);
        Assert.Contains("Linux version", text, StringComparison.Ordinal);
        // Numbers differ between two boots of the same machine.
        return [.. WarningLine().Matches(text).Select(line => Number().Replace(line.Groups[1].Value.Trim(), "N"))];
    }

    private static async Task<(string Kernel, string Initrd)> GuestAsync(Initramfs content)
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        return (kernel.KernelPath, await guests.BuildInitramfsAsync(content, null, CancellationToken.None));
    }

    [GeneratedRegex(@"WARNING:|BUG:|Oops|Call Trace|Kernel panic|soft lockup|unstable|segfault")]
    private static partial Regex Trouble();

    [GeneratedRegex(@"^<[0-4]>\[[ 0-9.]+\](.*)$", RegexOptions.Multiline)]
    private static partial Regex WarningLine();

    [GeneratedRegex("(0x)?[0-9a-f]*[0-9][0-9a-f]*")]
    private static partial Regex Number();
}
