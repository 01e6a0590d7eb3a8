using System.Text.RegularExpressions;

namespace Vmm.Protos;

/// <summary>What the secrets of tokens look like, so that they are found where they do not belong.</summary>
public static partial class TokenText
{
    /// <summary>What each begins with.</summary>
    public const string Prefix = "vmm_";

    /// <summary>A text with every secret in it cut off after its beginning: people put secrets where names should be.</summary>
    public static string Redact(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text.Contains(Prefix, StringComparison.Ordinal) ? Secret().Replace(text, "vmm-...") : text;
    }

    [GeneratedRegex("vmm_[a-z0-9-]*_?[0-9a-f]*")]
    private static partial Regex Secret();
}
