using System.Runtime.CompilerServices;

namespace Vmm.Processor.Instructions;

/// <summary>Register operands by their byte offset in <see cref="CpuState"/>.</summary>
public static unsafe class Register
{
    /// <summary>Reads a register operand of the operand's size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Read<T>(CpuState* s, ushort operand) where T : unmanaged => *(T*)((byte*)s + operand);

    /// <summary>Writes a general-purpose register: 32 bits clear the upper half, 8 and 16 bits keep the rest.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write<T>(CpuState* s, ushort operand, T value) where T : unmanaged
    {
        if (typeof(T) == typeof(uint))
            *(ulong*)((byte*)s + operand) = Unsafe.BitCast<T, uint>(value);
        else
            *(T*)((byte*)s + operand) = value;
    }

    /// <summary>The location of an XMM (or MMX, x87) register operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T* Location<T>(CpuState* s, ushort operand) where T : unmanaged => (T*)((byte*)s + operand);
}
