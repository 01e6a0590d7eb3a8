using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl top</c>: what the VMs of a project are doing, refreshed in place.</summary>
internal static class TopCommand
{
    private const int CallsAtOnce = 16;
    private static readonly TimeSpan DefaultInterval = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan ShortestInterval = TimeSpan.FromMilliseconds(100);

    public static Command Create(CliConsole console)
    {
        var server = new ServerOptions();
        var interval = new Option<double>("--interval", "-d") { Description = "Seconds between two looks, from 0.1 to 3600.", HelpName = "SECONDS", DefaultValueFactory = _ => DefaultInterval.TotalSeconds }.Within(ShortestInterval.TotalSeconds, 3600);
        var count = new Option<int?>("--count", "-n") { Description = "End after so many tables; the first is of one interval.", HelpName = "N" }.Within(1, int.MaxValue);
        var sort = new Option<string>("--sort") { Description = "Which VMs come first.", HelpName = string.Join('|', TopFrame.Orders), DefaultValueFactory = _ => TopFrame.Orders[0] };
        sort.AcceptOnlyFromAmong(TopFrame.Orders);
        var filter = new Option<string?>("--filter") { Description = "Only VMs that match, as in vm list.", HelpName = "FILTER" };
        var output = OutputFormat.Option();
        var command = new Command("top", "Show what VMs are doing, refreshed in place: instructions and VM exits by level, deferrals of APICv, memory. q leaves.")
        {
            interval, count, sort, filter, output,
        };
        command.SetAction((parsed, interrupt) => console.WhileReadAsync(async cancellation =>
        {
            await using var session = server.Connect(parsed, console);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            var source = new Source(session, parsed.GetValue(filter) ?? "");
            var pause = TimeSpan.FromSeconds(parsed.GetValue(interval));
            var left = parsed.GetValue(count) ?? int.MaxValue;
            var order = parsed.GetRequiredValue(sort);
            // Wrong filters and servers that are not there are told before the screen is taken.
            await source.ReadAsync(cancellation).ConfigureAwait(false);
            if (console.OutputIsTerminal && !printer.IsJson)
                return await ShowAsync(console, source, pause, left, order, cancellation).ConfigureAwait(false);
            while (left-- > 0)
            {
                await Task.Delay(pause, cancellation).ConfigureAwait(false);
                var rows = TopFrame.Sort(await source.ReadAsync(cancellation).ConfigureAwait(false), order).ToList();
                if (printer.IsJson)
                    printer.JsonLine(new ListVmsResponse { Vms = { rows.Select(row => row.Vm) } });
                else
                    foreach (var line in TopFrame.Lines(rows, int.MaxValue, int.MaxValue))
                        console.Text.WriteLine(line);
            }

            return ExitCode.Success;
        }, interrupt));
        return server.AddTo(command);
    }

    private static async Task<int> ShowAsync(CliConsole console, Source source, TimeSpan pause, int left, string order, CancellationToken cancellation)
    {
        var colours = string.IsNullOrEmpty(console.EnvironmentVariable("NO_COLOR"));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var screen = new Screen(console);
        var leaving = screen.LeftAsync(stop.Token);
        var wait = ShortestInterval;
        var trouble = "";
        IReadOnlyList<TopRow> rows = [];
        try
        {
            while (left > 0)
            {
                if (await Task.WhenAny(leaving, Task.Delay(wait, stop.Token)).ConfigureAwait(false) == leaving)
                    return cancellation.IsCancellationRequested ? ExitCode.Interrupted : ExitCode.Success;
                cancellation.ThrowIfCancellationRequested();
                try
                {
                    rows = await source.ReadAsync(stop.Token).ConfigureAwait(false);
                    (trouble, wait) = ("", pause);
                    left--;
                }
                catch (RpcException failure) when (failure.StatusCode is StatusCode.Unavailable && !cancellation.IsCancellationRequested)
                {
                    // It may come back; what was there last stays on the screen meanwhile.
                    (trouble, wait) = (ErrorText.Of(failure), pause);
                }

                var (width, height) = Screen.Size;
                List<string> lines = [.. TopFrame.Lines([.. TopFrame.Sort(rows, order)], width, trouble.Length > 0 ? height - 1 : height)];
                if (trouble.Length > 0)
                    lines.Add(trouble.Length <= width ? trouble : trouble[..width]);
                screen.Draw(lines, colours);
            }

            return ExitCode.Success;
        }
        finally
        {
            await stop.CancelAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Looks at the VMs of a project, and at what they did since the look before.</summary>
    private sealed class Source(Session session, string filter)
    {
        private readonly Dictionary<string, (long At, string Run, ExecutionCounters Counters)> _before = new(StringComparer.Ordinal);

        public async Task<IReadOnlyList<TopRow>> ReadAsync(CancellationToken cancellation)
        {
            List<V1.Vm> vms = [];
            var request = new ListVmsRequest { Parent = session.Parent, Filter = filter, PageSize = 1000 };
            do
            {
                var page = await session.Connection.Vms.ListVmsAsync(request, cancellationToken: cancellation).ConfigureAwait(false);
                vms.AddRange(page.Vms);
                request.PageToken = page.NextPageToken;
            }
            while (request.PageToken.Length != 0);

            var rows = new TopRow[vms.Count];
            await Parallel.ForAsync(0, vms.Count, new ParallelOptions { MaxDegreeOfParallelism = CallsAtOnce, CancellationToken = cancellation }, async (i, token) =>
                rows[i] = await RowAsync(vms[i], token).ConfigureAwait(false)).ConfigureAwait(false);
            lock (_before)
                foreach (var gone in _before.Keys.Except(vms.Select(vm => vm.Name), StringComparer.Ordinal).ToList())
                    _before.Remove(gone);
            return rows;
        }

        // Lists are the registry's, which has no counters.
        private async Task<TopRow> RowAsync(V1.Vm listed, CancellationToken cancellation)
        {
            if (listed.Status?.State is VmState.Stopped or null)
                return new TopRow(listed, null);
            V1.Vm vm;
            try
            {
                vm = await session.Connection.Vms.GetVmAsync(new GetVmRequest { Name = listed.Name }, cancellationToken: cancellation).ConfigureAwait(false);
            }
            catch (RpcException failure) when (failure.StatusCode is StatusCode.NotFound or StatusCode.Unavailable && !cancellation.IsCancellationRequested)
            {
                // It is being deleted, or its worker is away: the others are shown all the same.
                return new TopRow(listed, null);
            }

            var now = Stopwatch.GetTimestamp();
            if (vm.Status?.Counters is not { } counters || vm.Status.State == VmState.Stopped)
                return new TopRow(vm, null);
            var run = $"{vm.Uid} {vm.Status.RunCount} {vm.Status.Worker}";
            lock (_before)
            {
                var rates = _before.TryGetValue(vm.Name, out var before) && before.Run == run ? TopRates.Between(before.Counters, counters, Stopwatch.GetElapsedTime(before.At, now)) : null;
                _before[vm.Name] = (now, run, counters);
                return new TopRow(vm, rates);
            }
        }
    }
}
