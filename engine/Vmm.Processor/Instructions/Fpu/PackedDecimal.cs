using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>The packed BCD format: 18 digits in 9 bytes, low digits first, then a byte with the sign in bit 7.</summary>
internal static class PackedDecimal
{
    private const ulong Limit = 999_999_999_999_999_999;

    /// <summary>The packed decimal indefinite.</summary>
    public static Float80 Indefinite => new() { Significand = 0xC000_0000_0000_0000, SignExponent = 0xFFFF };

    /// <summary>The number; digits beyond 9 give what their weights give.</summary>
    public static Real Read(Float80 raw)
    {
        ulong value = (ulong)(raw.SignExponent >> 4 & 15) * 10 + (ulong)(raw.SignExponent & 15);
        for (int n = 15; n >= 0; n--)
            value = value * 10 + (raw.Significand >> n * 4 & 15);
        Real result = IntegerSource.Unpack((long)value);
        return result.WithSign((raw.SignExponent & 0x8000) != 0);
    }

    /// <summary>The number rounded to an integer; what has more than 18 digits is an invalid operation.</summary>
    public static Float80 Write(ref FloatContext c, in Real value)
    {
        FloatContext trial = c;
        long integer = RealArithmetic.ToInteger(ref trial, value, 64, c.Rounding);
        ulong magnitude = integer < 0 ? 0 - (ulong)integer : (ulong)integer;
        if (magnitude > Limit || (trial.Flags & FloatFlags.Invalid) != 0)
        {
            c.Flags |= FloatFlags.Invalid;
            return Indefinite;
        }
        c = trial;
        ulong digits = 0;
        for (int n = 0; n < 16; n++)
        {
            digits |= magnitude % 10 << n * 4;
            magnitude /= 10;
        }
        return new Float80
        {
            Significand = digits,
            SignExponent = (ushort)(magnitude % 10 | magnitude / 10 << 4 | (value.Negative ? 0x8000u : 0)),
        };
    }
}
