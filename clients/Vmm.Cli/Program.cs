using System.Runtime.InteropServices;
using Vmm.Cli;
using Vmm.Cli.Terminal;

using var console = CliConsole.OfProcess();
using var interrupt = new CancellationTokenSource();
using var interruptSignal = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal);
using var terminateSignal = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
using var hangUpSignal = PosixSignalRegistration.Create(PosixSignal.SIGHUP, OnSignal);
return await CommandLine.RunAsync(args, console, interrupt.Token).ConfigureAwait(false);

// The first signal lets the command stop its VM and clean up; a second one ends the process at once.
void OnSignal(PosixSignalContext signal)
{
    if (interrupt.IsCancellationRequested)
        return;
    signal.Cancel = true;
    interrupt.Cancel();
}
