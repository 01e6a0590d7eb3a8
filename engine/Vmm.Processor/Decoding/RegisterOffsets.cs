using Iced.Intel;

namespace Vmm.Processor.Decoding;

/// <summary>Where Iced's registers live in <see cref="CpuState"/>.</summary>
internal static class RegisterOffsets
{
    private static readonly ushort[] Offsets = Build();

    /// <summary>The byte offset of a register, or of the zero slot for none.</summary>
    public static ushort Of(Register register) => Offsets[(int)register];

    private static ushort[] Build()
    {
        var offsets = new ushort[IcedConstants.RegisterEnumCount];
        Array.Fill(offsets, CpuState.ZeroOffset);
        for (int k = 0; k < 16; k++)
        {
            offsets[(int)Register.AX + k] = (ushort)(k * 8);
            offsets[(int)Register.EAX + k] = (ushort)(k * 8);
            offsets[(int)Register.RAX + k] = (ushort)(k * 8);
            offsets[(int)Register.XMM0 + k] = (ushort)(CpuState.XmmOffset + k * 16);
        }
        Register[] low = [Register.AL, Register.CL, Register.DL, Register.BL, Register.SPL, Register.BPL, Register.SIL, Register.DIL,
            Register.R8L, Register.R9L, Register.R10L, Register.R11L, Register.R12L, Register.R13L, Register.R14L, Register.R15L];
        for (int k = 0; k < 16; k++)
            offsets[(int)low[k]] = (ushort)(k * 8);
        Register[] high = [Register.AH, Register.CH, Register.DH, Register.BH];
        for (int k = 0; k < 4; k++)
            offsets[(int)high[k]] = (ushort)(k * 8 + 1);
        for (int k = 0; k < 8; k++)
        {
            offsets[(int)Register.ST0 + k] = (ushort)(CpuState.FpuOffset + k * 16);
            offsets[(int)Register.MM0 + k] = (ushort)(CpuState.FpuOffset + k * 16);
        }
        // System registers are named by their number: their handlers index arrays.
        Register[] segments = [Register.ES, Register.CS, Register.SS, Register.DS, Register.FS, Register.GS];
        for (int k = 0; k < segments.Length; k++)
            offsets[(int)segments[k]] = (ushort)k;
        for (int k = 0; k < 16; k++)
        {
            offsets[(int)Register.CR0 + k] = (ushort)k;
            offsets[(int)Register.DR0 + k] = (ushort)k;
        }
        offsets[(int)Register.RIP] = CpuState.TraceRipOffset;
        offsets[(int)Register.EIP] = CpuState.TraceRipOffset;
        return offsets;
    }
}
