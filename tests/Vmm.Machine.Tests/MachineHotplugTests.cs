using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Iced.Intel;
using Vmm.Devices.Acpi;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Log;
using Vmm.Machine.Snapshots;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Snapshots;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>vCPUs that are added to a machine.</summary>
public sealed class MachineHotplugTests
{
    private const byte StartPage = 8;
    private const int Word = 0x9000;
    private const byte SciVector = 0x59;

    [Fact]
    public void The_guest_is_interrupted_and_starts_the_vcpu()
    {
        using var live = new MachineBench(StartsWhatIsAdded, change: spec => spec with { MaxCpus = 2 });
        live.Machine.Start();
        live.WaitForConsole(".");
        live.WaitForHalt();
        Assert.Equal(1, live.Machine.VcpuCount);
        Assert.Throws<ArgumentOutOfRangeException>(() => live.Machine.GetRegisters(1));
        Assert.Equal(1, live.Machine.AddVcpu());
        Assert.Equal(2, live.Machine.VcpuCount);
        Assert.Equal(0x23, live.WaitForEnd().ExitCode);
        Assert.Equal(".2+", live.Console);
        LoggedInput added = Assert.Single(live.Machine.EventLog);
        Assert.Equal(MachineInputKind.VcpuAdded, added.Input.Kind);

        using var again = new MachineBench(StartsWhatIsAdded, change: spec => spec with { MaxCpus = 2 });
        again.Machine.Replay([added]);
        Assert.Equal(0x23, again.Run().ExitCode);
        Assert.Equal((live.Console, live.Machine.InstructionsRetired), (again.Console, again.Machine.InstructionsRetired));
    }

    [Fact]
    public void A_machine_with_an_added_vcpu_goes_on_the_same_from_anywhere()
    {
        using var bench = new SnapshotBench(TwoVcpus.Program, change: spec => spec with { MaxCpus = 2 })
        {
            Inputs = [new(3_000, 0, new(MachineInputKind.VcpuAdded))],
        };
        RunOutcome straight = bench.Run();
        Assert.Contains('a', straight.Console);
        bench.AssertSame(straight, [1_000, 2_999, 3_000, 3_001, 5_000, .. Enumerable.Range(1, 8).Select(k => straight.Instructions / 9 * (ulong)k)]);
    }

    [Fact]
    public void A_snapshot_from_before_there_was_room_for_more_is_taken()
    {
        using var bench = new SnapshotBench(TwoVcpus.Program, cpus: 2);
        RunOutcome straight = bench.Run();
        var console = new StringBuilder();
        string directory;
        using (Machine machine = bench.RunTo(straight.Instructions / 2, console))
            directory = bench.Save(machine);
        string statePath = Path.Combine(directory, SnapshotFormat.StateFile), manifestPath = Path.Combine(directory, SnapshotFormat.ManifestFile);
        JsonNode state = JsonNode.Parse(File.ReadAllText(statePath))!, manifest = JsonNode.Parse(File.ReadAllText(manifestPath))!;
        Assert.True(state["boot"]!.AsObject().Remove("cpus") && state["board"]!.AsObject().Remove("cpuHotplug") && manifest.AsObject().Remove("maxCpus"));
        byte[] without = Encoding.UTF8.GetBytes(state.ToJsonString());
        manifest["stateSha256"] = Convert.ToHexStringLower(SHA256.HashData(without));
        File.WriteAllBytes(statePath, without);
        File.WriteAllText(manifestPath, manifest.ToJsonString());
        Assert.Equal(straight, bench.Finish(directory, console));
    }

    [Fact]
    public void A_reset_keeps_the_vcpu_and_firmware_tells_of_it()
    {
        // fw_cfg's number of processors.
        using var bench = new MachineBench(a =>
        {
            a.mov(dx, 0x510);
            a.mov(ax, 5);
            a.@out(dx, ax);
            a.inc(edx);
            a.@in(al, dx);
            a.add(al, (sbyte)'0');
            a.mov(dx, 0x3F8);
            a.@out(dx, al);
            a.hlt();
        }, change: spec => spec with { Cpus = 2, MaxCpus = 4 });
        bench.Machine.Start();
        bench.WaitForConsole("2");
        bench.WaitForHalt();
        Assert.Equal((2, 3), (bench.Machine.AddVcpu(), bench.Machine.VcpuCount));
        bench.Machine.Reset();
        bench.WaitForConsole("23");
        Assert.Equal("wait-for-sipi", bench.Machine.GetRegisters(2).Activity);
    }

