using System.Collections.Concurrent;
using System.Diagnostics;
using Vmm.Processor.Execution;
using Vmm.Processor.Translation.Native;
using Trace = Vmm.Processor.Decoding.Trace;

namespace Vmm.Processor.Translation;

/// <summary>
/// Finds the traces of one virtual machine that are executed often, has them compiled and puts the result in place of the interpreter's
/// handler of a trace's first instruction: native code of the trace alone at once, where the host has it, and for what is hot a region.
/// Everything but <see cref="CompileNext"/> runs on the processors' thread.
/// </summary>
internal sealed unsafe class Translator : IDisposable
{
    // Taken once: two pointers to the same function need not be equal.
    private static readonly nint CountedHandler = (nint)(Handler)(&Counted);

    private readonly TraceCache _cache;
    private readonly TranslationOptions _options;
    private readonly ConcurrentQueue<Region> _requested = new();
    private readonly ConcurrentQueue<Region> _compiled = new();
    private readonly List<(nint Trace, CompiledCode Code)> _installed = [];
    private readonly NativeCodeSpace? _space;
    private readonly NativeRegionCompiler? _native;
    private readonly List<nint> _nativeTraces = [];
    private readonly Lock _gate = new();
    private volatile bool _finished;
    private volatile bool _disposed;
    private long _size;
    private long _installedCount;
    private long _discarded;
    private long _instructions;
    private long _ticks;
    private long _nativeCompiled;
    private long _nativeInstructions;
    private long _nativeTicks;
    private long _failed;
    private Exception? _lastFailure;

    public Translator(TraceCache cache, TranslationOptions options)
    {
        _cache = cache;
        _options = options;
        if (options.NativeThreshold > 0)
            _space = NativeCodeSpace.TryCreate(options.NativeCodeLimit);
        if (_space == null)
            return;
        _native = NativeRegionCompiler.Create(_space, options);
    }

    /// <summary><see cref="NativeFrame.Enter"/> of the virtual machine's processors.</summary>
    public nint EnterNative => _space?.Enter ?? 0;

    /// <summary>What has been done so far. From any thread.</summary>
    public TranslationStatistics Statistics =>
        new(Volatile.Read(ref _installedCount), Volatile.Read(ref _discarded), Interlocked.Read(ref _instructions) + Volatile.Read(ref _nativeInstructions),
            Volatile.Read(ref _size) + (_space?.Used ?? 0), TimeSpan.FromTicks(Interlocked.Read(ref _ticks) + Volatile.Read(ref _nativeTicks)),
            _options.CodeLimit + (_space != null ? _options.NativeCodeLimit : 0))
        {
            NativeTraces = Volatile.Read(ref _nativeCompiled),
            NativeInstructions = Volatile.Read(ref _nativeInstructions),
            NativeSize = _space?.Used ?? 0,
            NativeCompileTime = TimeSpan.FromTicks(Volatile.Read(ref _nativeTicks)),
            Failed = Interlocked.Read(ref _failed),
            LastFailure = _lastFailure,
        };

    /// <summary>The region that was put in its place last, or null.</summary>
    public Region? LastInstalled { get; private set; }

    /// <summary>That region as text, for people, or null.</summary>
    public string? DescribeLast() => LastInstalled is { } region ? RegionListing.Of(region, _space) : null;

    /// <summary>Whether compiled regions wait for <see cref="Install"/>.</summary>
    public bool HasCompiled => _finished;

    /// <summary>Begins to count the executions of a trace, which is interpreted until it is found to be executed often.</summary>
    public void Watch(Trace* trace)
    {
        trace->Native = _space?.Interpret ?? 0;
        // Only 64-bit code is compiled; a trace that crosses into another page is one instruction.
        if ((trace->Mode & TraceMode.SizeMask) != TraceMode.Code64)
            return;
        trace->Coolness = _native != null ? _options.NativeThreshold : _options.Threshold;
        trace->Refused = false;
        Trace.First(trace)->Handler = (Handler)CountedHandler;
    }

