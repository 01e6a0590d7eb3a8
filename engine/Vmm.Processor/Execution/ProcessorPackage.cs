using Vmm.Processor.Memory;

namespace Vmm.Processor.Execution;

/// <summary>
/// The processors of one virtual machine with what they share: memory and the cache of decoded code. All of them run on one
/// host thread at a time, in turn, so nothing in here is locked.
/// </summary>
public sealed unsafe class ProcessorPackage : IDisposable
{
    private readonly List<LogicalProcessor> _processors = [];
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

    /// <summary>The processors, in the order of their creation.</summary>
    public IReadOnlyList<LogicalProcessor> Processors => _processors;

    /// <summary>Adds a processor, with its registers as after power-up.</summary>
    public LogicalProcessor CreateProcessor()
    {
        var processor = new LogicalProcessor(this);
        _processors.Add(processor);
        return processor;
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

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        foreach (LogicalProcessor processor in _processors)
            processor.Dispose();
        Code.Dispose();
    }
}
