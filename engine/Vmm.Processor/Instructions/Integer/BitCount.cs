using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation from one source operand into a register.</summary>
public unsafe interface IScanOperation
{
    /// <summary>The new value of the destination; records flags.</summary>
    static abstract ulong Apply(CpuState* s, ulong source, int bits);
}

/// <summary>BSF, of a source that is not zero.</summary>
public readonly unsafe struct ScanForward : IScanOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong source, int bits) =>
        (ulong)BitOperations.TrailingZeroCount(source);
}

/// <summary>BSR, of a source that is not zero.</summary>
public readonly unsafe struct ScanReverse : IScanOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong source, int bits) =>
        (ulong)BitOperations.Log2(source);
}

/// <summary>POPCNT: ZF for a source of zero, all other flags clear.</summary>
public readonly unsafe struct PopulationCount : IScanOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong source, int bits)
    {
        Flags.Write(s, source == 0 ? Rflags.Zf : 0);
        return (ulong)BitOperations.PopCount(source);
    }
}

/// <summary>TZCNT: CF for a source of zero, ZF for a result of zero.</summary>
public readonly unsafe struct TrailingZeros : IScanOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong source, int bits)
    {
        int count = source == 0 ? bits : BitOperations.TrailingZeroCount(source);
        Flags.SetResult(s, (ulong)count, bits, source == 0, false);
        return (ulong)count;
    }
}

/// <summary>LZCNT.</summary>
public readonly unsafe struct LeadingZeros : IScanOperation
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong source, int bits)
    {
        int count = BitOperations.LeadingZeroCount(source) - (64 - bits);
        Flags.SetResult(s, (ulong)count, bits, source == 0, false);
        return (ulong)count;
    }
}

/// <summary>Handlers of scans and counts, and CRC32.</summary>
public static unsafe class BitCount
{
    /// <summary>From a register.</summary>
    public static Insn* Reg<O, T>(CpuState* s, Insn* i) where O : struct, IScanOperation where T : unmanaged
    {
        Register.Write(s, i->Operand0, Apply<O, T>(s, Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>From memory.</summary>
    public static Insn* Mem<O, T, M>(CpuState* s, Insn* i) where O : struct, IScanOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T source))
            return null;
        Register.Write(s, i->Operand0, Apply<O, T>(s, source));
        return i + 1;
    }

    /// <summary>BSF and BSR of a register.</summary>
    public static Insn* ScanReg<O, T>(CpuState* s, Insn* i) where O : struct, IScanOperation where T : unmanaged
    {
        Scan<O, T>(s, i, Register.Read<T>(s, i->Operand1));
        return i + 1;
    }

    /// <summary>BSF and BSR of memory.</summary>
    public static Insn* ScanMem<O, T, M>(CpuState* s, Insn* i) where O : struct, IScanOperation where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T source))
            return null;
        Scan<O, T>(s, i, source);
        return i + 1;
    }

    /// <summary>CRC32 (polynomial 11EDC6F41H) of a register.</summary>
    public static Insn* CrcReg<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Register.Write(s, i->Operand0, Crc(Register.Read<uint>(s, i->Operand0), Register.Read<T>(s, i->Operand1)));
        return i + 1;
    }

    /// <summary>CRC32 of memory.</summary>
    public static Insn* CrcMem<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.Read<T, M>(s, i, out T source))
            return null;
        Register.Write(s, i->Operand0, Crc(Register.Read<uint>(s, i->Operand0), source));
        return i + 1;
    }

    /// <summary>A source of zero sets ZF and leaves all 64 bits of the destination, as AMD documents and Intel's processors do.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scan<O, T>(CpuState* s, Insn* i, T source) where O : struct, IScanOperation where T : unmanaged
    {
        Flags.SetLogic(s, Width.Widen(source), Width.Bits<T>());
        if (Width.Widen(source) != 0)
            Register.Write(s, i->Operand0, Apply<O, T>(s, source));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static T Apply<O, T>(CpuState* s, T source) where O : struct, IScanOperation where T : unmanaged =>
        Width.Narrow<T>(O.Apply(s, Width.Widen(source), Width.Bits<T>()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Crc<T>(uint crc, T data) where T : unmanaged
    {
        if (sizeof(T) == 1)
            return BitOperations.Crc32C(crc, (byte)Width.Widen(data));
        if (sizeof(T) == 2)
            return BitOperations.Crc32C(crc, (ushort)Width.Widen(data));
        if (sizeof(T) == 4)
            return BitOperations.Crc32C(crc, (uint)Width.Widen(data));
        return BitOperations.Crc32C(crc, Width.Widen(data));
    }
}
