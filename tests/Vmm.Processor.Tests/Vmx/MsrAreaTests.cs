using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>MSR areas of VM entry and VM exit (SDM volume 3, sections 27.4, 28.4, 28.6 and 28.7).</summary>
public sealed unsafe class MsrAreaTests : IDisposable
{
    private const ulong Area = 0x8_0000, Area2 = 0x9_0000;
    private const uint Star = 0xC000_0081, Lstar = 0xC000_0082;
    private readonly VmxGuest _guest = new();

    private void Put(ulong area, int index, ulong msr, ulong value) => _guest.Guest.Write(area + (ulong)index * 16, [msr, value]);

    private void LoadOnEntry(ulong area, ulong count)
    {
        _guest[VmcsField.VmEntryMsrLoadAddress] = area;
        _guest[VmcsField.VmEntryMsrLoadCount] = count;
    }

    [Fact]
    public void EntryLoads()
    {
        Put(Area, 0, Star, 0x1122);
        Put(Area, 1, Lstar, 0x3344);
        LoadOnEntry(Area, 2);
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.hlt()));
        Assert.Equal(0x1122UL, _guest.State->Star);
        Assert.Equal(0x3344UL, _guest.State->Lstar);
    }

    [Theory]
    [InlineData(0xC000_0100UL, 0UL)]
    [InlineData(0xC000_0101UL, 0UL)]
    [InlineData(0x800UL, 0UL)]
    [InlineData(0x8FFUL, 0UL)]
    [InlineData(0x79UL, 0UL)]
    [InlineData(0x8BUL, 0UL)]
    [InlineData(0x9BUL, 0UL)]
    [InlineData(0x1234UL, 0UL)]
    [InlineData(1UL << 32 | Star, 0UL)]
    [InlineData(Lstar, 1UL << 60)]
    [InlineData(0x277UL, 2UL)]
    public void AnEntryThatCannotBeLoadedFailsTheVmEntry(ulong msr, ulong value)
    {
        Put(Area, 0, Star, 0x5566);
        Put(Area, 1, msr, value);
        LoadOnEntry(Area, 3);
        _guest[VmcsField.GuestRflags] |= Rflags.Cf;
        Assert.Equal(ExitReason.MsrLoading, _guest.Run(a => a.hlt()));
        Assert.Equal(0x8000_0022UL, _guest[VmcsField.ExitReason]);
        Assert.Equal(2UL, _guest[VmcsField.ExitQualification]);
        Assert.Equal(TestGuest.CodeBase, _guest[VmcsField.GuestRip]);
        Assert.Equal(0x5566UL, _guest.State->Star);
        Assert.Null(_guest.Vmcs.FailedRule);
    }

    [Fact]
    public void AnAreaOutsideMemoryOrWithoutEndFails()
    {
        LoadOnEntry(0x10_0000_0000, 1);
        Assert.Equal(ExitReason.MsrLoading, _guest.Run(a => a.hlt()));
        Assert.Equal(1UL, _guest[VmcsField.ExitQualification]);
        for (int k = 0; k < 600; k++)
            Put(Area, k, Star, 0);
        LoadOnEntry(Area, 0x1000_0000);
        Assert.Equal(ExitReason.MsrLoading, _guest.Resume());
        Assert.Equal(513UL, _guest[VmcsField.ExitQualification]);
    }

    [Fact]
    public void ExitStoresThenLoads()
    {
        Put(Area, 0, Star, 0);
        Put(Area, 1, 0x10, 0);
        Put(Area, 2, 0xC000_0100, 0);
        Put(Area2, 0, Star, 0x99);
        _guest[VmcsField.VmExitMsrStoreAddress] = Area;
        _guest[VmcsField.VmExitMsrStoreCount] = 3;
        _guest[VmcsField.VmExitMsrLoadAddress] = Area2;
        _guest[VmcsField.VmExitMsrLoadCount] = 1;
        _guest[VmcsField.GuestFsBase] = 0x7777;
        _guest.State->Star = 0x77;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.nop();
            a.hlt();
        }));
        Assert.Equal(0x77UL, _guest.Guest.Read<ulong>(Area + 8));
        Assert.Equal(1UL, _guest.Guest.Read<ulong>(Area + 24));
        Assert.Equal(0x7777UL, _guest.Guest.Read<ulong>(Area + 40));
        Assert.Equal(0x99UL, _guest.State->Star);
    }

    [Theory]
    [InlineData(true, 0x802UL, 1u)]
    [InlineData(true, 0x1234UL, 1u)]
    [InlineData(true, 1UL << 40, 1u)]
    [InlineData(false, 0x802UL, 4u)]
    [InlineData(false, 0xC000_0101UL, 4u)]
    public void AFailureOnExitIsAnAbort(bool store, ulong msr, uint indicator)
    {
        Put(Area, 0, msr, 0);
        _guest[store ? VmcsField.VmExitMsrStoreAddress : VmcsField.VmExitMsrLoadAddress] = Area;
        _guest[store ? VmcsField.VmExitMsrStoreCount : VmcsField.VmExitMsrLoadCount] = 1;
        Assert.Equal(ExitReason.VmxAbort, _guest.Run(a => a.hlt()));
        Assert.Equal(indicator, _guest.Vmcs.AbortIndicator);
    }

    public void Dispose() => _guest.Dispose();
}
