using System.Diagnostics;
using System.Text;
using Vmm.Guests;
using Vmm.Machine;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>Debian's kernel in lockstep: compiled code and interpreter agree in everything, every million instructions.</summary>
public sealed class LockstepTests(ITestOutputHelper log)
{
    private const string CommandLine = "console=ttyS0 panic=-1";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(30);

    [RequiresLinuxGuestFact]
    public async Task The_engines_agree_while_linux_begins_to_boot()
    {
        using var machine = await CreateAsync(new Initramfs(), cpus: 2, memoryMib: 256, new StringBuilder());
        Task there = machine.PauseAt(250_000_000);
        machine.Start();
        await there.WaitAsync(Patience);
        Assert.True(machine.End == null, $"{machine.End?.Detail}\n{machine.End?.Report}");
        machine.Stop();
        AssertCompiled(machine);
        Assert.True(machine.End!.Reason == MachineEndReason.Stopped, $"{machine.End.Detail}\n{machine.End.Report}");
    }

    [NightlyFact("gcc libc6-dev")]
    public async Task The_engines_agree_from_power_on_to_power_off_with_an_L2_of_kvm_intel()
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        var content = new Initramfs
        {
            Modules = ["kvm-intel"],
            Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/kvmrun"] = await StaticProgram.CompileAsync("kvmrun.c") },
            Script = "cat /proc/interrupts; kvmrun; echo \"kvmrun ended with $?\"",
        };
        var console = new StringBuilder();
        using var machine = await CreateAsync(content, cpus: 1, memoryMib: 1024, console);
        var watch = Stopwatch.StartNew();
        machine.Start();
        MachineEnd end = await machine.Completion.WaitAsync(Patience);
        log.WriteLine($"{machine.InstructionsRetired} instructions in {watch.Elapsed.TotalSeconds:f0} s");
        AssertCompiled(machine);
        Assert.True(end.Reason == MachineEndReason.PowerOff, $"{end.Detail}\n{end.Report}\n{console}");
        Assert.Contains("kvmrun ended with 0", console.ToString(), StringComparison.Ordinal);
    }

    private void AssertCompiled(Machine.Machine machine)
    {
        log.WriteLine($"{machine.Translation}");
        Assert.True(machine.Translation!.Value.Installed > 100, "Hardly anything was compiled.");
    }

    private static async Task<Machine.Machine> CreateAsync(Initramfs content, int cpus, ulong memoryMib, StringBuilder console)
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var spec = new MachineSpec
        {
            MemoryBytes = memoryMib << 20,
            Cpus = cpus,
            KernelPath = kernel.KernelPath,
            InitrdPath = await guests.BuildInitramfsAsync(content, null, CancellationToken.None),
            CommandLine = CommandLine,
            Clock = ClockMode.Virtual,
            Engine = ExecutionEngine.Lockstep,
        };
        var machine = (Machine.Machine)new MachineFactory().Create(spec, TimeProvider.System);
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        return machine;
    }
}
