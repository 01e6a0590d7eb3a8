using System.Globalization;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Xunit;

namespace Vmm.EndToEnd.Tests;

/// <summary>The units of <c>deploy/systemd</c>, started by systemd.</summary>
[Collection(SystemdHostTests.Name)]
public sealed class SystemdTests(SystemdHost host)
{
    private const string Running = @"(?m)^{0} +running\b.* {1} *$";

    [RequiresDockerFact(SystemdHost.Image, SystemdHost.Makes)]
    public async Task A_unit_is_started_when_it_serves_and_again_when_it_is_killed_and_its_vms_with_it()
    {
        await ServesAsync("vmm-frontend", "vmm-worker");
        await BootAsync("killed");
        foreach (string unit in (string[])["vmm-worker", "vmm-frontend"])
        {
            string before = await host.ShowAsync(unit, "MainPID");
            await host.RunAsync($"systemctl kill --signal=KILL {unit}");
            await Eventually.HoldsAsync(async () => await host.ShowAsync(unit, "MainPID") is var now && now != before && now != "0", $"{unit} is started again");
        }

        await RunsOnAsync("killed", "a");
        await host.VmmctlAsync("vm delete --force killed");
    }

    [RequiresDockerFact(SystemdHost.Image, SystemdHost.Makes)]
    public async Task Units_that_end_because_the_database_is_away_are_started_until_it_is_back()
    {
        await host.RunAsync("systemctl stop postgresql@15-main");
        foreach (string unit in (string[])["vmm-frontend", "vmm-worker"])
            Assert.NotEqual(0, (await host.TryRunAsync($"systemctl restart {unit}")).Code);
        // More often than systemd lets a unit fail that does not say otherwise: five times.
        foreach (string unit in (string[])["vmm-frontend", "vmm-worker"])
            await Eventually.HoldsAsync(async () => int.Parse(await host.ShowAsync(unit, "NRestarts"), CultureInfo.InvariantCulture) > 6, $"{unit} is started again and again");
        string journal = await host.RunAsync("journalctl -b -u vmm-frontend -p err --no-pager");
        Assert.Contains("The fleet's registry cannot be reached", journal, StringComparison.Ordinal);
        Assert.DoesNotContain("listens on", journal, StringComparison.Ordinal);
        await host.RunAsync("systemctl start postgresql@15-main");
        await ServesAsync("vmm-frontend", "vmm-worker");
    }

    [RequiresDockerFact(SystemdHost.Image, SystemdHost.Makes)]
    public async Task A_worker_that_is_stopped_gives_its_vms_away_first()
    {
        await BootAsync("moves");
        await host.RunAsync("""
            sed 's/worker\.env/worker-b.env/; s/=vmmd$/=vmmd-b/; s,/vmmd$,/vmmd-b,' deploy/systemd/vmm-worker.service > /etc/systemd/system/vmm-worker-b.service
            sed 's/WORKER_ID=a/WORKER_ID=b/; s/7501/7502/' /etc/vmm/worker.env | install -m 0640 -g vmm /dev/stdin /etc/vmm/worker-b.env
            systemctl daemon-reload
            systemctl start vmm-worker-b
            """);
        await host.RunAsync("systemctl stop vmm-worker");
        Assert.Equal("success", await host.ShowAsync("vmm-worker", "Result"));
        await RunsOnAsync("moves", "b");
        await host.RunAsync("systemctl start vmm-worker && systemctl stop vmm-worker-b");
        await RunsOnAsync("moves", "a");
        await host.VmmctlAsync("vm delete --force moves");
    }

    [RequiresDockerFact(SystemdHost.Image, SystemdHost.Makes)]
    public async Task After_a_reboot_there_is_what_was_there_before()
    {
        await BootAsync("rebooted");
        await host.RebootAsync();
        await ServesAsync("vmm-frontend", "vmm-worker");
        await RunsOnAsync("rebooted", "a");
        await host.VmmctlAsync("vm delete --force rebooted");
    }

    [RequiresDockerFact(SystemdHost.Image, SystemdHost.Makes)]
    public async Task An_upgrade_and_its_rollback_are_two_restarts()
    {
        await BootAsync("upgraded");
        foreach ((string commands, string version) in ((string, string)[])[(SystemdHost.Page.Upgrade, "vmm-2"), (SystemdHost.Page.Rollback, "vmm-1")])
        {
            await host.RunAsync(commands);
            foreach (string unit in (string[])["vmm-frontend", "vmm-worker"])
                Assert.Equal($"/opt/{version}/vmmd", await host.RunAsync($"readlink /proc/{await host.ShowAsync(unit, "MainPID")}/exe"));
            await RunsOnAsync("upgraded", "a");
        }

        await host.VmmctlAsync("vm delete --force upgraded");
    }

    private async Task BootAsync(string id)
    {
        (string kernel, string initrd) = await DebianGuest.FilesAsync(new Initramfs());
        await host.CopyAsync(kernel, "/root/vmm/kernel");
        await host.CopyAsync(initrd, "/root/vmm/initrd");
        await host.VmmctlAsync($"vm create {id} --kernel kernel --initrd initrd --append '{DebianGuest.Append}' --memory 128 --restart on-failure --start");
        await RunsOnAsync(id, "a");
    }

    private Task RunsOnAsync(string id, string worker) => host.SaysAsync($"vm get {id}", string.Format(CultureInfo.InvariantCulture, Running, id, worker));

    private async Task ServesAsync(params string[] units)
    {
        foreach (string unit in units)
            await Eventually.HoldsAsync(async () => await host.ShowAsync(unit, "ActiveState") == "active", $"{unit} serves");
    }
}
