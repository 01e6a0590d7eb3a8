using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>Read-modify-write at an offset that is not the instruction's effective address.</summary>
public static unsafe class Implicit
{
    /// <summary>As <see cref="Operand.BeginModify"/>, at an offset in a segment.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool BeginModify<T, M>(CpuState* s, Insn* i, int segment, ulong offset, out T value, out Cell cell) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Linear<M>(s, i, segment, offset, (uint)sizeof(T), write: true, out ulong linear))
        {
            value = default;
            cell = default;
            return false;
        }
        byte* host = WriteHost(s, linear, sizeof(T));
        cell = new Cell(host, linear);
        if (host == null)
            return SlowAccess.BeginModify(s, i, linear, out value);
        value = Unsafe.ReadUnaligned<T>(host);
        return true;
    }

    /// <summary>Where <paramref name="size"/> bytes at a linear address may be read without the slow path, or null.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* ReadHost(CpuState* s, ulong linear, int size)
    {
        TlbEntry* entry = s->Tlb + ((linear >> 12) & (Tlb.Entries - 1));
        return entry->ReadTag == ((linear & ~0xFFFUL) | s->TlbContext) && (linear & 0xFFF) + (uint)size <= 4096
            ? (byte*)(linear + (ulong)entry->Addend) : null;
    }

    /// <summary>Where <paramref name="size"/> bytes at a linear address may be written without the slow path, or null.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* WriteHost(CpuState* s, ulong linear, int size)
    {
        TlbEntry* entry = s->Tlb + ((linear >> 12) & (Tlb.Entries - 1));
        return entry->WriteTag == ((linear & ~0xFFFUL) | s->TlbContext) && (linear & 0xFFF) + (uint)size <= 4096
            ? (byte*)(linear + (ulong)entry->Addend) : null;
    }
}
