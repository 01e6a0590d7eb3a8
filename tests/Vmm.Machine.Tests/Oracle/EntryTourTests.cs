using System.Text;
using Vmm.Machine.Tests.Guests;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit.Abstractions;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>
/// Each VM entry of a bare hypervisor ends as an oracle says that knows the manual and the capability MSRs which the guest found: on our
/// machine, and on Debian's Bochs. What Bochs does otherwise is listed here, and explained in <c>tests/README.md</c>.
/// </summary>
public sealed class EntryTourTests(ITestOutputHelper output)
{
    private const int Cases = 2000;
    private const uint Rip = 0x681E, Cr0 = 0x6800, PendingDebugExceptions = 0x6822, Activity = 0x4826, Injection = 0x4016, DebugCtl = 0x2802,
        EntryControls = 0x4012, SecondaryControls = 0x401E, CsSelector = 0x0802, SsSelector = 0x0804;

    /// <summary>What Bochs does otherwise: whether that is why a case ended as it did.</summary>
    private static readonly (string What, Func<EntryTourReport, Dictionary<uint, ulong>, EntryVerdicts, bool> Explains)[] BochsDeviations =
    [
        ("a guest RIP that is not canonical is accepted", (report, values, verdict) =>
            verdict == EntryVerdicts.Entry && report.Judge(new Dictionary<uint, ulong>(values) { [Rip] = EntryTour.Origin }) == EntryVerdicts.Entry),
        ("reserved bits of IA32_DEBUGCTL are accepted", (report, values, verdict) =>
            verdict == EntryVerdicts.Entry && report.Judge(new Dictionary<uint, ulong>(values) { [DebugCtl] = values[DebugCtl] & 3 }) == EntryVerdicts.Entry),
        ("an unrestricted guest in IA-32e mode without paging is accepted", (report, values, verdict) =>
            verdict == EntryVerdicts.Entry && (values[SecondaryControls] & 1 << 7) != 0
            && report.Judge(new Dictionary<uint, ulong>(values) { [Cr0] = values[Cr0] | 1UL << 31 }) == EntryVerdicts.Entry),
        ("bits 63:32 of the pending debug exceptions are accepted", (report, values, verdict) =>
            verdict == EntryVerdicts.Entry
            && report.Judge(new Dictionary<uint, ulong>(values) { [PendingDebugExceptions] = (uint)values[PendingDebugExceptions] }) == EntryVerdicts.Entry),
        ("a privileged software exception is injected in HLT", (report, values, verdict) =>
            verdict == EntryVerdicts.Entry && values[Activity] == 1 && (values[Injection] & 0x700) == 0x500
            && report.Judge(new Dictionary<uint, ulong>(values) { [Activity] = 0 }) == EntryVerdicts.Entry),
        ("entry to SMM, outside SMM, fails with the guest state", (report, values, verdict) =>
            verdict == EntryVerdicts.InvalidGuestState && (values[EntryControls] & 0xC00) != 0
            && (report.Judge(new Dictionary<uint, ulong>(values) { [EntryControls] = values[EntryControls] & ~0xC00UL })
                & (EntryVerdicts.InvalidControls | EntryVerdicts.InvalidHostState)) == 0),
        ("the RPLs of CS and SS have to be the same of an unrestricted guest too", (report, values, verdict) =>
            verdict == EntryVerdicts.InvalidGuestState && report.Judge(values) == EntryVerdicts.Entry && (values[SecondaryControls] & 1 << 7) != 0
            && ((values[CsSelector] ^ values[SsSelector]) & 3) != 0),
    ];

    [Theory]
    [Tiers(1, 2, 3)]
    public void Our_machine_enters_as_the_oracle_says(int seed, Tier tier)
    {
        var tour = new EntryTour(seed, Cases);
        Assert.Empty(Judge(tour, RunOurs(tour, tier), []));
    }

    [RequiresPackageFact("bochs")]
    public void Bochs_enters_as_the_oracle_says()
    {
        HashSet<string> seen = [];
        foreach ((string model, int seed) in ((string, int)[])[("corei7_skylake_x", 1), ("corei7_skylake_x", 2), ("corei7_skylake_x", 3), ("corei7_haswell_4770", 4)])
        {
            // It ends at the injection of a pending MTF VM exit, which its capability MSRs do not allow, in place of refusing the entry.
            var tour = new EntryTour(seed, Cases, monitorTrap: false);
            seen.UnionWith(Judge(tour, ReferencePc.RunBochs(ReferencePc.BuildDisk(tour.Image, EntryTour.Origin), model, EntryTour.Columns), BochsDeviations));
        }
        Assert.Equal(BochsDeviations.Select(d => d.What).Order(), seen.Order());
    }

    /// <summary>Compares every case, and returns the deviations that there were.</summary>
    private HashSet<string> Judge(
        EntryTour tour, string[] lines, (string What, Func<EntryTourReport, Dictionary<uint, ulong>, EntryVerdicts, bool> Explains)[] deviations)
    {
        var report = new EntryTourReport(lines);
        var wrong = new StringBuilder();
        HashSet<string> seen = [];
        int differences = 0, judged = 0;
        foreach (EntryTourCase each in tour.Cases)
        {
            if (report.Verdict(each.Number) is not { } verdict)
            {
                Assert.Fail($"{each} has no line; the last is '{lines.LastOrDefault()}'");
                throw new InvalidOperationException();
            }
            if (report.Allowed(each) is not { } allowed)
                continue;
            judged++;
            if ((verdict & allowed) != 0)
                continue;
            if (deviations.FirstOrDefault(d => d.Explains(report, report.Values(each), verdict)) is { What: { } what })
                seen.Add(what);
            else if (differences++ < 100)
                wrong.AppendLine($"{each}\n   {report.Line(each.Number)}: {verdict}, the oracle says {allowed}");
        }
        output.WriteLine(string.Join(", ", report.Outcomes.Select(o => $"{o.Key} {o.Value}").Append($"judged {judged}").Concat(seen)));
        Assert.True(differences == 0, $"{differences} of {tour.Cases.Count} entries ended otherwise\n{wrong}");
        Assert.True(judged > Cases * 9 / 10, $"{judged} cases were judged.");
        foreach (EntryVerdicts verdict in (EntryVerdicts[])[EntryVerdicts.Entry, EntryVerdicts.InvalidControls, EntryVerdicts.InvalidHostState, EntryVerdicts.InvalidGuestState, EntryVerdicts.InvalidPdptes])
            Assert.True(report.Outcomes.GetValueOrDefault(verdict) > 0, $"No case ended with {verdict}.");
        return seen;
    }

    private static string[] RunOurs(EntryTour tour, Tier tier)
    {
        using TemporaryFolder folder = new();
        string kernel = Path.Combine(folder.Path, "kernel");
        File.WriteAllBytes(kernel, tour.Image);
        using IMachine machine = TestMachines.Of(tier).Create(new MachineSpec { Engine = TestMachines.EngineOf(tier), MemoryBytes = 16 << 20, KernelPath = kernel, Clock = ClockMode.Virtual }, TimeProvider.System);
        StringBuilder console = new();
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        machine.Start();
        Assert.True(machine.Completion.Wait(TimeSpan.FromSeconds(30)), $"The guest did not end; it printed '{console}'.");
        Assert.True(machine.Completion.Result.Reason == MachineEndReason.DebugExit, $"{machine.Completion.Result} after '{console}'");
        return ReferencePc.Lines(console.ToString(), EntryTour.Columns);
    }
}
