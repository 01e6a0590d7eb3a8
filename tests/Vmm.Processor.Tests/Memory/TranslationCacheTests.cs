using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Memory;

/// <summary>
/// Cached translations when page tables, address spaces and what lies in a page change: pages of two regions of 2 MiB, which other regions of
/// linear addresses lead to as well.
/// </summary>
public sealed unsafe class TranslationCacheTests(ITestOutputHelper output)
{
    private const ulong Region = 2 << 20, Directory = TestGuest.PageTables + 0x2000, PageFlags = 0xE7;
    private const int Regions = 2;

    // 1 and 33, and 5 and 69, are multiples of 64 MiB apart.
    private static readonly ulong[] Aliases = [1, 3, 5, 6, 33, 69, 100];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_store_through_any_address_of_a_page_changes_the_code_in_it(int seed)
    {
        seed = int.Parse(Environment.GetEnvironmentVariable("VMM_SEED") ?? $"{seed}", System.Globalization.CultureInfo.InvariantCulture);
        output.WriteLine($"VMM_SEED={seed}");
        var random = new Random(seed);
        using TestGuest guest = Create();
        ulong[] offsets = [0x3000, 0x4000, 0x103000];
        var targets = Aliases.ToDictionary(alias => alias, alias => alias % Regions);
        foreach ((ulong alias, ulong target) in targets)
            Map(guest, alias, target);
        var expected = new uint[Regions, offsets.Length];
        for (int region = 0; region < Regions; region++)
        {
            foreach (ulong offset in offsets)
                guest.Assemble(64, a => { a.mov(Iced.Intel.AssemblerRegisters.eax, 0); a.vmcall(); }, Physical((ulong)region) + offset);
        }
        for (int step = 0; step < 5000; step++)
        {
            ulong alias = Aliases[random.Next(Aliases.Length)];
            int page = random.Next(offsets.Length);
            ulong linear = alias * Region + offsets[page];
            switch (random.Next(8))
            {
                case 0:
                    targets[alias] ^= 1;
                    Map(guest, alias, targets[alias]);
                    guest.Cpu.Mmu.InvalidatePage(linear);
                    break;
                case < 4:
                    guest.Vmcs[VmcsField.GuestRip] = linear;
                    Assert.Equal(ExitReason.Vmcall, guest.Run());
                    Assert.Equal(expected[targets[alias], page], (uint)guest.State->Gpr[Gpr.Rax]);
                    break;
                default:
                    uint value = (uint)random.Next();
                    expected[targets[alias], page] = value;
                    Assert.True(guest.Cpu.Mmu.Write(linear + 1, (byte*)&value, sizeof(uint)));
                    break;
            }
        }
    }

    [Fact]
    public void A_translation_stays_forgotten_when_the_tags_of_address_spaces_are_used_again()
    {
        const int pages = 64, tags = 4095;
        using TestGuest guest = Create();
        for (ulong region = 0; region < Regions; region++)
        {
            for (ulong page = 0; page < pages; page++)
                guest.Write(Physical(region) + page * 4096, [region * pages + page]);
        }
        Map(guest, 3, 0);
        for (ulong page = 0; page < pages; page++)
            Assert.Equal(page, Read(guest, 3 * Region + page * 4096));
        Map(guest, 3, 1);
        // One page for each of the tags around the one under which the old translations were cached.
        for (int flush = 1; flush <= tags + pages / 2; flush++)
        {
            guest.Cpu.Mmu.Flush(global: false);
            int page = flush - (tags - pages / 2);
            if (page is >= 0 and < pages)
                Assert.Equal((ulong)(pages + page), Read(guest, 3 * Region + (ulong)page * 4096));
        }
    }

    private static TestGuest Create()
    {
        var guest = new TestGuest((Regions + 1) * Region);
        guest.EnterLongMode();
        guest.Run(0);
        return guest;
    }

    private static ulong Physical(ulong region) => (region + 1) * Region;

    private static void Map(TestGuest guest, ulong alias, ulong region) => guest.Write(Directory + alias * 8, [Physical(region) | PageFlags]);

    private static ulong Read(TestGuest guest, ulong linear)
    {
        ulong value;
        Assert.True(guest.Cpu.Mmu.Read(linear, (byte*)&value, sizeof(ulong)));
        return value;
    }
}
