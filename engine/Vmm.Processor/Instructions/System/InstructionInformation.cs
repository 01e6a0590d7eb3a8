using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>The VM-exit instruction-information field (SDM volume 3, section 28.2.5) for instructions with a memory operand.</summary>
internal static unsafe class InstructionInformation
{
    private const uint RegisterOperand = 1 << 10;

    /// <summary>Base, index, scale, segment and address size of the memory operand, where the tables of the manual agree on their bits.</summary>
    public static uint OfMemory(Insn* i)
    {
        uint size = i->AddressMask == 0xFFFF ? 0u : i->AddressMask == 0xFFFF_FFFF ? 1u : 2u;
        uint information = (uint)i->Scale | size << 7 | (uint)i->Segment << 15;
        information |= i->Index < CpuState.ZeroOffset ? (uint)(i->Index / 8) << 18 : 1u << 22;
        information |= i->Base < CpuState.ZeroOffset ? (uint)(i->Base / 8) << 23 : 1u << 27;
        return information;
    }

    /// <summary>A register operand in bits 6:3, marked as such.</summary>
    public static uint OfRegister(ushort operand) => RegisterOperand | (uint)(operand / 8) << 3;

    /// <summary>The displacement, to which the processor adds RIP for a RIP-relative operand: the exit qualification.</summary>
    public static ulong Displacement(CpuState* s, Insn* i) =>
        (ulong)i->Displacement + (i->Base == CpuState.TraceRipOffset ? s->TraceRip : 0);

    /// <summary>A VM exit with instruction information.</summary>
    public static Insn* Exit(CpuState* s, Insn* i, ExitReason reason, uint information, ulong qualification)
    {
        VmExit.At(s, i, reason, qualification);
        Execution.LogicalProcessor.Of(s).Vmcs![VmcsField.VmExitInstructionInformation] = information;
        return null;
    }
}
