namespace Vmm.Cli.Terminal;

/// <summary>
/// Finds the keys that leave a guest's console, Ctrl-] and then q, in what is typed. Ctrl-] twice sends one to the guest; any
/// other key after it is sent together with it.
/// </summary>
public sealed class EscapeSequence
{
    /// <summary>Ctrl-].</summary>
    public const byte Escape = 0x1D;

    private bool _pending;

    /// <summary>Copies what is for the guest.</summary>
    /// <param name="typed">Bytes as they came.</param>
    /// <param name="forGuest">Gets at most one byte more than <paramref name="typed"/> has.</param>
    /// <param name="length">How many bytes are for the guest.</param>
    /// <returns>Whether the console is to be left; what follows in <paramref name="typed"/> is dropped.</returns>
    public bool Filter(ReadOnlySpan<byte> typed, Span<byte> forGuest, out int length)
    {
        length = 0;
        foreach (var key in typed)
        {
            if (!_pending)
            {
                if (key == Escape)
                    _pending = true;
                else
                    forGuest[length++] = key;
                continue;
            }

            _pending = false;
            if (key is (byte)'q' or (byte)'Q')
                return true;
            forGuest[length++] = Escape;
            if (key != Escape)
                forGuest[length++] = key;
        }

        return false;
    }
}
