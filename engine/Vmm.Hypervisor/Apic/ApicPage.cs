using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;

namespace Vmm.Hypervisor.Apic;

/// <summary>Offsets of the local APIC's registers in its 4 KiB page (SDM volume 3, table 12-1). An x2APIC MSR is 0x800 plus the offset over 16.</summary>
public static class ApicRegister
{
    public const uint Id = 0x020, Version = 0x030, TaskPriority = 0x080, ArbitrationPriority = 0x090, ProcessorPriority = 0x0A0,
        EndOfInterrupt = 0x0B0, RemoteRead = 0x0C0, LogicalDestination = 0x0D0, DestinationFormat = 0x0E0, SpuriousVector = 0x0F0,
        InService = 0x100, TriggerMode = 0x180, Request = 0x200, ErrorStatus = 0x280, CommandLow = 0x300, CommandHigh = 0x310,
        LvtTimer = 0x320, LvtThermal = 0x330, LvtPerformance = 0x340, LvtLint0 = 0x350, LvtLint1 = 0x360, LvtError = 0x370,
        InitialCount = 0x380, CurrentCount = 0x390, DivideConfiguration = 0x3E0, SelfIpi = 0x3F0;
}

/// <summary>
/// The registers of one local APIC in the layout of its page, which is also the layout of the virtual-APIC page
/// (SDM volume 3, section 30.1): APIC virtualization by the processor works on these very bytes.
/// </summary>
public sealed unsafe class ApicPage : IDisposable
{
    private readonly PhysicalMemory? _memory;
    private byte* _page;

    /// <summary>Creates a page of zeroes that is nowhere in host-physical memory.</summary>
    public ApicPage()
    {
        _page = (byte*)NativeMemory.AlignedAlloc(4096, 4096);
        Clear();
    }

    /// <summary>Creates a page of zeroes in private memory, where the processor can reach it and no guest.</summary>
    public ApicPage(PhysicalMemory memory)
    {
        _memory = memory;
        HostPhysical = memory.AllocatePrivatePage();
        _page = memory.HostPage(HostPhysical);
    }

    /// <summary>The host-physical address of the page, for a virtual-APIC address; 0 where it has none.</summary>
    public ulong HostPhysical { get; }

    /// <summary>Where the page is in the host's memory.</summary>
    public byte* Address => _page;

    /// <summary>A 32-bit register, by its offset.</summary>
    public uint this[uint offset]
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => *(uint*)(_page + (offset & 0xFF0));
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        set => *(uint*)(_page + (offset & 0xFF0)) = value;
    }

    /// <summary>Whether a vector's bit is set in one of the three 256-bit registers.</summary>
    public bool Test(uint register, int vector) => (this[Word(register, vector)] >> (vector & 31) & 1) != 0;

    /// <summary>Sets a vector's bit.</summary>
    public void Set(uint register, int vector) => this[Word(register, vector)] |= 1u << (vector & 31);

    /// <summary>Clears a vector's bit.</summary>
    public void Reset(uint register, int vector) => this[Word(register, vector)] &= ~(1u << (vector & 31));

    /// <summary>The highest vector that is set, or -1.</summary>
    public int Highest(uint register)
    {
        for (int word = 7; word >= 0; word--)
        {
            uint bits = this[register + (uint)word * 16];
            if (bits != 0)
                return word * 32 + BitOperations.Log2(bits);
        }
        return -1;
    }

    /// <summary>Zeroes every register.</summary>
    public void Clear() => NativeMemory.Clear(_page, 4096);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_memory is not null)
            _memory.FreePrivatePage(HostPhysical);
        else
            NativeMemory.AlignedFree(_page);
        _page = null;
    }

    private static uint Word(uint register, int vector) => register + (uint)(vector >> 5) * 16;
}
