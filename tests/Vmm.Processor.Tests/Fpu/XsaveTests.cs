using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.Sse;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Fpu;

/// <summary>FXSAVE and the XSAVE family (SDM volume 1, chapter 13).</summary>
public sealed unsafe class XsaveTests
{
    private const ulong Area = SseGuest.Scratch, Header = Area + 512;
    private const ulong X87 = 1, Sse = 2, Compacted = 1UL << 63;

    [Fact]
    public void FxsaveAndFxrstorKeepTheState()
    {
        using SseGuest guest = Prepared();
        Assert.Null(guest.Run(a => a.fxsave64(__[(long)Area])));
        Assert.Equal(0x37F, guest.Guest.Read<ushort>(Area));
        Assert.Equal(0xFFFFu, guest.Guest.Read<uint>(Area + 28));
        Assert.Equal(UInt128.MaxValue - 7, guest.Guest.Read<UInt128>(Area + 160 + 7 * 16));
        guest[7] = 0;
        guest.State->Mxcsr = 0;
        guest.State->Ftw = 0xFF;
        Assert.Null(guest.Run(a => a.fxrstor64(__[(long)Area])));
        Assert.Equal(UInt128.MaxValue - 7, guest[7]);
        Assert.Equal(0x1FA0u, guest.State->Mxcsr);
        Assert.Equal(0x80, guest.State->Ftw);
    }

    [Fact]
    public void MisalignedAreasFault()
    {
        using SseGuest guest = Prepared();
        Assert.Equal(Vector.Gp, guest.Run(a => a.fxsave(__[(long)Area + 8])));
        Assert.Equal(Vector.Gp, guest.Run(a => a.xsave(__[(long)Area + 16])));
        Assert.Null(guest.Run(a => a.fxsave(__[(long)Area + 16])));
    }

    [Fact]
    public void XsaveNeedsOsxsaveAndATaskOfItsOwn()
    {
        using SseGuest guest = Prepared();
        guest.Cr0 = Cr0.Ts;
        Assert.Equal(Vector.Nm, guest.Run(a => a.xsave(__[(long)Area])));
        guest.Cr4 &= ~Cr4.Osxsave;
        Assert.Equal(Vector.Ud, guest.Run(a => a.xsave(__[(long)Area])));
    }

    [Fact]
    public void XsaveLeavesWhatWasNotRequested()
    {
        using SseGuest guest = Prepared();
        guest.Guest.Write(Header, [X87, 0, 0]);
        guest.Guest.Write(Area, [0x1234_5678_9ABC_DEF0UL]);
        Assert.Null(guest.Run(a =>
        {
            a.mov(eax, (int)Sse);
            a.xor(edx, edx);
            a.xsave64(__[(long)Area]);
        }));
        Assert.Equal(X87 | Sse, guest.Guest.Read<ulong>(Header));
        Assert.Equal(0x1234_5678_9ABC_DEF0UL, guest.Guest.Read<ulong>(Area));
        Assert.Equal(0x1FA0u, guest.Guest.Read<uint>(Area + 24));
        Assert.Equal(UInt128.MaxValue, guest.Guest.Read<UInt128>(Area + 160));
    }

    [Fact]
    public void XsavecLeavesOutWhatIsInItsInitialState()
    {
        using SseGuest guest = Prepared();
        guest.State->Mxcsr = 0x1F80;
        new Span<ulong>(guest.State->Xmm, 32).Clear();
        guest.Guest.Write(Area + 160, [0x5555UL]);
        Assert.Null(guest.Run(a =>
        {
            a.mov(eax, 7);
            a.xor(edx, edx);
            a.xsavec64(__[(long)Area]);
        }));
        Assert.Equal(X87, guest.Guest.Read<ulong>(Header));
        Assert.Equal(Compacted | X87 | Sse, guest.Guest.Read<ulong>(Header + 8));
        Assert.Equal(0x5555UL, guest.Guest.Read<ulong>(Area + 160));

        // Restoring gives the initial state for the absent component.
        guest[0] = 1;
        guest.State->Mxcsr = 0;
        Assert.Null(guest.Run(a =>
        {
            a.mov(eax, 7);
            a.xor(edx, edx);
            a.xrstor64(__[(long)Area]);
        }));
        Assert.Equal(UInt128.Zero, guest[0]);
        Assert.Equal(0x1F80u, guest.State->Mxcsr);
        Assert.Equal(0x80, guest.State->Ftw);
    }

