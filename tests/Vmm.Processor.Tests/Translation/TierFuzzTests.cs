using System.Diagnostics;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Translation;

/// <summary>
/// The tiers compared: random programs, most at supervisor level and the others at the user's, that change themselves, their page tables
/// and their address space, run in slices of random length, once interpreted and once compiled. After each slice registers, counts, exits,
/// device accesses and all of memory are the same. 25 programs, or 4000 with VMM_NIGHTLY=1; VMM_SEED=s replays one (VMM_SEQUENCES=n for as many from there on).
/// </summary>
public sealed unsafe class TierFuzzTests(ITestOutputHelper output)
{
    private const int Normal = 25, Nightly = 4000, FirstSeed = 4_000, Slices = 120;

    // Compiling takes most of the time; a program that writes into its own loop would take all of it.
    private const long RegionsAtMost = 400;

    [Fact]
    public void CompiledCodeDoesWhatTheInterpreterDoes()
    {
        int? given = Setting("VMM_SEED");
        int seed = given ?? FirstSeed;
        int usual = Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? Nightly : Normal;
        int count = given == null ? usual : Setting("VMM_SEQUENCES") ?? 1;
        var clock = Stopwatch.StartNew();
        (long retired, long regions, long slices) = (0, 0, 0);
        var exits = new SortedDictionary<string, int>();
        for (int k = 0; k < count; k++)
        {
            Outcome outcome = Execute(seed + k, Slices, null, exits);
            Assert.True(outcome.Differences.Length == 0, outcome.Differences.Length == 0 ? "" : Explain(seed + k, outcome));
            retired += (long)outcome.Retired;
            regions += outcome.Regions;
            slices += outcome.Slice;
        }
        output.WriteLine($"{count} programs from seed {seed} in {clock.Elapsed.TotalSeconds:f1} s: {retired} instructions in {slices} slices, {regions} regions; exits: "
            + string.Join(", ", exits.Select(e => $"{e.Key} {e.Value}")));
        Assert.True(given != null || regions > count * 5, "hardly anything was compiled");
    }

    private static int? Setting(string name) => int.TryParse(Environment.GetEnvironmentVariable(name), out int value) ? value : null;

    /// <summary>How the execution of a program ended.</summary>
    private readonly record struct Outcome(int Slice, long Budget, string Differences, ulong Before, ulong Retired, long Regions, string Code);

    /// <summary>Runs a program with both tiers up to some slice, which may be given another budget.</summary>
    private static Outcome Execute(int seed, int slices, long? lastBudget, SortedDictionary<string, int>? exits = null)
    {
        var random = new Random(seed);
        var program = new TierProgram(random);
        int start = random.Next();
        // Regions of the JIT alone, native code of single traces alone, or everything.
        int tiers = Setting("VMM_TIERS") ?? random.Next(3);
        int hot = random.Next(3) switch { 0 => 1, 1 => 2, _ => 5 };
        var options = new TranslationOptions
        {
            NativeThreshold = tiers == 0 ? 0 : random.Next(1, 4),
            Threshold = hot,
            NativeRegionThreshold = tiers == 1 || random.Next(4) == 0 ? 0 : hot,
            NativeHotThreshold = tiers == 1 ? 0 : hot,
            Synchronous = true,
            LongestRegion = random.Next(4) switch { 0 => 16, 1 => 48, _ => 128 },
            EmittedPerHandler = random.Next(4) == 0 ? 2 : 0,
            EmittedPerHandlerInRegion = random.Next(4) == 0 ? 4 : 0,
            CodeLimit = random.Next(4) == 0 ? 60_000 : 16 << 20,
        };
        using var interpreted = new TierMachine(program, new Random(start), null);
        using var compiled = new TierMachine(program, new Random(start), options);
        ulong before = 0;
        for (int slice = 0; slice < slices; slice++)
        {
            Prepare(random, program, interpreted, compiled);
            before = interpreted.Vmcs[VmcsField.GuestRip];
            long budget = random.Next(5) switch { 0 => random.Next(1, 5), 1 or 2 => random.Next(1, 60), _ => random.Next(1, 600) };
            if (slice == slices - 1 && lastBudget is { } last)
                budget = last;
            bool goesOn = interpreted.Run(budget) & compiled.Run(budget);
            if (exits != null)
            {
                string reason = ((ExitReason)(interpreted.Vmcs.Read32(VmcsField.ExitReason) & 0xFFFF)).ToString();
                exits[reason] = exits.GetValueOrDefault(reason) + 1;
            }
            string differences = interpreted.Differences(compiled);
            TranslationStatistics statistics = compiled.Guest.Translated!.Value;
            long regions = statistics.Installed;
            if (statistics.Failed > 0)
                differences += $"A compiler has failed: {statistics.LastFailure}";
            if (differences.Length > 0 || !goesOn || regions > RegionsAtMost || slice == slices - 1)
                return new Outcome(slice + 1, budget, differences, before, interpreted.Guest.Cpu.InstructionsRetired, regions,
                    differences.Length > 0 ? $"{options}\n{interpreted.Disassemble(before, 12)}" : "");
        }
        return default;
    }

