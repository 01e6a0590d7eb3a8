using System.Collections.Concurrent;
using System.Diagnostics;
using Vmm.Processor.Execution;
using Trace = Vmm.Processor.Decoding.Trace;

namespace Vmm.Processor.Translation;

/// <summary>
/// Finds the hot traces of one virtual machine, has them compiled and puts the result in place of the interpreter's handler of a
/// trace's first instruction. Everything but <see cref="CompileNext"/> runs on the processors' thread.
/// </summary>
internal sealed unsafe class Translator : IDisposable
{
    private readonly TraceCache _cache;
    private readonly TranslationOptions _options;
    private readonly ConcurrentQueue<Region> _requested = new();
    private readonly ConcurrentQueue<Region> _compiled = new();
    private readonly List<(nint Trace, CompiledCode Code)> _installed = [];
    private readonly Lock _gate = new();
    private volatile bool _finished;
    private volatile bool _disposed;
    private long _size;
    private long _installedCount;
    private long _discarded;
    private long _instructions;
    private long _ticks;

    public Translator(TraceCache cache, TranslationOptions options)
    {
        _cache = cache;
        _options = options;
    }

    /// <summary>What has been done so far. From any thread.</summary>
    public TranslationStatistics Statistics =>
        new(Volatile.Read(ref _installedCount), Volatile.Read(ref _discarded), Interlocked.Read(ref _instructions), Volatile.Read(ref _size),
            TimeSpan.FromTicks(Interlocked.Read(ref _ticks)), _options.CodeLimit);

    /// <summary>The region that was put in its place last, or null.</summary>
    public Region? LastInstalled { get; private set; }

    /// <summary>Whether compiled regions wait for <see cref="Install"/>.</summary>
    public bool HasCompiled => _finished;

    /// <summary>Begins to count the executions of a new trace.</summary>
    public void Watch(Trace* trace)
    {
        // Only 64-bit code is compiled; a trace that crosses into another page is one instruction.
        if ((trace->Mode & TraceMode.SizeMask) != TraceMode.Code64)
            return;
        trace->Coolness = _options.Threshold;
        Trace.First(trace)->Handler = &Counted;
    }

    /// <summary>Puts what has been compiled in its place.</summary>
    public void Install()
    {
        _finished = false;
        while (_compiled.TryDequeue(out Region? region))
            Install(region);
    }

    /// <summary>Forgets everything: the memory of the traces is about to be given back.</summary>
    public void Forget()
    {
        _installed.Clear();
        _requested.Clear();
        _size = 0;
    }

    /// <summary>Compiles one region. From the compiler's thread.</summary>
    /// <returns>Whether there are more.</returns>
    public bool CompileNext()
    {
        if (!_disposed && _requested.TryDequeue(out Region? region))
        {
            Compile(region);
            _compiled.Enqueue(region);
            _finished = true;
            lock (_gate)
            {
                if (!_disposed)
                    _cache.RequestBoundary();
            }
        }
        return !_disposed && !_requested.IsEmpty;
    }

    public void Dispose()
    {
        lock (_gate)
            _disposed = true;
        Forget();
    }

    private static Insn* Counted(CpuState* s, Insn* i)
    {
        Trace* trace = Trace.Of(i);
        if (--trace->Coolness > 0)
            return trace->FirstHandler(s, i);
        LogicalProcessor.Of(s).Package.Code.Translator!.Heated(trace);
        return i->Handler(s, i);
    }

    private void Heated(Trace* trace)
    {
        Trace.First(trace)->Handler = trace->FirstHandler;
        if (trace->SecondPage != 0)
            return;
        Region region = RegionBuilder.Build(_cache, trace, _options);
        if (_options.Synchronous)
        {
            Compile(region);
            Install(region);
            return;
        }
        _requested.Enqueue(region);
        CompilerThread.Wake(this);
    }

    private void Compile(Region region)
    {
        if (_options.Falsify is { } falsify)
        {
            foreach (RegionNode node in region.Nodes)
                falsify(node.Bytes);
        }
        long start = Stopwatch.GetTimestamp();
        region.Code = IlRegionCompiler.Compile(region);
        Interlocked.Add(ref _ticks, Stopwatch.GetElapsedTime(start).Ticks);
        Interlocked.Add(ref _instructions, region.Nodes.Sum(node => node.Length));
    }

    private void Install(Region region)
    {
        if (_installedCount >= _options.MostRegions)
            return;
        if (!region.IsCurrent(_cache))
        {
            _discarded++;
            // The head may be as it was, and hot again soon.
            if (region.Generation == _cache.Generation && !region.Head.Trace->Stale)
                Watch(region.Head.Trace);
            return;
        }
        if (_size + region.Code!.Size > _options.CodeLimit)
            Discard();
        Trace.First(region.Head.Trace)->Handler = region.Code.Entry;
        _installed.Add(((nint)region.Head.Trace, region.Code));
        _size += region.Code.Size;
        _installedCount++;
        LastInstalled = region;
    }

    /// <summary>Gives back the code of stale regions; where that is not enough, of all, which may then become hot again.</summary>
    private void Discard()
    {
        int kept = 0;
        _size = 0;
        for (int k = 0; k < _installed.Count; k++)
        {
            if (((Trace*)_installed[k].Trace)->Stale)
                continue;
            _installed[kept++] = _installed[k];
            _size += _installed[k].Code.Size;
        }
        _installed.RemoveRange(kept, _installed.Count - kept);
        if (_size < _options.CodeLimit / 2)
            return;
        foreach ((nint trace, _) in _installed)
            Watch((Trace*)trace);
        _installed.Clear();
        _size = 0;
    }
}
