using System.Text;
using Vmm.Guests;
using Vmm.Machine;
using Vmm.Machine.Log;
using Vmm.Testing;
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
}
