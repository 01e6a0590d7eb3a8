using Vmm.Processor.Memory;

namespace Vmm.Processor.Vmx.Checks;

/// <summary>RAM as the hardware's own VM entry reads it.</summary>
internal sealed unsafe class EntryMemory(PhysicalMemory memory) : IEntryMemory
{
    public uint Read32(ulong address)
    {
        uint value;
        return memory.TryRead(address, new Span<byte>(&value, sizeof(uint))) ? value : uint.MaxValue;
    }

    public ulong Read64(ulong address)
    {
        ulong value;
        return memory.TryRead(address, new Span<byte>(&value, sizeof(ulong))) ? value : ulong.MaxValue;
    }
}
