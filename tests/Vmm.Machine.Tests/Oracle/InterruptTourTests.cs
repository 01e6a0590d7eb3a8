using System.Text;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine.Tests.Guests;
using Vmm.Testing;
using Vmm.Testing.Oracle;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>
/// Our machine and Debian's Bochs and QEMU agree on which interrupts come, and when, and on what the controllers say of them. What
/// either does otherwise is listed with the values that it notes, and explained in <c>tests/README.md</c>.
/// </summary>
public sealed class InterruptTourTests
{
    private static readonly Dictionary<string, string> BochsNotes = new()
    {
        ["APIC: a vector below 16 is an error to send"] = "3 40 0 0",
        ["APIC: an error interrupts where it is not masked"] = "0",
        ["priority: a higher class interrupts a handler, the same and lower ones wait"] = "7 51 61 ff e051 5f 50 41",
        ["priority: without an end of interrupt nothing of the class comes"] = "9 61 60 2 71 ff 8000 60 6f 51",
        ["an APIC that is switched off takes no fixed interrupt"] = "2 20000 51",
        ["PIC: LINT0 masked, it is not heard"] = "1 24",
        ["PIC: a poll is an acknowledgement"] = "3 4 0 0",
        ["PIC: a line that falls before the acknowledgement"] = "2 27 0",
        ["I/O APIC: registers"] = "3 170000 ffffafff ff000000",
        ["I/O APIC: a level comes until it falls"] = "4 51 20000 8051 8051",
        ["I/O APIC: a level that falls while in service does not come again"] = "3 51 8051 8051",
        ["I/O APIC: by both ways, the I/O APIC's and the 8259's"] = "2 51 24",
    };

    private static readonly Dictionary<string, string> QemuNotes = new()
    {
        ["APIC: bits that can be written"] = "7 ff ff000000 b ffffffff 100ff 100ff 300ff",
        ["APIC: switched off by software, its local interrupts are masked and stay so"] = "4 40 41 42 42",
        ["APIC: a vector below 16 is an error to send"] = "3 0 100 0",
        ["APIC: an error interrupts where it is not masked"] = "1 9",
        ["an APIC that is switched off takes no fixed interrupt"] = "2 20000 51",
        ["shadow: STI, MOV SS"] = "3 51 e e0f",
        ["shadow: STI, POP SS"] = "3 51 a e0f",
        ["shadow: MOV SS, STI"] = "3 51 e e0f",
        ["PIC: a line that falls before the acknowledgement"] = "2 24 0",
        ["I/O APIC: registers"] = "3 170000 ffffafff ff000000",
    };

    [Fact]
    public void Every_trial_comes_to_an_end()
    {
        InterruptTour tour = new();
        Assert.Equal(tour.Trials.Count, RunOurs(tour).Length);
    }

    [Fact]
    public void Is_the_same_where_the_processor_does_not_virtualize_the_local_apic()
    {
        InterruptTour tour = new();
        string[] with = RunOurs(tour), without = RunOurs(tour, new ApicvOptions(ApicvInhibit.Disable));
        Assert.Equal(tour.Trials.Count, with.Length);
        ReferencePc.AssertAgreement(tour.Trials, with, without, (_, _) => { });
    }

    [RequiresPackageFact("bochs")]
    public void Agrees_with_Bochs() => Compare(disk => ReferencePc.RunBochs(disk, "corei7_sandy_bridge_2600k", InterruptTour.Columns), BochsNotes);

    [RequiresPackageFact("qemu-system-x86")]
    public void Agrees_with_QEMU() => Compare(disk => ReferencePc.RunQemu(disk, InterruptTour.Columns), QemuNotes);

    private static void Compare(Func<byte[], string[]> judge, Dictionary<string, string> otherwise)
    {
        InterruptTour tour = new();
        Assert.Empty(otherwise.Keys.Except(tour.Trials));
        string[] ours = RunOurs(tour), theirs = judge(ReferencePc.BuildDisk(tour.Image, InterruptTour.Origin));
        for (int k = 0; k < Math.Min(ours.Length, theirs.Length); k++)
            if (otherwise.TryGetValue(tour.Trials[k], out string? notes) && theirs[k] == Line(k, notes))
                theirs[k] = ours[k];
        ReferencePc.AssertAgreement(tour.Trials, ours, theirs, (_, _) => { });
    }

    private static string Line(int trial, string notes) =>
        string.Join(' ', [$"{trial:x}", .. notes.Split(' ').Concat(Enumerable.Repeat("0", InterruptTour.Columns)).Take(InterruptTour.Columns - 1)]);

    private static string[] RunOurs(InterruptTour tour, ApicvOptions? apicv = null)
    {
        using TemporaryFolder folder = new();
        string kernel = Path.Combine(folder.Path, "kernel");
        File.WriteAllBytes(kernel, tour.Image);
        using IMachine machine = TestMachines.Factory.Create(new MachineSpec { Engine = TestMachines.Engine, MemoryBytes = 16 << 20, KernelPath = kernel, Clock = ClockMode.Virtual, Apicv = apicv ?? new() }, TimeProvider.System);
        StringBuilder console = new();
        machine.ConsoleOutput += bytes => console.Append(Encoding.Latin1.GetString(bytes));
        machine.Start();
        Assert.True(machine.Completion.Wait(TimeSpan.FromSeconds(30)), $"The guest did not end; it printed '{console}'.");
        Assert.True(machine.Completion.Result.Reason == MachineEndReason.DebugExit, $"{machine.Completion.Result} after '{console}'");
        return ReferencePc.Lines(console.ToString(), InterruptTour.Columns);
    }
}
