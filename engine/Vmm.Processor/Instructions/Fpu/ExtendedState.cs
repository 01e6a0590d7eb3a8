using Vmm.Processor.FloatingPoint;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Images of the floating-point state, as FXSAVE and XSAVE lay it out.</summary>
internal static unsafe class ExtendedState
{
    /// <summary>Bit 0: x87. Bit 1: SSE.</summary>
    public const ulong X87Bit = 1, SseBit = 2, AvxBit = 4;

    /// <summary>The legacy region, as FXSAVE.</summary>
    public const int LegacySize = 512;

    /// <summary>The header after it.</summary>
    public const int HeaderSize = 64;

    /// <summary>Where MXCSR, the registers of x87 and those of SSE are in the legacy region.</summary>
    public const int MxcsrOffset = 24, X87Offset = 32, XmmOffset = 160;

    /// <summary>Writes the x87 part of the legacy region: bytes 0 to 23 and the registers.</summary>
    /// <param name="wide">Whether the instruction and data pointers have 64 bits.</param>
    public static void SaveX87(CpuState* s, byte* area, bool wide)
    {
        *(ushort*)area = s->Fcw;
        *(ushort*)(area + 2) = X87.Status(s);
        *(ushort*)(area + 4) = (byte)s->Ftw;
        *(ushort*)(area + 6) = (ushort)(s->Fop & 0x7FF);
        if (wide)
        {
            *(ulong*)(area + 8) = s->Fip;
            *(ulong*)(area + 16) = s->Fdp;
        }
        else
        {
            *(uint*)(area + 8) = (uint)s->Fip;
            *(uint*)(area + 12) = s->Fcs;
            *(uint*)(area + 16) = (uint)s->Fdp;
            *(uint*)(area + 20) = s->Fds;
        }
        for (int n = 0; n < 8; n++)
        {
            ulong* slot = X87.Slot(s, n);
            *(ulong*)(area + X87Offset + 16 * n) = slot[0];
            *(ulong*)(area + X87Offset + 16 * n + 8) = (ushort)slot[1];
        }
    }

    /// <summary>Loads the x87 part of the legacy region.</summary>
    public static void LoadX87(CpuState* s, byte* area, bool wide)
    {
        FpuControl.SetControl(s, *(ushort*)area);
        X87.SetStatus(s, *(ushort*)(area + 2));
        s->Ftw = area[4];
        s->Fop = (ushort)(*(ushort*)(area + 6) & 0x7FF);
        if (wide)
        {
            s->Fip = *(ulong*)(area + 8);
            s->Fdp = *(ulong*)(area + 16);
            s->Fcs = s->Fds = 0;
        }
        else
        {
            s->Fip = *(uint*)(area + 8);
            s->Fcs = *(ushort*)(area + 12);
            s->Fdp = *(uint*)(area + 16);
            s->Fds = *(ushort*)(area + 20);
        }
        for (int n = 0; n < 8; n++)
        {
            ulong* slot = X87.Slot(s, n);
            slot[0] = *(ulong*)(area + X87Offset + 16 * n);
            slot[1] = *(ushort*)(area + X87Offset + 16 * n + 8);
        }
        X87.UpdateSummary(s);
    }

    /// <summary>The initial x87 state, registers included.</summary>
    public static void InitialiseX87(CpuState* s)
    {
        X87.Initialise(s);
        new Span<ulong>(s->Fpu, 16).Clear();
    }

    /// <summary>XMM registers that the mode can reach.</summary>
    public static int XmmBytes(CpuState* s) => s->CodeSize == 64 ? 256 : 128;

    public static void SaveXmm(CpuState* s, byte* area) => Buffer.MemoryCopy(s->Xmm, area + XmmOffset, XmmBytes(s), XmmBytes(s));

    public static void LoadXmm(CpuState* s, byte* area) => Buffer.MemoryCopy(area + XmmOffset, s->Xmm, XmmBytes(s), XmmBytes(s));

    public static void InitialiseXmm(CpuState* s) => new Span<byte>(s->Xmm, XmmBytes(s)).Clear();

    /// <summary>MXCSR and MXCSR_MASK.</summary>
    public static void SaveMxcsr(CpuState* s, byte* area)
    {
        *(uint*)(area + MxcsrOffset) = s->Mxcsr;
        *(uint*)(area + MxcsrOffset + 4) = Mxcsr.Writable;
    }

    /// <summary>The components that are not in their initial configuration: XINUSE.</summary>
    public static ulong InUse(CpuState* s)
    {
        bool x87 = s->Fcw != X87.DefaultControl || X87.Status(s) != 0 || (byte)s->Ftw != 0 || s->Fop != 0 || s->Fip != 0 || s->Fdp != 0
            || s->Fcs != 0 || s->Fds != 0 || new ReadOnlySpan<ulong>(s->Fpu, 16).ContainsAnyExcept(0ul);
        bool sse = new ReadOnlySpan<byte>(s->Xmm, XmmBytes(s)).ContainsAnyExcept((byte)0);
        return (x87 ? X87Bit : 0) | (sse ? SseBit : 0);
    }
}
