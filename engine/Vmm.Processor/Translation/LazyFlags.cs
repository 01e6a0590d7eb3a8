using System.Numerics;
using Vmm.Processor.Instructions.Integer;

namespace Vmm.Processor.Translation;

/// <summary>What compiled code remembers of the last instruction that set the arithmetic flags, instead of the flags.</summary>
internal enum FlagOperation
{
    /// <summary>Nothing: the flags stand in <see cref="CpuState"/>.</summary>
    None,

    /// <summary>The result A of AND, OR, XOR or TEST.</summary>
    Logic,

    /// <summary>A + B.</summary>
    Add,

    /// <summary>A - B.</summary>
    Sub,

    /// <summary>A + B + C.</summary>
    Adc,

    /// <summary>A - B - C.</summary>
    Sbb,

    /// <summary>A + 1; bit 0 of C was the carry.</summary>
    Inc,

    /// <summary>A - 1; bit 0 of C was the carry.</summary>
    Dec,

    /// <summary>A shifted left by B, which is not zero.</summary>
    Shl,

    /// <summary>A shifted right by B, which is not zero.</summary>
    Shr,

    /// <summary>A shifted right by B with its sign; B is not zero.</summary>
    Sar,

    /// <summary>The signed product of A and B, in their size.</summary>
    Imul,

    /// <summary>C is the carry; the other flags stand in <see cref="CpuState"/>, or do not matter.</summary>
    Bt,
}

/// <summary>Turns what compiled code remembers into the flags that the interpreter keeps.</summary>
internal static unsafe class LazyFlags
{
    /// <summary>The name of an operation on an operand of 1, 2, 4 or 8 bytes.</summary>
    public static int Kind(FlagOperation operation, int size) => (int)operation << 2 | BitOperations.Log2((uint)size);

    /// <summary>Records the flags of an operation. Operands count in the operation's size only.</summary>
    public static void Settle(CpuState* s, int kind, ulong a, ulong b, ulong c)
    {
        var operation = (FlagOperation)(kind >> 2);
        switch (kind & 3)
        {
            case 0:
                Settle<byte>(s, operation, a, b, c);
                break;
            case 1:
                Settle<ushort>(s, operation, a, b, c);
                break;
            case 2:
                Settle<uint>(s, operation, a, b, c);
                break;
            default:
                Settle<ulong>(s, operation, a, b, c);
                break;
        }
    }

    private static void Settle<T>(CpuState* s, FlagOperation operation, ulong left, ulong right, ulong c) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = Width.Bits<T>();
        ulong a = Width.Widen(Width.Narrow<T>(left)), b = Width.Widen(Width.Narrow<T>(right));
        switch (operation)
        {
            case FlagOperation.Logic:
                Flags.SetLogic(s, a, bits);
                break;
            case FlagOperation.Add:
                Flags.SetAdd(s, a, b, a + b, bits);
                break;
            case FlagOperation.Sub:
                Flags.SetSub(s, a, b, a - b, bits);
                break;
            case FlagOperation.Adc:
                Flags.SetAdd(s, a, b, a + b + c, bits);
                break;
            case FlagOperation.Sbb:
                Flags.SetSub(s, a, b, a - b - c, bits);
                break;
            case FlagOperation.Inc:
                s->FlagCarries = c << 63;
                Flags.SetInc(s, a, a + 1, bits);
                break;
            case FlagOperation.Dec:
                s->FlagCarries = c << 63;
                Flags.SetDec(s, a, a - 1, bits);
                break;
            case FlagOperation.Shl:
                Shl.Apply(s, a, (int)right, bits);
                break;
            case FlagOperation.Shr:
                Shr.Apply(s, a, (int)right, bits);
                break;
            case FlagOperation.Sar:
                Sar.Apply(s, a, (int)right, bits);
                break;
            case FlagOperation.Imul:
                Multiply.Truncated(s, Width.Narrow<T>(a), Width.Narrow<T>(b));
                break;
            case FlagOperation.Bt:
                Flags.SetCarry(s, c != 0);
                break;
        }
    }
}
