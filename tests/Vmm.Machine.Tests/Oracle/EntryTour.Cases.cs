using System.Buffers.Binary;
using Vmm.Processor.Vmx;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>A change of a VMCS field: (value AND And) XOR Xor.</summary>
internal readonly record struct VmcsChange(uint Field, ulong And, ulong Xor)
{
    /// <summary>The value after it, within the field's width.</summary>
    public ulong Apply(ulong value) => ((value & And) ^ Xor) & EntryTour.Mask(Field);

    /// <inheritdoc/>
    public override string ToString() => And == ulong.MaxValue ? $"{Field:x} ^ {Xor:x}" : And == 0 ? $"{Field:x} = {Xor:x}" : $"{Field:x} & {And:x} ^ {Xor:x}";
}

/// <summary>One VM entry: what is changed in a VMCS that passes all checks.</summary>
internal sealed record EntryTourCase(int Number, IReadOnlyList<VmcsChange> Changes)
{
    /// <inheritdoc/>
    public override string ToString() => $"case {Number}: {string.Join(", ", Changes)}";
}

/// <content>The VMCS that is changed, and how. The numbers are encodings (SDM volume 3, appendix B).</content>
internal sealed partial class EntryTour
{
    public const uint CurrentVmcs = 0x60_B000, OtherVmcs = SafePages + 0x3000, ShadowVmcs = SafePages + 0x4000;

    private const int FieldSize = 16, ChangeSize = 24;

    /// <summary>Sixteen pages at which nothing is but <see cref="Contents"/>, and to which nothing is lost.</summary>
    private const uint SafePages = 0x61_0000;
    private const uint MsrList = 0x60_C000, VirtualApicPage = SafePages + 0x1000, PdptPage = SafePages + 0x2000;

    private const uint Pin = 0x4000, Proc = 0x4002, Exit = 0x400C, Entry = 0x4012, Secondary = 0x401E, Injection = 0x4016, Activity = 0x4826;

    private uint _casesAt;

    /// <summary>What is in memory besides zeros, of what an entry may look at: a virtual TPR, lists of PDPTEs, a list of harmless MSRs (IA32_SYSENTER_CS, 0).</summary>
    public static IReadOnlyList<(uint Address, ulong Value)> Contents { get; } =
    [
        (VirtualApicPage + 0x80, 0x50),
        (GuestTables, GuestTables + 0x1003),
        (PdptPage, GuestTables + 0x2001),
        (PdptPage + 0x20, GuestTables + 0x2001), (PdptPage + 0x28, 0x1E6),
        (PdptPage + 0x40, GuestTables + 0x2001), (PdptPage + 0x48, 3),
        (PdptPage + 0x60, GuestTables + 0x2001), (PdptPage + 0x78, 1 | 1UL << 43),
        .. Enumerable.Range(0, 32).Select(k => (MsrList + (uint)k * 16, 0x174UL)),
    ];

