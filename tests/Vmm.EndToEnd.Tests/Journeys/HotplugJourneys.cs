using Vmm.Client;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>A vCPU that is added to Debian's kernel while it runs.</summary>
public abstract class HotplugJourneys(Installation installation, ITestOutputHelper log)
{
    [Journey]
    public async Task A_vcpu_that_vmmctl_adds_is_brought_online_by_a_shell_while_inhibits_come_and_go()
    {
        const string id = "hot";
        await using ConsoleProcess guest = await installation.BootAsync(id, new Initramfs(), "--max-cpus", "2");
        Assert.Equal("1", await guest.AskAsync("grep -c ^processor /proc/cpuinfo", Installation.Patience));

        using VmmConnection connection = installation.Connect();
        string name = ResourceNames.Vm(id, ResourceNames.DefaultProject);
        using var ending = new CancellationTokenSource();
        Task toggling = Task.Run(async () =>
        {
            while (!ending.IsCancellationRequested)
            {
                await connection.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq });
                await connection.Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq });
            }
        });
        Assert.Equal(2, (await installation.VmmctlAsync<V1.Vm>("vm", "add-vcpu", id)).Status.Cpus);
        await guest.AskAsync("until [ -e /sys/devices/system/cpu/cpu1/online ]; do sleep 0.01; done", Installation.Patience);
        await guest.AskAsync("echo 1 > /sys/devices/system/cpu/cpu1/online", Installation.Patience);
        Assert.Equal("2", await guest.AskAsync("grep -c ^processor /proc/cpuinfo", Installation.Patience));
        Assert.Equal("5000050000", await guest.AskAsync("taskset 2 sh -c 'seq 100000 | awk \"{ s += \\$1 } END { print s }\"'", Installation.Patience));
        await ending.CancelAsync();
        await toggling;
        Apicv apicv = await connection.Vms.GetApicvAsync(new GetApicvRequest { Name = name });
        Assert.All(apicv.Vcpus, vcpu => Assert.Equal((ApicvUpdateState.Applied, apicv.Generation), (vcpu.State, vcpu.AppliedGeneration)));
        Assert.Equal(2, apicv.Vcpus.Count);
        log.WriteLine($"{apicv.Generation} changes of the inhibits");
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(Installation.Patience));
        Assert.DoesNotMatch(DebianGuest.Trouble(), guest.Output);
        await installation.VmmctlAsync("vm", "delete", id);
    }
}
