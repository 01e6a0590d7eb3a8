using System.Collections.Concurrent;
using System.Diagnostics;
using Vmm.Processor.Execution;
using Vmm.Processor.Translation.Native;
using Trace = Vmm.Processor.Decoding.Trace;

namespace Vmm.Processor.Translation;

/// <summary>
/// Finds the traces of one virtual machine that are executed often, has them compiled and puts the result in place of the interpreter's
/// handler of a trace's first instruction: native code of the trace alone at once, where the host has it, and for what is hot a region, which the
/// compiler's thread compiles meanwhile. Everything but <see cref="CompileNext"/> runs on the processors' thread.
/// </summary>
internal sealed unsafe class Translator : IDisposable
{
    // Taken once: two pointers to the same function need not be equal.
    private static readonly nint CountedHandler = (nint)(Handler)(&Counted);

    private readonly TraceCache _cache;
    private readonly TranslationOptions _options;
    private readonly ConcurrentQueue<Region> _requested = new();
    private readonly ConcurrentQueue<Region> _compiled = new();

    // The traces of both.
    private readonly HashSet<nint> _underway = [];
    private readonly List<(nint Trace, CompiledCode Code)> _installed = [];
    private readonly NativeCodeSpace? _space;
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
        trace->Coolness = _space != null ? _options.NativeThreshold : _options.Threshold;
        trace->Refused = false;
        trace->NativeGain = 0;
        Trace.First(trace)->Handler = (Handler)CountedHandler;
    }

    /// <summary>Takes the native code of a trace whose bytes have changed out of use.</summary>
    public void Retire(Trace* trace) => trace->Native = _space?.Interpret ?? 0;

    /// <summary>Has the interpreter no longer enter the native code of a trace. What may go around for longer another time is left as it is.</summary>
    public static void Dismiss(Trace* trace)
    {
        trace->NativeGain = 0;
        if (!trace->IsLoop && IsNative(trace))
            Trace.First(trace)->Handler = trace->Coolness > 0 ? (Handler)CountedHandler : trace->FirstHandler;
    }

    /// <summary>Puts what has been compiled in its place.</summary>
    public void Install()
    {
        _finished = false;
        while (_compiled.TryDequeue(out Region? region))
        {
            foreach (RegionNode node in region.Nodes)
                _underway.Remove((nint)node.Trace);
            Install(region);
        }
    }

    /// <summary>Forgets everything: the memory of the traces is about to be given back.</summary>
    public void Forget()
    {
        _installed.Clear();
        _requested.Clear();
        _underway.Clear();
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

    /// <summary>Compiles a trace that has been executed as often as its coolness said, or has its region compiled.</summary>
    public void Heated(Trace* trace)
    {
        if (trace->SecondPage != 0)
        {
            Trace.First(trace)->Handler = trace->FirstHandler;
            return;
        }
        if (_space != null && trace->Native == _space.Interpret)
        {
            CompileAlone(trace);
            return;
        }
        if (_underway.Contains((nint)trace))
        {
            // Once that region is in place, the trace may be executed there alone.
            trace->Coolness = Math.Max(1, LeastWarm);
            return;
        }
        // Until the region is in place, and where it never is, the trace goes on as it is.
        trace->Coolness = 0;
        if (IsCounted(trace))
            Trace.First(trace)->Handler = trace->FirstHandler;
        bool native = _space != null && !trace->Refused && _options.NativeRegionThreshold > 0;
        Region region = RegionBuilder.Build(_cache, trace, Math.Min(_options.LongestRegion, NativeExecution.LongestPath), IsWarm, native);
        if (native && region.Nodes.Length == 1)
        {
            if (trace->CallsHandlers)
                Refuse(region);
            return;
        }
        if (!native && _space != null && _options.NativeHotThreshold <= 0)
            return;
        if (_options.Synchronous)
        {
            Compile(region);
            Install(region);
            return;
        }
        foreach (RegionNode node in region.Nodes)
            _underway.Add((nint)node.Trace);
        _requested.Enqueue(region);
        CompilerThread.Wake(this);
    }

    /// <summary>Executions of a trace, or of its native code, before it may be part of a region.</summary>
    private int RegionThreshold => _space == null ? _options.Threshold : _options.NativeRegionThreshold > 0 ? _options.NativeRegionThreshold : _options.NativeHotThreshold;

    /// <summary>The coolness up to which a trace may become part of another one's region.</summary>
    private int LeastWarm => RegionThreshold - Math.Max(1, RegionThreshold / 8);

    /// <summary>Whether a trace has been executed enough to become part of another one's region: most of what has not is error handling.</summary>
    private bool IsWarm(Trace* trace) =>
        (_space == null || HasNative(trace) || !IsCounted(trace)) && (trace->Refused || trace->Coolness <= LeastWarm);

    /// <summary>Generates native code of a trace alone, at once: that takes some microseconds for an instruction.</summary>
    private void CompileAlone(Trace* trace)
    {
        // What is not worthwhile by itself may still be part of a region.
        trace->Coolness = 0;
        Trace.First(trace)->Handler = trace->FirstHandler;
        if (_installedCount >= _options.MostRegions)
            return;
        Region region = RegionBuilder.BuildSingle(_cache, trace);
        Compile(region);
        if (region.Native is not { } code)
            return;
        if (!_space!.TryAdd(code))
        {
            ForgetNative();
            if (!_space.TryAdd(code))
                return;
        }
        trace->Coolness = RegionThreshold;
        trace->CallsHandlers = code.CallsHandlers;
        trace->NativePath = 0;
        Trace.First(trace)->Handler = NativeExecution.Handler;
        _nativeTraces.Add((nint)trace);
        Put(trace, region, code);
    }

    /// <summary>
    /// Counts a trace whose region would not be worth native code towards one for the JIT. That has to stay within itself, because it calls handlers at less
    /// cost, and is not entered at less.
    /// </summary>
    private void Refuse(Region region)
    {
        Trace* trace = region.Head.Trace;
        // A loop of native code calls no handler while it goes around.
        if (trace->IsLoop || !HasNative(trace) || !region.HasLoop)
            return;
        trace->Refused = true;
        Count(trace, _options.NativeHotThreshold);
    }

    /// <summary>Has the executions of a trace that has native code counted.</summary>
    private static void Count(Trace* trace, int coolness)
    {
        trace->Coolness = coolness;
        if (!IsNative(trace))
            Trace.First(trace)->Handler = (Handler)CountedHandler;
    }

    private void Put(Trace* trace, Region region, NativeCode code)
    {
        trace->Native = code.Entry;
        trace->IsLoop = code.IsLoop;
        _nativeCompiled++;
        _installedCount++;
        LastInstalled = region;
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
            // What the JIT has compiled has none.
            if (!trace->Stale && HasNative(trace))
                Watch(trace);
            Retire(trace);
        }
        _nativeTraces.Clear();
        _space!.Clear();
    }

    /// <summary>Compiles, on any thread, but for what is there.</summary>
    private void Compile(Region region)
    {
        long start = Stopwatch.GetTimestamp();
        int length = region.Nodes.Sum(node => node.Length);
        try
        {
            if (_options.Falsify is { } falsify)
            {
                foreach (RegionNode node in region.Nodes)
                    falsify(node.Bytes, region.Nodes.Length);
            }
            if (!region.IsNative)
            {
                region.Code = IlRegionCompiler.Compile(region, _options.EmittedPerHandler);
                Interlocked.Add(ref _instructions, length);
            }
            else if (NativeRegionCompiler.Compile(region, _space!, _options) is { } code)
            {
                region.Native = code;
                Interlocked.Add(ref _nativeInstructions, length);
            }
            else
            {
                region.NotWorthwhile = true;
            }
        }
        catch (Exception exception) when (CountFailure(exception))
        {
            // Of any kind: whatever is wrong with a compiler, the trace goes on as it is, and nothing but time is lost. On the compiler's thread, an
            // exception would end the process.
        }
        Interlocked.Add(ref (region.IsNative ? ref _nativeTicks : ref _ticks), Stopwatch.GetElapsedTime(start).Ticks);
    }

    private void Install(Region region)
    {
        if (!region.IsCurrent(_cache))
            Discard(region);
        else if (region.NotWorthwhile)
            Refuse(region);
        else if (_installedCount >= _options.MostRegions)
            return;
        else if (region.Native is { } native)
            Install(region, native);
        else if (region.Code is { } code)
            Install(region, code);
    }

    private void Install(Region region, NativeCode code)
    {
        Trace* head = region.Head.Trace;
        // Without native code of its own, it is counted anew.
        if (!HasNative(head))
            return;
        if (!_space!.TryAdd(code))
        {
            // The traces of a region have to be found worth it again.
            ForgetNative();
            return;
        }
        head->NativePath = (ushort)region.Head.LongestPath;
        head->NativeGain = 0;
        Trace.First(head)->Handler = NativeExecution.Handler;
        Put(head, region, code);
    }

    private void Install(Region region, CompiledCode code)
    {
        if (_size + code.Size > _options.CodeLimit)
            Discard();
        Trace* head = region.Head.Trace;
        Trace.First(head)->Handler = code.Entry;
        Retire(head);
        _installed.Add(((nint)head, code));
        _size += code.Size;
        _installedCount++;
        LastInstalled = region;
    }

    /// <summary>Gives up a region of which something has changed. Its head may be as it was, and hot again soon.</summary>
    private void Discard(Region region)
    {
        _discarded++;
        Trace* head = region.Head.Trace;
        if (region.Generation != _cache.Generation || head->Stale)
            return;
        if (HasNative(head))
            Count(head, region.IsNative ? RegionThreshold : _options.NativeHotThreshold);
        else
            Watch(head);
    }

    private static bool IsNative(Trace* trace) => (nint)Trace.First(trace)->Handler == (nint)NativeExecution.Handler;

    private static bool IsCounted(Trace* trace) => (nint)Trace.First(trace)->Handler == CountedHandler;

    /// <summary>Whether there is native code of a trace, even if the interpreter does not enter it.</summary>
    private bool HasNative(Trace* trace) => _space != null && trace->Native != _space.Interpret;

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
