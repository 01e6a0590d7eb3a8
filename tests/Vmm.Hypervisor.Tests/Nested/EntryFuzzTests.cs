using Vmm.Hypervisor.Nested;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// L1 enters vmcs12s that are valid but for a few fields changed at random. Whether there is an entry, and how it fails, must be what
/// the rules say when they are applied to what was written; and no vmcs02 may fail the checks of the hardware, which L0 reports by an
/// exception.
/// </summary>
public sealed unsafe class EntryFuzzTests(ITestOutputHelper output)
{
    private const int Rounds = 400;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Each_entry_ends_as_the_rules_say(int seed)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var outcomes = new Dictionary<string, int>();
        for (int round = 0; round < Rounds; round++)
        {
            using var l1 = new NestedMachine();
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
            EntryRule? rule = Judge(l1, fields);
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
            string outcome = rule is null ? "entry" : rule.Group.ToString();
            outcomes[outcome] = outcomes.GetValueOrDefault(outcome) + 1;
            if (rule is { Group: not EntryCheckGroup.GuestState })
            {
                Assert.True(stop == L1Stop.NoEntry && l1.InstructionError == rule.InstructionError, $"{what}: {stop} {l1.InstructionError}, not {rule}");
            }
            else if (rule is not null)
            {
                // L1 itself goes on from a host state that was changed too, and may come to its end there.
                Vmcs vmcs12 = l1.Vcpu.Nested.Vmcs12;
                Assert.True(vmcs12.Read32(VmcsField.ExitReason) == rule.FailureExitReason && vmcs12[VmcsField.ExitQualification] == rule.Qualification,
                    $"{what}: {stop} {vmcs12.Read32(VmcsField.ExitReason):x}, not {rule}");
            }
            else
            {
                uint reason = l1.Vcpu.Nested.Vmcs12.Read32(VmcsField.ExitReason);
                Assert.True(stop != L1Stop.NoEntry && (reason >> 31 == 0 || (ExitReason)(ushort)reason == ExitReason.MsrLoading), $"{what}: {stop} {reason:x}");
            }
        }
        output.WriteLine(string.Join(", ", outcomes.Select(o => $"{o.Key} {o.Value}")));
        Assert.True(outcomes.Count == 4, "each kind of outcome occurs");
    }

    private static EntryRule? Judge(NestedMachine l1, VmcsFieldEntry[] fields)
    {
        using var vmcs = new Vmcs();
        foreach (VmcsFieldEntry field in fields)
            vmcs[field.Field] = l1[field.Field];
        var limits = new EntryLimits(l1.Machine.Model.PhysicalAddressBits, l1.Machine.Model.Features.EferAllowed) { DebugCtlAllowed = 3 };
        return EntryChecks.FirstViolation(new EntrySubject(vmcs, l1.Capabilities, limits, l1.Vcpu.Nested, true, NestedMachine.VmcsRegion));
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
