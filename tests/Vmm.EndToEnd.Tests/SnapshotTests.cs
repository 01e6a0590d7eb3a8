using Vmm.Guests;
using Vmm.Hypervisor.Tracing;
using Vmm.Machine;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>Debian's kernel, saved during its boot and restored.</summary>
public sealed class SnapshotTests(ITestOutputHelper log)
{
    private const ulong MemoryBytes = 256 << 20;
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    [RequiresLinuxGuestFact]
    public async Task Linux_restored_from_its_boot_prints_the_same_as_when_it_was_never_stopped()
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var content = new Initramfs { Script = "cat /proc/interrupts /proc/uptime /proc/meminfo; date +%s.%N; head -c 64 /dev/urandom | md5sum" };
        var spec = new MachineSpec
        {
            MemoryBytes = MemoryBytes,
            Cpus = 2,
            KernelPath = kernel.KernelPath,
            InitrdPath = await guests.BuildInitramfsAsync(content, null, CancellationToken.None),
            CommandLine = "console=ttyS0 panic=-1",
            Clock = ClockMode.Virtual,
        };
        await using var whole = new MovingMachine(spec, log);
        GuestRun straight = await whole.FinishAsync(Patience);
        log.WriteLine($"{straight.Console.Length} bytes of console, {straight.Instructions} instructions");
        Assert.Contains(Initramfs.ReadyLine, straight.Console, StringComparison.Ordinal);

        // Saved and restored again and again, each time into a machine of its own.
        const int parts = 4;
        await using var moving = new MovingMachine(spec, log);
        for (ulong part = 1; part < parts; part++)
        {
            await moving.RunToAsync(straight.Instructions / parts * part, Patience);
            moving.Move();
        }
        Assert.Equal(straight, await moving.FinishAsync(Patience));
    }

    [RequiresPackageFact("gcc libc6-dev")]
    public async Task Kvm_intel_restored_with_its_guest_running_ends_the_same()
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var content = new Initramfs
        {
            Modules = ["kvm-intel"],
            Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/kvmrun"] = await StaticProgram.CompileAsync("kvmrun.c") },
            Script = "kvmrun; echo \"kvmrun ended with $?\"",
        };
        var spec = new MachineSpec
        {
            MemoryBytes = MemoryBytes,
            KernelPath = kernel.KernelPath,
            InitrdPath = await guests.BuildInitramfsAsync(content, null, CancellationToken.None),
            CommandLine = "console=ttyS0 panic=-1",
            Clock = ClockMode.Virtual,
        };
        await using var whole = new MovingMachine(spec, log);
        using IExitTrace trace = whole.Machine.TraceExits(ExitTraceFilter.Everything with { Levels = 1 << 2, Kinds = 1 << (int)ExitTraceKind.Entry }, 10_000, () => { });
        GuestRun straight = await whole.FinishAsync(Patience);
        Assert.Contains("kvmrun ended with 0", straight.Console, StringComparison.Ordinal);
        var entries = new ExitTraceRecord[10_000];
        int count = trace.Read(entries);
        log.WriteLine($"{count} entries into L2, {straight.Instructions} instructions");

        // L2's instructions are few between its exits: saved behind the first one after some of its entries.
        await using var moving = new MovingMachine(spec, log);
        int inL2 = 0;
        foreach (ulong point in entries[..count].Select(entry => entry.Instructions + 1).Distinct().Where((_, k) => k % (count / 8) == 0))
        {
            await moving.RunToAsync(point, Patience);
            inL2 += moving.Machine.GetNested(0).Level == 2 ? 1 : 0;
            moving.Move();
        }
        Assert.Equal(straight, await moving.FinishAsync(Patience));
        Assert.True(inL2 >= 3, $"{inL2} times in L2");
    }
}
