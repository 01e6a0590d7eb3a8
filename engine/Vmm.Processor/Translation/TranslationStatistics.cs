namespace Vmm.Processor.Translation;

/// <summary>What the second tier of one virtual machine has done.</summary>
/// <param name="Installed">Regions that were compiled and put in place; a trace with native code counts as one.</param>
/// <param name="Discarded">Regions that had become stale before they could be.</param>
/// <param name="Instructions">Guest instructions in all compiled regions; one that stands in several counts in each.</param>
/// <param name="Size">Bytes of code in place: intermediate code of regions, of which the host's code is larger by a small factor, and native code.</param>
/// <param name="CompileTime">Time that the compilers have taken, on the host's clock.</param>
/// <param name="Limit">What <paramref name="Size"/> never exceeds.</param>
public readonly record struct TranslationStatistics(long Installed, long Discarded, long Instructions, long Size, TimeSpan CompileTime, long Limit)
{
    /// <summary>Traces and regions for which native code was generated.</summary>
    public long NativeTraces { get; init; }

    /// <summary>Guest instructions in them.</summary>
    public long NativeInstructions { get; init; }

    /// <summary>Bytes of native code in place.</summary>
    public long NativeSize { get; init; }

    /// <summary>Time that its generation has taken, on the host's clock.</summary>
    public TimeSpan NativeCompileTime { get; init; }

    /// <summary>Traces and regions whose compilation has failed; they are interpreted.</summary>
    public long Failed { get; init; }

    /// <summary>Why the last of them did.</summary>
    public Exception? LastFailure { get; init; }
}
