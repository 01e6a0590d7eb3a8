using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Vmm.Testing.Oracle;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// L1 enters vmcs12s that are valid but for a few fields changed at random. Whether there is an entry, and how it fails, must be what
/// an oracle of its own says of what was written; and no vmcs02 may fail the checks of the hardware, which L0 reports by an exception.
/// </summary>
public sealed unsafe class EntryFuzzTests(ITestOutputHelper output)
{
    // Compiling takes most of the time.
    private const int Rounds = 1000, CompiledRounds = 150;

    [Theory]
    [Tiers(1, 2, 3, 4)]
    public void Each_entry_ends_as_the_oracle_says(int seed, Tier tier)
    {
        int rounds = tier == Tier.Interpreter || Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? Rounds : CompiledRounds;
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        long compiled = 0;
        var outcomes = new Dictionary<EntryVerdicts, int>();
        for (int round = 0; round < rounds; round++)
        {
            using var l1 = new NestedMachine(tier: tier);
            l1.LoadL2(a =>
            {
                a.cpuid();
                a.hlt();
            });
            VmcsFieldEntry[] fields = [.. VmcsCatalogue.Fields.Where(f => l1.Capabilities.Supports(f) && !f.IsReadOnly)];
            List<string> changes = [];
            for (int k = random.Next(1, 4); k > 0; k--)
            {
                VmcsFieldEntry field = fields[random.Next(fields.Length)];
                l1[field.Field] = Mutate(random, l1[field.Field]) & field.ValueMask;
                changes.Add($"{field.Name} = {l1[field.Field]:x}");
            }
            string what = $"seed {seed}, round {round}: {string.Join(", ", changes)}";
            EntryVerdicts allowed = Judge(l1, fields);
            L1Stop stop;
            try
            {
                stop = l1.Enter(20_000);
            }
            catch (InvalidOperationException error)
            {
                Assert.Fail($"{what}: {error.Message}");
                throw;
            }
            EntryVerdicts outcome = Outcome(l1, stop, what);
            compiled += l1.Machine.Package.Translation?.Installed ?? 0;
            outcomes[outcome] = outcomes.GetValueOrDefault(outcome) + 1;
            Assert.True((outcome & allowed) != 0, $"{what}: {stop}, {outcome}, but the oracle says {allowed}");
        }
        Assert.True(tier == Tier.Interpreter || compiled > rounds, $"Of {rounds} guests {compiled} traces were compiled.");
        output.WriteLine(string.Join(", ", outcomes.Select(o => $"{o.Key} {o.Value}")));
        Assert.Superset(
            new HashSet<EntryVerdicts> { EntryVerdicts.Entry, EntryVerdicts.InvalidControls, EntryVerdicts.InvalidHostState, EntryVerdicts.InvalidGuestState },
            outcomes.Keys.ToHashSet());
    }

    // L1 goes on from a host state that was changed too: it may come to its end there, or before its VMLAUNCH again (error 4).
    private static EntryVerdicts Outcome(NestedMachine l1, L1Stop stop, string what)
    {
        if (stop == L1Stop.NoEntry)
            return l1.InstructionError switch { 7 => EntryVerdicts.InvalidControls, 8 => EntryVerdicts.InvalidHostState, 4 => EntryVerdicts.Entry, uint other => throw new InvalidOperationException($"{what}: error {other}") };
        Vmcs vmcs12 = l1.Vcpu.Nested.Vmcs12;
        uint reason = vmcs12.Read32(VmcsField.ExitReason);
        if (reason != (1u << 31 | (uint)ExitReason.InvalidGuestState))
            return EntryVerdicts.Entry;
        return vmcs12[VmcsField.ExitQualification] switch
        {
            0 => EntryVerdicts.InvalidGuestState,
            2 => EntryVerdicts.InvalidPdptes,
            3 => EntryVerdicts.NmiUnderSti,
            _ => EntryVerdicts.InvalidLinkPointer,
        };
    }

    private static EntryVerdicts Judge(NestedMachine l1, VmcsFieldEntry[] fields)
    {
        Dictionary<uint, ulong> values = fields.ToDictionary(f => (uint)f.Field, f => l1[f.Field]);
        ProcessorModel model = l1.Machine.Model;
        return new EntryOracle(
            values.GetValueOrDefault,
            msr => l1.Capabilities.TryRead(msr, out ulong value) ? value : 0,
            l1.Vcpu.Nested.Read32,
            model.PhysicalAddressBits, l1.Capabilities.LinearAddressBits, model.Features.EferAllowed, DebugCtlBits: 3, PerfGlobalCtrlBits: 0,
            LongMode: true, NestedMachine.VmcsRegion).Judge();
    }

    private static ulong Mutate(Random random, ulong value) => random.Next(6) switch
    {
        0 => value ^ 1UL << random.Next(64),
        1 => value ^ 1UL << random.Next(32),
        2 => (ulong)random.NextInt64(),
        3 => (ulong)random.Next(1 << 12) << 12,
        4 => (ulong)random.Next(16),
        _ => value ^ 1UL << random.Next(16) ^ 1UL << random.Next(16),
    };
}
