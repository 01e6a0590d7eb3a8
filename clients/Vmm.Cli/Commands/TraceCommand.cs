using System.CommandLine;
using System.Globalization;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl nested trace</c>: VM exits, entries and reflections as they happen.</summary>
internal static class TraceCommand
{
    public static Command Create(CliConsole console, ServerOptions server)
    {
        var name = VmCommands.NameArgument();
        var vcpus = Listed("--vcpu", "Only of these vCPUs.", "N,…");
        var level = new Option<int>("--level") { Description = "Only exits from L1, or from L2, and entries into it.", HelpName = "1|2" };
        level.AcceptOnlyFromAmong("1", "2");
        var reasons = Listed("--reason", "Only with these exit reasons: numbers, or the manual's names or a part of one, as in cpuid,ept-violation.", "REASON,…");
        var owner = new Option<string?>("--owner") { Description = "Only what L0, or L1, took or made.", HelpName = "l0|l1" };
        owner.AcceptOnlyFromAmong("l0", "l1");
        var kinds = Listed("--kind", "Only of these kinds: exits from L1 or L2, entries into them, reflections, which are exits of L2 that L1 is given (with --kind exit they are not shown), and entries that failed.", "exit,entry,reflection,entry-failure");
        var limit = new Option<long>("--limit") { Description = "End after so many records.", HelpName = "N" }.Within(1, long.MaxValue);
        var summary = new Option<bool>("--summary") { Description = "Print only how often what happened, at the end." };
        var output = OutputFormat.Option();
        var command = new Command("trace", "Print VM exits, entries and reflections to L1 as they happen, until interrupted or the run ends.")
        {
            name, vcpus, level, reasons, owner, kinds, limit, summary, output,
        };
        command.Validators.Add(result =>
        {
            foreach (var kind in Split(result.GetValue(kinds)))
                if (!TryKind(kind, out _))
                    result.AddError($"--kind: '{kind}' is not one of exit, entry, reflection and entry-failure.");
            foreach (var vcpu in Split(result.GetValue(vcpus)))
                if (!int.TryParse(vcpu, NumberStyles.None, CultureInfo.InvariantCulture, out _))
                    result.AddError($"--vcpu: '{vcpu}' is not a number.");
        });
        command.SetAction((parsed, interrupt) => console.WhileReadAsync(async cancellation =>
        {
            await using var session = server.Connect(parsed, console);
            var request = new TraceExitsRequest
            {
                Name = session.VmName(parsed.GetRequiredValue(name)),
                Vcpus = { Split(parsed.GetValue(vcpus)).Select(vcpu => int.Parse(vcpu, CultureInfo.InvariantCulture)) },
                Level = parsed.GetValue(level),
                Reasons = { Split(parsed.GetValue(reasons)) },
                Owner = parsed.GetValue(owner) is { } who ? Words.Parse<ExitOwner>(who) : ExitOwner.Unspecified,
                Limit = parsed.GetValue(limit),
            };
            foreach (var kind in Split(parsed.GetValue(kinds)))
                if (TryKind(kind, out var value))
                    request.Kinds.Add(value);
            var printer = new Printer(console, parsed.GetRequiredValue(output));
            var counts = parsed.GetValue(summary) ? new ExitSummary() : null;
            try
            {
                using var call = session.Connection.Vms.TraceExits(request, cancellationToken: cancellation);
                while (await call.ResponseStream.MoveNext(cancellation).ConfigureAwait(false))
                    Print(call.ResponseStream.Current);
            }
            catch (Exception interrupted) when (cancellation.IsCancellationRequested && interrupted is OperationCanceledException or RpcException)
            {
                // The usual end of a trace: what was counted until then is what was asked for.
                counts?.Print(printer);
                return ExitCode.Interrupted;
            }

            counts?.Print(printer);
            return ExitCode.Success;

            void Print(TraceExitsResponse part)
            {
                foreach (var record in part.Records)
                {
                    if (counts is not null)
                        counts.Add(record);
                    else
                        printer.TracedExit(record);
                }

                if (part.RunEnded is not { } end)
                    return;
                if (counts is not null)
                    counts.Lose(part.Lost);
                else
                    printer.TraceGap(part.Lost);
                console.Error.WriteLine($"vmmctl: the run ended: {Printer.EndText(end)}.");
            }
        }, interrupt));
        return command;
    }

    // Commas, and the option again, say the same.
    private static Option<string[]> Listed(string option, string description, string help) => new(option) { Description = description, HelpName = help };

    private static IEnumerable<string> Split(string[]? values) => (values ?? []).SelectMany(value => value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries));

    private static bool TryKind(string text, out ExitTraceKind kind)
    {
        kind = Enum.GetValues<ExitTraceKind>().Skip(1).FirstOrDefault(value => Words.Of(value) == text);
        return kind != ExitTraceKind.Unspecified;
    }
}