    /// <summary>What L0 does before an entry: controls, events, breakpoints, a write to memory.</summary>
    private static void Prepare(Random random, TierProgram program, params ReadOnlySpan<TierMachine> machines)
    {
        var proc = (ProcControls)0;
        if (random.Next(2) == 0)
            proc |= ProcControls.HltExiting;
        if (random.Next(10) == 0)
            proc |= ProcControls.MonitorTrapFlag;
        if (random.Next(10) == 0)
            proc |= ProcControls.InterruptWindowExiting;
        PinControls pin = random.Next(8) == 0 ? PinControls.PreemptionTimer : 0;
        uint timer = (uint)random.Next(400);
        bool step = random.Next(20) == 0;
        ulong breakpoint = random.Next(12) == 0 ? program.Blocks[random.Next(program.Blocks.Length)] : 0;
        int vector = random.Next(8) == 0 ? random.Next(32, 40) : -1;
        bool renew = random.Next(10) == 0;
        ulong patchAt = program.Start + (ulong)random.Next(program.Code.Length);
        bool patch = random.Next(16) == 0;
        foreach (TierMachine machine in machines)
        {
            Vmcs vmcs = machine.Vmcs;
            vmcs[VmcsField.ProcessorBasedControls] = (uint)proc;
            vmcs[VmcsField.PinBasedControls] = (uint)pin;
            vmcs[VmcsField.PreemptionTimerValue] = timer;
            if (step)
                vmcs[VmcsField.GuestRflags] |= Rflags.Tf;
            vmcs[VmcsField.GuestDr7] = breakpoint != 0 ? 0x402UL : 0x400;
            machine.State->Dr[0] = breakpoint;
            vmcs[VmcsField.GuestActivityState] = 0;
            vmcs[VmcsField.VmEntryInterruptionInformation] = 0;
            if (vector >= 0 && (vmcs[VmcsField.GuestRflags] & Rflags.If) != 0 && vmcs[VmcsField.GuestInterruptibility] == 0)
                vmcs[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | (uint)vector;
            if (renew)
                machine.WriteCode();
            else if (patch)
                machine.Guest.Write(patchAt, [(byte)(machine.Guest.Read<byte>(patchAt) ^ 1)]);
        }
    }

    /// <summary>Finds the first budget of the differing slice with which the tiers differ.</summary>
    private static string Explain(int seed, Outcome first)
    {
        (long low, long high) = (0, first.Budget);
        Outcome outcome = first;
        while (high - low > 1)
        {
            long middle = (low + high) / 2;
            Outcome tried = Execute(seed, first.Slice, middle);
            if (tried.Differences.Length == 0)
            {
                low = middle;
                continue;
            }
            (high, outcome) = (middle, tried);
        }
        return $"VMM_SEED={seed}: slice {outcome.Slice}, which starts at {outcome.Before:x}, differs with a budget of {high} (interpreted, compiled): {outcome.Differences}\n{outcome.Code}";
    }
}