    [Fact]
    public void A_vcpu_is_added_in_every_state_but_the_last_and_as_long_as_there_is_room()
    {
        using var bench = new MachineBench(a => a.hlt(), change: spec => spec with { MaxCpus = 4 });
        Assert.Equal(1, bench.Machine.AddVcpu());
        bench.Machine.Start();
        Assert.Equal(2, bench.Machine.AddVcpu());
        bench.Machine.Pause();
        Assert.Equal(3, bench.Machine.AddVcpu());
        Assert.Throws<InvalidOperationException>(() => bench.Machine.AddVcpu());
        Assert.Equal(4, bench.Machine.VcpuCount);
        using var ended = new MachineBench(a => a.Exit(0), change: spec => spec with { MaxCpus = 2 });
        ended.Run();
        Assert.Throws<InvalidOperationException>(() => ended.Machine.AddVcpu());
        using var full = new MachineBench(a => a.hlt(), cpus: 2);
        Assert.Throws<InvalidOperationException>(() => full.Machine.AddVcpu());
    }

    [Theory]
    [InlineData(2, 1)]
    [InlineData(1, 17)]
    [InlineData(1, 0)]
    public void A_spec_with_another_room_is_refused(int cpus, int maxCpus)
    {
        var refused = Assert.Throws<InvalidMachineException>(() => new MachineBench(a => a.hlt(), change: spec => spec with { Cpus = cpus, MaxCpus = maxCpus }));
        Assert.Equal(nameof(MachineSpec.MaxCpus), refused.Field);
    }

