using System.Security.Cryptography;
using System.Text;
using Vmm.Guests;
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
        (string Console, ulong Instructions, string Memory) straight = await RunAsync(spec);
        log.WriteLine($"{straight.Console.Length} bytes of console, {straight.Instructions} instructions");
        Assert.Contains(Initramfs.ReadyLine, straight.Console, StringComparison.Ordinal);

        // Saved and restored again and again, each time into a machine of its own.
        string folder = Directory.CreateTempSubdirectory("vmm-snapshot-").FullName;
        try
        {
            var console = new StringBuilder();
            var machine = (Machine.Machine)new MachineFactory().Create(spec, TimeProvider.System);
            try
            {
                machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
                const int parts = 4;
                for (int part = 1; part < parts; part++)
                {
                    Task there = machine.PauseAt(straight.Instructions / parts * (ulong)part);
                    if (part == 1)
                        machine.Start();
                    else
                        machine.Resume();
                    await there.WaitAsync(Patience);
                    string directory = Directory.CreateDirectory(Path.Combine(folder, $"{part}")).FullName;
                    var saved = machine.SaveSnapshot(directory);
                    log.WriteLine($"{saved}");
                    machine.Dispose();
                    machine = (Machine.Machine)new MachineFactory().Restore(spec, directory, TimeProvider.System);
                    machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
                }
                machine.Resume();
                MachineEnd end = await machine.Completion.WaitAsync(Patience);
                Assert.Equal(MachineEndReason.PowerOff, end.Reason);
                Assert.Equal(straight.Console, console.ToString());
                Assert.Equal(straight.Instructions, machine.InstructionsRetired);
                Assert.Equal(straight.Memory, DigestOf(machine));
            }
            finally
            {
                machine.Dispose();
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task<(string Console, ulong Instructions, string Memory)> RunAsync(MachineSpec spec)
    {
        var console = new StringBuilder();
        using IMachine machine = new MachineFactory().Create(spec, TimeProvider.System);
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        machine.Start();
        MachineEnd end = await machine.Completion.WaitAsync(Patience);
        Assert.Equal(MachineEndReason.PowerOff, end.Reason);
        return (console.ToString(), machine.InstructionsRetired, DigestOf(machine));
    }

    private static string DigestOf(IMachine machine)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        byte[] block = new byte[64 << 10];
        for (ulong address = 0; address < MemoryBytes; address += (ulong)block.Length)
        {
            Array.Clear(block);
            machine.ReadMemory(MemoryAddressing.Physical, 0, address, block);
            hash.AppendData(block);
        }
        return Convert.ToHexString(hash.GetHashAndReset());
    }
}