    /// <summary>Takes the native code of a trace whose bytes have changed out of use.</summary>
    public void Retire(Trace* trace) => trace->Native = _space?.Interpret ?? 0;

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
        _nativeTraces.Clear();
        _space?.Clear();
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
        {
            if (_disposed)
                return;
            _disposed = true;
        }
        Forget();
        _space?.Dispose();
    }

    private static Insn* Counted(CpuState* s, Insn* i)
    {
        Trace* trace = Trace.Of(i);
        if (--trace->Coolness > 0)
            return trace->FirstHandler(s, i);
        LogicalProcessor.Of(s).Package.Code.Translator!.Heated(trace);
        return i->Handler(s, i);
    }

    /// <summary>Compiles a trace that has been executed as often as its coolness said.</summary>
    public void Heated(Trace* trace)
    {
        if (trace->SecondPage != 0)
        {
            Trace.First(trace)->Handler = trace->FirstHandler;
            return;
        }
        if (_native != null && trace->Native == _space!.Interpret)
        {
            if (_installedCount < _options.MostRegions)
                CompileNative(trace, RegionBuilder.BuildSingle(_cache, trace));
            else
                Trace.First(trace)->Handler = trace->FirstHandler;
            return;
        }
        // Until the region is in place, and where it never is, the trace goes on as it is.
        trace->Coolness = 0;
        if (_native == null)
            Trace.First(trace)->Handler = trace->FirstHandler;
        Region region = RegionBuilder.Build(_cache, trace, Math.Min(_options.LongestRegion, NativeExecution.LongestPath), IsWarm);
        if (_native != null && !trace->Refused && _options.NativeRegionThreshold > 0)
        {
            bool worthwhile = region.Nodes.Length == 1
                ? !trace->CallsHandlers
                : _installedCount >= _options.MostRegions || CompileNative(trace, region) != NativeResult.NotWorthwhile;
            // A loop calls no handler while it goes around.
            trace->Refused = !worthwhile && !trace->IsLoop;
            if (trace->Refused)
                trace->Coolness = _options.NativeHotThreshold;
            return;
        }
        if (_native != null && _options.NativeHotThreshold <= 0)
            return;
        if (_options.Synchronous)
        {
            Compile(region);
            Install(region);
            return;
        }
        _requested.Enqueue(region);
        CompilerThread.Wake(this);
    }

    /// <summary>Executions of a trace, or of its native code, before it may be part of a region.</summary>
    private int RegionThreshold => _native == null ? _options.Threshold : _options.NativeRegionThreshold > 0 ? _options.NativeRegionThreshold : _options.NativeHotThreshold;

    /// <summary>Whether a trace has been executed enough to become part of another one's region: most of what has not is error handling.</summary>
    private bool IsWarm(Trace* trace) =>
        (_native == null || (nint)Trace.First(trace)->Handler != CountedHandler)
        && (trace->Refused || trace->Coolness <= RegionThreshold - Math.Max(1, RegionThreshold / 8));

    private NativeResult CompileNative(Trace* trace, Region region)
    {
        long start = Stopwatch.GetTimestamp();
        bool single = region.Nodes.Length == 1;
        var result = NativeResult.NoRoom;
        nint entry = 0;
        try
        {
            if (_options.Falsify is { } falsify)
            {
                foreach (RegionNode node in region.Nodes)
                    falsify(node.Bytes, region.Nodes.Length);
            }
            result = _native!.Compile(region, out entry);
            if (result == NativeResult.NoRoom)
            {
                ForgetNative();
                // The traces of a region have to be found worth it again.
                if (single)
                    result = _native.Compile(region, out entry);
            }
        }
        catch (Exception exception) when (CountFailure(exception))
        {
            // Of any kind: whatever is wrong with the compiler, the interpreter executes the trace, and nothing but time is lost.
        }
        bool compiled = result == NativeResult.Compiled;
        if (single)
        {
            // What is not worthwhile by itself may still be part of a region.
            trace->Coolness = compiled ? RegionThreshold : 0;
            trace->CallsHandlers = compiled && _native!.CallsHandlers;
            Trace.First(trace)->Handler = compiled ? NativeExecution.Handler : trace->FirstHandler;
        }
        if (!compiled)
            return result;
        trace->Native = entry;
        trace->IsLoop = _native!.HasNodes;
        trace->NativePath = (ushort)(single ? 0 : region.Head.LongestPath);
        if (single)
            _nativeTraces.Add((nint)trace);
        _nativeCompiled++;
        _installedCount++;
        LastInstalled = region;
        foreach (RegionNode node in region.Nodes)
            _nativeInstructions += node.Length;
        _nativeTicks += Stopwatch.GetElapsedTime(start).Ticks;
        return result;
    }

    private bool CountFailure(Exception exception)
    {
        _lastFailure = exception;
        Interlocked.Increment(ref _failed);
        _options.Failed?.Invoke(exception);
        return true;
    }

    /// <summary>Gives back all native code, whose traces may then be compiled again.</summary>
    private void ForgetNative()
    {
        foreach (nint each in _nativeTraces)
        {
            var trace = (Trace*)each;
            if (!trace->Stale && IsNative(trace))
                Watch(trace);
            Retire(trace);
        }
        _nativeTraces.Clear();
        _space!.Clear();
    }

    private void Compile(Region region)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            if (_options.Falsify is { } falsify)
            {
                foreach (RegionNode node in region.Nodes)
                    falsify(node.Bytes, region.Nodes.Length);
            }
            region.Code = IlRegionCompiler.Compile(region, _options.EmittedPerHandler);
            Interlocked.Add(ref _instructions, region.Nodes.Sum(node => node.Length));
        }
        catch (Exception exception) when (CountFailure(exception))
        {
            // Of any kind, as for native code: on the compiler's thread, an exception would end the process.
        }
        Interlocked.Add(ref _ticks, Stopwatch.GetElapsedTime(start).Ticks);
    }

    private void Install(Region region)
    {
        if (region.Code == null || _installedCount >= _options.MostRegions)
            return;
        if (!region.IsCurrent(_cache))
        {
            _discarded++;
            // The head may be as it was, and hot again soon.
            if (region.Generation == _cache.Generation && !region.Head.Trace->Stale)
                CountAgain(region.Head.Trace);
            return;
        }
        if (_size + region.Code.Size > _options.CodeLimit)
            Discard();
        Trace* head = region.Head.Trace;
        Trace.First(head)->Handler = region.Code.Entry;
        Retire(head);
        _installed.Add(((nint)head, region.Code));
        _size += region.Code.Size;
        _installedCount++;
        LastInstalled = region;
    }

    private static bool IsNative(Trace* trace) => (nint)Trace.First(trace)->Handler == (nint)NativeExecution.Handler;

    private void CountAgain(Trace* trace)
    {
        if (IsNative(trace))
            trace->Coolness = _options.NativeHotThreshold;
        else
            Watch(trace);
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
