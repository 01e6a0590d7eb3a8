using System.Numerics;
using System.Runtime.CompilerServices;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>
/// Conversions between an operand's type and 64 bits. They are written out per type because the generic-math conversions of
/// the framework box their operands until the optimising JIT has seen them.
/// </summary>
public static unsafe class Width
{
    /// <summary>The bits in an operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Bits<T>() where T : unmanaged => sizeof(T) * 8;

    /// <summary>What the processor masks a shift count with: 63 for a 64-bit operand, else 31.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int ShiftMask<T>() where T : unmanaged => sizeof(T) == 8 ? 63 : 31;

    /// <summary>Zero-extends an operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Widen<T>(T value) where T : unmanaged
    {
        if (typeof(T) == typeof(byte))
            return Unsafe.BitCast<T, byte>(value);
        if (typeof(T) == typeof(ushort))
            return Unsafe.BitCast<T, ushort>(value);
        if (typeof(T) == typeof(uint))
            return Unsafe.BitCast<T, uint>(value);
        return Unsafe.BitCast<T, ulong>(value);
    }

    /// <summary>Sign-extends an operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long WidenSigned<T>(T value) where T : unmanaged => Flags.SignExtend(Widen(value), Bits<T>());

    /// <summary>Truncates to an operand's size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Narrow<T>(ulong value) where T : unmanaged
    {
        if (typeof(T) == typeof(byte))
            return Unsafe.BitCast<byte, T>((byte)value);
        if (typeof(T) == typeof(ushort))
            return Unsafe.BitCast<ushort, T>((ushort)value);
        if (typeof(T) == typeof(uint))
            return Unsafe.BitCast<uint, T>((uint)value);
        return Unsafe.BitCast<ulong, T>(value);
    }

    /// <summary>The top bit of an operand of so many bits, as 0 or 1.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Top(ulong value, int bits) => (value >> (bits - 1)) & 1;

    /// <summary>An instruction's immediate in the operand's size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Immediate<T>(Insn* i) where T : unmanaged => *(T*)&i->Immediate;
}
