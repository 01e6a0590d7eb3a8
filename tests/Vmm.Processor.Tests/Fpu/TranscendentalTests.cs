using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.Sse;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Fpu;

/// <summary>The transcendental functions against values computed with 100 digits and rounded to nearest.</summary>
public sealed unsafe class TranscendentalTests
{
    [Theory]
    [InlineData(Mnemonic.Fsin, 1.0, 0.0, 0xD76AA47848677021UL, 0x3FFE)]
    [InlineData(Mnemonic.Fsin, 100.0, 0.0, 0x81A12DBC626DC038UL, 0xBFFE)]
    [InlineData(Mnemonic.Fsin, 1e15, 0.0, 0xDBB7C409B675CE4AUL, 0x3FFE)]
    [InlineData(Mnemonic.Fsin, 0.001, 0.0, 0x83126D290C531036UL, 0x3FF5)]
    [InlineData(Mnemonic.Fsin, 3.141592653589793, 0.0, 0x8D313198A2E03707UL, 0x3FCA)]
    [InlineData(Mnemonic.Fsin, -2.5, 0.0, 0x9935786E7E558405UL, 0xBFFE)]
    [InlineData(Mnemonic.Fcos, 1.0, 0.0, 0x8A51407DA8345C92UL, 0x3FFE)]
    [InlineData(Mnemonic.Fcos, 100.0, 0.0, 0xDCC0EDFB32FEFB20UL, 0x3FFE)]
    [InlineData(Mnemonic.Fcos, 1e15, 0.0, 0x8360AA304E99F42BUL, 0xBFFE)]
    [InlineData(Mnemonic.Fcos, 1.5707963267948966, 0.0, 0x8D313198A2E03707UL, 0x3FC9)]
    [InlineData(Mnemonic.Fptan, 1.0, 0.0, 0xC75922E5F71D2DC5UL, 0x3FFF)]
    [InlineData(Mnemonic.Fptan, 1e6, 0.0, 0xBF4BB455B9A60084UL, 0xBFFD)]
    [InlineData(Mnemonic.Fptan, 0.785, 0.0, 0xFFCBD52B88AB729EUL, 0x3FFE)]
    [InlineData(Mnemonic.F2xm1, 0.5, 0.0, 0xD413CCCFE7799211UL, 0x3FFD)]
    [InlineData(Mnemonic.F2xm1, -0.5, 0.0, 0x95F619980C4336F7UL, 0xBFFD)]
    [InlineData(Mnemonic.F2xm1, 1e-5, 0.0, 0xE8951885AF4798D4UL, 0x3FED)]
    [InlineData(Mnemonic.F2xm1, 0.999, 0.0, 0xFFA52DE61C11F23FUL, 0x3FFE)]
    [InlineData(Mnemonic.F2xm1, -1e-300, 0.0, 0xEDAB101969E8C8C0UL, 0xBC19)]
    [InlineData(Mnemonic.Fyl2x, 3.0, 1.0, 0xCAE00D1CFDEB43D0UL, 0x3FFF)]
    [InlineData(Mnemonic.Fyl2x, 0.1, 1.0, 0xD49A784BCD1B898DUL, 0xC000)]
    [InlineData(Mnemonic.Fyl2x, 1.0000001, 1.0, 0x9AE87F52FE65BA16UL, 0x3FE8)]
    [InlineData(Mnemonic.Fyl2x, 1e300, 1.0, 0xF92504F8D45C46E3UL, 0x4008)]
    [InlineData(Mnemonic.Fyl2x, 0.9999, 1.0, 0x9748FC91B9C97EC4UL, 0xBFF2)]
    [InlineData(Mnemonic.Fyl2xp1, 0.25, 1.0, 0xA4D3C25E68DC57F2UL, 0x3FFD)]
    [InlineData(Mnemonic.Fyl2xp1, -0.25, 1.0, 0xD47FCB8C0852F0C1UL, 0xBFFD)]
    [InlineData(Mnemonic.Fyl2xp1, 1e-10, 1.0, 0x9EA0415B6F908DBFUL, 0x3FDE)]
    [InlineData(Mnemonic.Fpatan, 3.0, 1.0, 0xA4BC7D1934F70924UL, 0x3FFD)]
    [InlineData(Mnemonic.Fpatan, 1.0, 3.0, 0x9FE0BB5BD42AFFECUL, 0x3FFF)]
    [InlineData(Mnemonic.Fpatan, -3.0, -1.0, 0xB4784AFEFAC9E110UL, 0xC000)]
    [InlineData(Mnemonic.Fpatan, -1e-5, 1.0, 0xC9102E84F78C43D6UL, 0x3FFF)]
    [InlineData(Mnemonic.Fpatan, 1.0, 1e-5, 0xA7C5AC4703429DD7UL, 0x3FEE)]
    [InlineData(Mnemonic.Fpatan, 0.41, 0.4, 0xC5E6CF08312FD892UL, 0x3FFE)]
    public void ResultsAreTheNearest(Mnemonic function, double x, double y, ulong significand, int signExponent)
    {
        using var guest = new SseGuest();
        guest.Guest.Write(SseGuest.Scratch, [BitConverter.DoubleToUInt64Bits(y), BitConverter.DoubleToUInt64Bits(x)]);
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fld(__qword_ptr[(long)SseGuest.Scratch]);
            a.fld(__qword_ptr[(long)SseGuest.Scratch + 8]);
            Apply(a, function);
        }));
        int physical = function == Mnemonic.Fptan ? guest.State->FpuTop + 1 : guest.State->FpuTop;
        ulong* result = guest.State->Fpu + 2 * (physical & 7);
        Assert.Equal((significand, (ulong)signExponent), (result[0], result[1]));
        // Inexact, and nothing else.
        Assert.Equal(0x20, guest.State->Fsw & 0x3F);
    }

    [Fact]
    public void ArgumentsBeyondTheRangeSetC2AndStay()
    {
        using var guest = new SseGuest();
        guest.Guest.Write(SseGuest.Scratch, [BitConverter.DoubleToUInt64Bits(9223372036854775808.0)]);
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fld(__qword_ptr[(long)SseGuest.Scratch]);
            a.fsin();
        }));
        Assert.Equal(0x400, guest.State->Fsw & 0x47FF);
        Assert.Equal(0x403EUL, guest.State->Fpu[2 * guest.State->FpuTop + 1]);
    }

    internal static void Apply(Assembler a, Mnemonic function)
    {
        switch (function)
        {
            case Mnemonic.Fsin:
                a.fsin();
                break;
            case Mnemonic.Fcos:
                a.fcos();
                break;
            case Mnemonic.Fptan:
                a.fptan();
                break;
            case Mnemonic.F2xm1:
                a.f2xm1();
                break;
            case Mnemonic.Fyl2x:
                a.fyl2x();
                break;
            case Mnemonic.Fyl2xp1:
                a.fyl2xp1();
                break;
            case Mnemonic.Fpatan:
                a.fpatan();
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(function));
        }
    }
}
