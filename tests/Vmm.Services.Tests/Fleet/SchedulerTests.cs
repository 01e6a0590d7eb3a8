using Vmm.Registry.Placement;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

public sealed class SchedulerTests
{
    [Theory]
    [InlineData(PlacementSpec.Types.Strategy.Unspecified, "workers/c")]
    [InlineData(PlacementSpec.Types.Strategy.Spread, "workers/c")]
    [InlineData(PlacementSpec.Types.Strategy.Pack, "workers/b")]
    public void Spreads_or_packs_by_what_is_scarcest(PlacementSpec.Types.Strategy strategy, string chosen)
    {
        WorkerView[] fleet =
        [
            Worker("a", used: new Resources(1, 1, 3900)), // too full
            Worker("b", used: new Resources(1, 7, 100)), // short of vCPUs before memory
            Worker("c", used: new Resources(1, 1, 1000)),
            Worker("d", used: new Resources(1, 2, 1000)),
        ];
        Assert.Equal(chosen, Scheduler.Choose(fleet, Request() with { Spec = new PlacementSpec { Strategy = strategy } })?.Name);
    }

    [Fact]
    public void The_choice_does_not_depend_on_the_order_of_workers()
    {
        WorkerView[] fleet = [Worker("b"), Worker("a"), Worker("c")];
        Assert.Equal("workers/a", Scheduler.Choose(fleet, Request())?.Name);
        Assert.Equal("workers/a", Scheduler.Choose([.. fleet.Reverse()], Request())?.Name);
    }

    [Fact]
    public void Of_workers_that_are_about_as_full_those_with_the_images_come_first()
    {
        WorkerView[] fleet = [Worker("a"), Worker("b", used: new Resources(0, 0, 200)), Worker("c", used: new Resources(1, 4, 2000))];
        var images = new Dictionary<string, int> { ["workers/b"] = 1, ["workers/c"] = 2 };
        Assert.Equal("workers/b", Scheduler.Choose(fleet, Request() with { Images = images })?.Name);
    }

    [Theory]
    [InlineData(PlacementSpec.Types.Strategy.Spread, 16)]
    [InlineData(PlacementSpec.Types.Strategy.Pack, 24)]
    public void Vms_of_one_image_spread_too(PlacementSpec.Types.Strategy strategy, int mostOnOne)
    {
        WorkerView[] fleet =
        [
            .. ((string[])["a", "b", "c"]).Select(id => new WorkerView { Name = $"workers/{id}", Capacity = new Resources(1000, 128, 65_536), Engines = [ExecutionEngine.Interpreter] }),
        ];
        var images = new Dictionary<string, int>();
        for (int i = 0; i < 24; i++)
        {
            WorkerView chosen = Scheduler.Choose(fleet, Request() with { Spec = new PlacementSpec { Strategy = strategy }, Images = images })!;
            chosen.Reserved += Request().Needs;
            images[chosen.Name] = 1;
        }

        // An eighth of a worker is 16 vCPUs.
        Assert.Equal(mostOnOne, fleet.Max(worker => worker.Reserved.Vms));
    }

    [Fact]
    public void The_worker_that_has_the_snapshot_comes_before_those_with_images()
    {
        WorkerView[] fleet = [Worker("a"), Worker("b"), Worker("c", used: new Resources(1, 7, 3500))];
        PlacementRequest request = Request() with { Images = new Dictionary<string, int> { ["workers/b"] = 2 }, Near = "workers/c" };
        Assert.Equal("workers/c", Scheduler.Choose(fleet, request)?.Name);
        fleet[2].State = WorkerState.Cordoned;
        Assert.Equal("workers/b", Scheduler.Choose(fleet, request)?.Name);
    }

    [Fact]
    public void A_refusal_says_what_was_short_where()
    {
        WorkerView[] fleet =
        [
            Worker("a", used: new Resources(1, 1, 4000)),
            Worker("b", used: new Resources(1, 8, 100)),
            Worker("c", used: new Resources(10, 1, 100)),
            Worker("d", state: WorkerState.Lost),
            Worker("e", state: WorkerState.Draining),
            Worker("f", labels: []),
            Worker("g", engines: [ExecutionEngine.Auto]),
            Worker("h", used: new Resources(1, 1, 4040)),
            Worker("i"),
            Worker("j"),
        ];
        PlacementRequest request = Request() with
        {
            Spec = new PlacementSpec { WorkerLabels = { ["disk"] = "fast" } },
            With = fleet.Select(worker => worker.Name).Where(name => name != "workers/i").ToHashSet(),
            ApartFrom = new HashSet<string> { "workers/j" },
        };
        Assert.Null(Scheduler.Choose(fleet, request));
        string text = Scheduler.Explain(fleet, request);
        Assert.StartsWith("None of 10 worker(s) can take the VM (1 vCPU(s), 256 MiB): 2 short of memory, with 96 MiB free at most;", text, StringComparison.Ordinal);
        foreach (string part in (string[])
        [
            "1 short of vCPUs, with 0 free at most", "1 with as many VMs as they take", "1 lost", "1 cordoned or draining",
            "1 without the labels asked for", "1 without the engine asked for", "1 without a VM that this one is to be with",
            "1 with a VM that this one is to be apart from",
        ])
            Assert.Contains(part, text, StringComparison.Ordinal);
        Assert.DoesNotContain("workers/", text, StringComparison.Ordinal);
        Assert.Equal(
            [
                ("workers/a", "has 96 MiB of memory free"), ("workers/h", "has 56 MiB of memory free"), ("workers/b", "has 0 vCPU(s) free"), ("workers/c", "has 10 VM(s), and takes 10"),
                ("workers/d", "cannot be reached"), ("workers/e", "is draining"), ("workers/f", "lacks a label that is asked for"), ("workers/g", "lacks the engine that is asked for"),
                ("workers/i", "has no VM that this one is to be with"), ("workers/j", "has a VM that this one is to be apart from"),
            ],
            Scheduler.ExplainEach(fleet, request));
        Assert.Equal("No worker can take the VM: there is none in the fleet.", Scheduler.Explain([], request));
    }

    private static PlacementRequest Request() => new() { Needs = new Resources(1, 1, 256) };

    private static WorkerView Worker(
        string id, Resources used = default, WorkerState state = WorkerState.Ready, Dictionary<string, string>? labels = null, IReadOnlyList<ExecutionEngine>? engines = null) => new()
        {
            Name = $"workers/{id}",
            State = state,
            Labels = labels ?? new Dictionary<string, string> { ["disk"] = "fast", ["rack"] = "1" },
            Capacity = new Resources(10, 8, 4096),
            Reserved = used,
            Engines = engines ?? [ExecutionEngine.Auto, ExecutionEngine.Interpreter],
        };
}
