using System.Text;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Machine;
using Vmm.Machine.Log;
using Vmm.Server;
using Vmm.Testing;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>vCPUs that are added to Debian's kernel while it runs.</summary>
public sealed class HotplugTests(ITestOutputHelper log)
{
    private const string Ready = "ready for more";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    // Waits for the kernel to have each new processor, and puts it online.
    private const string Script = $$"""
        echo "possible $(cat /sys/devices/system/cpu/possible), present $(cat /sys/devices/system/cpu/present)"
        echo {{Ready}}
        for cpu in 1 2; do
          until [ -e /sys/devices/system/cpu/cpu$cpu/online ]; do sleep 0.01; done
          echo 1 > /sys/devices/system/cpu/cpu$cpu/online
          taskset $((1 << cpu)) sh -c 'echo "runs on $(cut -d" " -f39 /proc/self/stat)"'
        done
        echo "processors $(grep -c ^processor /proc/cpuinfo), $(nproc) online, present $(cat /sys/devices/system/cpu/present)"
        cat /proc/interrupts
        """;

    [RequiresLinuxGuestFact]
    public async Task Linux_brings_vcpus_online_that_are_added_while_it_runs_and_so_does_a_replay_by_way_of_snapshots()
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var spec = new MachineSpec
        {
            MemoryBytes = 256 << 20,
            Cpus = 1,
            MaxCpus = 3,
            KernelPath = kernel.KernelPath,
            InitrdPath = await guests.BuildInitramfsAsync(new Initramfs { Script = Script }, null, CancellationToken.None),
            CommandLine = "console=ttyS0 panic=-1",
            Clock = ClockMode.Virtual,
        };
        IReadOnlyList<LoggedInput> inputs;
        GuestRun added;
        await using (var machine = new MovingMachine(spec, log))
        {
            // One at a time: the second one when the first is online.
            machine.WhenPrinted(Ready, () => Assert.Equal(1, machine.Machine.AddVcpu()));
            machine.WhenPrinted("runs on 1", () => Assert.Equal(2, machine.Machine.AddVcpu()));
            added = await machine.FinishAsync(Patience);
            inputs = machine.Machine.EventLog;
            Assert.Equal(3, machine.Machine.VcpuCount);
        }
        log.WriteLine(added.Console[Math.Max(0, added.Console.IndexOf(Initramfs.ReadyLine, StringComparison.Ordinal))..]);
        Assert.DoesNotMatch(@"ACPI (BIOS )?(Error|Warning)|\[Firmware|WARNING:|BUG:|Oops", added.Console);
        Assert.Contains("possible 0-2, present 0\r\n", added.Console, StringComparison.Ordinal);
        Assert.Contains("runs on 2\r\nprocessors 3, 3 online, present 0-2\r\n", added.Console, StringComparison.Ordinal);
        Assert.Equal([MachineInputKind.VcpuAdded, MachineInputKind.VcpuAdded], inputs.Select(input => input.Input.Kind));

        // Once more from the log: saved and restored with one vCPU added, in the middle of its way online, and with both.
        await using var again = new MovingMachine(spec, log);
        again.Machine.Replay(inputs);
        foreach ((ulong point, int vcpus) in new[] { (inputs[0].Instructions + 1, 2), (inputs[0].Instructions / 2 + inputs[1].Instructions / 2, 2), (inputs[1].Instructions + 1, 3) })
        {
            await again.RunToAsync(point, Patience);
            again.Move();
            Assert.Equal(vcpus, again.Machine.VcpuCount);
        }
        Assert.Equal(added, await again.FinishAsync(Patience));
    }

    [RequiresLinuxGuestFact]
    public async Task A_vcpu_that_vmmctl_adds_is_brought_online_by_a_shell_while_inhibits_come_and_go()
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        string initrd = await guests.BuildInitramfsAsync(new Initramfs(), null, CancellationToken.None);
        await using var server = await EmbeddedServer.StartAsync();
        await VmmctlAsync("vm", "create", "hot", "--kernel", $"server:{kernel.KernelPath}", "--initrd", $"server:{initrd}", "--append", "console=ttyS0 panic=-1", "--max-cpus", "2", "--start");
        await using var guest = ConsoleProcess.Vmmctl("vm", "console", "hot", "--server", server.Address);
        await guest.WaitForAsync(Initramfs.ReadyLine, Patience);
        await guest.WaitForAsync(Initramfs.Prompt, Patience);
        Assert.Equal("1", await guest.AskAsync("grep -c ^processor /proc/cpuinfo", Patience));

        using var connection = VmmConnection.Open(server.Address);
        string name = ResourceNames.Vm("hot", ResourceNames.DefaultProject);
        using var ending = new CancellationTokenSource();
        Task toggling = Task.Run(async () =>
        {
            while (!ending.IsCancellationRequested)
            {
                await connection.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq });
                await connection.Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq });
            }
        });
        Assert.Contains("\"cpus\": 2", await VmmctlAsync("vm", "add-vcpu", "hot", "-o", "json"), StringComparison.Ordinal);
        await guest.AskAsync("until [ -e /sys/devices/system/cpu/cpu1/online ]; do sleep 0.01; done; dmesg -n 1", Patience);
        await guest.AskAsync("echo 1 > /sys/devices/system/cpu/cpu1/online", Patience);
        Assert.Equal("2", await guest.AskAsync("grep -c ^processor /proc/cpuinfo", Patience));
        Assert.Equal("5000050000", await guest.AskAsync("taskset 2 sh -c 'seq 100000 | awk \"{ s += \\$1 } END { print s }\"'", Patience));
        await ending.CancelAsync();
        await toggling;
        Apicv apicv = await connection.Vms.GetApicvAsync(new GetApicvRequest { Name = name });
        Assert.All(apicv.Vcpus, vcpu => Assert.Equal((V1.ApicvUpdateState.Applied, apicv.Generation), (vcpu.State, vcpu.AppliedGeneration)));
        Assert.Equal(2, apicv.Vcpus.Count);
        log.WriteLine($"{apicv.Generation} changes of the inhibits");
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(Patience));
        Assert.DoesNotMatch("WARNING:|BUG:|Oops|Call Trace|lockup|unstable", guest.Output);

        async Task<string> VmmctlAsync(params string[] arguments)
        {
            await using var vmmctl = ConsoleProcess.Vmmctl([.. arguments, "--server", server.Address]);
            Assert.Equal(0, await vmmctl.WaitForExitAsync(Patience));
            return vmmctl.Output;
        }
    }
}
