using Iced.Intel;
using Vmm.Machine.Tests.Guests;
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

    private static MachineBench Compiled(Action<byte[], bool>? falsify, int cpus) => new(
        a => a.Enter64(Endless), cpus: cpus, change: spec => spec with { Engine = ExecutionEngine.Auto }, translation: new() { Threshold = 5, Falsify = falsify });

    private static void Endless(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.inc(rax);
        a.jmp(again);
    }
}
