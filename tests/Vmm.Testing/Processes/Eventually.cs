using Xunit;

namespace Vmm.Testing.Processes;

/// <summary>Waits for conditions, whose tests fail where they do not come about.</summary>
public static class Eventually
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);
    private static readonly TimeSpan ShortestLook = TimeSpan.FromMilliseconds(10);
    private static readonly TimeSpan LongestLook = TimeSpan.FromMilliseconds(100);

    /// <summary>Waits for a condition.</summary>
    /// <param name="condition">Looked at again and again.</param>
    /// <param name="what">What the test says did not come about.</param>
    /// <param name="processes">Whose output tells why, then.</param>
    public static async Task HoldsAsync(Func<Task<bool>> condition, string what, IEnumerable<FleetProcess>? processes = null)
    {
        DateTime until = DateTime.UtcNow + Patience;
        for (TimeSpan look = ShortestLook; !await condition(); look = look < LongestLook ? look * 1.5 : LongestLook)
        {
            if (DateTime.UtcNow > until)
                Assert.Fail($"{what} did not come about.\n{string.Join('\n', (processes ?? []).Select(process => $"-- {process.Id}\n{process.Output}"))}");
            await Task.Delay(look);
        }
    }

    /// <summary>Likewise.</summary>
    public static Task HoldsAsync(Func<bool> condition, string what, IEnumerable<FleetProcess>? processes = null) => HoldsAsync(() => Task.FromResult(condition()), what, processes);
}
