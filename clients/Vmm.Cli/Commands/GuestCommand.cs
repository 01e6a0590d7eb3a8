using System.CommandLine;
using System.Text.Json;
using Vmm.Cli.Output;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Guests;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl guest</c>: Debian's kernel and an initial RAM file system of busybox as files, for <c>vmmctl run</c> and others.</summary>
internal static class GuestCommand
{
    public static Command Create(CliConsole console)
    {
        var script = new Option<string?>("--script") { Description = "Shell lines to run as /init before power-off, instead of a shell.", HelpName = "FILE" };
        script.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && InputFile.Problem(token.Value) is { } problem)
                result.AddError(problem);
        });
        var modules = new Option<string[]>("--module") { Description = "A kernel module to load at boot; may be given again.", HelpName = "NAME" };
        var format = OutputFormat.Option();
        var command = new Command("guest", "Fetch Debian's cloud kernel and busybox, build an initrd, and print both paths.") { script, modules, format };
        command.SetAction(async (parsed, cancellation) =>
        {
            var guests = DebianGuests.Default;
            var progress = new LineProgress(console.Error);
            var kernel = await guests.GetKernelAsync(progress, cancellation).ConfigureAwait(false);
            var content = new Initramfs
            {
                Modules = parsed.GetValue(modules) ?? [],
                Script = parsed.GetValue(script) is { } file
                    ? await File.ReadAllTextAsync(file, cancellation).ConfigureAwait(false)
                    : "",
            };
            var initrd = await guests.BuildInitramfsAsync(content, progress, cancellation).ConfigureAwait(false);
            if (parsed.GetValue(format) == OutputFormat.Json)
                console.Text.WriteLine(JsonSerializer.Serialize(
                    new Dictionary<string, string> { ["version"] = kernel.Version, ["kernel"] = kernel.KernelPath, ["initrd"] = initrd }));
            else
                console.Text.WriteLine($"{kernel.KernelPath}\n{initrd}");
            return ExitCode.Success;
        });
        return command;
    }
}
