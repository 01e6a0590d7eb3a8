using Vmm.Worker.Fleet;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>What a worker is asked to take is looked at in the light of what it has removed meanwhile.</summary>
public sealed class RemovedVmsTests
{
    [Fact]
    public void What_was_asked_before_a_removal_was_known_is_outdated_and_what_was_asked_behind_it_is_not()
    {
        var removed = new RemovedVms();
        Assert.False(removed.IsOutdated("a", 5));
        removed.Begin("a");
        // Whenever it was asked: nobody knows of the removal.
        Assert.True(removed.IsOutdated("a", long.MaxValue - 1));
        Assert.False(removed.IsOutdated("b", 5));
        removed.End("a", 10);
        Assert.True(removed.IsOutdated("a", 9));
        Assert.True(removed.IsOutdated("a", 10));
        Assert.False(removed.IsOutdated("a", 11));
    }

    [Fact]
    public void Only_removals_that_nobody_can_ask_about_any_more_are_forgotten()
    {
        var removed = new RemovedVms();
        removed.Begin("under way");
        removed.End("old", 10);
        removed.End("new", 20);
        removed.Forget(15);
        Assert.False(removed.IsOutdated("old", 1));
        Assert.True(removed.IsOutdated("new", 15));
        Assert.True(removed.IsOutdated("under way", 15));
    }
}
