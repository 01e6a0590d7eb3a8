using Vmm.Devices.Bus;

namespace Vmm.Devices.Virtio;

/// <summary>Reads or writes one side of a chain of buffers as if it were contiguous.</summary>
internal struct BufferCursor
{
    private readonly IGuestMemory _memory;
    private readonly List<VirtioBuffer> _buffers;
    private readonly bool _writable;
    private int _index;
    private uint _offset;

    internal BufferCursor(IGuestMemory memory, List<VirtioBuffer> buffers, bool writable)
    {
        _memory = memory;
        _buffers = buffers;
        _writable = writable;
        foreach (VirtioBuffer buffer in buffers)
        {
            if (buffer.IsWritable == writable)
                Remaining += buffer.Length;
        }
    }

    /// <summary>Bytes left.</summary>
    internal ulong Remaining { get; private set; }

    private bool Next(ulong most, out ulong address, out int count)
    {
        while (_index < _buffers.Count)
        {
            VirtioBuffer buffer = _buffers[_index];
            if (buffer.IsWritable == _writable && _offset < buffer.Length)
            {
                address = buffer.Address + _offset;
                count = (int)Math.Min(Math.Min(buffer.Length - _offset, most), int.MaxValue);
                _offset += (uint)count;
                Remaining -= (ulong)count;
                return true;
            }
            _index++;
            _offset = 0;
        }
        address = 0;
        count = 0;
        return false;
    }

    /// <summary>Fills a span from the chain. False where less is left, or it is not RAM.</summary>
    internal bool TryRead(Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            if (!Next((ulong)destination.Length, out ulong address, out int count) || !_memory.TryRead(address, destination[..count]))
                return false;
            destination = destination[count..];
        }
        return true;
    }

    /// <summary>Writes a span to the chain. False where there is less room, or it is not RAM.</summary>
    internal bool TryWrite(ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            if (!Next((ulong)source.Length, out ulong address, out int count) || !_memory.TryWrite(address, source[..count]))
                return false;
            source = source[count..];
        }
        return true;
    }

    /// <summary>Passes over bytes. False where less is left.</summary>
    internal bool TrySkip(ulong length)
    {
        while (length > 0)
        {
            if (!Next(length, out _, out int count))
                return false;
            length -= (ulong)count;
        }
        return true;
    }
}