    [Theory]
    [InlineData(4UL, 0UL, 0UL)]
    [InlineData(0UL, 1UL, 0UL)]
    [InlineData(0UL, 0UL, 1UL)]
    [InlineData(2UL, Compacted | 1, 0UL)]
    [InlineData(1UL, Compacted | 5, 0UL)]
    [InlineData(1UL, Compacted | 3, 1UL)]
    public void XrstorRefusesABadHeader(ulong present, ulong layout, ulong reserved)
    {
        using SseGuest guest = Prepared();
        guest.Guest.Write(Area, new byte[576]);
        guest.Guest.Write(Header, [present, layout, reserved]);
        Assert.Equal(Vector.Gp, Restore(guest));
        Assert.Equal(UInt128.MaxValue, guest[0]);
    }

    [Fact]
    public void XrstorRefusesReservedBitsOfMxcsr()
    {
        using SseGuest guest = Prepared();
        guest.Guest.Write(Area, new byte[576]);
        guest.Guest.Write(Area + 24, [0x1_0000UL]);
        Assert.Equal(Vector.Gp, Restore(guest));
        Assert.Equal(0x1FA0u, guest.State->Mxcsr);
    }

    [Fact]
    public void XsavesAndXrstorsUseTheCompactedFormat()
    {
        using SseGuest guest = Prepared();
        Assert.Null(guest.Run(a =>
        {
            a.mov(eax, -1);
            a.mov(edx, -1);
            a.xsaves64(__[(long)Area]);
            a.xorps(xmm0, xmm0);
            a.fninit();
            a.xrstors64(__[(long)Area]);
        }));
        Assert.Equal(Compacted | X87 | Sse, guest.Guest.Read<ulong>(Header + 8));
        Assert.Equal(UInt128.MaxValue, guest[0]);
        Assert.Equal(7, guest.State->FpuTop);
        // XRSTORS takes no other format.
        guest.Guest.Write(Header, [X87, 0]);
        Assert.Equal(Vector.Gp, guest.Run(a => a.xrstors64(__[(long)Area])));
    }

    [Fact]
    public void XgetbvTellsXcr0AndWhatIsInUse()
    {
        using SseGuest guest = Prepared();
        Assert.Null(guest.Run(a =>
        {
            a.xor(ecx, ecx);
            a.xgetbv();
            a.mov(esi, eax);
            a.xorps(xmm0, xmm0);
            for (int n = 1; n < 16; n++)
                a.movaps(new AssemblerRegisterXMM(Register.XMM0 + n), xmm0);
            a.mov(ecx, 1);
            a.xgetbv();
        }));
        Assert.Equal(X87 | Sse, guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(X87, guest.State->Gpr[Gpr.Rax]);
        Assert.Equal(Vector.Gp, guest.Run(a =>
        {
            a.mov(ecx, 2);
            a.xgetbv();
        }));
    }

    /// <summary>XMMn is all ones less n, one x87 register is in use, MXCSR is not its default.</summary>
    private static SseGuest Prepared()
    {
        var guest = new SseGuest();
        Assert.Null(guest.Run(a =>
        {
            a.fninit();
            a.fld1();
        }));
        guest.State->Xcr0 = X87 | Sse;
        guest.State->Mxcsr = 0x1FA0;
        for (int n = 0; n < 16; n++)
            guest[n] = UInt128.MaxValue - (uint)n;
        return guest;
    }

    private static uint? Restore(SseGuest guest) => guest.Run(a =>
    {
        a.mov(eax, 7);
        a.xor(edx, edx);
        a.xrstor(__[(long)Area]);
    });
}
