using Vmm.Guests;
using Vmm.Testing;
using Xunit;

namespace Vmm.EndToEnd.Tests;

/// <summary>Debian's own kvm-intel as L1: its module, unmodified, in Debian's kernel, unmodified.</summary>
public sealed class NestedLinuxTests
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    [RequiresPackageFact("gcc libc6-dev")]
    public async Task Kvm_intel_runs_guests_with_devices_interrupts_and_timers()
    {
        string output = await RunKvmAsync();
        Assert.Contains("kvmrun: at least 10 ticks", output, StringComparison.Ordinal);
    }

    /// <summary>The module takes the machine for Hyper-V then, and never executes VMREAD or VMWRITE.</summary>
    [RequiresPackageFact("gcc libc6-dev")]
    public async Task Kvm_intel_uses_the_enlightened_vmcs_where_it_is_offered()
    {
        string output = await RunKvmAsync("--enlightened-vmcs");
        Assert.Contains("Microsoft Hyper-V", output, StringComparison.Ordinal);
        Assert.Contains("using Hyper-V Enlightened VMCS", output, StringComparison.OrdinalIgnoreCase);
    }

    private static async Task<string> RunKvmAsync(params string[] options)
    {
        if (DebianTool.MissingGuestReason() is { } missing)
            Assert.Fail(missing);
        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        var content = new Initramfs
        {
            Modules = ["kvm-intel"],
            Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/kvmrun"] = await StaticProgram.CompileAsync("kvmrun.c") },
            Script = "kvmrun; echo \"kvmrun ended with $?\"; dmesg | grep -i -E 'kvm|vmx|hyper-v|warn|bug'",
        };
        var initrd = await guests.BuildInitramfsAsync(content, null, CancellationToken.None);
        await using var l1 = ConsoleProcess.Vmmctl(
            ["run", "--kernel", kernel.KernelPath, "--initrd", initrd, "--append", "console=ttyS0 panic=-1", "--memory", "1024", "--timeout", "600", .. options]);
        Assert.Equal(0, await l1.WaitForExitAsync(Patience));
        Assert.Contains("kvmrun: devices wrote okbd, 1 device writes, 1 interrupts", l1.Output, StringComparison.Ordinal);
        Assert.Contains("kvmrun ended with 0", l1.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("WARNING", l1.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("BUG:", l1.Output, StringComparison.Ordinal);
        return l1.Output;
    }
}
