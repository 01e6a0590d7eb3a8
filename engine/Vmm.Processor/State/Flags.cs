using System.Numerics;
using System.Runtime.CompilerServices;

namespace Vmm.Processor.State;

/// <summary>
/// The six arithmetic flags, kept lazily in two words. <see cref="CpuState.FlagResult"/> is the last result, sign-extended: it
/// gives ZF, SF and PF. <see cref="CpuState.FlagCarries"/> is the vector of carries (or borrows) out of each bit, of which four
/// facts are kept: bit 63 is the carry out of the operand's top bit (CF), bit 62 the carry into it (OF is the difference of the
/// two), bit 3 the carry out of bit 3 (AF). Two more bits repair what no result can express, after POPF and the like: bit 4
/// inverts SF and bit 8 inverts PF.
/// <para>Operands and results come as 64 bits, of which those beyond the operation's width do not count.</para>
/// </summary>
public static unsafe class Flags
{
    private const ulong CarryOut = 1UL << 63;
    private const ulong CarryIn = 1UL << 62;
    private const ulong Auxiliary = 1UL << 3;
    private const ulong InvertSign = 1UL << 4;
    private const ulong InvertParity = 1UL << 8;

    /// <summary>CF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Carry(CpuState* s) => (long)s->FlagCarries < 0;

    /// <summary>ZF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Zero(CpuState* s) => s->FlagResult == 0;

    /// <summary>SF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Sign(CpuState* s) => (s->FlagResult ^ (long)(s->FlagCarries << 59)) < 0;

    /// <summary>OF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Overflow(CpuState* s) => (long)(s->FlagCarries ^ (s->FlagCarries << 1)) < 0;

    /// <summary>SF differs from OF: "less", signed.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Less(CpuState* s) => (s->FlagResult ^ (long)(s->FlagCarries << 59) ^ (long)(s->FlagCarries ^ (s->FlagCarries << 1))) < 0;

    /// <summary>PF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Parity(CpuState* s) => ((BitOperations.PopCount((uint)(byte)s->FlagResult) ^ (uint)(s->FlagCarries >> 8)) & 1) == 0;

    /// <summary>AF.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Adjust(CpuState* s) => (s->FlagCarries & Auxiliary) != 0;

    /// <summary>Records the flags of a logical operation: CF, OF and AF clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetLogic(CpuState* s, ulong result, int bits)
    {
        s->FlagResult = SignExtend(result, bits);
        s->FlagCarries = 0;
    }

    /// <summary>Records the flags of <paramref name="result"/> = a + b, or a + b + carry.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetAdd(CpuState* s, ulong a, ulong b, ulong result, int bits)
    {
        s->FlagResult = SignExtend(result, bits);
        s->FlagCarries = Normalise((a & b) | ((a | b) & ~result), bits);
    }

    /// <summary>Records the flags of <paramref name="result"/> = a - b, or a - b - borrow.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetSub(CpuState* s, ulong a, ulong b, ulong result, int bits)
    {
        s->FlagResult = SignExtend(result, bits);
        s->FlagCarries = Normalise((~a & b) | ((~a | b) & result), bits);
    }

    /// <summary>Records the flags of an increment: those of an addition of 1, but CF keeps its value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetInc(CpuState* s, ulong a, ulong result, int bits) =>
        KeepCarry(s, SignExtend(result, bits), Normalise((a & 1) | ((a | 1) & ~result), bits));

    /// <summary>Records the flags of a decrement: those of a subtraction of 1, but CF keeps its value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetDec(CpuState* s, ulong a, ulong result, int bits) =>
        KeepCarry(s, SignExtend(result, bits), Normalise((~a & 1) | ((~a | 1) & result), bits));

    /// <summary>Records a result with CF and OF given and AF clear: shifts and rotates, multiplications.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetResult(CpuState* s, ulong result, int bits, bool carry, bool overflow)
    {
        s->FlagResult = SignExtend(result, bits);
        s->FlagCarries = (carry ? CarryOut : 0) | (carry != overflow ? CarryIn : 0);
    }

    /// <summary>Changes CF alone.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetCarry(CpuState* s, bool carry) => SetCarryOverflow(s, carry, Overflow(s));

    /// <summary>Changes CF and OF and leaves the others: rotates.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SetCarryOverflow(CpuState* s, bool carry, bool overflow) =>
        s->FlagCarries = (s->FlagCarries & ~(CarryOut | CarryIn)) | (carry ? CarryOut : 0) | (carry != overflow ? CarryIn : 0);

    /// <summary>Changes ZF alone (CMPXCHG8B, VERR, LAR and the like).</summary>
    public static void SetZero(CpuState* s, bool zero) =>
        Write(s, (Read(s) & ~Rflags.Zf) | (zero ? Rflags.Zf : 0));

    /// <summary>The six flags in their RFLAGS positions.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Read(CpuState* s) =>
        (Carry(s) ? Rflags.Cf : 0) | (Parity(s) ? Rflags.Pf : 0) | (Adjust(s) ? Rflags.Af : 0)
        | (Zero(s) ? Rflags.Zf : 0) | (Sign(s) ? Rflags.Sf : 0) | (Overflow(s) ? Rflags.Of : 0);

    /// <summary>Sets the six flags from their RFLAGS positions; other bits are ignored.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write(CpuState* s, ulong flags)
    {
        bool zero = (flags & Rflags.Zf) != 0;
        bool carry = (flags & Rflags.Cf) != 0;
        bool overflow = (flags & Rflags.Of) != 0;
        // The stand-in results are 0 (even parity) and 1 (odd parity), both with a clear sign bit.
        bool naturalParity = zero;
        s->FlagResult = zero ? 0 : 1;
        s->FlagCarries = (carry ? CarryOut : 0) | (carry != overflow ? CarryIn : 0)
            | ((flags & Rflags.Af) != 0 ? Auxiliary : 0)
            | ((flags & Rflags.Sf) != 0 ? InvertSign : 0)
            | ((flags & Rflags.Pf) != 0 != naturalParity ? InvertParity : 0);
    }

    /// <summary>All of RFLAGS.</summary>
    public static ulong ReadAll(CpuState* s) => s->SystemFlags | Read(s);

    /// <summary>Sign-extends the low 8, 16, 32 or 64 bits of a value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static long SignExtend(ulong value, int bits) => bits switch
    {
        8 => (sbyte)value,
        16 => (short)value,
        32 => (int)value,
        _ => (long)value,
    };

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Normalise(ulong carries, int bits) => ((carries << (64 - bits)) & (CarryOut | CarryIn)) | (carries & Auxiliary);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void KeepCarry(CpuState* s, long result, ulong carries)
    {
        // Flipping both carry bits together changes CF and leaves their difference, OF, alone.
        ulong flip = (carries ^ s->FlagCarries) & CarryOut;
        s->FlagResult = result;
        s->FlagCarries = carries ^ (flip | (flip >> 1));
    }
}
