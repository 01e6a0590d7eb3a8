using System.Globalization;
using Vmm.V1;

namespace Vmm.Registry;

/// <summary>The names of audit entries.</summary>
public static class AuditNames
{
    private const string Prefix = "auditEntries/";

    /// <summary>From its number.</summary>
    public static string Of(long number) => string.Create(CultureInfo.InvariantCulture, $"{Prefix}{number}");

    /// <summary>Its number, from its name; 0, which no entry has, where this is no such name.</summary>
    public static long NumberOf(AuditEntry entry)
    {
        ArgumentNullException.ThrowIfNull(entry);
        return entry.Name.StartsWith(Prefix, StringComparison.Ordinal) && long.TryParse(entry.Name.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out long number) ? number : 0;
    }
}
