using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Time;

namespace Vmm.Machine.Tests;

public sealed class TimerQueueTests
{
    private readonly MachineClock _clock = new(ClockMode.Virtual, new ManualTimeProvider());

    [Fact]
    public void Timers_come_in_the_order_of_their_deadlines_and_then_of_arming()
    {
        const int seed = 7;
        var random = new Random(seed);
        List<int> fired = [];
        List<(ulong Deadline, int Order, int Id)> expected = [];
        int order = 0;
        IMachineTimer[] timers = [.. Enumerable.Range(0, 100).Select(i => _clock.CreateTimer(() => fired.Add(i)))];
        for (int step = 0; step < 2_000; step++)
        {
            int id = random.Next(timers.Length);
            expected.RemoveAll(e => e.Id == id);
            if (random.Next(3) == 0)
            {
                timers[id].Disarm();
            }
            else
            {
                ulong deadline = (ulong)random.Next(50);
                timers[id].Arm(deadline);
                expected.Add((deadline, order++, id));
            }
            Assert.Equal(expected.Any(e => e.Id == id), timers[id].IsArmed);
            Assert.Equal(expected.Count == 0 ? ulong.MaxValue : expected.Min(e => e.Deadline), _clock.NextDeadline);
        }
        _clock.SkipTo(24);
        _clock.RunDueTimers();
        Assert.Equal(expected.Where(e => e.Deadline <= 24).OrderBy(e => e.Deadline).ThenBy(e => e.Order).Select(e => e.Id), fired);
        Assert.All(timers.Select((t, i) => (t, i)), p => Assert.Equal(expected.Any(e => e.Id == p.i && e.Deadline > 24), p.t.IsArmed));
    }

    [Fact]
    public void Arming_again_and_again_allocates_nothing()
    {
        IMachineTimer[] timers = [.. Enumerable.Range(0, 32).Select(_ => _clock.CreateTimer(() => { }))];
        void Round()
        {
            for (int i = 0; i < timers.Length; i++)
                timers[i].Arm(_clock.Nanoseconds + (ulong)(i * 7 % 32));
            _clock.SkipTo(_clock.Nanoseconds + 16);
            _clock.RunDueTimers();
        }
        Round();
        // The runtime may allocate on this thread too, when it compiles one of these methods anew in the middle of its loop; that comes once
        // in a while, and what arming allocates in every batch.
        long least = long.MaxValue;
        for (int batch = 0; batch < 20; batch++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 100; i++)
                Round();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        Assert.Equal(0, least);
    }

    [Fact]
    public void A_timer_that_is_always_due_does_not_keep_the_machine()
    {
        int calls = 0;
        IMachineTimer timer = null!;
        timer = _clock.CreateTimer(() =>
        {
            calls++;
            timer.Arm(0);
        });
        timer.Arm(0);
        _clock.RunDueTimers();
        Assert.InRange(calls, 1, 1_000);
        Assert.True(timer.IsArmed);
    }

    [Fact]
    public void A_timer_that_is_restored_has_its_place_among_those_of_the_same_deadline()
    {
        List<int> fired = [];
        IMachineTimer[] timers = [.. Enumerable.Range(0, 4).Select(i => _clock.CreateTimer(() => fired.Add(i)))];
        foreach (int id in (int[])[2, 0, 1])
            timers[id].Arm(10);
        TimerState?[] saved = [.. timers.Select(t => t.Save())];

        var other = new MachineClock(ClockMode.Virtual, new ManualTimeProvider());
        List<int> again = [];
        IMachineTimer[] restored = [.. Enumerable.Range(0, 4).Select(i => other.CreateTimer(() => again.Add(i)))];
        restored[3].Arm(5);
        for (int i = 0; i < timers.Length; i++)
            restored[i].Load(saved[i]);
        Assert.False(restored[3].IsArmed);
        restored[3].Arm(10);
        Assert.True(saved[2]!.Order < restored[3].Save()!.Order);
        other.SkipTo(10);
        other.RunDueTimers();

        Assert.Equal([2, 0, 1, 3], again);
    }
}
