using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <summary>The moves of SSE.</summary>
internal enum SseMove
{
    None,
    /// <summary>Register to register all of it; memory form of 16 bytes.</summary>
    Whole,
    /// <summary>The same, and memory must be aligned.</summary>
    Aligned,
    /// <summary>The low part: a copy keeps the rest of the destination, a load clears it.</summary>
    Low,
    /// <summary>The low part: copies and loads clear the rest.</summary>
    LowClear,
    /// <summary>The low half with memory; the rest stays.</summary>
    LowHalf,
    /// <summary>The high half with memory; the rest stays.</summary>
    HighHalf,
    HighToLow,
    LowToHigh,
    /// <summary>The sign bits of the elements to a general-purpose register.</summary>
    Mask,
}

/// <summary>What compilers know of the instructions of SSE.</summary>
internal static class SseMoves
{
    /// <summary>The forms of those that are no moves (<see cref="Instructions.Sse.SseForm"/>).</summary>
    public static readonly HandlerTable Forms = InstructionSet.Build<Long>(new ProcessorFeatures());

    /// <summary>Which move a code is, if any.</summary>
    public static SseMove Of(Code code)
    {
        switch (code)
        {
            case Code.Movups_xmm_xmmm128 or Code.Movupd_xmm_xmmm128 or Code.Movdqu_xmm_xmmm128 or Code.Lddqu_xmm_m128
                or Code.Movups_xmmm128_xmm or Code.Movupd_xmmm128_xmm or Code.Movdqu_xmmm128_xmm:
                return SseMove.Whole;
            case Code.Movaps_xmm_xmmm128 or Code.Movapd_xmm_xmmm128 or Code.Movdqa_xmm_xmmm128 or Code.Movntdqa_xmm_m128
                or Code.Movaps_xmmm128_xmm or Code.Movapd_xmmm128_xmm or Code.Movdqa_xmmm128_xmm
                or Code.Movntps_m128_xmm or Code.Movntpd_m128_xmm or Code.Movntdq_m128_xmm:
                return SseMove.Aligned;
            case Code.Movss_xmm_xmmm32 or Code.Movsd_xmm_xmmm64 or Code.Movss_xmmm32_xmm or Code.Movsd_xmmm64_xmm:
                return SseMove.Low;
            case Code.Movq_xmm_xmmm64 or Code.Movq_xmmm64_xmm or Code.Movd_xmm_rm32 or Code.Movq_xmm_rm64 or Code.Movd_rm32_xmm or Code.Movq_rm64_xmm
                or Code.Movnti_m32_r32 or Code.Movnti_m64_r64:
                return SseMove.LowClear;
            case Code.Movlps_xmm_m64 or Code.Movlpd_xmm_m64 or Code.Movlps_m64_xmm or Code.Movlpd_m64_xmm:
                return SseMove.LowHalf;
            case Code.Movhps_xmm_m64 or Code.Movhpd_xmm_m64 or Code.Movhps_m64_xmm or Code.Movhpd_m64_xmm:
                return SseMove.HighHalf;
            case Code.Movhlps_xmm_xmm:
                return SseMove.HighToLow;
            case Code.Movlhps_xmm_xmm:
                return SseMove.LowToHigh;
            case Code.Movmskps_r32_xmm or Code.Movmskps_r64_xmm or Code.Movmskpd_r32_xmm or Code.Movmskpd_r64_xmm
                or Code.Pmovmskb_r32_xmm or Code.Pmovmskb_r64_xmm:
                return SseMove.Mask;
            default:
                return SseMove.None;
        }
    }

    /// <summary>Bytes that a move moves.</summary>
    public static int SizeOf(SseMove move, Code code) => move switch
    {
        SseMove.Whole or SseMove.Aligned => 16,
        SseMove.Low or SseMove.LowClear => code is Code.Movss_xmm_xmmm32 or Code.Movss_xmmm32_xmm or Code.Movd_xmm_rm32 or Code.Movd_rm32_xmm or Code.Movnti_m32_r32 ? 4 : 8,
        _ => 8,
    };
}
