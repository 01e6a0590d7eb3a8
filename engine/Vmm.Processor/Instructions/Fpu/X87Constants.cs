using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>A constant that an instruction loads.</summary>
internal interface IX87Constant
{
    /// <summary>The constant, rounded to 64 bits in the context's mode.</summary>
    static abstract Real Value(ref FloatContext c);
}

internal readonly struct One : IX87Constant { public static Real Value(ref FloatContext c) => Real.Finite(false, 0, 1UL << 63); }
internal readonly struct PositiveZero : IX87Constant { public static Real Value(ref FloatContext c) => Real.Zero(false); }
internal readonly struct Pi : IX87Constant { public static Real Value(ref FloatContext c) => Constants.Pi.Round(ref c); }
internal readonly struct Log2Ten : IX87Constant { public static Real Value(ref FloatContext c) => Constants.Log2Ten.Round(ref c); }
internal readonly struct Log2E : IX87Constant { public static Real Value(ref FloatContext c) => Constants.Log2E.Round(ref c); }
internal readonly struct Log10Two : IX87Constant { public static Real Value(ref FloatContext c) => Constants.Log10Two.Round(ref c); }
internal readonly struct LnTwo : IX87Constant { public static Real Value(ref FloatContext c) => Constants.LnTwo.Round(ref c); }
