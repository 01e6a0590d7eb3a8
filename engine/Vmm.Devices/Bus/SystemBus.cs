using Vmm.Processor.Memory;

namespace Vmm.Devices.Bus;

/// <summary>
/// Takes the processor's accesses outside RAM to the devices. Ports go through a table of 65,536 entries; memory windows
/// through a sorted array, searched in O(log n) after the window of the last hit.
/// </summary>
/// <remarks>
/// An access that is wider than a device's registers, or that straddles two claims, is split into halves until each part fits;
/// a part that nothing claims reads as ones, as a bus that nobody drives.
/// </remarks>
public sealed class SystemBus : IProcessorBus
{
    private sealed record PortClaim(IPortDevice Device, ushort First, ushort Last, int Width);

    private readonly PortClaim?[] _ports = new PortClaim?[0x1_0000];
    private readonly List<MemoryWindow> _windows = [];
    private MemoryWindow[] _mapped = [];
    private MemoryWindow? _last;

    /// <summary>Gives <paramref name="count"/> ports from <paramref name="first"/> to a device for the life of the bus.</summary>
    /// <param name="device">The device.</param>
    /// <param name="first">The first port.</param>
    /// <param name="count">How many ports.</param>
    /// <param name="width">The widest access that the device takes at once: 1, 2 or 4 bytes. Wider ones are split.</param>
    /// <exception cref="ArgumentException">The range is empty, ends above 0xFFFF or overlaps another device's.</exception>
    public void AddPorts(IPortDevice device, ushort first, int count, int width = 1)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (count <= 0 || first + count > 0x1_0000)
            throw new ArgumentException($"Ports 0x{first:x4} and {count - 1} more are not a range of I/O ports.", nameof(count));
        if (width is not (1 or 2 or 4))
            throw new ArgumentException("A port device is 1, 2 or 4 bytes wide.", nameof(width));
        for (int port = first; port < first + count; port++)
        {
            if (_ports[port] is { } owner)
                throw new ArgumentException($"Port 0x{port:x4} belongs to {owner.Device.GetType().Name} already.", nameof(first));
        }
        Array.Fill(_ports, new PortClaim(device, first, (ushort)(first + count - 1), width), first, count);
    }

    /// <summary>Gives a fixed range of physical addresses to a device for the life of the bus.</summary>
    /// <param name="device">The device.</param>
    /// <param name="address">The first address.</param>
    /// <param name="length">The length in bytes.</param>
    /// <param name="width">The widest access that the device takes at once: 1, 2, 4 or 8 bytes. Wider ones are split.</param>
    /// <exception cref="ArgumentException">The range is empty, wraps, or overlaps another fixed window.</exception>
    public void AddMemory(IMemoryDevice device, ulong address, ulong length, int width)
    {
        CheckWindow(device, address, length, width);
        foreach (MemoryWindow other in _windows)
        {
            if (!other.Movable && other.Overlaps(address, length))
                throw new ArgumentException($"0x{address:x} to 0x{address + length - 1:x} overlaps {other.Device.GetType().Name}.", nameof(address));
        }
        _windows.Add(new MemoryWindow(this, device, length, width, movable: false) { Base = address });
        Rebuild();
    }

    /// <summary>
    /// Makes a window that the guest places, as a PCI base address register does; it claims nothing until
    /// <see cref="MemoryWindow.MapAt"/>.
    /// </summary>
    /// <exception cref="ArgumentException">The length is zero or the width is not 1, 2, 4 or 8.</exception>
    public MemoryWindow AddMovableMemory(IMemoryDevice device, ulong length, int width)
    {
        CheckWindow(device, 0, length, width);
        var window = new MemoryWindow(this, device, length, width, movable: true);
        _windows.Add(window);
        return window;
    }

    private static void CheckWindow(IMemoryDevice device, ulong address, ulong length, int width)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (length == 0 || address + (length - 1) < address)
            throw new ArgumentException($"0x{length:x} bytes from 0x{address:x} are not a range of addresses.", nameof(length));
        if (width is not (1 or 2 or 4 or 8))
            throw new ArgumentException("A memory-mapped device is 1, 2, 4 or 8 bytes wide.", nameof(width));
    }

    /// <summary>
    /// Sorts the windows anew after one has moved. Fixed ones win; a movable one that lies over an earlier window stays hidden
    /// until one of the two moves, because a guest may program overlaps at will.
    /// </summary>
    internal void Rebuild()
    {
        var mapped = new List<MemoryWindow>(_windows.Count);
        foreach (bool movable in (ReadOnlySpan<bool>)[false, true])
        {
            foreach (MemoryWindow window in _windows)
            {
                if (window.Movable != movable || window.Base is not { } at)
                    continue;
                bool free = true;
                foreach (MemoryWindow other in mapped)
                    free &= !other.Overlaps(at, window.Length);
                if (free)
                    mapped.Add(window);
            }
        }
        mapped.Sort((a, b) => a.First.CompareTo(b.First));
        _mapped = [.. mapped];
        _last = null;
    }

    private MemoryWindow? Find(ulong address)
    {
        if (_last is { } last && address - last.First < last.Length)
            return last;
        int low = 0;
        int high = _mapped.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            MemoryWindow window = _mapped[middle];
            if (address < window.First)
                high = middle - 1;
            else if (address - window.First >= window.Length)
                low = middle + 1;
            else
                return _last = window;
        }
        return null;
    }

    /// <summary>Whether a device answers at a physical address.</summary>
    public bool IsClaimed(ulong address) => Find(address) != null;

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        if (_ports[port] is { } claim && size <= claim.Width && port + size - 1 <= claim.Last)
            return claim.Device.ReadPort(port, size) & PortMask(size);
        if (size == 1)
            return 0xFF;
        int half = size / 2;
        return ReadPort(port, half) | ReadPort((ushort)(port + half), half) << (half * 8);
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (_ports[port] is { } claim && size <= claim.Width && port + size - 1 <= claim.Last)
        {
            claim.Device.WritePort(port, size, value & PortMask(size));
        }
        else if (size > 1)
        {
            int half = size / 2;
            WritePort(port, half, value);
            WritePort((ushort)(port + half), half, value >> (half * 8));
        }
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong address, int size)
    {
        MemoryWindow? window = Find(address);
        if (window != null && size <= window.Width && window.Length - (address - window.First) >= (ulong)size)
            return window.Device.ReadMemory(address - window.First, size) & MemoryMask(size);
        if (size == 1)
            return 0xFF;
        int half = size / 2;
        return ReadMemory(address, half) | ReadMemory(address + (ulong)half, half) << (half * 8);
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong address, int size, ulong value)
    {
        MemoryWindow? window = Find(address);
        if (window != null && size <= window.Width && window.Length - (address - window.First) >= (ulong)size)
        {
            window.Device.WriteMemory(address - window.First, size, value & MemoryMask(size));
        }
        else if (size > 1)
        {
            int half = size / 2;
            WriteMemory(address, half, value);
            WriteMemory(address + (ulong)half, half, value >> (half * 8));
        }
    }

    private static uint PortMask(int size) => uint.MaxValue >> (32 - size * 8);

    private static ulong MemoryMask(int size) => ulong.MaxValue >> (64 - size * 8);
}

/// <summary>A range of physical addresses that belongs to a device.</summary>
public sealed class MemoryWindow
{
    private readonly SystemBus _bus;

    internal MemoryWindow(SystemBus bus, IMemoryDevice device, ulong length, int width, bool movable)
    {
        _bus = bus;
        Device = device;
        Length = length;
        Width = width;
        Movable = movable;
    }

    internal IMemoryDevice Device { get; }

    /// <summary>The length in bytes.</summary>
    public ulong Length { get; }

    internal int Width { get; }

    internal bool Movable { get; }

    /// <summary>Where the window is, or null while it claims nothing.</summary>
    public ulong? Base { get; internal set; }

    internal ulong First => Base.GetValueOrDefault();

    internal bool Overlaps(ulong address, ulong length) =>
        Base is { } at && at <= address + (length - 1) && address <= at + (Length - 1);

    /// <summary>Moves the window, or with null removes it. A place where it would wrap around the address space removes it too.</summary>
    public void MapAt(ulong? address)
    {
        if (address is { } at && at + (Length - 1) < at)
            address = null;
        if (Base == address)
            return;
        Base = address;
        _bus.Rebuild();
    }
}
