using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests.Memory;

/// <summary>Page permissions, error codes and accessed and dirty flags against SDM volume 3, chapter 4.</summary>
public sealed unsafe class PageWalkTests
{
    private const ulong Linear = 0x4000_0000, Directory = 0x2_0000, Table = 0x2_1000, Target = 0x3_0000;

    public static TheoryData<ulong, ulong, int, bool, bool, uint> Rights()
    {
        // leaf flags, CR4 bits to add (and bit 63 to clear CR0.WP), CPL, write, allowed, error code
        var data = new TheoryData<ulong, ulong, int, bool, bool, uint>
        {
            { 0x7, 0, 3, false, true, 0 },
            { 0x7, 0, 3, true, true, 0 },
            { 0x5, 0, 3, false, true, 0 },
            { 0x5, 0, 3, true, false, 7 },
            { 0x3, 0, 3, false, false, 5 },
            { 0x3, 0, 3, true, false, 7 },
            { 0x0, 0, 3, false, false, 4 },
            { 0x0, 0, 0, true, false, 2 },
            { 0x3, 0, 0, true, true, 0 },
            { 0x1, 0, 0, true, false, 3 },
            { 0x1, 1UL << 63, 0, true, true, 0 },
            { 0x7, Cr4.Smap, 0, false, false, 1 },
            { 0x7, Cr4.Smap, 0, true, false, 3 },
            { 0x3, Cr4.Smap, 0, false, true, 0 },
            { 0x8_0000_0000_0007, 0, 0, false, false, 9 },
            { 0x8_0000_0000_0007, 0, 3, true, false, 15 },
        };
        return data;
    }

    [Theory]
    [MemberData(nameof(Rights))]
    public void LeafRightsDecideDataAccesses(ulong leaf, ulong extra, int cpl, bool write, bool allowed, uint error)
    {
        using TestGuest guest = Map(leaf | Target, cpl);
        if ((extra & 1UL << 63) != 0)
            guest.Vmcs[VmcsField.GuestCr0] &= ~Cr0.Wp;
        guest.Vmcs[VmcsField.GuestCr4] |= extra & ~(1UL << 63);
        guest.Run(0);
        ulong value = 0x1122_3344_5566_7788;
        bool done = write ? guest.Cpu.Mmu.Write(Linear + 8, (byte*)&value, 8) : guest.Cpu.Mmu.Read(Linear + 8, (byte*)&value, 8);
        Assert.Equal(allowed, done);
        if (!allowed)
        {
            Assert.Equal(Vector.Pf, guest.State->FaultVector);
            Assert.Equal(error, guest.State->FaultError);
            Assert.Equal(Linear + 8, guest.State->FaultAddress);
        }
        else if (write)
        {
            Assert.Equal(value, guest.Read<ulong>(Target + 8));
        }
    }

    [Theory]
    [InlineData(0x8000_0000_0000_0007, 0UL, 3, 21u)]
    [InlineData(0x8000_0000_0000_0003, 0UL, 0, 17u)]
    [InlineData(0x7, Cr4.Smep, 0, 17u)]
    [InlineData(0x3, 0UL, 3, 21u)]
    [InlineData(0x7, 0UL, 3, 0u)]
    [InlineData(0x3, Cr4.Smep, 0, 0u)]
    public void FetchesObeyNoExecuteAndSmep(ulong leaf, ulong cr4, int cpl, uint error)
    {
        using TestGuest guest = Map(leaf | Target, cpl);
        guest.Vmcs[VmcsField.GuestCr4] |= cr4;
        guest.Run(0);
        bool done = guest.Cpu.Mmu.TryTranslateFetch(Linear);
        Assert.Equal(error == 0, done);
        if (error != 0)
            Assert.Equal(error, guest.State->FaultError);
    }

    [Fact]
    public void AccessedAndDirtyFollowTheAccess()
    {
        using TestGuest guest = Map(0x7 | Target, cpl: 0);
        guest.Run(0);
        ulong value = 0;
        Assert.True(guest.Cpu.Mmu.Read(Linear, (byte*)&value, 8));
        Assert.Equal(0x20UL, guest.Read<ulong>(Table) & 0x60);
        Assert.True(guest.Cpu.Mmu.Write(Linear, (byte*)&value, 8));
        Assert.Equal(0x60UL, guest.Read<ulong>(Table) & 0x60);
    }

    [Fact]
    public void AWriteThatCrossesIntoAnUnmappedPageWritesNothing()
    {
        using TestGuest guest = Map(0x7 | Target, cpl: 0);
        guest.Run(0);
        ulong value = ulong.MaxValue;
        Assert.False(guest.Cpu.Mmu.Write(Linear + 0xFFC, (byte*)&value, 8));
        Assert.Equal(Linear + 0x1000, guest.State->FaultAddress);
        Assert.Equal(2u, guest.State->FaultError);
        Assert.Equal(0u, guest.Read<uint>(Target + 0xFFC));
    }

    [Fact]
    public void InvalidatePageForgetsAPieceOfALargePage()
    {
        using TestGuest guest = Map(0x7 | Target, cpl: 0);
        guest.Write(Directory, [0x87UL]);
        guest.Run(0);
        ulong value = 0;
        guest.Write(0x5000, [0xAAUL]);
        Assert.True(guest.Cpu.Mmu.Read(Linear + 0x5000, (byte*)&value, 8));
        Assert.Equal(0xAAUL, value);
        guest.Write(Directory, [0UL]);
        Assert.True(guest.Cpu.Mmu.Read(Linear + 0x5000, (byte*)&value, 8), "nothing was invalidated yet");
        guest.Cpu.Mmu.InvalidatePage(Linear);
        Assert.False(guest.Cpu.Mmu.Read(Linear + 0x5000, (byte*)&value, 8));
    }

    [Fact]
    public void NonCanonicalIsAGeneralProtectionFault()
    {
        using TestGuest guest = Map(0x7 | Target, cpl: 0);
        guest.Run(0);
        ulong value = 0;
        Assert.False(guest.Cpu.Mmu.Read(0x8000_0000_0000, (byte*)&value, 8));
        Assert.Equal(Vector.Gp, guest.State->FaultVector);
    }

    private static TestGuest Map(ulong leaf, int cpl)
    {
        var guest = new TestGuest();
        guest.Write(TestGuest.PageTables + 0x1000 + 8, [Directory | 0x7]);
        guest.Write(Directory, [Table | 0x7]);
        guest.Write(Table, [leaf]);
        guest.EnterLongMode(cpl: cpl);
        return guest;
    }
}
