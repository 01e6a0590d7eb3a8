namespace Vmm.Machine;

/// <summary>Gathers what the guest sends, byte by byte, so that listeners hear of it in pieces worth hearing of.</summary>
internal sealed class ConsoleBuffer(ConsoleOutput output)
{
    private readonly byte[] _bytes = new byte[1024];
    private int _count;

    public void Write(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            int step = Math.Min(bytes.Length, _bytes.Length - _count);
            bytes[..step].CopyTo(_bytes.AsSpan(_count));
            bytes = bytes[step..];
            _count += step;
            if (_count == _bytes.Length)
                Flush();
        }
    }

    public void Flush()
    {
        if (_count == 0)
            return;
        int count = _count;
        _count = 0;
        output(_bytes.AsSpan(0, count));
    }
}
