using System.Buffers.Binary;
using Vmm.Devices.Bus;

namespace Vmm.Devices.Platform;

/// <summary>The firmware's chip, whose last byte is the last one below 4 GiB: where processors begin after RESET and INIT. Writes do nothing.</summary>
public sealed class FirmwareRom : IMemoryDevice
{
    private readonly byte[] _content;

    /// <summary>Puts the chip on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="content">What is in it: a multiple of 4096 bytes, which ends at 4 GiB.</param>
    /// <exception cref="ArgumentException">The length is zero or no multiple of a page.</exception>
    public FirmwareRom(SystemBus bus, ReadOnlySpan<byte> content)
    {
        ArgumentNullException.ThrowIfNull(bus);
        if (content.IsEmpty || content.Length % 4096 != 0)
            throw new ArgumentException($"A firmware ROM is a multiple of 4096 bytes, not {content.Length}.", nameof(content));
        _content = content.ToArray();
        bus.AddMemory(this, (1UL << 32) - (ulong)_content.Length, (ulong)_content.Length, 8);
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        ReadOnlySpan<byte> at = _content.AsSpan((int)offset);
        return size switch
        {
            1 => at[0],
            2 => BinaryPrimitives.ReadUInt16LittleEndian(at),
            4 => BinaryPrimitives.ReadUInt32LittleEndian(at),
            _ => BinaryPrimitives.ReadUInt64LittleEndian(at),
        };
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
    }
}
