using System.Runtime.CompilerServices;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>An operation on two operands that sets the six arithmetic flags.</summary>
public unsafe interface IBinaryOperation
{
    /// <summary>Whether the result replaces the first operand.</summary>
    static abstract bool Writes { get; }

    /// <summary>Computes the result and records its flags.</summary>
    static abstract ulong Apply(CpuState* s, ulong a, ulong b, int bits);
}

/// <summary>ADD.</summary>
public readonly unsafe struct Add : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a + b;
        Flags.SetAdd(s, a, b, result, bits);
        return result;
    }
}

/// <summary>ADC.</summary>
public readonly unsafe struct Adc : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a + b + (s->FlagCarries >> 63);
        Flags.SetAdd(s, a, b, result, bits);
        return result;
    }
}

/// <summary>SUB.</summary>
public readonly unsafe struct Sub : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a - b;
        Flags.SetSub(s, a, b, result, bits);
        return result;
    }
}

/// <summary>SBB.</summary>
public readonly unsafe struct Sbb : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a - b - (s->FlagCarries >> 63);
        Flags.SetSub(s, a, b, result, bits);
        return result;
    }
}

/// <summary>CMP.</summary>
public readonly unsafe struct Cmp : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => false;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) => Sub.Apply(s, a, b, bits);
}

/// <summary>AND.</summary>
public readonly unsafe struct And : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a & b;
        Flags.SetLogic(s, result, bits);
        return result;
    }
}

/// <summary>TEST.</summary>
public readonly unsafe struct Test : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => false;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits) => And.Apply(s, a, b, bits);
}

/// <summary>OR.</summary>
public readonly unsafe struct Or : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a | b;
        Flags.SetLogic(s, result, bits);
        return result;
    }
}

/// <summary>XOR.</summary>
public readonly unsafe struct Xor : IBinaryOperation
{
    /// <inheritdoc/>
    public static bool Writes => true;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Apply(CpuState* s, ulong a, ulong b, int bits)
    {
        ulong result = a ^ b;
        Flags.SetLogic(s, result, bits);
        return result;
    }
}
