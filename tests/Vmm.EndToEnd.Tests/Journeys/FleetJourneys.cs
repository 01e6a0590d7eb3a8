using Vmm.Client;
using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>What a fleet has beyond a single server: moves, drains, and processes that are lost. Each journey leaves it whole.</summary>
public abstract class FleetJourneys(Fleet fleet) : IAsyncLifetime
{
    private const string Interrupt = "\u0003";

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        foreach (string worker in Fleet.Workers)
            await fleet.VmmctlAsync("worker", "uncordon", worker);
        await fleet.MakeWholeAsync();
    }

    [Journey]
    public async Task A_hypervisor_moves_with_its_l2_active_while_its_console_stays_open()
    {
        const string id = "moves";
        await using ConsoleProcess guest = await fleet.BootAsync(id, DebianGuest.Hypervisor, "--memory", "512");
        await guest.SendLineAsync("l2");
        await guest.WaitForAsync(NestedMonitor.Greeting, Installation.Patience);
        (string source, _, _) = await fleet.WhereAsync(id);
        string target = Fleet.Workers.First(worker => worker != source);

        MigrateVmResponse moved = await fleet.VmmctlAsync<MigrateVmResponse>("vm", "migrate", id, "--to", target, "--max-pause", "60000");
        Assert.Equal((source, target), (ResourceNames.Id(moved.SourceWorker), ResourceNames.Id(moved.Vm.Status.Worker)));
        Assert.Equal((target, VmState.Running, 1L), await fleet.WhereAsync(id));
        await fleet.RunsL2Async(id);
        foreach (string verb in (string[])["inhibit", "allow"])
            Assert.All((await fleet.VmmctlAsync<ApicvChange>("apicv", verb, id, "blockirq", "--wait")).Vcpus, vcpu => Assert.Equal(ApicvUpdateState.Applied, vcpu.State));

        await guest.SendAsync(Interrupt);
        await guest.WaitForAsync(Initramfs.Prompt, Installation.Patience);
        Assert.Equal("42", await guest.AskAsync("echo $((6 * 7))", Installation.Patience));
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(Installation.Patience));
        Assert.DoesNotMatch(DebianGuest.Trouble(), guest.Output);
        await fleet.VmmctlAsync("vm", "delete", id);
    }

    [Journey]
    public async Task Vms_leave_workers_that_are_drained_or_end_while_their_consoles_stay_open()
    {
        const string id = "leaves";
        await using ConsoleProcess guest = await fleet.BootAsync(id, new Initramfs());
        await guest.AskAsync("n=1", Installation.Patience);
        (string first, _, _) = await fleet.WhereAsync(id);
        await fleet.VmmctlAsync("worker", "drain", first);
        await fleet.ComesAsync(id, place => place.Worker != first, "the VM has left the worker that is drained");
        Assert.Equal("2", await guest.AskAsync("n=$((n + 1)); echo $n", Installation.Patience));
        await fleet.VmmctlAsync("worker", "uncordon", first);

        (string second, _, _) = await fleet.WhereAsync(id);
        await fleet.StopWorkerAsync(second);
        (string third, VmState state, long runs) = await fleet.WhereAsync(id);
        Assert.NotEqual(second, third);
        Assert.Equal((VmState.Running, 1L), (state, runs));
        Assert.Equal("3", await guest.AskAsync("n=$((n + 1)); echo $n", Installation.Patience));
        await fleet.VmmctlAsync("vm", "delete", "--force", id);
    }

    [Journey]
    public async Task When_a_front_end_is_killed_the_other_has_all_that_it_had()
    {
        const string id = "outlives";
        await using (await fleet.BootAsync(id, new Initramfs()))
        {
            await fleet.KillFrontendAsync(0);
            (int code, _, string errors) = await Installation.TryAsync(fleet.Environment, "vm", "list");
            Assert.True(code == 4, errors);
            await using ConsoleProcess guest = ConsoleProcess.Vmmctl(fleet.OtherEnvironment, "vm", "console", id, "--take-over");
            await guest.FindPromptAsync(Installation.Patience);
            await fleet.MakeWholeAsync();
            Assert.Equal((VmState.Running, 1L), await fleet.WhereAsync(id) is var (_, state, runs) ? (state, runs) : default);
            Assert.Equal("42", await guest.AskAsync("echo $((6 * 7))", Installation.Patience));
        }

        await fleet.VmmctlAsync("vm", "delete", "--force", id);
    }

    [Journey]
    public async Task A_vm_of_a_worker_that_is_killed_is_booted_elsewhere_where_its_spec_says_so()
    {
        const string id = "boots-again";
        await using ConsoleProcess guest = await fleet.BootAsync(id, new Initramfs(), "--restart", "on-failure");
        (string lost, _, _) = await fleet.WhereAsync(id);
        await fleet.KillWorkerAsync(lost);
        await fleet.ComesAsync(id, static place => place is (_, VmState.Running, 2), "the VM runs once more");
        Assert.NotEqual(lost, (await fleet.WhereAsync(id)).Worker);
        await using ConsoleProcess again = fleet.Start("vm", "console", id, "--take-over");
        await again.WaitForAsync(Initramfs.ReadyLine, Installation.Patience);
        await again.FindPromptAsync(Installation.Patience);

        // The one that was lost comes back without it.
        await fleet.MakeWholeAsync();
        Assert.Equal(2, (await fleet.WhereAsync(id)).Runs);
        Assert.Equal("42", await again.AskAsync("echo $((6 * 7))", Installation.Patience));
        await fleet.VmmctlAsync("vm", "delete", "--force", id);
    }

    [Journey]
    public async Task A_project_has_its_vms_for_its_own_tokens_alone()
    {
        const string project = "ci", elsewhere = "elsewhere", own = "own";
        string tokenFile = Path.Combine(Directory.CreateTempSubdirectory("vmm-token-").FullName, "token");
        var (kernel, initrd) = await DebianGuest.FilesAsync(new Initramfs());
        string[] files = ["--kernel", kernel, "--initrd", initrd, "--append", DebianGuest.Append];
        await fleet.VmmctlAsync(["vm", "create", elsewhere, .. files]);
        await fleet.VmmctlAsync("project", "create", project, "--max-vms", "1");
        try
        {
            await File.WriteAllTextAsync(tokenFile, await fleet.VmmctlAsync("token", "create", "runner", "--project", project, "--role", "operator"));
            // What one front end made, the other knows.
            var runner = new Dictionary<string, string>(fleet.EnvironmentAt(1, tokenFile)) { ["VMM_PROJECT"] = project };
            await AnswersAsync(runner, 0, own, ["vm", "create", own, .. files, "--start"]);
            await AnswersAsync(runner, 1, "QUOTA", ["vm", "create", "another", .. files]);
            await AnswersAsync(runner, 1, "NOT_FOUND", "vm", "get", elsewhere, "--project", ResourceNames.DefaultProject);
            await AnswersAsync(runner, 1, "ROLE_REQUIRED", "token", "list");
            await AnswersAsync(runner, 0, own, "vm", "list");
            Assert.DoesNotContain(own, await fleet.VmmctlAsync("vm", "list"), StringComparison.Ordinal);
            Assert.Contains(own, await fleet.VmmctlAsync("vm", "list", "--project", project), StringComparison.Ordinal);
            await AnswersAsync(fleet.EnvironmentAt(1, null), 1, "TOKEN_REQUIRED", "vm", "list");

            await fleet.VmmctlAsync("token", "revoke", "runner");
            await Eventually.HoldsAsync(async () => await Installation.TryAsync(runner, "vm", "list") is (1, _, var errors) && errors.Contains("TOKEN_INVALID", StringComparison.Ordinal), "the token is void at the other front end");
            await fleet.VmmctlAsync("vm", "delete", "--force", own, "--project", project);
            await fleet.VmmctlAsync("vm", "delete", elsewhere);
            Assert.Contains("CreateVm", await fleet.VmmctlAsync("audit", "--project", project), StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(Path.GetDirectoryName(tokenFile)!, recursive: true);
        }
    }

    private static async Task AnswersAsync(IReadOnlyDictionary<string, string> environment, int code, string text, params string[] arguments)
    {
        (int ended, string output, string errors) = await Installation.TryAsync(environment, arguments);
        Assert.True(ended == code && (code == 0 ? output : errors).Contains(text, StringComparison.Ordinal), $"vmmctl {string.Join(' ', arguments)} ended with {ended}: {output}{errors}");
    }
}
