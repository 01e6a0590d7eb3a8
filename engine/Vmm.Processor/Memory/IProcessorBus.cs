namespace Vmm.Processor.Memory;

/// <summary>
/// What lies outside the processor package apart from RAM: I/O ports and memory-mapped registers.
/// Every call comes on the thread that runs the virtual machine, and never concurrently with another.
/// </summary>
public interface IProcessorBus
{
    /// <summary>Reads <paramref name="size"/> bytes (1, 2 or 4) from an I/O port. An unclaimed port reads as all ones.</summary>
    uint ReadPort(ushort port, int size);

    /// <summary>Writes <paramref name="size"/> bytes (1, 2 or 4) to an I/O port. A write to an unclaimed port is dropped.</summary>
    void WritePort(ushort port, int size, uint value);

    /// <summary>Reads <paramref name="size"/> bytes (1, 2, 4 or 8) at a physical address that is not RAM. Unclaimed addresses read as all ones.</summary>
    ulong ReadMemory(ulong address, int size);

    /// <summary>Writes <paramref name="size"/> bytes (1, 2, 4 or 8) at a physical address that is not RAM. A write to an unclaimed address is dropped.</summary>
    void WriteMemory(ulong address, int size, ulong value);
}
