using Vmm.EndToEnd.Tests.Installations;
using Vmm.EndToEnd.Tests.Journeys;
using Vmm.Testing;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.EndToEnd.Tests;

/// <summary>What the fleet of <c>docker-compose.yml</c> has beyond what journeys see of it.</summary>
[Collection(ContainerFleetTests.Name)]
public sealed class ComposeTests(ContainerFleet fleet)
{
    [RequiresDockerFact]
    public async Task A_restarted_database_costs_no_run_and_all_containers_are_healthy_again_as_a_user_without_rights()
    {
        const string id = "outlives-database";
        await using (ConsoleProcess guest = await fleet.BootAsync(id, new Guests.Initramfs()))
        {
            await fleet.RestartDatabaseAsync();
            await fleet.MakeWholeAsync();
            Assert.Equal((VmState.Running, 1L), await fleet.WhereAsync(id) is var (_, state, runs) ? (state, runs) : default);
            Assert.Equal("42", await guest.AskAsync("echo $((6 * 7))", Installation.Patience));
        }

        await fleet.VmmctlAsync("vm", "delete", "--force", id);
        await Eventually.HoldsAsync(async () => (await fleet.InspectAsync()).All(state => state == "healthy 64443:64443"), "all containers are healthy");
    }

    [RequiresDockerFact]
    public async Task Nothing_that_the_image_should_have_is_missing()
    {
        string logs = await fleet.LogsAsync();
        Assert.Contains("vmmd listens on", logs, StringComparison.Ordinal);
        Assert.DoesNotContain("cannot open shared object file", logs, StringComparison.Ordinal);
    }
}
