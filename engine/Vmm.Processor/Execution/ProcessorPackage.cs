using Vmm.Processor.Memory;
using Vmm.Processor.Translation;

namespace Vmm.Processor.Execution;

/// <summary>
/// The processors of one virtual machine with what they share: memory and the cache of decoded code. All of them run on one
/// host thread at a time, in turn, so nothing in here is locked.
/// </summary>
public sealed unsafe class ProcessorPackage : IDisposable
{
    // Replaced, never changed: other threads look at it.
    private volatile LogicalProcessor[] _processors = [];
    private bool _disposed;

    /// <summary>Creates a package without processors.</summary>
    public ProcessorPackage(ProcessorEnvironment environment)
    {
        Environment = environment;
        Code = new TraceCache(environment.Memory, this);
    }

    /// <summary>What surrounds the processors.</summary>
    public ProcessorEnvironment Environment { get; }

    /// <summary>Decoded code, shared by all processors.</summary>
    public TraceCache Code { get; }

    /// <summary>What the second tier has done; null where only the interpreter runs. From any thread, and after disposal.</summary>
    public TranslationStatistics? Translation => Code.Translator?.Statistics;

    /// <summary>The code that the second tier has put in place last, for people; null where there is none. Between two instructions.</summary>
    public string? DescribeLastRegion() => Code.Translator?.DescribeLast();

    /// <summary>The processors, in the order of their creation.</summary>
    public IReadOnlyList<LogicalProcessor> Processors => _processors;

    /// <summary>Adds a processor, with its registers as after power-up.</summary>
    public LogicalProcessor CreateProcessor()
    {
        var processor = new LogicalProcessor(this);
        _processors = [.. _processors, processor];
        return processor;
    }

    /// <summary>Makes every processor come back to its dispatcher soon, without leaving the guest. From any thread, until disposal.</summary>
    internal void RequestBoundary()
    {
        foreach (LogicalProcessor processor in _processors)
            Interlocked.CompareExchange(ref processor.State->Attention, LogicalProcessor.AttentionBoundary, 0);
    }

    /// <summary>Writes to RAM from outside the processors (DMA, a debugger): code that was decoded from there is decoded again.</summary>
    /// <returns>False, and nothing is changed, where any byte is not RAM.</returns>
    public bool WriteMemory(ulong physical, ReadOnlySpan<byte> source)
    {
        if (!Environment.Memory.IsRam(physical, (ulong)source.Length))
            return false;
        Environment.Memory.TryWrite(physical, source);
        Code.Written(physical, (ulong)source.Length);
        return true;
    }

    /// <summary>
    /// Begins to log which pages of RAM are written, by whomever: guests at any level, devices, the processors themselves with what they
    /// keep in memory, the hypervisor. With an empty log, also where one was kept already. Between two instructions.
    /// </summary>
    public void StartDirtyLog()
    {
        Environment.Memory.StartDirtyLog();
        ForbidFastWrites();
    }

    /// <summary>Ends the log. No effect where none is kept. Between two instructions.</summary>
    public void StopDirtyLog() => Environment.Memory.StopDirtyLog();

    /// <summary>Takes the pages that were written since the log began or was last taken. Between two instructions.</summary>
    /// <returns>A bitmap: bit n % 64 of word n / 64 is the page with the dense index n of <see cref="PhysicalMemory"/>.</returns>
    /// <exception cref="InvalidOperationException">No log is kept.</exception>
    public ulong[] TakeDirtyPages()
    {
        ulong[] taken = Environment.Memory.TakeDirtyPages();
        ForbidFastWrites();
        return taken;
    }

    // The next write of each page is to be noted.
    private void ForbidFastWrites()
    {
        foreach (LogicalProcessor processor in _processors)
            processor.Mmu.ForbidFastWrites();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        // First the code, and with it the compiler: its thread may be about to ask the processors to come to a boundary.
        Code.Dispose();
        foreach (LogicalProcessor processor in _processors)
            processor.Dispose();
    }
}
