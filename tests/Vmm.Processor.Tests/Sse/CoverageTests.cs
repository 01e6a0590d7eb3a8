using Iced.Intel;
using Vmm.Processor.Decoding;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions;
using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Processor.Tests.Sse;

/// <summary>Every legacy encoding of the floating-point and SIMD extensions has its handlers.</summary>
public sealed class CoverageTests
{
    private static readonly CpuidFeature[] Features =
    [
        CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387, CpuidFeature.MMX, CpuidFeature.SSE, CpuidFeature.SSE2, CpuidFeature.SSE3,
        CpuidFeature.SSSE3, CpuidFeature.SSE4_1, CpuidFeature.SSE4_2, CpuidFeature.AES, CpuidFeature.PCLMULQDQ, CpuidFeature.FXSR,
        CpuidFeature.XSAVE, CpuidFeature.XSAVEC, CpuidFeature.XSAVEOPT, CpuidFeature.XSAVES,
    ];

    [Fact]
    public unsafe void EveryEncodingHasHandlers()
    {
        HandlerTable table = InstructionSet.Build<Long>(new ProcessorFeatures());
        var missing = new List<string>();
        foreach (Code code in Enum.GetValues<Code>())
        {
            OpCodeInfo info = code.ToOpCode();
            // FWAIT and what follows it are two instructions to the processor.
            if (!info.IsInstruction || code.Encoding() != EncodingKind.Legacy || info.Fwait || !code.CpuidFeatures().Any(Features.Contains))
                continue;
            (bool register, bool memory) = Forms(info);
            if (register && table.Find(code, false) == null)
                missing.Add($"{code} with a register");
            if (memory && table.Find(code, true) == null)
                missing.Add($"{code} with memory");
        }
        Assert.Equal([], missing);
    }

    private static (bool Register, bool Memory) Forms(OpCodeInfo info)
    {
        for (int k = 0; k < info.OpCount; k++)
        {
            OpCodeOperandKind kind = info.GetOpKind(k);
            string name = kind.ToString();
            if (kind == OpCodeOperandKind.mem)
                return (false, true);
            if (name.Contains("or_mem", StringComparison.Ordinal))
                return (true, true);
        }
        return (true, false);
    }
}
