using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>Types of system descriptors (SDM volume 3, table 3-2).</summary>
internal static class SystemType
{
    public const int Tss16 = 1, Ldt = 2, BusyTss16 = 3, CallGate16 = 4, TaskGate = 5, InterruptGate16 = 6, TrapGate16 = 7,
        Tss32 = 9, BusyTss32 = 11, CallGate32 = 12, InterruptGate32 = 14, TrapGate32 = 15;
}

/// <summary>Selectors (SDM volume 3, section 3.4.2).</summary>
internal static class Selector
{
    /// <summary>Whether the selector is null: index 0 of the GDT, whatever its RPL.</summary>
    public static bool IsNull(ushort selector) => (selector & 0xFFFC) == 0;

    /// <summary>The requested privilege level.</summary>
    public static int Rpl(ushort selector) => selector & 3;

    /// <summary>Whether the selector names the LDT.</summary>
    public static bool IsLocal(ushort selector) => (selector & 4) != 0;

    /// <summary>The selector as an error code reports it.</summary>
    public static uint Error(ushort selector, uint external) => (selector & 0xFFFCu) | external;
}

/// <summary>
/// A segment, system or gate descriptor (SDM volume 3, sections 3.4.5, 3.5 and 5.8.3). <paramref name="high"/> holds the upper
/// half of a 16-byte descriptor of IA-32e mode, otherwise 0.
/// </summary>
/// <param name="low">The first 8 bytes.</param>
/// <param name="high">The second 8 bytes.</param>
/// <param name="address">Its linear address.</param>
internal readonly struct Descriptor(ulong low, ulong high, ulong address)
{
    public readonly ulong Low = low;
    public readonly ulong High = high;
    public readonly ulong Address = address;

    public ulong Base => (Low >> 16 & 0xFF_FFFF) | (Low >> 56 << 24) | (High << 32);

    /// <summary>The limit in bytes, granularity applied.</summary>
    public uint Limit
    {
        get
        {
            uint raw = (uint)(Low & 0xFFFF) | ((uint)(Low >> 32) & 0xF_0000);
            return (Rights & SegmentRights.Granular) != 0 ? (raw << 12) | 0xFFF : raw;
        }
    }

    /// <summary>The access rights as the VMCS has them.</summary>
    public uint Rights => (uint)(Low >> 40) & 0xF0FF;

    public int Type => (int)(Low >> 40) & 15;
    public int Dpl => (int)(Low >> 45) & 3;
    public bool IsPresent => (Low >> 47 & 1) != 0;
    public bool IsSystem => (Low >> 44 & 1) == 0;
    public bool IsCode => !IsSystem && (Type & 8) != 0;
    public bool IsData => !IsSystem && (Type & 8) == 0;
    public bool IsConforming => IsCode && (Type & 4) != 0;
    public bool IsReadable => IsData || (IsCode && (Type & 2) != 0);
    public bool IsWritable => IsData && (Type & 2) != 0;
    public bool IsLong => (Low >> 53 & 1) != 0;
    public bool IsBig => (Low >> 54 & 1) != 0;

    public ushort GateSelector => (ushort)(Low >> 16);
    public ulong GateOffset => (Low & 0xFFFF) | (Low >> 48 << 16) | (High << 32);
    public int GateParameters => (int)(Low >> 32) & 31;
    public int GateStackTable => (int)(Low >> 32) & 7;

    /// <summary>The same with other type bits.</summary>
    public Descriptor WithType(int type) => new((Low & ~(15UL << 40)) | ((ulong)type << 40), High, Address);
}

/// <summary>The global and local descriptor tables.</summary>
internal static unsafe class DescriptorTable
{
    /// <summary>How a look at a descriptor ended.</summary>
    internal enum Lookup
    {
        Found,
        /// <summary>The selector is outside its table.</summary>
        OutOfRange,
        /// <summary>The access itself faulted; the fault is recorded.</summary>
        Fault,
    }

    /// <summary>
    /// Reads the descriptor of a selector (not null). Outside the table, and where a 16-byte descriptor is malformed, raises
    /// <paramref name="vector"/> with the selector as its error code.
    /// </summary>
    public static bool Fetch(LogicalProcessor cpu, ushort selector, out Descriptor descriptor, uint vector, uint external)
    {
        Lookup lookup = TryFetch(cpu, selector, out descriptor);
        if (lookup == Lookup.OutOfRange)
            Fault.Record(cpu.State, vector, Selector.Error(selector, external));
        return lookup == Lookup.Found;
    }

    /// <summary>Reads the descriptor of a selector (not null).</summary>
    public static Lookup TryFetch(LogicalProcessor cpu, ushort selector, out Descriptor descriptor)
    {
        CpuState* s = cpu.State;
        descriptor = default;
        ulong tableBase;
        uint limit;
        if (Selector.IsLocal(selector))
        {
            if (s->Ldtr.Unusable)
                return Lookup.OutOfRange;
            tableBase = s->Ldtr.Base;
            limit = s->Ldtr.Limit;
        }
        else
        {
            tableBase = s->GdtBase;
            limit = s->GdtLimit;
        }
        uint offset = selector & 0xFFF8u;
        if (offset + 7 > limit)
            return Lookup.OutOfRange;
        ulong address = Wrap(s, tableBase + offset);
        ulong low;
        if (!cpu.Mmu.ReadSystem(address, (byte*)&low, 8))
            return Lookup.Fault;
        descriptor = new Descriptor(low, 0, address);
        // In IA-32e mode system descriptors have 16 bytes, but a task gate or 16-bit type is an error to the caller anyway.
        if (!descriptor.IsSystem || (s->Efer & Efer.Lma) == 0)
            return Lookup.Found;
        if (descriptor.Type is not (SystemType.Ldt or SystemType.Tss32 or SystemType.BusyTss32 or SystemType.CallGate32))
            return Lookup.Found;
        if (offset + 15 > limit)
            return Lookup.OutOfRange;
        ulong high;
        if (!cpu.Mmu.ReadSystem(address + 8, (byte*)&high, 8))
            return Lookup.Fault;
        if ((high >> 40 & 31) != 0)
            return Lookup.OutOfRange;
        descriptor = new Descriptor(low, (uint)high, address);
        return Lookup.Found;
    }

    /// <summary>Sets the accessed bit of a code or data descriptor in memory, where it is clear.</summary>
    public static bool MarkAccessed(LogicalProcessor cpu, ref Descriptor descriptor) =>
        (descriptor.Type & 1) != 0 || SetType(cpu, ref descriptor, descriptor.Type | 1);

    /// <summary>Changes the type bits of a descriptor in memory: accessed and busy bits.</summary>
    public static bool SetType(LogicalProcessor cpu, ref Descriptor descriptor, int type)
    {
        Descriptor changed = descriptor.WithType(type);
        byte rights = (byte)changed.Rights;
        if (!cpu.Mmu.WriteSystem(descriptor.Address + 5, &rights, 1))
            return false;
        descriptor = changed;
        return true;
    }

    /// <summary>Linear addresses of system structures have 32 bits outside IA-32e mode.</summary>
    public static ulong Wrap(CpuState* s, ulong linear) => (s->Efer & Efer.Lma) != 0 ? linear : (uint)linear;
}
