using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Segmentation;

/// <summary>The stack pointer and its width.</summary>
internal static unsafe class StackPointer
{
    /// <summary>The bits of RSP that address the current stack.</summary>
    public static ulong Mask(CpuState* s) => s->CodeSize == 64 ? ulong.MaxValue : Mask(s->Ss.Rights);

    /// <summary>The bits of ESP that address a stack outside 64-bit mode.</summary>
    public static ulong Mask(uint rights) => (rights & SegmentRights.Big) != 0 ? 0xFFFF_FFFF : 0xFFFFUL;

    /// <summary>Sets the bits of RSP that the mask covers; a 32-bit write clears the upper half as every 32-bit write does.</summary>
    public static void Set(CpuState* s, ulong value, ulong mask) =>
        s->Gpr[Gpr.Rsp] = mask == 0xFFFF ? (s->Gpr[Gpr.Rsp] & ~0xFFFFUL) | (value & 0xFFFF) : value & mask;

    /// <summary>
    /// Reads from the current stack at a distance from its top with the current rights. Outside the segment or not canonical is #SS(0).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Read(LogicalProcessor cpu, ulong distance, int size, out ulong value)
    {
        CpuState* s = cpu.State;
        value = 0;
        ulong offset = (s->Gpr[Gpr.Rsp] + distance) & Mask(s);
        ulong linear;
        if (s->CodeSize == 64)
        {
            linear = offset;
            if (!Canonical.Is(s, linear) || !Canonical.Is(s, linear + (ulong)size - 1))
                return Fault.Record(s, Vector.Ss, 0);
        }
        else
        {
            if (!SegmentCheck.Allows(&s->Ss, offset, (uint)size, write: false))
                return Fault.Record(s, Vector.Ss, 0);
            linear = (uint)(s->Ss.Base + offset);
        }
        ulong read = 0;
        bool done = cpu.Mmu.Read(linear, (byte*)&read, size);
        value = read;
        return done;
    }
}

/// <summary>Several values of one size that go onto a stack together, all or none.</summary>
/// <param name="size">Bytes per value: 2, 4 or 8.</param>
internal unsafe struct StackFrame(int size)
{
    // The most that one transfer pushes: a call gate's 31 parameters, SS, ESP, CS, EIP.
    private const int Capacity = 36;

    private fixed ulong _values[Capacity];
    private readonly int _size = size;
    private int _count;

    /// <summary>Adds a value below the ones before.</summary>
    public void Push(ulong value) => _values[_count++] = value;

    /// <summary>
    /// Writes the frame below <paramref name="top"/> with the rights of a privilege level. A stack that is too small raises #SS
    /// with <paramref name="error"/>; nothing is written unless all of it can be.
    /// </summary>
    /// <param name="segment">The stack segment; null for a 64-bit stack.</param>
    /// <param name="top">The stack pointer.</param>
    /// <param name="mask">The bits of it that count.</param>
    /// <param name="bottom">The stack pointer after the frame.</param>
    public bool Write(LogicalProcessor cpu, SegmentState* segment, ulong top, ulong mask, int cpl, uint error, out ulong bottom)
    {
        CpuState* s = cpu.State;
        ulong total = (ulong)(_count * _size);
        top &= mask;
        bottom = (top - total) & mask;
        if (bottom + (total - 1) < bottom || bottom + (total - 1) > mask)
            return WriteWrapping(cpu, segment, top, mask, cpl, error);
        if (!Linear(s, segment, bottom, (uint)total, error, out ulong linear))
            return false;
        byte* bytes = stackalloc byte[Capacity * 8];
        byte* at = bytes;
        for (int k = _count - 1; k >= 0; k--, at += _size)
            Store(at, _values[k]);
        return cpu.Mmu.WriteAs(cpl, linear, bytes, (int)total);
    }

    // A 16-bit stack pointer may wrap inside the frame, between values or within one.
    private bool WriteWrapping(LogicalProcessor cpu, SegmentState* segment, ulong top, ulong mask, int cpl, uint error)
    {
        CpuState* s = cpu.State;
        for (int pass = 0; pass < 2; pass++)
        {
            ulong pointer = top;
            for (int k = 0; k < _count; k++)
            {
                pointer = (pointer - (ulong)_size) & mask;
                if (!Linear(s, segment, pointer, (uint)_size, error, out ulong linear))
                    return false;
                ulong value = _values[k];
                if (pass == 0 ? !cpu.Mmu.ProbeWriteAs(cpl, linear, _size) : !cpu.Mmu.WriteAs(cpl, linear, (byte*)&value, _size))
                    return false;
            }
        }
        return true;
    }

    private readonly void Store(byte* at, ulong value)
    {
        if (_size == 8)
            Unsafe.WriteUnaligned(at, value);
        else if (_size == 4)
            Unsafe.WriteUnaligned(at, (uint)value);
        else
            Unsafe.WriteUnaligned(at, (ushort)value);
    }

    private static bool Linear(CpuState* s, SegmentState* segment, ulong offset, uint size, uint error, out ulong linear)
    {
        if (segment == null)
        {
            linear = offset;
            return (Canonical.Is(s, offset) && Canonical.Is(s, offset + size - 1)) || Fault.Record(s, Vector.Ss, error);
        }
        linear = (uint)(segment->Base + offset);
        return SegmentCheck.Allows(segment, offset, size, write: true) || Fault.Record(s, Vector.Ss, error);
    }
}
