using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using Iced.Intel;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Snapshots;
using Vmm.Processor.Translation;
using Vmm.Testing;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>Lockstep: machines that agree run on, and one whose compiled code is wrong ends with a report that names the region.</summary>
public sealed partial class LockstepTests(ITestOutputHelper output)
{
    // Where a wrong instruction is put: ADD R11, R12 in the guest, SUB in the compiler's eyes.
    private static readonly byte[] Right = [0x4D, 0x01, 0xE3], Wrong = [0x4D, 0x29, 0xE3];

    [Fact]
    public void Machines_that_agree_run_to_the_end_of_the_guest()
    {
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 200_000)), change: InLockstep, translation: new() { Threshold = 50 });
        MachineEnd end = bench.Run();
        Assert.True(end is { Reason: MachineEndReason.DebugExit, ExitCode: 3 }, end.ToString());
        Assert.True(bench.Machine.InstructionsRetired > 1_700_000);
        Assert.Equal("....................", bench.Console);
        Assert.True(bench.Machine.Translation is { Installed: >= 2, Size: > 0, Instructions: > 10 } code && code.Size <= code.Limit, $"{bench.Machine.Translation}");
    }

    [Fact]
    public async Task What_comes_from_outside_reaches_both()
    {
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 400_000)), change: InLockstep, translation: new() { Threshold = 50 });
        Task held = bench.Machine.PauseAt(700_000);
        bench.Machine.Start();
        await held;
        bench.Machine.WriteConsole("hello"u8);
        bench.Machine.GetRegisters(0);
        bench.Machine.WriteMemory(MemoryAddressing.Physical, 0, GuestProgram.Data, [9, 9, 9]);
        bench.Machine.SetApicvInhibit(ApicvInhibit.HyperV);
        held = bench.Machine.PauseAt(2_500_000);
        bench.Machine.Resume();
        await held;
        bench.Machine.WriteConsole("again"u8);
        bench.Machine.Resume();
        MachineEnd end = bench.WaitForEnd();
        Assert.True(end is { Reason: MachineEndReason.DebugExit, ExitCode: 3 }, end.ToString());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Interrupts_time_and_randomness_are_the_same_for_both(int cpus)
    {
        using var bench = new MachineBench(a => BusyGuest.Program(a, rounds: 100), cpus: cpus, change: InLockstep);
        MachineEnd end = bench.Run();
        Assert.True(end is { Reason: MachineEndReason.DebugExit, ExitCode: 0x43 }, end.ToString());
    }

    [Theory]
    [InlineData(true, 6_000)]
    [InlineData(false, 60_000)]
    public void Two_processors_may_write_each_others_code(bool synchronous, int calls)
    {
        using var bench = new MachineBench(
            a => MutualWriters.Program(a, calls), cpus: 2, change: InLockstep, translation: new() { Threshold = 5, Synchronous = synchronous });
        MachineEnd end = bench.Run();
        output.WriteLine($"{bench.Machine.InstructionsRetired} instructions, {bench.Machine.Translation}");
        Assert.True(end is { Reason: MachineEndReason.DebugExit, ExitCode: 3 }, $"{end}");
        Assert.True(bench.Machine.GetRegisters(1).Rip is >= 0x34_0000 and < 0x37_0000, "the second processor is elsewhere");
        // The thread beside them comes too late for most of what it compiles.
        Assert.True(bench.Machine.Translation is { } code && (synchronous ? code.Installed > 20 : code.Installed + code.Discarded > 20), $"{bench.Machine.Translation}");
    }

    [Fact]
    public void A_machine_that_is_stopped_is_not_compared_at_its_end()
    {
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 40_000_000)), change: InLockstep);
        bench.Machine.Start();
        bench.WaitForConsole("..");
        bench.Machine.Stop();
        MachineEnd end = bench.WaitForEnd();
        Assert.True(end.Reason == MachineEndReason.Stopped, $"{end}");
    }

    [Fact]
    public void A_stop_at_any_moment_is_no_difference()
    {
        // Some come before the first instruction.
        for (int k = 0; k < 20; k++)
        {
            using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 40_000_000)), cpus: 2, change: InLockstep);
            bench.Machine.Start();
            Thread.SpinWait(k * 2_000);
            bench.Machine.Stop();
            MachineEnd end = bench.WaitForEnd();
            Assert.True(end.Reason == MachineEndReason.Stopped, $"{end}");
        }
    }

    [Fact]
    public async Task A_restored_machine_goes_on_in_lockstep()
    {
        using var folder = new TemporaryFolder();
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 200_000)), change: InLockstep, translation: new() { Threshold = 50 });
        Task held = bench.Machine.PauseAt(1_234_567);
        bench.Machine.Start();
        await held.WaitAsync(TimeSpan.FromSeconds(60));
        bench.Machine.SaveSnapshot(folder.Path);
        using IMachine restored = new MachineFactory { Translation = new() { Threshold = 50 } }.Restore(bench.Spec, folder.Path, TimeProvider.System);
        restored.Resume();
        await restored.Completion.WaitAsync(TimeSpan.FromSeconds(60));
        Assert.True(restored.End is { Reason: MachineEndReason.DebugExit, ExitCode: 3 }, restored.End!.ToString());
        bench.Machine.Resume();
        bench.WaitForEnd();
        Assert.Equal(bench.Machine.InstructionsRetired, restored.InstructionsRetired);
    }

    [Theory]
    [InlineData(Tier.Regions, true)]
    [InlineData(Tier.Regions, false)]
    [InlineData(Tier.NativeCode, true)]
    public void Wrong_code_is_found_with_its_region(Tier tier, bool synchronous)
    {
        var translation = new TranslationOptions { NativeThreshold = tier == Tier.NativeCode ? 50 : 0, Threshold = 50, Synchronous = synchronous, Falsify = (bytes, _) => Falsify(bytes) };
        // Where the compiler has a thread of its own, the rounds go on until that has come to them.
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 200_000, synchronous ? 20 : int.MaxValue)), change: InLockstep, translation: translation);
        MachineEnd end = bench.Run();
        output.WriteLine($"{end.Detail}\n{end.Report}");
        Assert.Equal(MachineEndReason.Failed, end.Reason);
        Assert.Equal(125, end.ExitCode);
        Assert.StartsWith("Lockstep: ", end.Detail, StringComparison.Ordinal);
        Assert.Contains("r11", end.Detail, StringComparison.Ordinal);
        // One region, that with the falsified instruction, as the compiler saw it: in the second loop and not in the first.
        Assert.Single(RegionLine().Matches(end.Report));
        string region = end.Report[RegionLine().Match(end.Report).Index..];
        Assert.Matches("sub +r11, ?r12", region);
        Assert.Contains("22222222h", region, StringComparison.Ordinal);
        Assert.DoesNotContain("11111111h", region, StringComparison.Ordinal);
        AssertListing(region, native: tier == Tier.NativeCode);
        // States of both, and when they parted.
        Assert.Matches(@"virtualMachine\.vcpus\[0\]\.processor\.general\.r11: 0x[0-9a-f]+ and 0x[0-9a-f]+", end.Report);
        Match first = FirstSeen().Match(end.Report);
        Assert.True(first.Success, end.Report);
        Assert.InRange(ulong.Parse(first.Groups[1].ValueSpan, CultureInfo.InvariantCulture), 1UL, bench.Machine.InstructionsRetired);
    }

    [Fact]
    public void A_wrong_region_is_found_behind_right_native_code()
    {
        var translation = new TranslationOptions { NativeThreshold = 10, NativeRegionThreshold = 100_000, Synchronous = true, Falsify = FalsifyRegion };
        // Native code counts how often a loop is entered, and not how often it goes around.
        using var bench = new MachineBench(a => a.Enter64(a => Loops(a, 60, rounds: 150_000)), change: InLockstep, translation: translation);
        MachineEnd end = bench.Run();
        output.WriteLine($"{end.Detail}\n{end.Report}");
        Assert.Equal(MachineEndReason.Failed, end.Reason);
        // The region came to be after more executions than there are from the last agreement on.
        if (NativeCodeRuns)
            Assert.Contains("again from there with native code of regions", end.Report, StringComparison.Ordinal);
        string region = end.Report[RegionLine().Match(end.Report).Index..];
        Assert.Contains("22222222h", region, StringComparison.Ordinal);
        AssertListing(region, native: true);

        static void FalsifyRegion(byte[] bytes, int traces)
        {
            if (traces > 1 || !NativeCodeRuns)
                Falsify(bytes);
        }
    }

    /// <summary>What a region was compiled to, with the wrong instruction in front of what it has become.</summary>
    private static void AssertListing(string region, bool native)
    {
        native &= NativeCodeRuns;
        string[] lines = region.Split('\n');
        int at = Array.IndexOf(lines, native ? "  native code" : "  intermediate code");
        Assert.True(at > 0 && Array.IndexOf(lines, native ? "  intermediate code" : "  native code") < 0, region);
        at = Array.FindIndex(lines, at, line => line.StartsWith("    ; ", StringComparison.Ordinal) && line.EndsWith("  sub r11,r12", StringComparison.Ordinal));
        Assert.True(at > 0, region);
        IEnumerable<string> piece = lines.Skip(at + 1).TakeWhile(line => !line.StartsWith("    ; ", StringComparison.Ordinal));
        Assert.Contains(piece, line => native ? line.Contains("  sub r", StringComparison.Ordinal) : line == "      sub");
    }

    private static bool NativeCodeRuns => OperatingSystem.IsLinux() && RuntimeInformation.ProcessArchitecture == Architecture.X64;

    [Fact]
    public void Real_time_and_disks_that_are_written_are_refused()
    {
        using var folder = new TemporaryFolder();
        string disk = Path.Combine(folder.Path, "disk");
        File.WriteAllBytes(disk, new byte[512]);
        foreach (Func<MachineSpec, MachineSpec> change in (Func<MachineSpec, MachineSpec>[])[
            spec => InLockstep(spec) with { Clock = ClockMode.RealTime }, spec => InLockstep(spec) with { Disks = [new(disk, false)] }])
        {
            var refused = Assert.Throws<InvalidMachineException>(() => new MachineBench(a => a.hlt(), change: change));
            Assert.Equal(nameof(MachineSpec.Engine), refused.Field);
        }
        using var readOnly = new MachineBench(a => a.Exit(1), change: spec => InLockstep(spec) with { Disks = [new(disk, true)] });
        Assert.Equal(3, readOnly.Run().ExitCode);
        using var logging = new MachineBench(a => a.hlt(), change: InLockstep);
        Assert.Throws<InvalidOperationException>(logging.Machine.StartDirtyLog);
    }

    private static MachineSpec InLockstep(MachineSpec spec) => spec with { Engine = ExecutionEngine.Lockstep };

    private static void Falsify(byte[] bytes)
    {
        int at = bytes.AsSpan().IndexOf(Right);
        if (at >= 0)
            Wrong.CopyTo(bytes, at);
    }

    // Two loops, a page apart so that they are two regions, each with a number of its own; only the second has the addition. 20 rounds.
    private static void Loops(Assembler a, int iterations, int rounds = 20)
    {
        Label round = a.CreateLabel(), first = a.CreateLabel(), second = a.CreateLabel(), apart = a.CreateLabel();
        a.xor(r11d, r11d);
        a.mov(r12d, 5);
        a.mov(ebx, rounds);
        a.Label(ref round);
        a.mov(edi, (int)GuestProgram.Data);
        a.mov(ecx, iterations / 20);
        a.Label(ref first);
        a.mov(eax, 0x1111_1111);
        a.add(__qword_ptr[rdi], rax);
        a.dec(ecx);
        a.jnz(first);
        a.jmp(apart);
        a.db(new byte[4096]);
        a.Label(ref apart);
        a.mov(ecx, iterations / 20);
        a.Label(ref second);
        a.mov(eax, 0x2222_2222);
        a.xor(__dword_ptr[rdi + 8], eax);
        a.add(r11, r12);
        a.dec(ecx);
        a.jnz(second);
        a.mov(edx, 0x3F8);
        a.mov(al, (sbyte)'.');
        a.@out(dx, al);
        a.dec(ebx);
        a.jnz(round);
        a.mov(edx, 0xF4);
        a.mov(eax, 1);
        a.@out(dx, eax);
    }

    [GeneratedRegex("^region at physical [0-9a-f]+", RegexOptions.Multiline)]
    private static partial Regex RegionLine();

    [GeneratedRegex("it is seen first after ([0-9]+) instructions")]
    private static partial Regex FirstSeen();
}
