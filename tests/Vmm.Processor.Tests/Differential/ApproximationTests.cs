using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Processor.Tests.Fpu;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// The instructions that the random sequences leave out because every processor family approximates them in its own way: on the
/// host and on ours, the results may be a unit in the last place apart, and the flags must agree.
/// </summary>
[Collection(HostProcessor.Name)]
public sealed unsafe class ApproximationTests(ITestOutputHelper output)
{
    // The host is within one unit of the truth, and so are we.
    private const ulong Units = 2;

    [Theory]
    [InlineData(Mnemonic.Fsin)]
    [InlineData(Mnemonic.Fcos)]
    [InlineData(Mnemonic.Fptan)]
    [InlineData(Mnemonic.F2xm1)]
    [InlineData(Mnemonic.Fyl2x)]
    [InlineData(Mnemonic.Fyl2xp1)]
    [InlineData(Mnemonic.Fpatan)]
    public void TranscendentalsAgreeWithTheHosts(Mnemonic function)
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64 || !OperatingSystem.IsLinux())
        {
            output.WriteLine("Skipped: the host is not x86-64 Linux, so it cannot be compared with.");
            return;
        }
        string report = "";
        Exception? failure = null;
        // Signals and their stack belong to a thread.
        var thread = new Thread(() =>
        {
            try
            {
                report = Compare(function);
            }
            catch (Exception exception)
            {
                // It would end the process here; the test reports it.
                failure = exception;
            }
        }, 16 << 20);
        thread.Start();
        thread.Join();
        Assert.Null(failure);
        Assert.Equal("", report);
    }

    private static string Compare(Mnemonic function)
    {
        byte[] readOnly = new byte[4096];
        using var native = new NativeProcessor(readOnly);
        using var emulated = new EmulatedProcessor(readOnly);
        using MachineState input = new(), expected = new(), actual = new();
        byte[] code = Code(function);
        var random = new Random(4);
        for (int n = 0; n < 2000; n++)
        {
            input.Rip = Layout.Code;
            input.Flags = 2;
            input.Mxcsr = 0x1F80;
            input.Fcw = 0x37F;
            input.Fsw = 6 << 11;
            input.Ftw = 0xC0;
            Set(input.St(0), random, Range(function));
            Set(input.St(1), random, (-40, 40));
            native.Run(64, code, input, expected);
            emulated.Run(64, code, input, actual);
            int result = function == Mnemonic.Fptan ? 1 : 0;
            ulong distance = Distance(expected.St(result), actual.St(result));
            if (distance > Units || expected.Fsw != actual.Fsw && (expected.Fsw & ~0x220) != (actual.Fsw & ~0x220))
            {
                return $"{function}, input {Text(input.St(0))} {Text(input.St(1))}: host {Text(expected.St(result))} status {expected.Fsw:x4}, "
                    + $"ours {Text(actual.St(result))} status {actual.Fsw:x4}";
            }
        }
        return "";
    }

    private static byte[] Code(Mnemonic function)
    {
        var assembler = new Assembler(64);
        TranscendentalTests.Apply(assembler, function);
        assembler.ud2();
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), Layout.Code);
        return stream.ToArray();
    }

    /// <summary>The exponents that the function takes.</summary>
    private static (int Low, int High) Range(Mnemonic function) => function switch
    {
        Mnemonic.F2xm1 => (-60, -1),
        Mnemonic.Fyl2xp1 => (-60, -3),
        Mnemonic.Fyl2x => (-200, 200),
        Mnemonic.Fpatan => (-40, 40),
        // The host reduces with a shorter pi: beyond pi/4 it may be elsewhere.
        _ => (-40, -1),
    };

    private static void Set(byte* register, Random random, (int Low, int High) exponents)
    {
        *(ulong*)register = (ulong)random.NextInt64() | 1UL << 63;
        *(ushort*)(register + 8) = (ushort)(16383 + random.Next(exponents.Low, exponents.High + 1) | random.Next(2) << 15);
        if (exponents == (-200, 200))
            *(ushort*)(register + 8) &= 0x7FFF;
    }

    private static ulong Distance(byte* a, byte* b)
    {
        UInt128 x = new(*(ushort*)(a + 8), *(ulong*)a), y = new(*(ushort*)(b + 8), *(ulong*)b);
        // Without the explicit integer bit the two words together count units.
        x = (x >> 64 << 63) | ((ulong)x & long.MaxValue);
        y = (y >> 64 << 63) | ((ulong)y & long.MaxValue);
        UInt128 difference = x > y ? x - y : y - x;
        return difference > ulong.MaxValue ? ulong.MaxValue : (ulong)difference;
    }

    private static string Text(byte* register) => $"{*(ushort*)(register + 8):x4}{*(ulong*)register:x16}";
}

/// <summary>Tests that map the sequences' fixed addresses in this process run one after the other.</summary>
[CollectionDefinition(Name)]
public sealed class HostProcessor
{
    public const string Name = "Host processor";
}
