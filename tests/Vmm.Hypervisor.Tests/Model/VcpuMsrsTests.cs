using Vmm.Hypervisor.Model;

namespace Vmm.Hypervisor.Tests.Model;

public sealed class VcpuMsrsTests
{
    private readonly VcpuMsrs _msrs = new(new ProcessorModel(1));

    private ulong Read(uint msr)
    {
        Assert.True(_msrs.TryRead(msr, out ulong value));
        return value;
    }

    [Fact]
    public void Unknown_registers_are_refused()
    {
        foreach (uint msr in (uint[])[0x2, 0x48, 0xC1, 0x186, 0x1A2, 0x210, 0x251, 0x25A, 0x270, 0x410, 0x480, 0x600, 0xC001_0015])
        {
            Assert.False(_msrs.TryRead(msr, out _));
            Assert.False(_msrs.TryWrite(msr, 0));
        }
    }

    [Fact]
    public void Read_only_registers_refuse_writes()
    {
        foreach (uint msr in (uint[])[Msr.PlatformId, Msr.FeatureControl, Msr.PlatformInfo, Msr.MtrrCapability, Msr.ArchCapabilities, Msr.McgCapability])
        {
            ulong before = Read(msr);
            Assert.False(_msrs.TryWrite(msr, before));
            Assert.Equal(before, Read(msr));
        }
        Assert.Equal(1UL, Read(Msr.FeatureControl) & 1);
        Assert.NotEqual(0UL, Read(Msr.BiosSignature) >> 32);
    }

    [Theory]
    [InlineData(Msr.MtrrDefaultType, 0xC06, true)]
    [InlineData(Msr.MtrrDefaultType, 0xC02, false)]
    [InlineData(Msr.MtrrDefaultType, 0x1C06, false)]
    [InlineData(Msr.MtrrPhysicalBase0 + 2, 0x8000_0006, true)]
    [InlineData(Msr.MtrrPhysicalBase0 + 2, 0x8000_0007, false)]
    [InlineData(Msr.MtrrPhysicalBase0 + 2, 0x8000_0106, false)]
    [InlineData(Msr.MtrrPhysicalBase0 + 3, 0x3FFF_8000_0800, true)]
    [InlineData(Msr.MtrrPhysicalBase0 + 3, 0x7FFF_8000_0800, false)]
    [InlineData(Msr.MtrrPhysicalBase0 + 3, 0x3FFF_8000_0001, false)]
    [InlineData(Msr.MtrrFixed64K, 0x0606_0606_0606_0606, true)]
    [InlineData(Msr.MtrrFixed4KC0000 + 7, 0x0006_0501_0400_0606, true)]
    [InlineData(Msr.MtrrFixed4KC0000 + 7, 0x0606_0606_0306_0606, false)]
    public void Memory_type_ranges_check_their_values(uint msr, ulong value, bool allowed)
    {
        ulong before = Read(msr);
        Assert.Equal(allowed, _msrs.TryWrite(msr, value));
        Assert.Equal(allowed ? value : before, Read(msr));
    }

    [Fact]
    public void Machine_check_banks_are_quiet_and_can_be_cleared()
    {
        ulong banks = Read(Msr.McgCapability) & 0xFF;
        for (uint bank = 0; bank < banks; bank++)
        {
            uint msr = Msr.McBank0 + bank * 4;
            Assert.False(_msrs.TryWrite(msr, 0x5));
            Assert.True(_msrs.TryWrite(msr, 0));
            Assert.Equal(0UL, Read(msr));
            Assert.Equal(0UL, Read(msr + 1));
            Assert.True(_msrs.TryWrite(msr + 1, 0));
            Assert.False(_msrs.TryWrite(msr + 1, 1));
        }
        Assert.False(_msrs.TryRead(Msr.McBank0 + (uint)banks * 4, out _));
    }
}
