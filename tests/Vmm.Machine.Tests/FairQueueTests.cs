using Vmm.Machine.Scheduling;

namespace Vmm.Machine.Tests;

/// <summary>The policy alone: threads, machines and time are simulated, so that each run of a seed is the same.</summary>
public sealed class FairQueueTests
{
    private const ulong Millisecond = 1_000_000;
    private const ulong Second = 1_000 * Millisecond;

    // What a turn is too long by at most: it is looked at its length now and then only.
    private const ulong Slice = Millisecond;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Hogs_share_in_proportion_to_their_weights_whoever_else_comes_and_goes(int seed)
    {
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int round = 0; round < 10; round++)
        {
            var host = new Host(threads: random.Next(1, 5), random);
            Runner[] hogs = [.. Enumerable.Range(0, random.Next(host.Threads, 3 * host.Threads + 4)).Select(_ => host.Add(RandomWeight(random)))];
            Runner[] sleepers = [.. Enumerable.Range(0, random.Next(0, 20)).Select(_ => host.Add(RandomWeight(random), sleeps: true))];
            host.Run(20 * Second);
            ulong[] before = [.. hogs.Select(hog => hog.Used)];
            ulong slept = Sum(sleepers);
            host.Run(200 * Second);
            ulong[] used = [.. hogs.Zip(before, (hog, was) => hog.Used - was)];
            double sleptMeanwhile = Sum(sleepers) - slept;
            double[] fair = Shares([.. hogs.Select(hog => (double)hog.Entry.Share.Weight)], host.Threads - sleptMeanwhile / (200 * Second));
            for (int k = 0; k < hogs.Length; k++)
            {
                double expected = fair[k] * 200 * Second;
                // A few turns, a hundredth, and what sleepers took: from whichever hog had the thread just then.
                double tolerance = 20 * FairQueue.Turn + 2 * Second + sleptMeanwhile;
                Assert.True(Math.Abs(used[k] - expected) <= tolerance,
                    $"seed {seed}, round {round}: weight {hogs[k].Entry.Share.Weight} of {string.Join(", ", hogs.Select(hog => hog.Entry.Share.Weight))} on {host.Threads} threads had {used[k] / 1e9:F3} s instead of {expected / 1e9:F3}");
            }
        }
    }

    [Theory]
    [InlineData(5)]
    [InlineData(6)]
    public void Nobody_starves(int seed)
    {
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int round = 0; round < 10; round++)
        {
            var host = new Host(threads: random.Next(1, 4), random);
            Runner[] runners = [.. Enumerable.Range(0, random.Next(5, 40)).Select(_ => host.Add(RandomWeight(random), sleeps: random.Next(3) == 0))];
            host.Run(100 * Second);
            double total = runners.Sum(runner => runner.Entry.Share.Weight);
            foreach (Runner runner in runners)
            {
                // A turn of its own, and for each of its turns all that the others may have meanwhile.
                double longest = (2 * FairQueue.Turn + 2 * Slice) * (2 + total / runner.Entry.Share.Weight / host.Threads + runners.Length);
                ulong waited = Math.Max(runner.LongestWait, runner.Entry.At == FairPlace.Waiting ? host.Now - runner.WaitsSince : 0);
                Assert.True(waited <= longest, $"seed {seed}, round {round}: weight {runner.Entry.Share.Weight} of {total} waited for {waited / 1e9:F3} s, not {longest / 1e9:F3}");
            }
        }
    }

    [Fact]
    public void One_that_slept_is_next_and_cannot_claim_what_it_left_unused()
    {
        var host = new Host(threads: 1, new Random(7));
        Runner hog = host.Add(100);
        host.Run(100 * Second);
        Runner late = host.Add(100);
        host.Run(5 * Second);
        Assert.InRange(late.Used, 2.4 * Second, 2.6 * Second);
        Assert.True(late.LongestWait <= 2 * (FairQueue.Turn + Slice));
        Assert.InRange(hog.Used, 102.4 * Second, 102.6 * Second);
    }

    [Fact]
    public void One_whose_weight_is_worth_more_than_a_thread_cannot_save_up_the_rest()
    {
        var host = new Host(threads: 2, new Random(8));
        Runner heavy = host.Add(10_000);
        host.Add(1);
        host.Add(1);
        host.Run(500 * Second);
        Runner[] late = [host.Add(10_000), host.Add(10_000)];
        ulong before = heavy.Used;
        host.Run(30 * Second);
        Assert.InRange(heavy.Used - before, 19 * Second, 21 * Second);
        Assert.All(late, runner => Assert.InRange(runner.Used, 19 * Second, 21 * Second));
    }

    [Theory]
    [InlineData(9)]
    [InlineData(10)]
    public void A_limit_is_never_passed_by_more_than_a_slice(int seed)
    {
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int round = 0; round < 10; round++)
        {
            var host = new Host(threads: random.Next(1, 5), random);
            Runner[] runners = [.. Enumerable.Range(0, random.Next(1, 12)).Select(_ => host.Add(RandomWeight(random), random.Next(4) == 0 ? 0 : random.Next(10, 1_200), sleeps: random.Next(3) == 0))];
            for (int window = 0; window < 200; window++)
            {
                ulong length = (ulong)random.Next(1, 500) * Millisecond;
                ulong[] before = [.. runners.Select(runner => runner.Used)];
                host.Run(length);
                for (int k = 0; k < runners.Length; k++)
                    if (runners[k].Entry.Share.LimitMillicpus is > 0 and var limit)
                        // What may have been saved up, what came meanwhile, and a slice; and what a turn that began before the window is charged in it.
                        Assert.True(runners[k].Used - before[k] <= ((ulong)FairQueue.Period + length) * (ulong)limit / 1_000 + Slice + FairQueue.Turn + Slice,
                            $"seed {seed}, round {round}: limit {limit} had {(runners[k].Used - before[k]) / 1e6:F1} ms in {length / 1e6:F1}");
            }
        }
    }

    [Fact]
    public void One_that_is_alone_gets_what_its_limit_gives_and_is_throttled_for_the_rest()
    {
        var host = new Host(threads: 2, new Random(11));
        Runner runner = host.Add(100, limit: 250);
        host.Run(100 * Second);
        Assert.InRange(runner.Used, 24.9 * Second, 25.1 * Second);
        Assert.InRange(runner.Entry.ThrottledTime, 74 * Second, 76 * Second);
    }

    [Fact]
    public void A_change_of_weight_or_limit_counts_at_once()
    {
        var host = new Host(threads: 1, new Random(12));
        Runner one = host.Add(1), other = host.Add(10_000);
        host.Run(10 * Second);
        host.Change(one, new() { Weight = 10_000 });
        ulong before = one.Used;
        host.Run(Second);
        Assert.InRange(one.Used - before, 0.44 * Second, 0.56 * Second);
        host.Change(one, new() { Weight = 10_000, LimitMillicpus = 10 });
        before = one.Used;
        host.Run(10 * Second);
        Assert.InRange(one.Used - before, 0.09 * Second, 0.11 * Second);
        // Also for one that is throttled just then.
        Assert.Equal(FairPlace.Throttled, one.Entry.At);
        host.Change(one, new() { Weight = 10_000 });
        before = one.Used;
        host.Run(Second);
        Assert.InRange(one.Used - before, 0.44 * Second, 0.56 * Second);
        Assert.True(other.Used > 0);
    }

    [Fact]
    public void One_that_is_asked_answers_before_all_others_and_executes_nothing()
    {
        var queue = new FairQueue();
        var asked = new FairEntry(null!, new() { LimitMillicpus = 10 });
        var hog = new FairEntry(null!, new());
        queue.Add(asked, 0);
        Assert.True(queue.TryTake(0, out FairEntry taken, out ulong length));
        Assert.Same(asked, taken);
        Assert.Equal(Millisecond, length);
        queue.Charge(asked, 50 * Millisecond, 50 * Millisecond);
        queue.Add(asked, 50 * Millisecond);
        queue.Add(hog, 50 * Millisecond);
        Assert.Equal(FairPlace.Throttled, asked.At);
        Assert.Equal(1, queue.Runnable);

        queue.Ask(asked, 60 * Millisecond);
        Assert.True(queue.TryTake(60 * Millisecond, out taken, out length));
        Assert.Same(asked, taken);
        Assert.Equal(0ul, length);
        Assert.Equal(10 * Millisecond, asked.ThrottledTime);
        queue.Add(asked, 60 * Millisecond);
        Assert.Equal(FairPlace.Throttled, asked.At);

        // Asked while it is on its way, it answers when it comes.
        Assert.True(queue.TryTake(60 * Millisecond, out taken, out length));
        Assert.Same(hog, taken);
        queue.Ask(hog, 60 * Millisecond);
        queue.Charge(hog, Millisecond, 61 * Millisecond);
        queue.Add(hog, 61 * Millisecond);
        Assert.True(queue.TryTake(61 * Millisecond, out taken, out length));
        Assert.Same(hog, taken);
        Assert.Equal(0ul, length);
    }

    private static int RandomWeight(Random random) => random.Next(3) == 0 ? 100 : random.Next(10, 1_000);

    private static ulong Sum(IEnumerable<Runner> runners) => runners.Aggregate(0ul, (sum, runner) => sum + runner.Used);

    /// <summary>Who gets how many threads: in proportion to the weights, but nobody more than one.</summary>
    private static double[] Shares(double[] weights, double threads)
    {
        double[] shares = new double[weights.Length];
        while (true)
        {
            double left = threads - shares.Sum(share => share == 1 ? 1 : 0);
            double total = weights.Where((_, k) => shares[k] < 1).Sum();
            bool any = false;
            for (int k = 0; k < weights.Length; k++)
                if (shares[k] < 1 && weights[k] * left / total >= 1)
                    (shares[k], any) = (1, true);
            if (any)
                continue;
            for (int k = 0; k < weights.Length; k++)
                if (shares[k] < 1)
                    shares[k] = weights[k] * left / total;
            return shares;
        }
    }

    /// <summary>Something that executes; a sleeper does so for a while, and then sleeps for a while.</summary>
    private sealed class Runner(FairEntry entry, bool sleeps)
    {
        public FairEntry Entry { get; } = entry;

        public bool Sleeps { get; } = sleeps;

        public ulong Used { get; set; }

        public ulong Needs { get; set; } = ulong.MaxValue;

        public ulong WaitsSince { get; set; }

        public ulong LongestWait { get; set; }
    }

    private sealed class Host(int threads, Random random)
    {
        private readonly FairQueue _queue = new();
        private readonly PriorityQueue<Action, (ulong, int)> _events = new();
        private readonly Dictionary<FairEntry, Runner> _tasks = [];
        private ulong _now;
        private int _idle = threads;
        private int _order;

        public int Threads { get; } = threads;

        public ulong Now => _now;

        public Runner Add(int weight, int limit = 0, bool sleeps = false)
        {
            var runner = new Runner(new FairEntry(null!, new() { Weight = weight, LimitMillicpus = limit }), sleeps);
            _tasks[runner.Entry] = runner;
            Begin(runner);
            return runner;
        }

        public void Change(Runner runner, ProcessorShare share) => _queue.Change(runner.Entry, share, _now);

        public void Run(ulong length)
        {
            ulong end = _now + length;
            Dispatch();
            while (true)
            {
                ulong next = _events.TryPeek(out _, out (ulong At, int) key) ? key.At : ulong.MaxValue;
                if (_idle > 0)
                    next = Math.Min(next, _queue.NextRelease);
                if (next > end)
                    break;
                _now = Math.Max(_now, next);
                while (_events.TryPeek(out _, out (ulong At, int) due) && due.At <= _now)
                    _events.Dequeue()();
                Dispatch();
            }
            _now = end;
        }

        private void Begin(Runner runner)
        {
            if (runner.Sleeps)
                runner.Needs = (ulong)random.Next(10_000, 300_000);
            runner.WaitsSince = _now;
            _queue.Add(runner.Entry, _now);
        }

        private void Dispatch()
        {
            while (_idle > 0 && _queue.TryTake(_now, out FairEntry entry, out ulong length))
            {
                Runner runner = _tasks[entry];
                runner.LongestWait = Math.Max(runner.LongestWait, entry.Share.LimitMillicpus == 0 ? _now - runner.WaitsSince : 0);
                ulong used = Math.Min(length + (ulong)random.NextInt64((long)Slice), runner.Needs);
                _idle--;
                _events.Enqueue(() => End(runner, used), (_now + used, _order++));
            }
        }

        private void End(Runner runner, ulong used)
        {
            _idle++;
            runner.Used += used;
            runner.Needs -= runner.Sleeps ? used : 0;
            _queue.Charge(runner.Entry, used, _now);
            runner.WaitsSince = _now;
            if (runner.Needs > 0)
                _queue.Add(runner.Entry, _now);
            else
                _events.Enqueue(() => Begin(runner), (_now + (ulong)random.Next(1, 60_000_000), _order++));
        }
    }
}
