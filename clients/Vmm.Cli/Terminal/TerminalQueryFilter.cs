namespace Vmm.Cli.Terminal;

/// <summary>
/// Takes the question where the cursor is (ECMA-48 "device status report", <c>ESC [ 6 n</c>) out of a guest's output. A shell asks
/// it at every prompt; a terminal would answer to standard input, which nobody reads while a program talks to the guest.
/// </summary>
public sealed class TerminalQueryFilter
{
    private static ReadOnlySpan<byte> Query => "\u001b[6n"u8;

    private int _matched;

    /// <summary>What is left of the next piece of output; the beginning of a question is held back until the next piece.</summary>
    public byte[] Remove(ReadOnlySpan<byte> output)
    {
        var left = new List<byte>(output.Length + Query.Length);
        foreach (var value in output)
        {
            if (value != Query[_matched])
            {
                left.AddRange(Query[.._matched]);
                _matched = 0;
            }

            if (value != Query[_matched])
                left.Add(value);
            else if (++_matched == Query.Length)
                _matched = 0;
        }

        return [.. left];
    }
}
