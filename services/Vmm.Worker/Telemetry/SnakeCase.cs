using System.Collections.Concurrent;
using System.Text;

namespace Vmm.Worker.Telemetry;

/// <summary>Names of members as values of attributes: <c>EptViolation</c> is <c>ept_violation</c>.</summary>
internal static class SnakeCase
{
    private static readonly ConcurrentDictionary<string, string> Known = new(StringComparer.Ordinal);

    /// <summary>A name in snake case.</summary>
    public static string Of(string name) => Known.GetOrAdd(name, static name =>
    {
        var text = new StringBuilder();
        for (int k = 0; k < name.Length; k++)
        {
            if (k > 0 && char.IsUpper(name[k]) && !char.IsUpper(name[k - 1]))
                text.Append('_');
            text.Append(char.ToLowerInvariant(name[k]));
        }

        return text.ToString();
    });
}
