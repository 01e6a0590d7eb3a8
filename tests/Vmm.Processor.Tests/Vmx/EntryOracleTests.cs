using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;
using Vmm.Testing.Oracle;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>
/// The list of entry rules against the same checks written down a second time, in a straight line: on VMCSs of every mode with a few
/// fields changed at random, the first rule that is violated must be one of the verdicts that the manual allows.
/// </summary>
public sealed class EntryOracleTests(ITestOutputHelper output)
{
    private const int Cases = 60_000;

    private static readonly VmcsFieldEntry[] Fields = [.. VmcsCatalogue.Fields.Where(f => f.Type is not VmcsFieldType.ExitInformation)];

    private static readonly VmcsField[] Words =
    [
        VmcsField.PinBasedControls, VmcsField.ProcessorBasedControls, VmcsField.SecondaryControls, VmcsField.VmExitControls, VmcsField.VmEntryControls,
        VmcsField.VmEntryInterruptionInformation, VmcsField.GuestInterruptibility, VmcsField.GuestActivityState, VmcsField.GuestPendingDebugExceptions,
        VmcsField.GuestRflags, VmcsField.GuestCr0, VmcsField.GuestCr4, VmcsField.GuestEfer, VmcsField.VmcsLinkPointer, VmcsField.EptPointer,
    ];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Rules_and_oracle_agree(int seed)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var verdicts = new SortedDictionary<EntryVerdicts, int>();
        for (int k = 0; k < Cases; k++)
        {
            using EntryCase c = random.Next(5) switch
            {
                0 => EntryCase.Long(),
                1 => EntryCase.Pae(),
                2 => EntryCase.Real(),
                3 => EntryCase.Virtual8086(),
                _ => EntryCase.Host32(),
            };
            // What has passed before is not looked at again while it stays the same.
            Assert.Null(EntryChecks.FirstViolationOfGuest(c.Subject));
            List<string> changes = [];
            for (int n = random.Next(1, 5); n > 0; n--)
            {
                VmcsFieldEntry field = random.Next(2) == 0 ? Fields[random.Next(Fields.Length)] : VmcsCatalogue.Of(Words[random.Next(Words.Length)]);
                c[field.Field] = Mutate(random, field.Field, c[field.Field]) & field.ValueMask;
                changes.Add($"{field.Name} = {c[field.Field]:x}");
            }
            if (random.Next(100) == 0)
            {
                c.Inject(EventType.Nmi, 2);
                c[VmcsField.GuestInterruptibility] = (ulong)random.Next(2);
                c[VmcsField.GuestRflags] |= Rflags.If;
                changes.Add($"NMI, blocking {c[VmcsField.GuestInterruptibility]}");
            }
            c.Write(c[VmcsField.VirtualApicAddress] + 0x80, (ulong)random.Next(256));
            if (random.Next(2) == 0)
                c.Write(c[VmcsField.VmcsLinkPointer], c.Capabilities.RevisionId | (ulong)random.Next(2) << 31);
            for (uint entry = 0; entry < 4; entry++)
                c.Write((c[VmcsField.GuestCr3] & 0xFFFF_FFE0) + entry * 8, random.Next(4) == 0 ? (ulong)random.NextInt64() & 0xFFFF_FFFF_FFFF_F01F : 0x1001);

            EntryRule? rule = EntryChecks.FirstViolation(c.Subject);
            EntryVerdicts verdict = Of(rule), allowed = OracleOf(c).Judge();
            verdicts[verdict] = verdicts.GetValueOrDefault(verdict) + 1;
            if (verdict is not (EntryVerdicts.InvalidControls or EntryVerdicts.InvalidHostState))
            {
                Assert.Same(rule, EntryChecks.FirstViolationOfGuest(c.Subject));
                Assert.Same(rule, EntryChecks.FirstViolationOfGuest(c.Subject));
            }
            Assert.True((verdict & allowed) != 0, $"seed {seed}, case {k}: {string.Join(", ", changes)}: {rule?.ToString() ?? "entry"}, but the oracle says {allowed}");
        }
        output.WriteLine(string.Join(", ", verdicts.Select(v => $"{v.Key} {v.Value}")));
        Assert.Equal(Enum.GetValues<EntryVerdicts>().Length, verdicts.Count);
    }

    private static EntryVerdicts Of(EntryRule? rule) => rule switch
    {
        null => EntryVerdicts.Entry,
        { Group: EntryCheckGroup.Controls } => EntryVerdicts.InvalidControls,
        { Group: EntryCheckGroup.HostState } => EntryVerdicts.InvalidHostState,
        _ => rule.Qualification switch
        {
            0 => EntryVerdicts.InvalidGuestState,
            2 => EntryVerdicts.InvalidPdptes,
            3 => EntryVerdicts.NmiUnderSti,
            _ => EntryVerdicts.InvalidLinkPointer,
        },
    };

    private static EntryOracle OracleOf(EntryCase c)
    {
        EntrySubject subject = c.Subject;
        return new EntryOracle(
            field => c[(VmcsField)field],
            msr => c.Capabilities.TryRead(msr, out ulong value) ? value : 0,
            address => (uint)(c.Read64(address & ~7UL) >> (int)(address & 4) * 8),
            subject.Limits.PhysicalAddressBits, c.Capabilities.LinearAddressBits, subject.Limits.EferAllowed, subject.Limits.DebugCtlAllowed,
            subject.Limits.PerfGlobalCtrlAllowed, c.HostInLongMode, c.VmcsAddress);
    }

    private static ulong Mutate(Random random, VmcsField field, ulong value)
    {
        if (field == VmcsField.VmEntryInterruptionInformation && random.Next(3) != 0)
            return 1u << 31 | (uint)random.Next(8) << 8 | (uint)(random.Next(4) switch { 0 => 2, 1 => random.Next(32), 2 => 0, _ => random.Next(256) }) | (random.Next(3) == 0 ? 1u << 11 : 0);
        if (field is VmcsField.GuestActivityState or VmcsField.GuestInterruptibility && random.Next(4) != 0)
            return (ulong)random.Next(16) >> (field == VmcsField.GuestActivityState ? 2 : 0);
        return random.Next(7) switch
        {
            0 => value ^ 1UL << random.Next(64),
            1 => value ^ 1UL << random.Next(32),
            2 => (ulong)random.NextInt64(),
            3 => (ulong)random.Next(1 << 12) << 12,
            4 => (ulong)random.Next(16),
            5 => (ulong)random.Next(256),
            _ => value ^ 1UL << random.Next(16) ^ 1UL << random.Next(32),
        };
    }
}
