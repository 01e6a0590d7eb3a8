using System.CommandLine;

namespace Vmm.Cli;

/// <summary>What a word that a command does not know may have been meant to be.</summary>
internal static class Suggestions
{
    /// <summary>Writes the names next to every word that was not understood; nothing where none is near.</summary>
    public static void Write(TextWriter output, ParseResult parsed)
    {
        var command = parsed.CommandResult.Command;
        foreach (string word in parsed.UnmatchedTokens)
        {
            var names = Names(command, word).Select(name => (Name: name, Distance: Distance(word, name))).Where(each => each.Distance <= (word.Length + 1) / 3).ToList();
            if (names.Count == 0)
                continue;
            int least = names.Min(each => each.Distance);
            output.WriteLine($"'{word}' was not matched. Did you mean one of the following?");
            foreach (string name in names.Where(each => each.Distance == least).Select(each => each.Name))
                output.WriteLine(name);
            output.WriteLine();
        }
    }

    // Options of one letter are as near to every word as to any other.
    private static IEnumerable<string> Names(Command command, string word) => word.StartsWith('-')
        ? command.Options.Where(option => !option.Hidden).SelectMany(option => option.Aliases.Prepend(option.Name)).Where(name => name.StartsWith("--", StringComparison.Ordinal))
        : command.Subcommands.Where(child => !child.Hidden).Select(child => child.Name);

    /// <summary>The least number of letters to insert, remove or replace, or of neighbours to exchange.</summary>
    private static int Distance(string from, string to)
    {
        var table = new int[from.Length + 1, to.Length + 1];
        for (int i = 0; i <= from.Length; i++)
        {
            for (int k = 0; k <= to.Length; k++)
            {
                if (i == 0 || k == 0)
                {
                    table[i, k] = i + k;
                    continue;
                }

                int replaced = table[i - 1, k - 1] + (from[i - 1] == to[k - 1] ? 0 : 1);
                table[i, k] = Math.Min(replaced, Math.Min(table[i - 1, k], table[i, k - 1]) + 1);
                if (i > 1 && k > 1 && from[i - 1] == to[k - 2] && from[i - 2] == to[k - 1])
                    table[i, k] = Math.Min(table[i, k], table[i - 2, k - 2] + 1);
            }
        }

        return table[from.Length, to.Length];
    }
}
