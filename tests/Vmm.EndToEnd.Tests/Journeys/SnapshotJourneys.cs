using Google.Protobuf.Collections;
using Vmm.Client;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Debian's kernel, saved while it runs, and what goes on from there.</summary>
public abstract class SnapshotJourneys(Installation installation, ITestOutputHelper log)
{
    [Journey]
    public async Task A_running_linux_is_saved_restored_and_cloned_and_each_answers_on_its_console()
    {
        const string source = "source", snapshot = "prompt";
        await using ConsoleProcess guest = await installation.BootAsync(source, new Initramfs());
        await guest.AskAsync("n=41; echo $n > /tmp/n", Installation.Patience);
        Assert.Equal(ResourceNames.Vm(source, null), (await installation.VmmctlAsync<Snapshot>("snapshot", "create", source, "--id", snapshot)).Vm);
        // What comes later is the source's alone.
        Assert.Equal("42", await guest.AskAsync("n=$((n + 1)); echo $n", Installation.Patience));

        await installation.VmmctlAsync("snapshot", "restore", snapshot, "--id", "restored");
        RepeatedField<CloneResult> clones = (await installation.VmmctlAsync<CloneVmResponse>("clone", "--snapshot", snapshot, "--count", "3", "--prefix", "clone")).Results;
        Assert.Equal(["clone-1", "clone-2", "clone-3"], clones.Select(result => ResourceNames.Id(result.Vm.Name)));
        log.WriteLine(string.Join(", ", clones.Select(result => result.Vm.Status.Worker)));
        CloneVmResponse later = await installation.VmmctlAsync<CloneVmResponse>("clone", source, "--prefix", "later");
        string[] restored = ["restored", "clone-1", "clone-2", "clone-3", ResourceNames.Id(Assert.Single(later.Results).Vm.Name)];
        // They need it no more.
        await installation.VmmctlAsync("snapshot", "delete", snapshot);

        foreach (string id in restored)
        {
            await using ConsoleProcess console = installation.Start("vm", "console", id);
            await console.FindPromptAsync(Installation.Patience);
            Assert.Equal(id == restored[^1] ? "42" : "41", await console.AskAsync("echo $n", Installation.Patience));
            // What one writes, no other reads.
            Assert.Equal("41", await console.AskAsync("cat /tmp/n", Installation.Patience));
            await console.AskAsync($"echo {id} > /tmp/n", Installation.Patience);
            await console.SendLineAsync("poweroff -f");
            Assert.Equal(0, await console.WaitForExitAsync(Installation.Patience));
            Assert.DoesNotMatch(DebianGuest.Trouble(), console.Output);
        }

        Assert.Equal("42", await guest.AskAsync("echo $n", Installation.Patience));
        Assert.Equal("41", await guest.AskAsync("cat /tmp/n", Installation.Patience));
        foreach (string id in restored)
            Assert.Equal(VmEndReason.PowerOff, (await installation.VmmctlAsync<V1.Vm>("vm", "get", id)).Status.End.Reason);
        await installation.VmmctlAsync(["vm", "delete", "--force", source, .. restored]);
    }
}
