namespace Vmm.Processor.Translation;

/// <summary>How hot code is compiled.</summary>
public sealed record TranslationOptions
{
    /// <summary>
    /// How often a trace is interpreted before native code is generated for it, on hosts for which there is a generator; 0 for never.
    /// </summary>
    public int NativeThreshold { get; init; } = 100;

    /// <summary>How often a trace is interpreted before it is hot, where it gets no native code; 0 for never.</summary>
    public int Threshold { get; init; } = 4000;

    /// <summary>How often a trace's native code is executed before native code of its region is generated; 0 for never.</summary>
    public int NativeRegionThreshold { get; init; } = 50_000;

    /// <summary>
    /// How often a trace that has native code is executed before it is hot, where native code of its region would not be worthwhile but that region goes around
    /// in itself; 0 for never. The .NET JIT takes some 10 to 20 times as long for an instruction as the generator of native code does, but its code calls handlers at less cost.
    /// </summary>
    public int NativeHotThreshold { get; init; } = 1_000_000;

    /// <summary>
    /// How many instructions with an emitter there must be for each one that its handler executes: code with fewer is interpreted, because
    /// leaving compiled code for a handler costs more than it saves. 0 compiles everything.
    /// </summary>
    public int EmittedPerHandler { get; init; } = 2;

    /// <summary>The same for native code of a region.</summary>
    public int EmittedPerHandlerInRegion { get; init; } = 8;

    /// <summary>
    /// Whether the processor waits for the compiler, so that the same run compiles the same code at the same instruction: for tests.
    /// Otherwise a background thread compiles, and the processor goes on interpreting.
    /// </summary>
    public bool Synchronous { get; init; }

    /// <summary>Instructions in one region at most.</summary>
    public int LongestRegion { get; init; } = 128;

    /// <summary>Bytes of intermediate code to compile at most before everything compiled is forgotten.</summary>
    public long CodeLimit { get; init; } = 16 << 20;

    /// <summary>Regions to put in place at most; what is hot beyond that is interpreted. For finding the one that is wrong.</summary>
    public long MostRegions { get; init; } = long.MaxValue;

    /// <summary>
    /// May change the bytes of a trace before they are compiled, together with those of as many traces as the second argument says: for tests of what
    /// finds wrong code. What it throws is taken for a failure of the compiler. From any thread.
    /// </summary>
    public Action<byte[], int>? Falsify { get; init; }

    /// <summary>Hears of each failure of the compilers, from any thread; the code is interpreted. It must not throw.</summary>
    public Action<Exception>? Failed { get; init; }

    /// <summary>Bytes of native code at most before all of it is forgotten: a multiple of the host's page size, at least 1 MiB.</summary>
    public int NativeCodeLimit { get; init; } = 64 << 20;
}
