using Iced.Intel;
using Vmm.Machine.Tests.Guests;
using Vmm.Processor.Translation;
using Vmm.Testing;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>The thread that compiles for all machines of the process.</summary>
public sealed class CompilerTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [Fact]
    public void Machines_may_go_while_their_code_is_compiled()
    {
        const int seed = 1;
        var random = new Random(seed);
        for (int k = 0; k < 60; k++)
        {
            bool begun = false;
            using MachineBench bench = Compiled((_, _) => Volatile.Write(ref begun, true), MachineFactory.MostCpus);
            bench.Machine.Start();
            Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref begun), Patience), "Nothing was compiled.");
            // Before its end, or about when it tells the processors of it, or later.
            Thread.SpinWait(random.Next(100_000));
        }
        // The thread is still there for others. Were it not, this process would not be either.
        using MachineBench other = Compiled(null, 1);
        other.Machine.Start();
        Assert.True(SpinWait.SpinUntil(() => other.Machine.Translation is { Installed: > 0 }, Patience), "Nothing was put in place.");
    }

    [Theory]
    [InlineData(Tier.Regions)]
    [InlineData(Tier.NativeRegions)]
    public void A_guest_does_not_wait_for_the_compiler(Tier tier)
    {
        using var begun = new ManualResetEventSlim();
        using var end = new ManualResetEventSlim();
        TranslationOptions options = TestTranslation.Of(tier)! with
        {
            Synchronous = false,
            Falsify = (_, traces) =>
            {
                // Native code of single traces is generated where the guest runs.
                if (tier == Tier.NativeRegions && traces == 1)
                    return;
                begun.Set();
                end.Wait(Patience);
            },
        };
        using var bench = new MachineBench(a => a.Enter64(TwoTraces), change: spec => spec with { Engine = ExecutionEngine.Auto }, translation: options);
        bench.Machine.Start();
        Assert.True(begun.Wait(Patience), "No region was compiled.");
        ulong then = bench.Machine.InstructionsRetired;
        Assert.True(SpinWait.SpinUntil(() => bench.Machine.InstructionsRetired > then + 1_000_000, Patience), "The guest waits for its region.");
        long before = bench.Machine.Translation!.Value.Installed;
        end.Set();
        Assert.True(SpinWait.SpinUntil(() => bench.Machine.Translation is { } now && now.Installed > before, Patience), "The region was not put in place.");
    }

    [Theory]
    [InlineData(Tier.Regions)]
    [InlineData(Tier.NativeCode)]
    [InlineData(Tier.NativeRegions)]
    public void A_compiler_that_fails_costs_the_guest_nothing(Tier tier)
    {
        int heard = 0;
        TranslationOptions options = TestTranslation.Of(tier)! with { Falsify = (_, _) => throw new InvalidOperationException("Broken by hand.") };
        using var bench = new MachineBench(a => a.Enter64(Finite), change: spec => spec with { Engine = ExecutionEngine.Auto }, translation: options);
        bench.Machine.CompilationFailed += failure => heard += failure.Message == "Broken by hand." ? 1 : 0;
        MachineEnd end = bench.Run();
        Assert.True(end is { Reason: MachineEndReason.DebugExit, ExitCode: 0x43 }, $"{end}");
        TranslationStatistics done = bench.Machine.Translation!.Value;
        Assert.True(done.Failed > 0 && done.Installed == 0, $"{done}");
        Assert.Equal((done.Failed, "Broken by hand."), (heard, done.LastFailure!.Message));
    }

    private static MachineBench Compiled(Action<byte[], int>? falsify, int cpus) => new(
        a => a.Enter64(Endless), cpus: cpus, change: spec => spec with { Engine = ExecutionEngine.Auto }, translation: new() { NativeThreshold = 0, Threshold = 5, Falsify = falsify });

    private static void Finite(Assembler a)
    {
        a.mov(edx, 0xF4);
        a.mov(eax, 0x21);
        a.@out(dx, eax);
    }

    private static void Endless(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.inc(rax);
        a.jmp(again);
    }

    private static void TwoTraces(Assembler a)
    {
        Label again = a.CreateLabel(), even = a.CreateLabel();
        a.Label(ref again);
        a.inc(rax);
        a.test(al, 1);
        a.je(even);
        a.inc(rbx);
        a.Label(ref even);
        a.inc(rcx);
        a.jmp(again);
    }
}
