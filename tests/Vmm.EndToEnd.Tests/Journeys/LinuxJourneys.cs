using Vmm.Client;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Debian's cloud kernel, unmodified, from vmmctl through gRPC to the processor and back.</summary>
public abstract class LinuxJourneys(Installation installation, ITestOutputHelper log)
{
    [JourneyTheory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Linux_boots_to_a_prompt_and_powers_off(int cpus)
    {
        var (kernel, initrd) = await DebianGuest.FilesAsync(new Initramfs());
        await using var guest = installation.Run(
            "run", "--kernel", kernel, "--initrd", initrd, "--append", DebianGuest.Append, "--memory", "512", "--cpus", $"{cpus}", "--timeout", "600");
        await guest.WaitForAsync(Initramfs.ReadyLine, Installation.Patience);
        await guest.WaitForAsync(Initramfs.Prompt, Installation.Patience);
        await DebianGuest.QuietenAsync(guest);
        Assert.Equal($"{cpus}", await guest.AskAsync("nproc", Installation.Patience));
        Assert.Equal("42", await guest.AskAsync("echo $((6 * 7))", Installation.Patience));
        Assert.Equal("x86_64", await guest.AskAsync("uname -m", Installation.Patience));
        Assert.Equal("5000050000", await guest.AskAsync("seq 100000 | awk '{ s += $1 } END { print s }'", Installation.Patience));
        Assert.Equal("5d41402abc4b2a76b9719d911017c592  -", await guest.AskAsync("printf hello | md5sum", Installation.Patience));
        Assert.Contains("Linux version", await guest.AskAsync("dmesg", Installation.Patience), StringComparison.Ordinal);
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(Installation.Patience));
        Assert.DoesNotMatch(DebianGuest.Trouble(), guest.Output);
    }

    [Journey]
    public async Task Two_runs_under_the_virtual_clock_are_the_same_under_both_engines()
    {
        var (kernel, initrd) = await DebianGuest.FilesAsync(new Initramfs { Script = "cat /proc/interrupts /proc/uptime /proc/meminfo; date +%s.%N; head -c 64 /dev/urandom | md5sum" });
        using var connection = installation.Connect();
        string parent = ResourceNames.Project();
        var files = (Kernel: (await connection.PushImageAsync(kernel, parent)).Name, Initrd: (await connection.PushImageAsync(initrd, parent)).Name);
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
                Kernel = new FileSource { Image = files.Kernel },
                Initrd = new FileSource { Image = files.Initrd },
                CommandLine = DebianGuest.Append,
                Clock = Clock.Virtual,
            };
            var vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = parent, VmId = id, Vm = new V1.Vm { Spec = spec } });
            using var console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = vm.Name, Until = ConsoleAttach.Types.Until.RunEnd });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
            using var output = new MemoryStream();
            using var limit = new CancellationTokenSource(Installation.Patience);
            var end = await console.CopyToAsync(output, onDropped: lost => Assert.Fail($"{lost} bytes of output were dropped."), limit.Token);
            Assert.Equal(VmEndReason.PowerOff, end?.Reason);
            var status = (await connection.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status;
            await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
            return (System.Text.Encoding.Latin1.GetString(output.ToArray()), status.InstructionsRetired);
        }
    }

    [Journey]
    public async Task Quickstart_does_what_the_readme_says()
    {
        await using var quickstart = installation.Run("quickstart");
        Assert.Equal(0, await quickstart.WaitForExitAsync(Installation.Patience));
        Assert.Contains("What ran", quickstart.Output, StringComparison.Ordinal);
        Assert.Contains("sum 4999950000", quickstart.Output, StringComparison.Ordinal);
        Assert.Contains(NestedMonitor.Greeting, quickstart.Output, StringComparison.Ordinal);
        Assert.Matches(@"vmmctl apicv inhibit blockirq\s+\d+  vCPU 0 runs L2: deferred, APICv is active as before\s+\d+  vCPU 0 leaves L2: applied to vmcs01 before L1 executes, APICv is off; \d+ instructions later", quickstart.Output);
        Assert.Matches(@"vmmctl apicv allow blockirq\s+\d+  vCPU 0 runs L2: deferred, APICv is off as before\s+\d+  vCPU 0 leaves L2: applied to vmcs01 before L1 executes, APICv is active; \d+ instructions later", quickstart.Output);
        Assert.Contains("Try next", quickstart.Output, StringComparison.Ordinal);
    }
}