    [Fact]
    public void A_log_that_asks_for_more_than_there_is_room_for_changes_nothing_more()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 3), change: spec => spec with { MaxCpus = 2 })
        {
            Inputs = [new(10, 0, new(MachineInputKind.Nmi, Vcpu: 1)), .. Enumerable.Repeat(new LoggedInput(20, 0, new(MachineInputKind.VcpuAdded)), 3)],
        };
        Assert.Equal(MachineEndReason.DebugExit, bench.Run().End.Reason);
    }

    /// <summary>
    /// Two threads set and clear an inhibit each as fast as they can while the machine comes to have all its vCPUs, and its guest starts
    /// and restarts all that there are.
    /// </summary>
    [Theory]
    [InlineData(ClockMode.RealTime)]
    [InlineData(ClockMode.Virtual)]
    public async Task No_vcpu_that_is_added_misses_an_inhibit_that_changes_meanwhile(ClockMode clock)
    {
        for (int round = 0; round < 5; round++)
        {
            using var bench = new MachineBench(RestartsAllOthers, clock, change: spec => spec with { MaxCpus = MachineFactory.MostCpus });
            IMachine machine = bench.Machine;
            machine.Start();
            using var ending = new CancellationTokenSource();
            int[] changes = [0, 0];
            Task[] togglers = [Toggle(0, ApicvInhibit.BlockIrq), Toggle(1, ApicvInhibit.HyperV)];
            for (int count = 2; count <= MachineFactory.MostCpus; count++)
            {
                // Not before each of them has been there since the last one.
                int[] before = [Volatile.Read(ref changes[0]), Volatile.Read(ref changes[1])];
                Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref changes[0]) > before[0] && Volatile.Read(ref changes[1]) > before[1], TimeSpan.FromSeconds(30)));
                Assert.Equal(count - 1, machine.AddVcpu());
                AssertAgrees(machine.GetApicv(), atLeast: count);
            }
            await ending.CancelAsync();
            await Task.WhenAll(togglers);

            ApicvView quiet = machine.GetApicv();
            Assert.Equal(ApicvInhibit.None, quiet.Reasons & (ApicvInhibit.BlockIrq | ApicvInhibit.HyperV));
            AssertAgrees(quiet, atLeast: MachineFactory.MostCpus);
            AssertAgrees(machine.SetApicvInhibit(ApicvInhibit.BlockIrq), atLeast: MachineFactory.MostCpus);
            Assert.Equal(MachineRunState.Running, machine.RunState);

            Task Toggle(int index, ApicvInhibit reason) => Task.Factory.StartNew(() =>
            {
                while (!ending.IsCancellationRequested)
                {
                    AssertAgrees(machine.SetApicvInhibit(reason), atLeast: 1);
                    AssertAgrees(machine.ClearApicvInhibit(reason), atLeast: 1);
                    Interlocked.Increment(ref changes[index]);
                }
            }, TaskCreationOptions.LongRunning);
        }
    }

    // The answer has every vCPU, in order, and each one's vmcs01 is as the inhibits say.
    private static void AssertAgrees(ApicvView view, int atLeast)
    {
        Assert.InRange(view.Vcpus.Count, atLeast, MachineFactory.MostCpus);
        Assert.Equal(Enumerable.Range(0, view.Vcpus.Count), view.Vcpus.Select(vcpu => vcpu.Vcpu));
        bool active = view.Reasons == ApicvInhibit.None;
        foreach (VcpuApicvView vcpu in view.Vcpus)
        {
            Assert.Equal((ApicvUpdateState.Applied, view.Generation), (vcpu.Update, vcpu.AppliedGeneration));
            Assert.Equal(active, vcpu.IsActive);
            string[] controls = [.. vcpu.Controls.SelectMany(field => field.Decode)];
            Assert.Equal(active, controls.Contains("Virtual-interrupt delivery"));
            Assert.Equal(active, controls.Contains("APIC-register virtualization"));
        }
    }

    // Waits for the SCI of an added processor, starts it, and waits for what it writes.
    private static void StartsWhatIsAdded(Assembler a)
    {
        a.LoadInterruptTable();
        a.SetGate(SciVector, () =>
        {
            a.mov(dx, PowerManagement.GeneralEventBlock);
            a.@in(ax, dx);
            a.@out(dx, ax);
            a.mov(dx, CpuHotplug.Block + CpuHotplug.AddedOffset);
            a.@in(eax, dx);
            a.@out(dx, eax);
            a.mov(ebx, eax);
            a.WriteApic(ApicRegister.EndOfInterrupt, 0);
            a.iretd();
        });
        WriteStartUp(a, start =>
        {
            start.mov(__word_ptr[Word], 1);
            start.hlt();
        });
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.mov(__dword_ptr[0xFEC0_0000], 0x10 + PowerManagement.SciIrq * 2);
        a.mov(__dword_ptr[0xFEC0_0010], 1 << 15 | SciVector);
        a.mov(dx, PowerManagement.GeneralEventBlock + 2);
        a.mov(ax, 1 << CpuHotplug.Event);
        a.@out(dx, ax);
        Label wait = a.CreateLabel(), started = a.CreateLabel();
        a.Print('.');
        a.sti();
        a.hlt();
        a.mov(eax, ebx);
        a.add(al, (sbyte)'0');
        a.mov(dx, 0x3F8);
        a.@out(dx, al);
        a.WriteApic(ApicRegister.CommandHigh, 1 << 24);
        a.WriteApic(ApicRegister.CommandLow, 0x4500);
        a.WriteApic(ApicRegister.CommandLow, 0x4600 | StartPage);
        a.Label(ref wait);
        a.cmp(__word_ptr[Word], 1);
        a.je(started);
        a.pause();
        a.jmp(wait);
        a.Label(ref started);
        a.Print('+');
        a.Exit(0x11);
    }

    // INIT and start-up to all others, again and again.
    private static void RestartsAllOthers(Assembler a)
    {
        a.LoadInterruptTable();
        WriteStartUp(a, start =>
        {
            Label count = start.CreateLabel();
            start.Label(ref count);
            start.inc(ax);
            start.pause();
            start.jmp(count);
        });
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.WriteApic(ApicRegister.CommandLow, 0xC_4500);
        Delay(a);
        a.WriteApic(ApicRegister.CommandLow, 0xC_4600 | StartPage);
        Delay(a);
        a.jmp(again);
    }

    private static void Delay(Assembler a)
    {
        Label delay = a.CreateLabel();
        a.mov(ecx, 2000);
        a.Label(ref delay);
        a.dec(ecx);
        a.jnz(delay);
        a.pause();
    }

    // Puts real-mode code where a start-up message begins.
    private static void WriteStartUp(Assembler a, Action<Assembler> program)
    {
        var start = new Assembler(16);
        start.xor(ax, ax);
        start.mov(ds, ax);
        program(start);
        using var stream = new MemoryStream();
        start.Assemble(new StreamCodeWriter(stream), StartPage << 12);
        byte[] code = [.. stream.ToArray(), 0, 0, 0];
        for (int i = 0; i + 4 <= code.Length; i += 4)
            a.mov(__dword_ptr[(StartPage << 12) + i], BitConverter.ToInt32(code, i));
    }
}
