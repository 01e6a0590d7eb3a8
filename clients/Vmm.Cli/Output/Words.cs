using System.Text;

namespace Vmm.Cli.Output;

/// <summary>The API's enumeration values as people write and read them here: in small letters with hyphens.</summary>
internal static class Words
{
    /// <summary>A value, as <c>unsafe-immediate</c>.</summary>
    public static string Of(Enum value)
    {
        var text = new StringBuilder();
        foreach (var letter in value.ToString())
        {
            if (char.IsUpper(letter) && text.Length > 0)
                text.Append('-');
            text.Append(char.ToLowerInvariant(letter));
        }

        return text.ToString();
    }

    /// <summary>Several values, with commas; a hyphen for none.</summary>
    public static string Of<T>(IReadOnlyCollection<T> values) where T : struct, Enum =>
        values.Count == 0 ? "-" : string.Join(',', values.Select(value => Of(value)));

    /// <summary>The value that <see cref="Of(Enum)"/> writes so.</summary>
    public static T Parse<T>(string text) where T : struct, Enum => Enum.GetValues<T>().Single(value => Of(value) == text);
}
