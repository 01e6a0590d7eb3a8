namespace Vmm.Processor.Vmx.Checks;

/// <summary>Checks on the guest's segment and descriptor-table registers (SDM volume 3, sections 27.3.1.2 and 27.3.1.3).</summary>
internal static class GuestSegmentRules
{
    private static readonly string[] Names = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

    public static readonly EntryRule[] List = [.. Selectors(), .. Bases(), .. Limits(), .. Rights(), .. TaskRegister(), .. LocalTable(), .. Tables()];

    private static IEnumerable<EntryRule> Selectors() =>
    [
        Rule("TR selector with TI 0", (in s) => (s[VmcsField.GuestTrSelector] & 4) == 0),
        Rule("LDTR selector with TI 0", (in s) => !Usable(s, Seg.Ldtr) || (s[VmcsField.GuestLdtrSelector] & 4) == 0),
        Rule("SS.RPL equals CS.RPL", (in s) => s.Virtual8086 || s.Unrestricted
            || ((s[VmcsField.GuestSsSelector] ^ s[VmcsField.GuestCsSelector]) & 3) == 0),
    ];

    private static IEnumerable<EntryRule> Bases()
    {
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            yield return Rule($"{Names[n]} base is its selector times 16 in virtual-8086 mode",
                (in s) => !s.Virtual8086 || Base(s, n) == (SelectorOf(s, n) & 0xFFFF) << 4);
        }
        yield return Rule("TR base canonical", (in s) => s.Canonical(VmcsField.GuestTrBase));
        yield return Rule("FS base canonical", (in s) => s.Canonical(VmcsField.GuestFsBase));
        yield return Rule("GS base canonical", (in s) => s.Canonical(VmcsField.GuestGsBase));
        yield return Rule("LDTR base canonical", (in s) => !Usable(s, Seg.Ldtr) || s.Canonical(VmcsField.GuestLdtrBase));
        yield return Rule("CS base below 4 GiB", (in s) => Base(s, Seg.Cs) >> 32 == 0);
        foreach (int k in new[] { Seg.Ss, Seg.Ds, Seg.Es })
        {
            int n = k;
            yield return Rule($"{Names[n]} base below 4 GiB", (in s) => s.Virtual8086 || !Usable(s, n) || Base(s, n) >> 32 == 0);
        }
    }

    private static IEnumerable<EntryRule> Limits()
    {
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            yield return Rule($"{Names[n]} limit FFFF in virtual-8086 mode", (in s) => !s.Virtual8086 || Limit(s, n) == 0xFFFF);
        }
    }

    private static IEnumerable<EntryRule> Rights()
    {
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            yield return Rule($"{Names[n]} access rights F3 in virtual-8086 mode", (in s) => !s.Virtual8086 || RightsOf(s, n) == 0xF3);
        }
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            yield return n switch
            {
                Seg.Cs => Rule("CS type accessed code, or read/write data for an unrestricted guest", (in s) => s.Virtual8086
                    || TypeOf(s, Seg.Cs) is 9 or 11 or 13 or 15 || (s.Unrestricted && TypeOf(s, Seg.Cs) == 3)),
                Seg.Ss => Rule("SS type accessed read/write data", (in s) => !Checked(s, Seg.Ss) || TypeOf(s, Seg.Ss) is 3 or 7),
                _ => Rule($"{Names[n]} type accessed, and readable if code",
                    (in s) => !Checked(s, n) || ((TypeOf(s, n) & 1) != 0 && (TypeOf(s, n) & 0xA) != 8)),
            };
        }
        foreach (EntryRule rule in EachUsable("S 1", (in s, n) => (RightsOf(s, n) & SegmentRights.NotSystem) != 0))
            yield return rule;
        yield return Rule("CS.DPL 0 for data, SS.DPL if not conforming, at most SS.DPL if conforming", (in s) => s.Virtual8086 || TypeOf(s, Seg.Cs) switch
        {
            3 => Dpl(s, Seg.Cs) == 0,
            9 or 11 => Dpl(s, Seg.Cs) == Dpl(s, Seg.Ss),
            13 or 15 => Dpl(s, Seg.Cs) <= Dpl(s, Seg.Ss),
            _ => true,
        });
        yield return Rule("SS.DPL equals SS.RPL",
            (in s) => s.Virtual8086 || s.Unrestricted || Dpl(s, Seg.Ss) == (s[VmcsField.GuestSsSelector] & 3));
        yield return Rule("SS.DPL 0 where CS is data or CR0.PE is 0", (in s) => s.Virtual8086
            || (TypeOf(s, Seg.Cs) != 3 && (s[VmcsField.GuestCr0] & Cr0.Pe) != 0) || Dpl(s, Seg.Ss) == 0);
        foreach (int k in new[] { Seg.Es, Seg.Ds, Seg.Fs, Seg.Gs })
        {
            int n = k;
            yield return Rule($"{Names[n]}.DPL at least its RPL", (in s) => s.Unrestricted || !Checked(s, n) || TypeOf(s, n) > 11
                || Dpl(s, n) >= (SelectorOf(s, n) & 3));
        }
        foreach (EntryRule rule in EachUsable("present", (in s, n) => (RightsOf(s, n) & SegmentRights.Present) != 0))
            yield return rule;
        foreach (EntryRule rule in EachUsable("reserved access-rights bits zero", (in s, n) => ReservedClear(s, n)))
            yield return rule;
        yield return Rule("CS.D 0 in 64-bit mode", (in s) => s.Virtual8086 || !s.LongMode
            || (RightsOf(s, Seg.Cs) & (SegmentRights.Long | SegmentRights.Big)) != (SegmentRights.Long | SegmentRights.Big));
        foreach (EntryRule rule in EachUsable("G agrees with the limit", (in s, n) => GranularityFits(s, n)))
            yield return rule;
    }

    private static IEnumerable<EntryRule> TaskRegister() =>
    [
        Rule("TR type busy TSS, 32- or 64-bit in IA-32e mode", (in s) => TypeOf(s, Seg.Tr) == 11 || (TypeOf(s, Seg.Tr) == 3 && !s.LongMode)),
        Rule("TR S 0", (in s) => (RightsOf(s, Seg.Tr) & SegmentRights.NotSystem) == 0),
        Rule("TR present", (in s) => (RightsOf(s, Seg.Tr) & SegmentRights.Present) != 0),
        Rule("TR reserved access-rights bits zero", (in s) => ReservedClear(s, Seg.Tr)),
        Rule("TR G agrees with the limit", (in s) => GranularityFits(s, Seg.Tr)),
        Rule("TR usable", (in s) => Usable(s, Seg.Tr)),
    ];

    private static IEnumerable<EntryRule> LocalTable() =>
    [
        Rule("LDTR type LDT", (in s) => !Usable(s, Seg.Ldtr) || TypeOf(s, Seg.Ldtr) == 2),
        Rule("LDTR S 0", (in s) => !Usable(s, Seg.Ldtr) || (RightsOf(s, Seg.Ldtr) & SegmentRights.NotSystem) == 0),
        Rule("LDTR present", (in s) => !Usable(s, Seg.Ldtr) || (RightsOf(s, Seg.Ldtr) & SegmentRights.Present) != 0),
        Rule("LDTR reserved access-rights bits zero", (in s) => !Usable(s, Seg.Ldtr) || ReservedClear(s, Seg.Ldtr)),
        Rule("LDTR G agrees with the limit", (in s) => !Usable(s, Seg.Ldtr) || GranularityFits(s, Seg.Ldtr)),
    ];

    private static IEnumerable<EntryRule> Tables() =>
    [
        Table("GDTR base canonical", (in s) => s.Canonical(VmcsField.GuestGdtrBase)),
        Table("IDTR base canonical", (in s) => s.Canonical(VmcsField.GuestIdtrBase)),
        Table("GDTR limit at most FFFF", (in s) => s[VmcsField.GuestGdtrLimit] <= 0xFFFF),
        Table("IDTR limit at most FFFF", (in s) => s[VmcsField.GuestIdtrLimit] <= 0xFFFF),
    ];

    private delegate bool SegmentPredicate(in EntrySubject subject, int segment);

    private static IEnumerable<EntryRule> EachUsable(string what, SegmentPredicate holds)
    {
        for (int k = Seg.Es; k <= Seg.Gs; k++)
        {
            int n = k;
            yield return Rule($"{Names[n]} {what}", (in s) => !Checked(s, n) || holds(s, n));
        }
    }

    private static EntryRule Rule(string description, EntryPredicate holds) => new(EntryCheckGroup.GuestState, "27.3.1.2", description, holds);

    private static EntryRule Table(string description, EntryPredicate holds) => new(EntryCheckGroup.GuestState, "27.3.1.3", description, holds);

    // CS is checked even where its unusable bit is set; the data segments only where they are usable.
    private static bool Checked(in EntrySubject s, int n) => !s.Virtual8086 && (n == Seg.Cs || Usable(s, n));

    // The fields of ES to TR are neighbours in each group of the encodings.
    private static ulong SelectorOf(in EntrySubject s, int n) => s[VmcsField.GuestEsSelector.At(n)];

    private static ulong Base(in EntrySubject s, int n) => s[VmcsField.GuestEsBase.At(n)];

    private static uint Limit(in EntrySubject s, int n) => s.Vmcs.Read32(VmcsField.GuestEsLimit.At(n));

    private static uint RightsOf(in EntrySubject s, int n) => s.Vmcs.Read32(VmcsField.GuestEsAccessRights.At(n));

    private static uint TypeOf(in EntrySubject s, int n) => RightsOf(s, n) & 15;

    private static uint Dpl(in EntrySubject s, int n) => RightsOf(s, n) >> 5 & 3;

    private static bool Usable(in EntrySubject s, int n) => (RightsOf(s, n) & SegmentRights.Unusable) == 0;

    // Bit 16 (unusable) is not reserved; TR has a rule of its own for it.
    private static bool ReservedClear(in EntrySubject s, int n) => (RightsOf(s, n) & 0xFFFE_0F00) == 0;

    private static bool GranularityFits(in EntrySubject s, int n) => (RightsOf(s, n) & SegmentRights.Granular) != 0
        ? (Limit(s, n) & 0xFFF) == 0xFFF
        : Limit(s, n) >> 20 == 0;
}
