using Vmm.Devices.Bus;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Machine;

/// <summary>RAM for devices: their writes are told to the processors, which may have decoded code from there.</summary>
internal sealed class GuestMemory(PhysicalMemory memory) : IGuestMemory
{
    /// <summary>The processors. Null only while the machine is being built, when nothing writes.</summary>
    public ProcessorPackage? Package { get; set; }

    public bool TryRead(ulong address, Span<byte> destination) => memory.TryRead(address, destination);

    public bool TryWrite(ulong address, ReadOnlySpan<byte> source) =>
        Package is { } package ? package.WriteMemory(address, source) : memory.TryWrite(address, source);

    // A length beyond all RAM is refused before it is walked.
    public bool IsRam(ulong address, ulong length) =>
        length <= memory.Size && address + length >= address && memory.IsRam(address, length);
}

/// <summary>Guest memory for the machine's own interface, by physical or by virtual address.</summary>
internal static class MachineMemory
{
    /// <summary>Finds the physical ranges behind a range of addresses. False where any byte is not mapped RAM.</summary>
    /// <param name="memory">RAM.</param>
    /// <param name="translator">The vCPU whose page tables translate, or null for physical addresses.</param>
    /// <param name="address">The first address.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="parts">Physical addresses and lengths, none crossing a page.</param>
    public static bool TryFind(PhysicalMemory memory, Vcpu? translator, ulong address, int length, out List<(ulong Physical, int Length)> parts)
    {
        parts = [];
        while (length > 0)
        {
            int step = (int)Math.Min((ulong)length, PhysicalMemory.PageSize - (address & (PhysicalMemory.PageSize - 1)));
            ulong physical = address;
            if (translator != null && !translator.TryTranslate(address, out physical))
                return false;
            if (!memory.IsRam(physical, (ulong)step))
                return false;
            parts.Add((physical, step));
            address += (ulong)step;
            length -= step;
        }
        return true;
    }

    /// <summary>Copies memory out. False where any byte is not mapped RAM.</summary>
    public static bool TryRead(PhysicalMemory memory, Vcpu? translator, ulong address, Span<byte> destination)
    {
        if (!TryFind(memory, translator, address, destination.Length, out var parts))
            return false;
        foreach ((ulong physical, int length) in parts)
        {
            memory.TryRead(physical, destination[..length]);
            destination = destination[length..];
        }
        return true;
    }
}
