namespace Vmm.Devices.Bus;

/// <summary>
/// A device on the board. Its members are called on the one thread that runs the machine, so it needs no locks; nothing that a
/// guest does to it may throw.
/// </summary>
public interface IDevice
{
    /// <summary>Goes back to the state after power-on, as the board's reset line does.</summary>
    void Reset();
}

/// <summary>A device with I/O ports.</summary>
public interface IPortDevice
{
    /// <summary>Reads from a port that the device claimed. The access lies wholly inside the claim and is no wider than the claim allows.</summary>
    /// <param name="port">The absolute port number.</param>
    /// <param name="size">1, 2 or 4 bytes.</param>
    uint ReadPort(ushort port, int size);

    /// <summary>Writes to a port that the device claimed; bits above <paramref name="size"/> bytes are zero.</summary>
    /// <param name="port">The absolute port number.</param>
    /// <param name="size">1, 2 or 4 bytes.</param>
    /// <param name="value">The bytes, little-endian.</param>
    void WritePort(ushort port, int size, uint value);
}

/// <summary>A device with memory-mapped registers.</summary>
public interface IMemoryDevice
{
    /// <summary>Reads registers. The access lies wholly inside the window and is no wider than the window allows.</summary>
    /// <param name="offset">Bytes from the start of the window.</param>
    /// <param name="size">1, 2, 4 or 8 bytes.</param>
    ulong ReadMemory(ulong offset, int size);

    /// <summary>Writes registers; bits above <paramref name="size"/> bytes are zero.</summary>
    /// <param name="offset">Bytes from the start of the window.</param>
    /// <param name="size">1, 2, 4 or 8 bytes.</param>
    /// <param name="value">The bytes, little-endian.</param>
    void WriteMemory(ulong offset, int size, ulong value);
}

/// <summary>
/// Guest RAM as devices that master the bus see it, by guest-physical address. The machine's implementation tells the
/// processor of every write, so that code which a device overwrites is decoded again.
/// </summary>
public interface IGuestMemory
{
    /// <summary>Copies RAM out. Returns false where any byte is not RAM; what was copied until then is meaningless.</summary>
    bool TryRead(ulong address, Span<byte> destination);

    /// <summary>Copies into RAM. Returns false where any byte is not RAM; the part before it may have been written.</summary>
    bool TryWrite(ulong address, ReadOnlySpan<byte> source);

    /// <summary>Whether every byte of the range is RAM. A range that wraps around the address space is not.</summary>
    bool IsRam(ulong address, ulong length);
}

/// <summary>One source's end of an interrupt wire. The wire is asserted while any of its sources asserts it.</summary>
public interface IInterruptLine
{
    /// <summary>Asserts or releases this source. Setting the level that it already has does nothing.</summary>
    void Set(bool asserted);
}

/// <summary>Extensions of <see cref="IInterruptLine"/>.</summary>
public static class InterruptLineExtensions
{
    /// <summary>Makes one rising edge: releases the source and asserts it again, and leaves it asserted.</summary>
    public static void Edge(this IInterruptLine line)
    {
        line.Set(false);
        line.Set(true);
    }
}
