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
}
