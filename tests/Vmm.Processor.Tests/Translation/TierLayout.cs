namespace Vmm.Processor.Tests.Translation;

/// <summary>
/// Where the programs of <see cref="TierFuzzTests"/> have what. Half a mebibyte of memory is identity-mapped by page tables of 4 KiB
/// pages, and again at <see cref="Alias"/>; other page tables map the code pages otherwise and some data pages not at all.
/// </summary>
internal static class TierLayout
{
    public const ulong MemorySize = 0x8_0000;

    /// <summary>Where a table is entered (IST1): double faults, and every other vector.</summary>
    public const ulong TableStack = 0xA000;

    /// <summary>The inner stack of level 0.</summary>
    public const ulong InnerStack = 0x9000;

    /// <summary>Handlers, 64 bytes apart; behind them are the number of events and where they resume.</summary>
    public const ulong Handlers = 0xB000, Events = 0xC000, ResumeTable = 0xC100;
    public const int Resumes = 8;

    /// <summary>Four pages of code, and the pages that the other page tables have in the place of some of them.</summary>
    public const ulong Code = 0x1_0000, OtherCode = 0x1_4000;
    public const int CodeSize = 0x4000;

    /// <summary>Page tables: level 4, 3, 2 and 1, for each of the two address spaces.</summary>
    public const ulong Tables = 0x2_0000, OtherTables = 0x2_4000;

    /// <summary>Data: two pages for everything, one that the other tables lack, one that can be read only, one absent.</summary>
    public const ulong Data = 0x6_0000, ReadOnly = 0x6_3000, Absent = 0x6_4000;
    public const ulong StackTop = 0x6_9F00;

    /// <summary>Nothing but a device answers here; every fourth access asks for attention.</summary>
    public const ulong Device = 0x9_0000;

    /// <summary>Where the first GiB is mapped again.</summary>
    public const ulong Alias = 0xFFFF_8000_0000_0000;

    /// <summary>Writes the page tables.</summary>
    public static void WriteTables(TestGuest guest)
    {
        foreach (ulong root in new[] { Tables, OtherTables })
        {
            guest.Write(root, [root + 0x1000 | 0x67]);
            guest.Write(root + 256 * 8, [root + 0x1000 | 0x67]);
            guest.Write(root + 0x1000, [root + 0x2000 | 0x67]);
            guest.Write(root + 0x2000, [root + 0x3000 | 0x67]);
            for (ulong page = 0; page < 512; page++)
            {
                ulong linear = page << 12;
                bool other = root == OtherTables;
                ulong rights = linear switch
                {
                    ReadOnly => 5UL,
                    Absent => 0UL,
                    Data + 0x2000 when other => 0UL,
                    // Global: one page of code, one of data.
                    Code + 0x1000 or Data + 0x1000 => 0x107UL,
                    < 0x6_6000 and >= 0x6_5000 => 0UL,
                    _ => 7UL,
                };
                ulong physical = other ? linear switch
                {
                    Code => OtherCode,
                    Code + 0x2000 => Code + 0x3000,
                    Code + 0x3000 => Code + 0x2000,
                    _ => linear,
                }
                : linear;
                guest.Write(root + 0x3000 + page * 8, [physical | rights]);
            }
        }
    }
}
