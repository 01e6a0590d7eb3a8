using System.Diagnostics;
using System.Text;
using Vmm.Guests;
using Vmm.Hypervisor.Nested;
using Vmm.Machine;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary>
/// Nested state that goes from Vmm to Linux's KVM and from there to Vmm. One guest, a hypervisor with a guest of its own, runs as L1 on Vmm
/// and as L2 under Debian's kvm-intel; each is stopped where its guest waits, and goes on with the other's state.
/// </summary>
public sealed class NestedStateTests(ITestOutputHelper log)
{
    private const string StateMark = "kvmstate: state ";
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    // Where each was stopped within the loop in which it waits, what the loop leaves in the flags, and the address of the EPT violation by
    // which memory came to the guest of Linux.
    private static readonly HashSet<VmcsField> OfTheMoment =
        [VmcsField.GuestRip, VmcsField.GuestRflags, VmcsField.GuestLinearAddress, VmcsField.GuestPhysicalAddress];

    [RequiresPackageFact("gcc libc6-dev nasm")]
    public async Task Linux_goes_on_with_our_state_and_we_with_that_of_linux()
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        var folder = Directory.CreateTempSubdirectory("vmm-guest-");
        try
        {
            await MoveAsync(await AssembleAsync(folder.FullName));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private async Task MoveAsync(string guest)
    {
        var console = new StringBuilder();
        var waits = new TaskCompletionSource();
        var spec = new MachineSpec { MemoryBytes = 128 << 20, Cpus = 1, KernelPath = guest, Clock = ClockMode.Virtual };
        using IMachine machine = new MachineFactory().Create(spec, TimeProvider.System);
        machine.ConsoleOutput += bytes =>
        {
            console.Append(Encoding.Latin1.GetString(bytes));
            if (console.ToString().Contains("L2 waits\n", StringComparison.Ordinal))
                waits.TrySetResult();
        };
        machine.Start();
        await waits.Task.WaitAsync(Patience);
        await ((Machine.Machine)machine).PauseAt(machine.InstructionsRetired + 10_000).WaitAsync(Patience);
        byte[] ours = machine.GetNestedState(0);
        Assert.Equal(2, machine.GetNested(0).Level);

        byte[] theirs = await OnLinuxAsync(guest, ours);
        Assert.Equal(ours.Length, theirs.Length);
        Assert.Equal(Convert.ToHexString(ours, 0, NestedStateImage.HeaderSize), Convert.ToHexString(theirs, 0, NestedStateImage.HeaderSize));
        Assert.Empty(Differences(ours, theirs, slot => !OfTheMoment.Contains(slot.Field)));
        log.WriteLine(string.Join(Environment.NewLine, Differences(ours, theirs, slot => OfTheMoment.Contains(slot.Field))));

        // L1 as if it had never been in VMX operation, and then in L2 with the state of Linux.
        Assert.Null(machine.SetNestedState(0, new NestedStateImage().ToArray()));
        Assert.Equal(1, machine.GetNested(0).Level);
        Assert.Null(machine.SetNestedState(0, theirs));
        Assert.Equal(2, machine.GetNested(0).Level);
        Assert.Equal(1, machine.WriteConsole("V"u8));
        machine.Resume();
        await machine.Completion.WaitAsync(Patience);
        log.WriteLine(console.ToString());
        Assert.Contains("L2 goes on with V\n", console.ToString(), StringComparison.Ordinal);
        Assert.Contains("done nested-state 18\n", console.ToString(), StringComparison.Ordinal);
    }

    private static async Task<byte[]> OnLinuxAsync(string guest, byte[] state)
    {
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var content = new Initramfs
        {
            Modules = ["kvm-intel"],
            Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal)
            {
                ["bin/kvmstate"] = await StaticProgram.CompileAsync("kvmstate.c"),
                ["guest.elf"] = await File.ReadAllBytesAsync(guest),
                ["state"] = state,
            },
            Script = "kvmstate /guest.elf /state; echo \"kvmstate ended with $?\"",
        };
        var initrd = await guests.BuildInitramfsAsync(content, null, CancellationToken.None);
        await using var l1 = ConsoleProcess.Vmmctl(
            ["run", "--kernel", kernel.KernelPath, "--initrd", initrd, "--append", "console=ttyS0 panic=-1", "--memory", "512", "--timeout", "600"]);
        Assert.Equal(0, await l1.WaitForExitAsync(Patience));
        Assert.Contains("kvmstate: state taken", l1.Output, StringComparison.Ordinal);
        Assert.Contains("L2 goes on with K", l1.Output, StringComparison.Ordinal);
        Assert.Contains("done nested-state 18", l1.Output, StringComparison.Ordinal);
        Assert.Contains("kvmstate ended with 0", l1.Output, StringComparison.Ordinal);
        int at = l1.Output.IndexOf(StateMark, StringComparison.Ordinal) + StateMark.Length;
        return Convert.FromHexString(l1.Output[at..l1.Output.IndexOfAny(['\r', '\n'], at)]);
    }

    private static List<string> Differences(byte[] ours, byte[] theirs, Func<Vmcs12Slot, bool> counts)
    {
        using Vmcs mine = new(), linux = new();
        Vmcs12Layout.Load(ours.AsSpan(NestedStateImage.HeaderSize), mine);
        Vmcs12Layout.Load(theirs.AsSpan(NestedStateImage.HeaderSize), linux);
        return [.. Vmcs12Layout.Slots.Where(slot => counts(slot) && mine[slot.Field] != linux[slot.Field])
            .Select(slot => $"{VmcsCatalogue.Of(slot.Field).Name}: {mine[slot.Field]:x}, on Linux {linux[slot.Field]:x}")];
    }

    private static async Task<string> AssembleAsync(string folder)
    {
        string file = Path.Combine(folder, "guest.elf");
        string source = Path.Combine(Repository.Root, "tests", "compare", "guests", "guest.asm");
        string[] arguments = ["-f", "bin", "-i", Path.GetDirectoryName(source)! + "/", "-i", Path.Combine(AppContext.BaseDirectory, "Guests") + "/",
            "-DWORKLOAD=nested-state", "-o", file, source];
        using var nasm = Process.Start(new ProcessStartInfo(DebianTool.Find("nasm")!, arguments) { RedirectStandardError = true })!;
        string errors = await nasm.StandardError.ReadToEndAsync();
        await nasm.WaitForExitAsync();
        Assert.True(nasm.ExitCode == 0, errors);
        return file;
    }
}
