using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Devices.Serial;
using Vmm.Hypervisor.Apic;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Virtio;

/// <summary>A virtio console with one port (virtio 1.2, section 5.3): queue 0 to the guest, queue 1 from it.</summary>
public sealed class VirtioConsole : VirtioDevice
{
    /// <summary>How many bytes wait for the guest at most.</summary>
    public const int QueueCapacity = 4096;

    private const ushort RingSize = 64;
    private const int ReceiveQueue = 0;

    /// <summary>What one chain of the guest may send; the rest of a longer one is dropped, since no driver sends so much.</summary>
    private const int MostBytes = 1 << 20;

    private readonly ByteSink? _output;
    private readonly byte[] _chunk = new byte[4096];
    private readonly byte[] _input = new byte[QueueCapacity];
    private int _head;
    private int _count;
    private bool _fellShort;

    /// <summary>Makes the device.</summary>
    public VirtioConsole(SystemBus bus, IInterruptSink sink, IGuestMemory memory, ByteSink? output)
        : base(bus, sink, memory, 3, 0x07_8000, 0, RingSize, RingSize)
    {
        _output = output;
    }

    /// <summary>Raised when bytes can be received again after <see cref="Receive"/> fell short.</summary>
    public event Action? InputDrained;

    /// <summary>Queues bytes for the guest.</summary>
    /// <returns>How many were taken.</returns>
    public int Receive(ReadOnlySpan<byte> bytes)
    {
        int count = Math.Min(bytes.Length, QueueCapacity - _count);
        for (int i = 0; i < count; i++)
            _input[(_head + _count + i) % QueueCapacity] = bytes[i];
        _count += count;
        _fellShort |= count < bytes.Length;
        Deliver();
        return count;
    }

    /// <inheritdoc/>
    protected override void OnDriverOk() => Deliver();

    /// <inheritdoc/>
    protected override void OnNotify(int queue)
    {
        if (queue == ReceiveQueue)
            Deliver();
        else
            Drain(queue, int.MaxValue);
    }

    /// <summary>Moves input into the guest's buffers, as far as there are any.</summary>
    private void Deliver()
    {
        while (_count > 0 && Drain(ReceiveQueue, 1) == 1)
        {
        }
        if (_fellShort && _count <= QueueCapacity / 2)
        {
            _fellShort = false;
            InputDrained?.Invoke();
        }
    }

    /// <inheritdoc/>
    protected override uint? Process(int queue, List<VirtioBuffer> buffers) => queue == ReceiveQueue ? Fill(buffers) : Emit(buffers);

    private uint? Fill(List<VirtioBuffer> buffers)
    {
        var cursor = new BufferCursor(Memory, buffers, writable: true);
        uint written = 0;
        while (_count > 0 && cursor.Remaining > 0)
        {
            int count = (int)Math.Min(cursor.Remaining, (ulong)Math.Min(_count, QueueCapacity - _head));
            if (!cursor.TryWrite(_input.AsSpan(_head, count)))
                return null;
            _head = (_head + count) % QueueCapacity;
            _count -= count;
            written += (uint)count;
        }
        return written;
    }

    private uint? Emit(List<VirtioBuffer> buffers)
    {
        var cursor = new BufferCursor(Memory, buffers, writable: false);
        for (int sent = 0; cursor.Remaining > 0 && sent < MostBytes;)
        {
            Span<byte> chunk = _chunk.AsSpan(0, (int)Math.Min(cursor.Remaining, (ulong)_chunk.Length));
            if (!cursor.TryRead(chunk))
                return null;
            _output?.Invoke(chunk);
            sent += chunk.Length;
        }
        return 0;
    }

    /// <inheritdoc/>
    protected override VirtioState SaveDevice(VirtioState state)
    {
        byte[] input = new byte[_count];
        for (int i = 0; i < input.Length; i++)
            input[i] = _input[(_head + i) % QueueCapacity];
        return state with { Input = input, FellShort = _fellShort };
    }

    /// <inheritdoc/>
    protected override void LoadDevice(VirtioState state)
    {
        InvalidStateException.ThrowUnless(state.Input is { Length: <= QueueCapacity }, "Virtio.Input", $"it is missing or longer than {QueueCapacity} bytes.");
        state.Input!.CopyTo(_input, 0);
        _head = 0;
        _count = state.Input.Length;
        _fellShort = state.FellShort;
    }
}
