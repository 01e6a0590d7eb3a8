using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using Grpc.Core;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Guests;
using Vmm.V1;

namespace Vmm.Cli.Commands;

/// <summary>
/// <c>vmmctl quickstart</c>: Debian's kernel to a shell prompt over gRPC, a few commands in the guest through its console, a guest of its
/// own under Debian's kvm-intel with an APICv inhibit that comes meanwhile, and power-off.
/// </summary>
internal sealed class QuickstartCommand
{
    private const string KernelArguments = "console=ttyS0 panic=-1";

    private static readonly string[] GuestCommands =
    [
        "uname -a",
        "grep -m1 'model name' /proc/cpuinfo; nproc",
        "free -m",
        "awk 'BEGIN { for (i = 0; i < 100000; i++) s += i; print \"sum\", s }'",
    ];

    private const string NestedCommand = "lsmod | grep kvm; l2";
    private const string Interrupt = "\u0003";

    private readonly CliConsole _console;
    private readonly ServerOptions _server = new();
    private readonly Option<FileInfo?> _kernel = new("--kernel") { Description = "A kernel of your own instead of Debian's; needs --initrd.", HelpName = "FILE" };
    private readonly Option<FileInfo?> _initrd = new("--initrd") { Description = "Its initial RAM disk, which must end in a shell on ttyS0.", HelpName = "FILE" };

    private readonly Option<string> _prompt = new("--prompt")
    {
        Description = "How the shell's prompt ends.",
        HelpName = "TEXT",
        DefaultValueFactory = _ => Initramfs.Prompt,
    };

    private readonly Option<int> _cpus = new Option<int>("--cpus") { Description = "Virtual processors.", HelpName = "N", DefaultValueFactory = _ => 1 }.Within(1, int.MaxValue);
    private readonly Option<long> _memory = new Option<long>("--memory") { Description = "RAM.", HelpName = "MIB", DefaultValueFactory = _ => 512 }.Within(1, long.MaxValue);

    private QuickstartCommand(CliConsole console) => _console = console;

    public static Command Create(CliConsole console)
    {
        var quickstart = new QuickstartCommand(console);
        var command = new Command("quickstart", "Fetch Debian's kernel, boot it over gRPC, run a few commands and a guest of its own in it, and power it off.")
        {
            quickstart._kernel, quickstart._initrd, quickstart._prompt, quickstart._cpus, quickstart._memory,
        };
        quickstart._server.AddTo(command);
        command.Validators.Add(result =>
        {
            var files = new[] { result.GetValue(quickstart._kernel), result.GetValue(quickstart._initrd) };
            if (files.Count(file => file is not null) == 1)
                result.AddError("--kernel and --initrd go together.");
            foreach (var file in files)
                if (file is not null && InputFile.Problem(file.ToString()) is { } problem)
                    result.AddError(problem);
        });
        command.SetAction(quickstart.RunAsync);
        return command;
    }

    private async Task<int> RunAsync(ParseResult parsed, CancellationToken cancellation)
    {
        var watch = Stopwatch.StartNew();
        var (kernel, initrd) = await FilesAsync(parsed, cancellation).ConfigureAwait(false);

        Step("starting a server");
        await using var session = await _server.ConnectOrEmbedAsync(parsed, _console, cancellation).ConfigureAwait(false);
        var vms = session.Connection.Vms;
        var name = session.VmName("quickstart-" + Convert.ToHexStringLower(Guid.NewGuid().ToByteArray().AsSpan(0, 4)));
        Step($"creating {name} at {session.Connection.Address}");
        try
        {
            var spec = new VmSpec
            {
                MemoryMib = parsed.GetValue(_memory),
                Cpus = parsed.GetValue(_cpus),
                Kernel = await SourceAsync(session, kernel, cancellation).ConfigureAwait(false),
                Initrd = await SourceAsync(session, initrd, cancellation).ConfigureAwait(false),
                CommandLine = KernelArguments,
            };
            var create = new CreateVmRequest { Parent = session.Parent, VmId = Client.ResourceNames.Id(name), Vm = new V1.Vm { Spec = spec } };
            await vms.CreateVmAsync(create, cancellationToken: cancellation).ConfigureAwait(false);
            var attach = new ConsoleAttach { Name = name, Write = true, Until = ConsoleAttach.Types.Until.RunEnd };
            using var guest = await GuestConsole.AttachAsync(session.Connection, attach, cancellation).ConfigureAwait(false);
            Step("booting; what follows is the guest's console");
            var boot = Stopwatch.StartNew();
            await vms.StartVmAsync(new StartVmRequest { Name = name }, cancellationToken: cancellation).ConfigureAwait(false);
            var dialogue = new ConsoleDialogue(guest, _console.Output, text => _console.Error.WriteLine($"vmmctl: {text}"));
            var reading = dialogue.ReadAsync(cancellation);

            var prompt = parsed.GetRequiredValue(_prompt);
            if (!await dialogue.WaitForAsync(prompt, cancellation).ConfigureAwait(false))
                return Fail($"the guest ended before its shell's prompt '{prompt}' appeared ({Printer.EndText(await reading.ConfigureAwait(false))}).");
            var bootTime = boot.Elapsed;
            var times = new List<(string Command, TimeSpan Time)>();
            foreach (var command in GuestCommands)
            {
                var time = Stopwatch.StartNew();
                await dialogue.SendAsync(command + "\n", cancellation).ConfigureAwait(false);
                if (!await dialogue.WaitForAsync(prompt, cancellation).ConfigureAwait(false))
                    return Fail($"the guest ended in '{command}' ({Printer.EndText(await reading.ConfigureAwait(false))}).");
                times.Add((command, time.Elapsed));
            }

            QuickstartNested? nested = null;
            if (parsed.GetValue(_kernel) is null)
            {
                Step("kvm-intel of Debian's runs a guest of its own, L2");
                var time = Stopwatch.StartNew();
                await dialogue.SendAsync(NestedCommand + "\n", cancellation).ConfigureAwait(false);
                if (!await dialogue.WaitForAsync(NestedMonitor.Greeting, cancellation).ConfigureAwait(false))
                    return Fail($"the guest ended in '{NestedCommand}' ({Printer.EndText(await reading.ConfigureAwait(false))}).");
                nested = new QuickstartNested(vms, name);
                if (!await nested.RunAsync(Step, cancellation).ConfigureAwait(false))
                    return Fail("no change of the APICv inhibits came while L2 was active.");
                await dialogue.SendAsync(Interrupt, cancellation).ConfigureAwait(false);
                if (!await dialogue.WaitForAsync(prompt, cancellation).ConfigureAwait(false))
                    return Fail($"the guest ended in '{NestedCommand}' ({Printer.EndText(await reading.ConfigureAwait(false))}).");
                times.Add((NestedCommand, time.Elapsed));
            }

            var instructions = (await vms.GetVmAsync(new GetVmRequest { Name = name }, cancellationToken: cancellation).ConfigureAwait(false))
                .Status.InstructionsRetired;
            await dialogue.SendAsync("poweroff -f\n", cancellation).ConfigureAwait(false);
            var end = await reading.ConfigureAwait(false);
            if (end?.Reason != VmEndReason.PowerOff)
                return Fail($"the guest did not power off ({Printer.EndText(end)}).");
            Summary(bootTime, times, instructions, watch.Elapsed, nested);
            return ExitCode.Success;
        }
        finally
        {
            if (!session.IsEmbedded)
                await DeleteAsync(vms, name).ConfigureAwait(false);
        }
    }

