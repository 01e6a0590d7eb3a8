using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Processor.Tests.Memory;

/// <summary>Pages for the hypervisor alone.</summary>
public sealed unsafe class PrivateMemoryTests
{
    [Fact]
    public void Private_pages_are_zeroed_apart_and_no_ram()
    {
        using var memory = new PhysicalMemory(1 << 20);
        ulong[] pages = [.. Enumerable.Range(0, 20).Select(_ => memory.AllocatePrivatePage())];
        Assert.Equal(20, pages.Distinct().Count());
        foreach (ulong page in pages)
        {
            Assert.Equal(0ul, page & 0xFFF);
            Assert.True(page >= PhysicalMemory.PrivateBase && page >> PhysicalMemory.AddressBits == 0);
            Assert.True(new ReadOnlySpan<byte>(memory.HostPage(page + 0xFFF), 4096).IndexOfAnyExcept((byte)0) < 0);
            Assert.True(memory.Page(page) == null);
            Assert.False(memory.IsRam(page, 1));
            Assert.False(memory.TryRead(page, new byte[1]));
            Assert.False(memory.TryWrite(page, new byte[1]));
            Assert.Equal(-1, memory.PageIndex(page));
        }
        Assert.True(memory.HostPage(0x1000) == memory.Page(0x1000));
    }

    [Fact]
    public void A_freed_page_is_gone_and_its_address_is_used_again()
    {
        using var memory = new PhysicalMemory(1 << 20);
        ulong first = memory.AllocatePrivatePage();
        ulong second = memory.AllocatePrivatePage();
        *memory.HostPage(first) = 1;
        memory.FreePrivatePage(first);
        memory.FreePrivatePage(first);
        memory.FreePrivatePage(0x1000);
        memory.FreePrivatePage(ulong.MaxValue);
        Assert.True(memory.HostPage(first) == null);
        Assert.True(memory.HostPage(second) != null);
        Assert.True(memory.HostPage(PhysicalMemory.PrivateBase - 1) == null);
        Assert.True(memory.HostPage(ulong.MaxValue) == null);
        Assert.Equal(first, memory.AllocatePrivatePage());
        Assert.Equal(0, *memory.HostPage(first));
    }
}
