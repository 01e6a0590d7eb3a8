using System.Numerics;

namespace Vmm.Hypervisor.Tracing;

/// <summary>
/// Records on their way from the thread that runs the machine to one reader on another. The writer never waits: what finds no room is
/// lost, and the next record that does says how much that was.
/// </summary>
public sealed class ExitTraceRing
{
    private readonly ExitTraceRecord[] _records;
    private readonly ulong _mask;
    private ulong _written;
    private ulong _read;
    private ulong _lost;

    /// <summary>Creates an empty ring.</summary>
    /// <param name="filter">What comes in.</param>
    /// <param name="capacity">Records that it holds; rounded up to a power of two.</param>
    public ExitTraceRing(ExitTraceFilter filter, int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        Filter = filter;
        _records = new ExitTraceRecord[BitOperations.RoundUpToPowerOf2((uint)capacity)];
        _mask = (ulong)_records.Length - 1;
    }

    /// <summary>What comes in.</summary>
    public ExitTraceFilter Filter { get; }

    /// <summary>How many records were written so far. For the writer.</summary>
    public ulong Written => _written;

    /// <summary>
    /// Records that were lost and that no record has told of yet. To be read when nothing is written any more: at the end of a trace.
    /// </summary>
    public ulong LostAtEnd => Volatile.Read(ref _lost);

    /// <summary>Takes the oldest records out. For the reader.</summary>
    /// <returns>How many there were.</returns>
    public int Read(Span<ExitTraceRecord> destination)
    {
        ulong available = Volatile.Read(ref _written) - _read;
        int count = (int)Math.Min(available, (ulong)destination.Length);
        for (int i = 0; i < count; i++)
            destination[i] = _records[(_read + (ulong)i) & _mask];
        Volatile.Write(ref _read, _read + (ulong)count);
        return count;
    }

    /// <summary>Puts a record in, if the filter lets it. For the writer.</summary>
    internal void Write(in ExitTraceRecord record)
    {
        if (!Filter.Matches(record))
            return;
        if (_written - Volatile.Read(ref _read) > _mask)
        {
            Volatile.Write(ref _lost, _lost + 1);
            return;
        }
        _records[_written & _mask] = record with { LostBefore = _lost };
        Volatile.Write(ref _lost, 0);
        Volatile.Write(ref _written, _written + 1);
    }
}