    /// <summary>
    /// Every field that is written, with its value before changes, and for a control word the MSR whose settings it is brought to: a 64-bit
    /// guest that exits at once, because the preemption timer is 0.
    /// </summary>
    public static IReadOnlyList<(uint Field, ulong Value, uint Msr)> Fields(ulong exitHandler)
    {
        Dictionary<uint, ulong> values = new()
        {
            [Pin] = 1 << 6,
            [Proc] = 1 << 7 | 1 << 24 | 1UL << 31,
            [Exit] = 1 << 9,
            [Entry] = 1 << 9,
            [0x2000] = SafePages,
            [0x2002] = SafePages + 0x5000,
            [0x2004] = SafePages + 0x6000,
            [0x2006] = MsrList,
            [0x2008] = MsrList,
            [0x200A] = MsrList,
            [0x200E] = SafePages + 0x7000,
            [0x2012] = VirtualApicPage,
            [0x2014] = SafePages + 0x8000,
            [0x2016] = SafePages + 0x9000,
            [0x201A] = EptTables + 0x1E,
            [0x2024] = SafePages + 0xA000,
            [0x2026] = SafePages + 0xB000,
            [0x2028] = SafePages + 0xC000,
            [0x202A] = SafePages + 0xD000,
            [0x2032] = 1UL << 48,
            [0x2800] = ulong.MaxValue,
            [0x2804] = 0x0007_0406_0007_0406,
            [0x2806] = 0x500,
            [0x2C00] = 0x0007_0406_0007_0406,
            [0x2C02] = 0x500,
            [0x0802] = Code64,
            [0x0804] = Data32,
            [0x080E] = Tss,
            [0x480E] = 0x67,
            [0x4810] = 0x27,
            [0x481C] = 0x1_0000,
            [0x481E] = 0x1_0000,
            [0x4820] = 0x1_0000,
            [0x4822] = 0x8B,
            [0x6816] = Gdt,
            [0x681A] = 0x400,
            [0x681C] = GuestCode + 0x800,
            [0x681E] = GuestCode,
            [0x6820] = 2,
            [0x6800] = HypervisorCr0,
            [0x6802] = GuestTables,
            [0x6804] = HypervisorCr4,
            [0x0C02] = Code64,
            [0x0C04] = Data32,
            [0x0C0C] = Tss,
            [0x6C00] = HypervisorCr0,
            [0x6C02] = Tables,
            [0x6C04] = HypervisorCr4,
            [0x6C0C] = Gdt,
            [0x6C0E] = Idt,
            [0x6C14] = Stack,
            [0x6C16] = exitHandler,
        };
        for (uint segment = 0; segment < 4; segment++)
        {
            values[0x4800 + segment * 2] = uint.MaxValue;
            values[0x4814 + segment * 2] = segment == 1 ? 0xA09Bu : 0xC093;
        }
        return
        [
            .. VmcsCatalogue.Fields.Where(f => !f.IsReadOnly && f.Requirement.Word is not (VmxControlWord.Tertiary or VmxControlWord.SecondaryExit))
                .Select(f => (f.Encoding, values.GetValueOrDefault(f.Encoding), SettingsOf(f.Encoding))),
        ];
    }

    private static uint SettingsOf(uint field) => field switch { Pin => 0x48Du, Proc => 0x48E, Exit => 0x48F, Entry => 0x490, Secondary => 0x48B, _ => 0 };

    /// <summary>The bits that a field has, by its encoding (SDM volume 3, table 25-21).</summary>
    public static ulong Mask(uint field) => (field >> 13 & 3) switch { 0 => 0xFFFF, 2 => 0xFFFF_FFFF, _ => ulong.MaxValue };

