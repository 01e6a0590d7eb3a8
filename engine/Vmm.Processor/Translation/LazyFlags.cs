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

    /// <summary>A + 1; C was the carry.</summary>
    Inc,

    /// <summary>A - 1; C was the carry.</summary>
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
                Settle(s, operation, (byte)a, (byte)b, b, c);
                break;
            case 1:
                Settle(s, operation, (ushort)a, (ushort)b, b, c);
                break;
            case 2:
                Settle(s, operation, (uint)a, (uint)b, b, c);
                break;
            default:
                Settle(s, operation, a, b, b, c);
                break;
        }
    }

    private static void Settle<T>(CpuState* s, FlagOperation operation, T a, T b, ulong count, ulong c) where T : unmanaged, IBinaryInteger<T>
    {
        switch (operation)
        {
            case FlagOperation.Logic:
                Flags.SetLogic(s, a);
                break;
            case FlagOperation.Add:
                Flags.SetAdd(s, a, b, a + b);
                break;
            case FlagOperation.Sub:
                Flags.SetSub(s, a, b, a - b);
                break;
            case FlagOperation.Adc:
                Flags.SetAdd(s, a, b, a + b + Width.Narrow<T>(c));
                break;
            case FlagOperation.Sbb:
                Flags.SetSub(s, a, b, a - b - Width.Narrow<T>(c));
                break;
            case FlagOperation.Inc:
                s->FlagCarries = c << 63;
                Flags.SetInc(s, a, a + T.One);
                break;
            case FlagOperation.Dec:
                s->FlagCarries = c << 63;
                Flags.SetDec(s, a, a - T.One);
                break;
            case FlagOperation.Shl:
                Shl.Apply(s, a, (int)count);
                break;
            case FlagOperation.Shr:
                Shr.Apply(s, a, (int)count);
                break;
            case FlagOperation.Sar:
                Sar.Apply(s, a, (int)count);
                break;
            case FlagOperation.Imul:
                Multiply.Truncated(s, a, b);
                break;
            case FlagOperation.Bt:
                Flags.SetCarry(s, c != 0);
                break;
        }
    }
}
