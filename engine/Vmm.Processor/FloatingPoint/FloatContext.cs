namespace Vmm.Processor.FloatingPoint;

/// <summary>Exception flags, at the bits where MXCSR and the x87 status word have them; the masks have the same order.</summary>
internal static class FloatFlags
{
    public const uint Invalid = 1 << 0, Denormal = 1 << 1, ZeroDivide = 1 << 2, Overflow = 1 << 3, Underflow = 1 << 4, Inexact = 1 << 5;

    /// <summary>All six.</summary>
    public const uint All = 0x3F;

    /// <summary>Those found before the computation: unmasked, they keep it from happening (SDM volume 1, section 4.9).</summary>
    public const uint BeforeComputation = Invalid | Denormal | ZeroDivide;
}

/// <summary>Rounding control, as encoded in MXCSR, the x87 control word and the ROUND immediates.</summary>
internal enum RoundingMode : byte
{
    Nearest = 0,
    Down = 1,
    Up = 2,
    Zero = 3,
}

/// <summary>What a floating-point operation depends on besides its operands, and the exceptions it raised.</summary>
internal struct FloatContext
{
    /// <summary>Rounding mode.</summary>
    public RoundingMode Rounding;

    /// <summary>Denormal operands count as zeros of their sign.</summary>
    public bool DenormalsAreZero;

    /// <summary>Tiny results become zeros of their sign where underflow is masked.</summary>
    public bool FlushToZero;

    /// <summary>x87 rules: NaN precedence by significand, and scaled results for unmasked overflow and underflow.</summary>
    public bool Extended;

    /// <summary>Whether the last rounding went away from zero (C1).</summary>
    public bool RoundedUp;

    /// <summary>Set bits are masked exceptions.</summary>
    public uint Masks;

    /// <summary>Exceptions raised so far.</summary>
    public uint Flags;

    /// <summary>The context that MXCSR describes (SDM volume 1, section 10.2.3).</summary>
    public static FloatContext FromMxcsr(uint mxcsr) => new()
    {
        Rounding = (RoundingMode)((mxcsr >> 13) & 3),
        DenormalsAreZero = (mxcsr & Mxcsr.DenormalsAreZero) != 0,
        FlushToZero = (mxcsr & Mxcsr.FlushToZero) != 0,
        Masks = (mxcsr >> 7) & FloatFlags.All,
    };

    /// <summary>The context that an x87 control word describes (SDM volume 1, section 8.1.5).</summary>
    public static FloatContext FromControlWord(ushort word) => new()
    {
        Rounding = (RoundingMode)((word >> 10) & 3),
        Extended = true,
        Masks = word & FloatFlags.All,
    };

    /// <summary>The raised exceptions that are not masked. Those found before the computation hide the others.</summary>
    public readonly uint Unmasked => Flags & ~Masks;
}

/// <summary>Bits of MXCSR.</summary>
internal static class Mxcsr
{
    public const uint DenormalsAreZero = 1 << 6, MaskShift = 7, InexactMask = 1 << 12, RoundingMask = 3 << 13, FlushToZero = 1 << 15;

    /// <summary>The value after reset.</summary>
    public const uint Default = 0x1F80;

    /// <summary>The bits that may be set: MXCSR_MASK of FXSAVE.</summary>
    public const uint Writable = 0xFFFF;
}