    private byte[] BuildData(ulong exitHandler)
    {
        using var stream = new MemoryStream();
        void Put(params ReadOnlySpan<ulong> values)
        {
            Span<byte> bytes = stackalloc byte[8];
            foreach (ulong value in values)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
                stream.Write(bytes);
            }
        }
        foreach ((uint field, ulong value, uint msr) in Fields(exitHandler))
            Put(field | (ulong)msr << 32, value);
        Put(ulong.MaxValue, 0);
        if (_casesAt != Data + stream.Length)
            throw new InvalidOperationException("The table of fields has another length than was thought.");
        foreach (EntryTourCase each in Cases)
        {
            Put((ulong)each.Changes.Count);
            foreach (VmcsChange change in each.Changes)
                Put(change.Field, change.And, change.Xor);
        }
        Put(ulong.MaxValue);
        return stream.ToArray();
    }

    private List<EntryTourCase> Generate(int seed, int count, bool monitorTrap)
    {
        IReadOnlyList<(uint Field, ulong Value, uint Msr)> fields = Fields(0);
        _casesAt = Data + (uint)(fields.Count + 1) * FieldSize;
        var random = new Random(seed);
        uint[] candidates = [.. fields.Select(f => f.Field).Where(f => !EntryMutation.Untouched.Contains(f))];
        uint[] controls = [Pin, Proc, Exit, Entry, Secondary, Injection];
        List<EntryTourCase> cases = [];
        while (cases.Count < count)
        {
            List<VmcsChange> changes = [.. EntryMutation.Flavour(random)];
            for (int k = random.Next(1, 4); k > 0; k--)
                changes.AddRange(EntryMutation.Of(random, random.Next(4) == 0 ? controls[random.Next(controls.Length)] : candidates[random.Next(candidates.Length)]));
            // Without the timer nothing would wake it.
            if (changes.Any(c => c.Field == Activity) && changes.Any(c => c.Field == Pin))
                continue;
            if (!monitorTrap && changes.Any(c => c.Field == Injection && (c.Xor & 0x8000_0700) == 0x8000_0700))
                continue;
            cases.Add(new(cases.Count, changes));
        }
        return cases;
    }

    /// <summary>
    /// Changes at random, of kinds that a hypervisor survives: an address that something is written to, or that it goes on at after the
    /// exit, is one of the pages for that, or one that no processor accepts.
    /// </summary>
    private static class EntryMutation
    {
        /// <summary>The preemption timer, and fields that no check looks at.</summary>
        public static readonly HashSet<uint> Untouched = [0x482E, 0x4828, 0x4004, 0x4006, 0x4008, 0x4020, 0x4022, 0x6000, 0x6002, 0x6004, 0x6006];

        private static readonly ulong[] Limits = [0, 0xFFF, 0xFFFF, 0xF_FFFF, 0x10_0000, 0xFFFF_FFFF];

        private static readonly HashSet<uint> Pages = [0x2000, 0x2002, 0x2004, 0x2006, 0x2008, 0x200A, 0x200E, 0x2012, 0x2014, 0x2016, 0x2024, 0x2026, 0x2028, 0x202A];

        /// <summary>The kind of guest: plain, with EPT, unrestricted, with more MSRs, with a virtual APIC, PAE or virtual-8086 mode.</summary>
        public static IEnumerable<VmcsChange> Flavour(Random random)
        {
            switch (random.Next(9))
            {
                case 0:
                    return [Set(Secondary, 1 << 1)];
                case 1:
                    return [Set(Secondary, 1 << 1 | 1 << 7)];
                case 2:
                    return [Set(Entry, 1 << 2 | 1 << 14 | 1 << 15), Set(Exit, 1 << 2 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21)];
                case 3:
                    return [Set(Proc, 1 << 21), Set(Secondary, (uint)(random.Next(4) << 8 | random.Next(2) << 4)), Set(Pin, 1)];
                case 4:
                    return [Set(Pin, 1 | 1 << 3 | 1 << 5), Set(Exit, 1 << 15)];
                case 5:
                    return [Clear(Entry, 1 << 9), Set(0x4816, 1 << 14), Clear(0x4816, 1 << 13), Value(0x6802, PdptPage + (uint)random.Next(4) * 0x20),
                        .. random.Next(2) == 0 ? [] : (VmcsChange[])[Set(Secondary, 1 << 1), Value(0x280A, GuestTables + 0x2001)]];
                case 6:
                    return Virtual8086(random);
                default:
                    return [];
            }
        }

        private static IEnumerable<VmcsChange> Virtual8086(Random random)
        {
            yield return Clear(Entry, 1 << 9);
            yield return Clear(0x6804, 1 << 5);
            yield return Set(0x6820, 1 << 17);
            for (uint segment = 0; segment < 6; segment++)
            {
                ulong selector = (ulong)random.Next(0x1_0000);
                yield return Value(0x0800 + segment * 2, selector);
                yield return Value(0x6806 + segment * 2, selector << 4);
                yield return Value(0x4800 + segment * 2, 0xFFFF);
                yield return Value(0x4814 + segment * 2, 0xF3);
            }
        }

        public static IEnumerable<VmcsChange> Of(Random random, uint field)
        {
            int Bit(int bits) => random.Next(bits);
            VmcsChange Flip(int bits) => new(field, ulong.MaxValue, 1UL << Bit(bits) ^ (random.Next(3) == 0 ? 1UL << Bit(bits) : 0));
            ulong Any() => (ulong)random.NextInt64() << 1 ^ (uint)random.Next(2);
            // No processor has so wide an address; the lowest of these are beyond a MAXPHYADDR of 40.
            ulong BadPage() => random.Next(2) == 0 ? SafePages | 1UL << Bit(random.Next(2) == 0 ? 4 : 6) : SafePages | 1UL << random.Next(52, 64);
            ulong Page() => random.Next(3) == 0 ? SafePages + (uint)random.Next(16) * 0x1000 : BadPage();
            ulong LinearAddress() => random.Next(3) switch { 0 => Any(), 1 => 1UL << Bit(64), _ => ulong.MaxValue << random.Next(40, 64) };

            switch (field)
            {
                case Pin or Proc or Secondary or Exit or Entry:
                    return [Flip(32)];
                case Injection:
                    ulong information = 1UL << 31 | (uint)random.Next(8) << 8 | (uint)random.Next(random.Next(4) == 0 ? 256 : 34);
                    if (random.Next(3) == 0)
                        information |= 1 << 11;
                    if (random.Next(8) == 0)
                        information ^= 1UL << Bit(32);
                    return [Value(field, information), Value(0x401A, (ulong)random.Next(5)), .. random.Next(3) == 0 ? [Set(0x6820, 1 << 9)] : (VmcsChange[])[]];
                case 0x4018:
                    return [Value(field, random.Next(2) == 0 ? (ulong)random.Next(0x1_0000) : 1UL << Bit(32))];
                case 0x401A:
                    return [Value(field, (ulong)random.Next(20))];
                case 0x400A:
                    return [Value(field, (ulong)random.Next(8))];
                case 0x401C:
                    return [Value(field, random.Next(3) == 0 ? 1UL << Bit(32) : (ulong)random.Next(16))];
                case 0x400E or 0x4010 or 0x4014:
                    uint list = field == 0x400E ? 0x2006u : field == 0x4010 ? 0x2008 : 0x200Au;
                    return [Value(field, (ulong)random.Next(1, 17)), .. random.Next(2) == 0 ? [] : (VmcsChange[])[Value(list, BadList())]];
                    ulong BadList() => random.Next(2) == 0 ? MsrList | 1UL << Bit(4) : MsrList | 1UL << random.Next(52, 64);
                case 0x2006 or 0x2008 or 0x200A:
                    // Without a count it is not looked at.
                    return [Value(field, BadPage())];
                case 0x2032:
                    return [Value(field, (ulong)random.Next(2)), Set(Secondary, 1 << 25)];
                case 0x2018:
                    return [Value(field, (ulong)random.Next(4)), .. random.Next(2) == 0 ? [Set(Secondary, 1 << 13 | 1 << 1)] : (VmcsChange[])[]];
                case 0x201A:
                    return [random.Next(3) == 0 ? Value(field, Page() | 0x1E) : Flip(random.Next(4) == 0 ? 64 : 12), Set(Secondary, 1 << 1)];
                case 0x2800:
                    return [Value(field, random.Next(6) switch { 0 => CurrentVmcs, 1 => OtherVmcs, 2 => ShadowVmcs, _ => Page() })];
                case 0x2804 or 0x2C00:
                    int at = Bit(8) * 8;
                    return [new(field, ~(0xFFUL << at), (ulong)random.Next(10) << at), field == 0x2804 ? Set(Entry, 1 << 14) : Set(Exit, 1 << 19)];
                case 0x2806 or 0x2C02:
                    return [Flip(random.Next(3) == 0 ? 64 : 13), field == 0x2806 ? Set(Entry, 1 << 15) : Set(Exit, 1 << 21)];
                case 0x280A or 0x280C or 0x280E or 0x2810:
                    return [Value(field, Any() & 1 | 1UL << Bit(64))];
                case 0x0800 or 0x0802 or 0x0804 or 0x0806 or 0x0808 or 0x080A or 0x080C or 0x080E:
                    return [Flip(random.Next(2) == 0 ? 3 : 16)];
                case >= 0x0C00 and <= 0x0C0C:
                    return [Value(field, random.Next(3) == 0 ? 0 : (ulong)random.Next(0x1_0000))];
                case >= 0x4800 and <= 0x480E:
                    return [random.Next(2) == 0 ? Flip(32) : Value(field, Limits[Bit(Limits.Length)])];
                case >= 0x4814 and <= 0x4822:
                    return [Flip(random.Next(4) == 0 ? 32 : 17)];
                case 0x4824:
                    return [Value(field, random.Next(4) == 0 ? 1UL << Bit(32) : (ulong)random.Next(16)), .. random.Next(2) == 0 ? [Set(0x6820, 1 << 9)] : (VmcsChange[])[]];
                case Activity:
                    return [Value(field, random.Next(4) == 0 ? 1UL << random.Next(2, 32) : (ulong)random.Next(1, 3))];
                case 0x6800:
                    return [Flip(random.Next(4) == 0 ? 64 : 32)];
                case 0x6804:
                    return [Flip(random.Next(4) == 0 ? 64 : 24)];
                case 0x6C00:
                    return [Flip(random.Next(4) == 0 ? 64 : 32)];
                case 0x6C04:
                    // Not LA57, with which the tables would be others, nor CET.
                    return [new(field, ulong.MaxValue, 1UL << Bit(64) & ~(1UL << 12 | 1UL << 23))];
                case 0x6802:
                    return [Value(field, random.Next(2) == 0 ? PdptPage + (uint)random.Next(4) * 0x20 : Page())];
                case 0x6C02:
                    return [new(field, ulong.MaxValue, 1UL << random.Next(52, 64))];
                case 0x6C16:
                    return [new(field, ulong.MaxValue, 1UL << random.Next(58, 64))];
                case 0x681A:
                    return [Flip(64), .. random.Next(2) == 0 ? [Set(Entry, 1 << 2)] : (VmcsChange[])[]];
                case 0x2802:
                    return [Flip(random.Next(4) == 0 ? 64 : 16), .. random.Next(2) == 0 ? [Set(Entry, 1 << 2)] : (VmcsChange[])[]];
                case 0x6820:
                    return [Flip(random.Next(4) == 0 ? 64 : 22)];
                case 0x6822:
                    return [Flip(random.Next(4) == 0 ? 64 : 17)];
            }
            if (Pages.Contains(field))
                return [Value(field, Page()), .. Enabling(random, field)];
            bool linear = field is >= 0x6806 and <= 0x6818 or 0x681C or 0x681E or 0x6824 or 0x6826 or (>= 0x6C06 and <= 0x6C14);
            return [linear ? Value(field, LinearAddress()) : Value(field, Any())];
        }

        /// <summary>The control with which a page is looked at, for one half.</summary>
        private static VmcsChange[] Enabling(Random random, uint field) => random.Next(2) == 0 ? [] : field switch
        {
            0x2000 or 0x2002 => [Set(Proc, 1 << 25)],
            0x2004 => [Set(Proc, 1 << 28)],
            0x200E => [Set(Secondary, 1 << 17 | 1 << 1)],
            0x2012 => [Set(Proc, 1 << 21)],
            0x2014 => [Set(Secondary, 1)],
            0x2016 => [Set(Pin, 1 | 1 << 7), Set(Exit, 1 << 15), Set(Proc, 1 << 21), Set(Secondary, 1 << 9), Value(0x0002, 0x41)],
            0x2026 or 0x2028 => [Set(Secondary, 1 << 14)],
            0x202A => [Set(Secondary, 1 << 18)],
            _ => [],
        };

        private static VmcsChange Set(uint field, ulong bits) => new(field, ~bits, bits);

        private static VmcsChange Clear(uint field, ulong bits) => new(field, ~bits, 0);

        private static VmcsChange Value(uint field, ulong value) => new(field, 0, value);
    }
}
