using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Xunit;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Debian's own kvm-intel as L1: its module, unmodified, in Debian's kernel, unmodified.</summary>
public abstract class NestedJourneys(Installation installation)
{
    [Journey("gcc libc6-dev")]
    public async Task Kvm_intel_runs_guests_with_devices_interrupts_and_timers()
    {
        string output = await RunKvmAsync();
        Assert.Contains("kvmrun: at least 10 ticks", output, StringComparison.Ordinal);
    }

    /// <summary>The module takes the machine for Hyper-V then, and never executes VMREAD or VMWRITE.</summary>
    [Journey("gcc libc6-dev")]
    public async Task Kvm_intel_uses_the_enlightened_vmcs_where_it_is_offered()
    {
        string output = await RunKvmAsync("--enlightened-vmcs");
        Assert.Contains("Microsoft Hyper-V", output, StringComparison.Ordinal);
        Assert.Contains("using Hyper-V Enlightened VMCS", output, StringComparison.OrdinalIgnoreCase);
    }

    private async Task<string> RunKvmAsync(params string[] options)
    {
        var content = new Initramfs
        {
            Modules = ["kvm-intel"],
            Files = new SortedDictionary<string, byte[]>(StringComparer.Ordinal) { ["bin/kvmrun"] = await StaticProgram.CompileAsync("kvmrun.c") },
            Script = "kvmrun; echo \"kvmrun ended with $?\"; dmesg | grep -i -E 'kvm|vmx|hyper-v|warn|bug'",
        };
        var (kernel, initrd) = await DebianGuest.FilesAsync(content);
        await using var l1 = installation.Run(
            ["run", "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 panic=-1", "--memory", "1024", "--timeout", "600", .. options]);
        Assert.Equal(0, await l1.WaitForExitAsync(Installation.Patience));
        Assert.Contains("kvmrun: devices wrote okbd, 1 device writes, 1 interrupts", l1.Output, StringComparison.Ordinal);
        Assert.Contains("kvmrun ended with 0", l1.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("WARNING", l1.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("BUG:", l1.Output, StringComparison.Ordinal);
        return l1.Output;
    }
}
