using Vmm.Hypervisor.Tracing;

namespace Vmm.Machine;

/// <summary>One trace of one machine. Its records can be read after the machine's end.</summary>
internal sealed class MachineExitTrace(ExitTraceRing ring, Action available, Action<MachineExitTrace> end) : IExitTrace
{
    private ulong _told;
    private bool _ended;

    /// <summary>Where the records are.</summary>
    public ExitTraceRing Ring => ring;

    /// <inheritdoc/>
    public ulong LostAtEnd => ring.LostAtEnd;

    /// <inheritdoc/>
    public int Read(Span<ExitTraceRecord> destination) => ring.Read(destination);

    /// <summary>Tells the reader that there are records it has not been told of. On the machine's thread.</summary>
    public void Tell()
    {
        if (ring.Written == _told)
            return;
        _told = ring.Written;
        available();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!Interlocked.Exchange(ref _ended, true))
            end(this);
    }
}
