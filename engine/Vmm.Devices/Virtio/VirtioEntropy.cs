using Vmm.Devices.Bus;
using Vmm.Hypervisor.Apic;

namespace Vmm.Devices.Virtio;

/// <summary>Fills a span with random bytes. Deterministic under the virtual clock, where it is seeded.</summary>
public delegate void EntropySource(Span<byte> destination);

/// <summary>A virtio entropy device (virtio 1.2, section 5.4).</summary>
public sealed class VirtioEntropy : VirtioDevice
{
    /// <summary>A request gets at most this much, which the specification allows; it bounds what one costs.</summary>
    private const int MostBytes = 64 * 1024;

    private readonly EntropySource _source;
    private readonly byte[] _chunk = new byte[1024];

    /// <summary>Makes the device.</summary>
    public VirtioEntropy(SystemBus bus, IInterruptSink sink, IGuestMemory memory, EntropySource source)
        : base(bus, sink, memory, 4, 0x10_0000, 0, 64)
    {
        _source = source;
    }

    /// <inheritdoc/>
    protected override uint? Process(int queue, List<VirtioBuffer> buffers)
    {
        var cursor = new BufferCursor(Memory, buffers, writable: true);
        uint written = 0;
        while (cursor.Remaining > 0 && written < MostBytes)
        {
            Span<byte> chunk = _chunk.AsSpan(0, (int)Math.Min(cursor.Remaining, (ulong)_chunk.Length));
            _source(chunk);
            if (!cursor.TryWrite(chunk))
                return null;
            written += (uint)chunk.Length;
        }
        return written;
    }
}
