using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Memory;

/// <summary>How effective addresses become linear ones: a type parameter of every handler that touches memory, so that each mode gets its own code.</summary>
public interface IAddressing
{
    /// <summary>Whether this is 64-bit mode.</summary>
    static abstract bool IsLong { get; }
}

/// <summary>64-bit mode: segments other than FS and GS are flat and unchecked.</summary>
public readonly struct Long : IAddressing
{
    /// <inheritdoc/>
    public static bool IsLong => true;
}

/// <summary>Every other mode: segment bases, limits and types count; linear addresses have 32 bits.</summary>
public readonly struct Legacy : IAddressing
{
    /// <inheritdoc/>
    public static bool IsLong => false;
}

/// <summary>
/// Memory operands: the fast path of every guest access. All methods return false after a fault, which is then recorded and
/// settled (<see cref="CpuState.Stop"/>, RIP, budget): the handler returns null and has changed nothing.
/// </summary>
public static unsafe class Operand
{
    /// <summary>The effective address (offset) of the instruction's memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong EffectiveAddress(CpuState* s, Insn* i) =>
        (*(ulong*)((byte*)s + i->Base) + (*(ulong*)((byte*)s + i->Index) << i->Scale) + (ulong)i->Displacement) & i->AddressMask;

    /// <summary>Reads the instruction's memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Read<T, M>(CpuState* s, Insn* i, out T value) where T : unmanaged where M : struct, IAddressing =>
        ReadAt<T, M>(s, i, i->Segment, EffectiveAddress(s, i), out value);

    /// <summary>Writes the instruction's memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Write<T, M>(CpuState* s, Insn* i, T value) where T : unmanaged where M : struct, IAddressing =>
        WriteAt<T, M>(s, i, i->Segment, EffectiveAddress(s, i), value);

    /// <summary>
    /// Begins a read-modify-write of the instruction's memory operand: checks that it may be written, and reads it. Finish with
    /// <see cref="EndModify"/>, which cannot fault.
    /// </summary>
    /// <param name="cell">Where it is: to be handed to <see cref="EndModify"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool BeginModify<T, M>(CpuState* s, Insn* i, out T value, out Cell cell) where T : unmanaged where M : struct, IAddressing
    {
        if (!Linear<M>(s, i, i->Segment, EffectiveAddress(s, i), (uint)sizeof(T), write: true, out ulong linear))
        {
            value = default;
            cell = default;
            return false;
        }
        TlbEntry* entry = s->Tlb + ((linear >> 12) & (Tlb.Entries - 1));
        if (entry->WriteTag == ((linear & ~0xFFFUL) | s->TlbContext) && (linear & 0xFFF) <= (ulong)(4096 - sizeof(T)))
        {
            cell = new Cell((byte*)(linear + (ulong)entry->Addend), linear);
            value = Unsafe.ReadUnaligned<T>(cell.Host);
            return true;
        }
        cell = new Cell(null, linear);
        return SlowAccess.BeginModify(s, i, linear, out value);
    }

    /// <summary>Stores the result of a read-modify-write.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void EndModify<T>(CpuState* s, Insn* i, Cell cell, T value) where T : unmanaged
    {
        if (cell.Host != null)
            Unsafe.WriteUnaligned(cell.Host, value);
        else
            SlowAccess.EndModify(s, i, cell.Linear, value);
    }

    /// <summary>Reads at an offset in a segment, for implicit operands (strings, XLAT, stack frames).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ReadAt<T, M>(CpuState* s, Insn* i, int segment, ulong offset, out T value) where T : unmanaged where M : struct, IAddressing
    {
        if (!Linear<M>(s, i, segment, offset, (uint)sizeof(T), write: false, out ulong linear))
        {
            value = default;
            return false;
        }
        TlbEntry* entry = s->Tlb + ((linear >> 12) & (Tlb.Entries - 1));
        if (entry->ReadTag == ((linear & ~0xFFFUL) | s->TlbContext) && (linear & 0xFFF) <= (ulong)(4096 - sizeof(T)))
        {
            value = Unsafe.ReadUnaligned<T>((byte*)(linear + (ulong)entry->Addend));
            return true;
        }
        return SlowAccess.Read(s, i, linear, out value);
    }

    /// <summary>Writes at an offset in a segment, for implicit operands.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool WriteAt<T, M>(CpuState* s, Insn* i, int segment, ulong offset, T value) where T : unmanaged where M : struct, IAddressing
    {
        if (!Linear<M>(s, i, segment, offset, (uint)sizeof(T), write: true, out ulong linear))
            return false;
        TlbEntry* entry = s->Tlb + ((linear >> 12) & (Tlb.Entries - 1));
        if (entry->WriteTag == ((linear & ~0xFFFUL) | s->TlbContext) && (linear & 0xFFF) <= (ulong)(4096 - sizeof(T)))
        {
            Unsafe.WriteUnaligned((byte*)(linear + (ulong)entry->Addend), value);
            return true;
        }
        return SlowAccess.Write(s, i, linear, value);
    }

    /// <summary>
    /// Reads a 16-byte operand that must be aligned (legacy SSE forms other than the unaligned moves): misaligned is #GP(0),
    /// checked before the access.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ReadAligned<T, M>(CpuState* s, Insn* i, out T value) where T : unmanaged where M : struct, IAddressing
    {
        ulong offset = EffectiveAddress(s, i);
        if (!CheckAligned<M>(s, i, offset, (uint)sizeof(T)))
        {
            value = default;
            return false;
        }
        return ReadAt<T, M>(s, i, i->Segment, offset, out value);
    }

    /// <summary>Writes a 16-byte operand that must be aligned: misaligned is #GP(0).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool WriteAligned<T, M>(CpuState* s, Insn* i, T value) where T : unmanaged where M : struct, IAddressing
    {
        ulong offset = EffectiveAddress(s, i);
        return CheckAligned<M>(s, i, offset, (uint)sizeof(T)) && WriteAt<T, M>(s, i, i->Segment, offset, value);
    }

    /// <summary>
    /// Turns segment and offset into a linear address. In 64-bit mode FS and GS add their base (<paramref name="segment"/> is
    /// then the segment with any override applied); elsewhere limit and type are checked.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Linear<M>(CpuState* s, Insn* i, int segment, ulong offset, uint size, bool write, out ulong linear) where M : struct, IAddressing
    {
        if (M.IsLong)
        {
            linear = segment >= Seg.Fs ? offset + CpuState.Segment(s, segment)->Base : offset;
            return true;
        }
        SegmentState* state = CpuState.Segment(s, segment);
        linear = (uint)(state->Base + offset);
        return offset + size <= (write ? state->WriteEnd : state->ReadEnd) || SlowAccess.CheckSegment(s, i, segment, offset, size, write);
    }

    private static bool CheckAligned<M>(CpuState* s, Insn* i, ulong offset, uint size) where M : struct, IAddressing
    {
        ulong linear = M.IsLong && i->Segment < Seg.Fs ? offset : offset + CpuState.Segment(s, i->Segment)->Base;
        if ((linear & (size - 1)) == 0)
            return true;
        Fault.Raise(s, i, Vector.Gp, 0);
        return false;
    }
}

/// <summary>Where a read-modify-write stores its result.</summary>
/// <param name="host">The host address, or null where the slow path must store.</param>
/// <param name="linear">The linear address.</param>
public readonly unsafe struct Cell(byte* host, ulong linear)
{
    /// <summary>The host address, or null where the slow path must store.</summary>
    public readonly byte* Host = host;

    /// <summary>The linear address.</summary>
    public readonly ulong Linear = linear;
}