    private async Task<(string Kernel, string Initrd)> FilesAsync(ParseResult parsed, CancellationToken cancellation)
    {
        if (parsed.GetValue(_kernel) is { } kernel && parsed.GetValue(_initrd) is { } initrd)
            return (kernel.FullName, initrd.FullName);
        if (!DebianArchive.IsAvailable && DebianGuestsMissing())
            throw new GuestUnavailableException(
                DebianArchive.UnavailableMessage
                + "\nGive a kernel and an initial RAM disk of your own: vmmctl quickstart --kernel FILE --initrd FILE [--prompt TEXT]");
        Step($"Debian's {DebianGuests.KernelPackage} and {DebianGuests.BusyboxPackage}, kept in {GuestCache.Default.Root}");
        var progress = new LineProgress(_console.Error);
        var guests = DebianGuests.Default;
        var debian = await guests.GetKernelAsync(progress, cancellation).ConfigureAwait(false);
        return (debian.KernelPath, await guests.BuildInitramfsAsync(NestedContent(), progress, cancellation).ConfigureAwait(false));
    }

    private static Initramfs NestedContent() => new()
    {
        Modules = ["kvm-intel"],
        Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/l2"] = NestedMonitor.Program() },
    };

    private static bool DebianGuestsMissing()
    {
        var root = GuestCache.Default.Root;
        return !Directory.Exists(Path.Combine(root, DebianGuests.KernelPackage)) || !Directory.Exists(Path.Combine(root, DebianGuests.BusyboxPackage));
    }

    private async Task<FileSource> SourceAsync(Session session, string file, CancellationToken cancellation) =>
        session.IsEmbedded
            ? new FileSource { Path = file }
            : new FileSource { Image = (await Upload.RunAsync(session, file, displayName: null, _console, cancellation).ConfigureAwait(false)).Name };

    private void Summary(TimeSpan boot, List<(string Command, TimeSpan Time)> commands, ulong instructions, TimeSpan total, QuickstartNested? nested)
    {
        var text = new StringBuilder();
        text.AppendLine();
        text.AppendLine(CultureInfo.InvariantCulture, $"What ran, in {total.TotalSeconds:0.0} s and {instructions / 1e6:0} million guest instructions:");
        text.AppendLine(CultureInfo.InvariantCulture, $"  {boot.TotalSeconds,6:0.0} s  the kernel, to the shell's prompt");
        foreach (var (command, time) in commands)
            text.AppendLine(CultureInfo.InvariantCulture, $"  {time.TotalSeconds,6:0.0} s  {command}");
        nested?.Describe(text);
        text.AppendLine("""

            Try next:
              a shell in the guest      vmmctl guest; vmmctl run --kernel KERNEL --initrd INITRD --append console=ttyS0
              the same run twice        vmmctl run --clock virtual ...
              who runs, and why it left vmmctl nested show VM; vmmctl nested trace VM --level 2; vmmctl apicv watch VM
              a server of its own       dotnet run -c Release --project services/Vmm.Server, then vmmctl --help
              the tests                 tests/run
            vmmctl is clients/Vmm.Cli/bin/Release/net10.0/vmmctl.
            """);
        _console.Text.Write(text);
    }

    private static async Task DeleteAsync(VmService.VmServiceClient vms, string name)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        try
        {
            await vms.DeleteVmAsync(new DeleteVmRequest { Name = name, Force = true }, cancellationToken: limit.Token).ConfigureAwait(false);
        }
        catch (RpcException)
        {
            // Never created, or the server has gone; the command has said so already.
        }
    }

    private void Step(string text) => _console.Error.WriteLine($"vmmctl: {text}");

    private int Fail(string message)
    {
        _console.Error.WriteLine($"vmmctl: {message}");
        return ExitCode.Failed;
    }
}
