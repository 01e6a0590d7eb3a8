using System.CommandLine;
using System.Globalization;
using System.Security.Cryptography;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl run</c>: one VM from its creation to its end, with its console on the standard streams.</summary>
internal sealed class RunCommand
{
    /// <summary>For what is undone after an interrupt, when the user waits for the prompt.</summary>
    private static readonly TimeSpan CleanUpTime = TimeSpan.FromSeconds(10);

    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();
    private readonly VmSpecOptions _spec = new();

    private readonly Option<double?> _timeout = new Option<double?>("--timeout")
    {
        Description = $"Stop the VM after so long and exit with {ExitCode.TimedOut}.",
        HelpName = "SECONDS",
    }.Within(0.001, 1e9);

    private RunCommand(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var run = new RunCommand(console);
        var command = new Command(
            "run",
            "Run a VM and remove it: COM1 on standard output, standard input to COM1, the guest's exit code. "
            + "Without --server it runs in this process. Exit codes: vmmctl help exit-codes.");
        run._spec.AddTo(command);
        command.Add(run._timeout);
        run._server.AddTo(command);
        command.SetAction(run.RunAsync);
        return command;
    }

    private async Task<int> RunAsync(ParseResult parsed, CancellationToken interrupt)
    {
        // The name is chosen here, so that the VM can be removed even where the answer to its creation never came.
        var id = "run-" + Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(6));
        Session? session = null;
        GuestConsole? guest = null;
        var created = false;
        try
        {
            try
            {
                session = await _server.ConnectOrEmbedAsync(parsed, _console, interrupt).ConfigureAwait(false);
                var spec = await _spec.BuildAsync(parsed, session, _console, interrupt).ConfigureAwait(false);
                created = true;
                var request = new CreateVmRequest { Parent = session.Parent, VmId = id, Vm = new V1.Vm { Spec = spec } };
                await session.Connection.Vms.CreateVmAsync(request, cancellationToken: interrupt).ConfigureAwait(false);
                var attach = new ConsoleAttach { Name = session.VmName(id), Write = true, Until = ConsoleAttach.Types.Until.RunEnd };
                guest = await GuestConsole.AttachAsync(session.Connection, attach, interrupt).ConfigureAwait(false);
                await session.Connection.Vms
                    .StartVmAsync(new StartVmRequest { Name = session.VmName(id) }, cancellationToken: interrupt).ConfigureAwait(false);
            }
            catch (RpcException refused) when (!interrupt.IsCancellationRequested)
            {
                return Fail(ErrorText.Of(refused), ExitCode.NotStarted);
            }
            catch (IOException failure)
            {
                return Fail(failure.Message, ExitCode.NotStarted);
            }

            return await _console.WhileReadAsync(stop => AttendAsync(guest, parsed.GetValue(_timeout), stop), interrupt).ConfigureAwait(false);
        }
        finally
        {
            guest?.Dispose();
            if (session is not null)
            {
                if (created && !session.IsEmbedded)
                    await RemoveAsync(session, id).ConfigureAwait(false);
                await session.DisposeAsync().ConfigureAwait(false);
            }
        }
    }

    private async Task<int> AttendAsync(GuestConsole guest, double? timeout, CancellationToken interrupt)
    {
        using var limit = new CancellationTokenSource();
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(interrupt, limit.Token);
        if (timeout is { } seconds)
            limit.CancelAfter(TimeSpan.FromSeconds(seconds));
        try
        {
            var (end, left) = await Interaction.RunAsync(_console, guest, sendInput: true, stop.Token).ConfigureAwait(false);
            return left ? ExitCode.Interrupted : CodeOf(end);
        }
        catch (Exception cancelled) when (cancelled is OperationCanceledException or RpcException && interrupt.IsCancellationRequested)
        {
            return ExitCode.Interrupted;
        }
        catch (Exception cancelled) when (cancelled is OperationCanceledException or RpcException && limit.IsCancellationRequested)
        {
            return Fail($"the VM was stopped after {timeout} s.", ExitCode.TimedOut);
        }
    }

    private int CodeOf(VmEnd? end)
    {
        switch (end?.Reason)
        {
            case VmEndReason.PowerOff:
                return ExitCode.Success;
            case VmEndReason.DebugExit:
                return end.ExitCode & 0xFF;
            case VmEndReason.TripleFault:
                return Fail("the guest ended in a triple fault.", ExitCode.TripleFault);
            case null:
                return Fail("the VM was deleted by someone else.", ExitCode.Stopped);
            case VmEndReason.Stopped or VmEndReason.Interrupted:
                return Fail($"the VM was stopped by someone else or by its server. {end.Detail}".TrimEnd(), ExitCode.Stopped);
            default:
                if (end.Report.Length > 0)
                    _console.Error.WriteLine(end.Report);
                return Fail($"the engine failed: {end.Detail}", ExitCode.NotStarted);
        }
    }

    private int Fail(string message, int code)
    {
        _console.Error.WriteLine($"vmmctl: {message}");
        return code;
    }

    private async Task RemoveAsync(Session session, string id)
    {
        using var limit = new CancellationTokenSource(CleanUpTime);
        try
        {
            await session.Connection.Vms
                .DeleteVmAsync(new DeleteVmRequest { Name = session.VmName(id), Force = true }, cancellationToken: limit.Token)
                .ConfigureAwait(false);
        }
        catch (RpcException gone) when (gone.StatusCode == StatusCode.NotFound)
        {
            // Never created, or deleted by someone else.
        }
        catch (RpcException failure)
        {
            _console.Error.WriteLine($"vmmctl: '{id}' could not be deleted and may be running still: {ErrorText.Of(failure)}");
        }
    }
}
