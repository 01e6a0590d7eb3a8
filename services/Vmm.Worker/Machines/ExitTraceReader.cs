using System.Threading.Channels;
using Vmm.Hypervisor.Tracing;
using Vmm.Machine;
using Vmm.V1;

namespace Vmm.Worker.Machines;

/// <summary>The reader of one trace: from when it was asked for to the end of its run, or until it is disposed of.</summary>
internal sealed class ExitTraceReader : IDisposable
{
    // Large enough to make the cost of a message small, small enough for what comes to be seen as it comes.
    private const int PartRecords = 256;

    private readonly Channel<bool> _available = Channel.CreateBounded<bool>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite });
    private readonly ExitTraceRecord[] _records = new ExitTraceRecord[PartRecords];
    private readonly MachineRun _run;
    private readonly IExitTrace _trace;
    private readonly Action _released;
    private bool _disposed;

    /// <param name="run">The run that is traced.</param>
    /// <param name="filter">What is of interest.</param>
    /// <param name="capacity">How many records wait at most.</param>
    /// <param name="released">Called once, when the trace has ended.</param>
    public ExitTraceReader(MachineRun run, ExitTraceFilter filter, int capacity, Action released)
    {
        _run = run;
        _released = released;
        _trace = run.Machine.TraceExits(filter, capacity, () => _available.Writer.TryWrite(true));
    }

    /// <summary>The next records; waits where there are none yet. The last part has the run's end.</summary>
    /// <param name="most">How many records there may be.</param>
    /// <param name="cancellation">Ends the wait.</param>
    public async Task<TraceExitsResponse> ReadAsync(long most, CancellationToken cancellation)
    {
        while (true)
        {
            // Looked at first: what was written before the end is read before the end is told.
            bool ended = _run.Ended.IsCompleted;
            int count = _trace.Read(_records.AsSpan(0, (int)Math.Min(most, PartRecords)));
            if (count > 0)
            {
                var part = new TraceExitsResponse();
                for (int i = 0; i < count; i++)
                    part.Records.Add(ExitTraceMessages.From(_records[i]));
                return part;
            }

            if (ended)
                return new TraceExitsResponse { RunEnded = (await _run.Ended).Status.End, Lost = _trace.LostAtEnd };
            Task<bool> available = _available.Reader.ReadAsync(cancellation).AsTask();
            await Task.WhenAny(available, _run.Ended).WaitAsync(cancellation);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, true))
            return;
        _trace.Dispose();
        _released();
    }
}
