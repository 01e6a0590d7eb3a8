using System.Globalization;
using Google.Protobuf.WellKnownTypes;
using Spectre.Console;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>Projects, tokens and the audit log.</content>
internal sealed partial class Printer
{
    /// <summary>A table of projects with their limits.</summary>
    public void Projects(IEnumerable<Project> projects)
    {
        var table = NewTable("PROJECT", "DISPLAY NAME", "VMS", "VCPUS", "MEMORY", "IMAGES", "STREAMS", "CREATED");
        foreach (var project in projects)
        {
            var quota = project.Quota ?? new ProjectQuota();
            table.AddRow(
                Cell(ResourceNames.Id(project.Name)),
                Cell(project.DisplayName),
                Cell(Limit(quota.HasVms, quota.Vms)),
                Cell(Limit(quota.HasVcpus, quota.Vcpus)),
                Cell(quota.HasMemoryMib ? $"{quota.MemoryMib} MiB" : "-"),
                Cell(Limit(quota.HasImages, quota.Images)),
                Cell(Limit(quota.HasStreams, quota.Streams)),
                Cell(Time(project.CreateTime)));
        }

        Write(table);
    }

    /// <summary>A table of tokens.</summary>
    public void Tokens(IEnumerable<Token> tokens)
    {
        var table = NewTable("TOKEN", "DISPLAY NAME", "PROJECT", "ROLE", "CREATED", "EXPIRES", "LAST USE");
        foreach (var token in tokens)
            table.AddRow(
                Cell(ResourceNames.Id(token.Name)),
                Cell(token.DisplayName),
                Cell(token.Project.Length == 0 ? "(all)" : ResourceNames.Id(token.Project)),
                Cell(token.Role.ToString().ToLowerInvariant()),
                Cell(Time(token.CreateTime)),
                Cell(token.ExpireTime is null ? "never" : Time(token.ExpireTime)),
                Cell(Time(token.LastUseTime)));
        Write(table);
    }

    /// <summary>A table of audit entries.</summary>
    public void AuditEntries(IEnumerable<AuditEntry> entries)
    {
        var table = NewTable("TIME", "TOKEN", "METHOD", "RESOURCE", "OUTCOME", "REQUEST ID", "PEER");
        foreach (var entry in entries)
            table.AddRow(
                Cell(Time(entry.Time)),
                Cell(entry.Token.Length == 0 ? "-" : ResourceNames.Id(entry.Token)),
                Cell(ResourceNames.Id(entry.Method)),
                Cell(entry.Resource),
                Cell((entry.Code.Length == 0 ? "begins" : entry.Reason.Length == 0 || entry.Reason == entry.Code ? entry.Code : $"{entry.Code} ({entry.Reason})") + (entry.SuppressedCount > 0 ? $" and {entry.SuppressedCount} before" : "")),
                Cell(entry.RequestId),
                Cell(entry.Peer));
        Write(table);
    }

    private static string Limit(bool isLimited, int limit) => isLimited ? limit.ToString(CultureInfo.InvariantCulture) : "-";

    private static string Time(Timestamp? time) => time?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss'Z'", CultureInfo.InvariantCulture) ?? "";
}
