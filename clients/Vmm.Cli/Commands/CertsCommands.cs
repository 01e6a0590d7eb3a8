using System.CommandLine;
using System.Security.Cryptography;
using Vmm.Cli.Certificates;
using Vmm.Cli.Sessions;
using Vmm.Cli.Terminal;
using Vmm.Protos;

namespace Vmm.Cli.Commands;

/// <summary><c>vmmctl certs</c>: certificates for a lab.</summary>
internal static class CertsCommands
{
    private const int DefaultDays = 90;
    private const int MaxDays = 825;
    private static readonly TimeSpan AuthorityLifetime = TimeSpan.FromDays(5 * 365);

    public static Command Create(CliConsole console) => new("certs", "Certificates for a lab: an authority in a folder, and what it issues.")
    {
        Init(console),
        Renew(console),
    };

    private static Command Init(CliConsole console)
    {
        var folder = FolderArgument();
        var hosts = new Option<string[]>("--host")
        {
            Description = "A DNS name or address at which clients reach the front ends; may be repeated. Default: localhost, 127.0.0.1 and ::1.",
            HelpName = "HOST",
        };
        var workers = new Option<string[]>("--worker")
        {
            Description = "The id of a worker that gets a certificate of its own, which no other can use; may be repeated. Default: one certificate for all.",
            HelpName = "ID",
        };
        var days = DaysOption();
        var command = new Command("init", "Make an authority, and certificates for front ends (frontend), workers (worker) and a client (client). Nothing is overwritten.") { folder, hosts, workers, days };
        command.SetAction(parsed =>
        {
            string[] names = parsed.GetValue(hosts) is { Length: > 0 } given ? given : ["localhost", "127.0.0.1", "::1"];
            foreach (string host in names)
                if (Uri.CheckHostName(host.Replace("*.", "", StringComparison.Ordinal)) == UriHostNameType.Unknown)
                    throw new UsageException($"--host {host}: a DNS name or an address is needed.");
            string[] ids = parsed.GetValue(workers) ?? [];
            foreach (string id in ids)
                if (!ResourceName.IsId(id))
                    throw new UsageException($"--worker {id}: an id of [a-z]([a-z0-9-]{{0,61}}[a-z0-9])? is needed.");
            LabCertificate[] certificates =
            [
                new("frontend", names, "spiffe://vmm/frontend"),
                .. ids.Length == 0 ? [new LabCertificate("worker", [], "spiffe://vmm/worker")] : ids.Distinct().Select(id => new LabCertificate($"worker-{id}", [], $"spiffe://vmm/worker/{id}")),
                new("client", [], null),
            ];
            foreach (string path in LabAuthority.Create(parsed.GetRequiredValue(folder), certificates, AuthorityLifetime, TimeSpan.FromDays(parsed.GetValue(days)), DateTimeOffset.UtcNow))
                console.Text.WriteLine(path);
            return ExitCode.Success;
        });
        return command;
    }

    private static Command Renew(CliConsole console)
    {
        var folder = FolderArgument();
        var days = DaysOption();
        var command = new Command("renew", "Issue every certificate of a folder once more, with new keys. Servers take them up by themselves.") { folder, days };
        command.SetAction(parsed =>
        {
            try
            {
                foreach (string name in LabAuthority.Renew(parsed.GetRequiredValue(folder), TimeSpan.FromDays(parsed.GetValue(days)), DateTimeOffset.UtcNow))
                    console.Text.WriteLine(name);
            }
            catch (CryptographicException exception)
            {
                throw new IOException($"{parsed.GetRequiredValue(folder)} is not what 'vmmctl certs init' makes: {exception.Message}", exception);
            }

            return ExitCode.Success;
        });
        return command;
    }

    private static Argument<string> FolderArgument() => new("dir") { Description = "The folder of the authority." };

    private static Option<int> DaysOption() =>
        new Option<int>("--days") { Description = $"How long certificates last, from 1 to {MaxDays} days. Default: {DefaultDays}. The authority lasts five years.", HelpName = "N", DefaultValueFactory = _ => DefaultDays }
            .Within(1, MaxDays);
}
