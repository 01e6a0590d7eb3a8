namespace Vmm.Machine.Migration;

/// <summary>What is done after a round of a copy that follows a guest which writes.</summary>
public enum PreCopyStep
{
    /// <summary>Another round, while the guest runs.</summary>
    Copy,

    /// <summary>The guest is held, and the rest is copied.</summary>
    Hold,

    /// <summary>The guest writes faster than the copy follows: it is given up.</summary>
    GiveUp,
}

/// <summary>
/// Decides when what a guest has written since the last round can be copied within the pause that it may have. Pure but for what it
/// remembers of the rounds.
/// </summary>
/// <param name="maxPause">How long the guest may stand.</param>
/// <param name="maxRounds">Rounds after which the copy is given up, from 1 on.</param>
public sealed class PreCopy(TimeSpan maxPause, int maxRounds)
{
    /// <summary>A round of less says little about how fast the copy is.</summary>
    private const long TellingBytes = 4 << 20;

    private double _bytesPerSecond;
    private long _bytes;
    private TimeSpan _time;

    /// <summary>Rounds so far.</summary>
    public int Rounds { get; private set; }

    /// <summary>Bytes in a second, as the last rounds that say something about it had it; 0 before the first.</summary>
    public double BytesPerSecond => _bytesPerSecond;

    /// <summary>A round is over.</summary>
    /// <param name="bytes">Copied in it.</param>
    /// <param name="took">How long it took.</param>
    /// <param name="dirtyBytes">What has been written meanwhile.</param>
    /// <param name="fixedPause">What holding the guest takes besides: its state, and its way to the target.</param>
    public PreCopyStep After(long bytes, TimeSpan took, long dirtyBytes, TimeSpan fixedPause)
    {
        Rounds++;
        (_bytes, _time) = (_bytes + bytes, _time + took);
        if (_bytes >= TellingBytes || _bytesPerSecond == 0)
        {
            _bytesPerSecond = _bytes / Math.Max(_time.TotalSeconds, 1e-6);
            (_bytes, _time) = _bytes >= TellingBytes ? (0, TimeSpan.Zero) : (_bytes, _time);
        }
        if (dirtyBytes == 0 || fixedPause.TotalSeconds + dirtyBytes / Math.Max(_bytesPerSecond, 1) <= maxPause.TotalSeconds)
            return PreCopyStep.Hold;
        return Rounds < maxRounds ? PreCopyStep.Copy : PreCopyStep.GiveUp;
    }
}
