using System.Text;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
using Vmm.Machine.Tests.Oracle;
using Vmm.Testing.Guests;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>A machine that was saved and restored goes on to the same end as one that was never stopped.</summary>
public sealed class SnapshotTests
{
    [Theory]
    [InlineData(ApicvInhibit.None)]
    [InlineData(ApicvInhibit.Disable)]
    public void A_busy_guest_goes_on_the_same_from_anywhere(ApicvInhibit inhibit)
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 6), change: spec => spec with { Apicv = new(inhibit) });
        RunOutcome straight = bench.Run();
        Assert.Equal((MachineEndReason.DebugExit, 24), (straight.End.Reason, straight.Console.Length));
        Assert.NotEqual(straight.Console[..4], straight.Console[4..8]);
        // Over the whole run, and one by one through the better part of a round.
        ulong step = straight.Instructions / 60;
        bench.AssertSame(straight, Enumerable.Range(1, 59).Select(k => (ulong)k * step));
        ulong middle = straight.Instructions / 2;
        bench.AssertSame(straight, Enumerable.Range(0, 60).Select(k => middle + (ulong)k));
    }
}
