using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Acpi;

/// <summary>
/// Tells the guest of processors that were added while it runs: a register block of this board's own, which the DSDT describes and
/// its methods read, and a general-purpose event. One bit stands for each processor, by its APIC ID:
/// <list type="table">
/// <item><term>0x640, 32 bits, read only</term><description>the processors that are there</description></item>
/// <item><term>0x644, 32 bits, write 1 to clear</term><description>those that were added and that the guest has not taken note of</description></item>
/// </list>
/// </summary>
public sealed class CpuHotplug : IDevice, IPortDevice
{
    /// <summary>The first port.</summary>
    public const ushort Block = 0x640;

    /// <summary>Where the bits of processors that were added are in the block, in bytes.</summary>
    public const int AddedOffset = 4;

    /// <summary>The block's ports.</summary>
    public const int Length = 8;

    /// <summary>The general-purpose event, which the guest's method _E02 serves.</summary>
    public const int Event = 2;

    /// <summary>The most processors: bits of a register.</summary>
    public const int MostCpus = 32;

    private readonly int _mostCpus;
    private readonly Action<int> _raiseEvent;
    private int _cpus;
    private uint _added;

    /// <summary>Puts the block on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="cpus">Processors from the start, with APIC IDs from 0.</param>
    /// <param name="mostCpus">Processors that there may come to be, at most <see cref="MostCpus"/>.</param>
    /// <param name="raiseEvent">Raises a general-purpose event.</param>
    public CpuHotplug(SystemBus bus, int cpus, int mostCpus, Action<int> raiseEvent)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(mostCpus, MostCpus);
        _cpus = cpus;
        _mostCpus = mostCpus;
        _raiseEvent = raiseEvent;
        bus.AddPorts(this, Block, Length, 4);
    }

    /// <summary>Processors that are there: those with lower APIC IDs.</summary>
    public int Cpus => _cpus;

    /// <summary>One more processor is there, with the lowest APIC ID that was free.</summary>
    /// <exception cref="InvalidOperationException">There is no room for it.</exception>
    public void Add()
    {
        if (_cpus >= _mostCpus)
            throw new InvalidOperationException($"The board has room for {_mostCpus} processors.");
        _added |= 1u << _cpus++;
        _raiseEvent(Event);
    }

    /// <summary>Processors stay. Whoever boots next finds them in the tables, and needs not be told.</summary>
    public void Reset() => _added = 0;

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        ulong block = Present | (ulong)_added << AddedOffset * 8;
        return (uint)(block >> (port - Block) * 8);
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value) => _added &= ~(uint)((ulong)value << (port - Block) * 8 >> AddedOffset * 8);

    private uint Present => (uint)((1UL << _cpus) - 1);

    /// <summary>Its state between two accesses.</summary>
    public CpuHotplugState Save() => new() { Cpus = _cpus, Added = _added };

    /// <summary>Takes a saved state; no event is raised by that.</summary>
    /// <exception cref="InvalidStateException">There are fewer processors than from the start, or more than there is room for.</exception>
    public void Load(CpuHotplugState state)
    {
        InvalidStateException.ThrowUnless(state.Cpus >= _cpus && state.Cpus <= _mostCpus, "Board.CpuHotplug.Cpus", "a board like this never has so many.");
        _cpus = state.Cpus;
        _added = state.Added & Present;
    }
}
