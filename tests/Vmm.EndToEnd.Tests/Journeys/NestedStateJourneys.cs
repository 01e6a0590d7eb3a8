using Vmm.EndToEnd.Tests.Installations;
using Vmm.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>What <c>vmmctl nested</c> says of Debian's kvm-intel and its guest, and does to them.</summary>
public abstract class NestedStateJourneys(Installation installation) : IDisposable
{
    private const string Interrupt = "\u0003";

    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-nested-").FullName;

    public void Dispose()
    {
        Directory.Delete(_folder, recursive: true);
        GC.SuppressFinalize(this);
    }

    [Journey]
    public async Task The_state_of_an_l2_that_runs_is_shown_traced_saved_and_loaded()
    {
        const string id = "hypervisor";
        string state = Path.Combine(_folder, "state"), again = Path.Combine(_folder, "again"), broken = Path.Combine(_folder, "broken");
        await using ConsoleProcess guest = await installation.BootAsync(id, DebianGuest.Hypervisor, "--memory", "512");
        await guest.SendLineAsync("l2");
        await guest.WaitForAsync(NestedMonitor.Greeting, Installation.Patience);

        await installation.RunsL2Async(id);
        string[] trace = (await installation.VmmctlAsync("nested", "trace", id, "--level", "2", "--kind", "reflection", "--limit", "5")).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(5, trace.Length);
        Assert.All(trace, line => Assert.Contains("external interrupt", line, StringComparison.OrdinalIgnoreCase));

        // Where it is L2 that stands.
        await Eventually.HoldsAsync(
            async () =>
            {
                await installation.VmmctlAsync("vm", "pause", id);
                if ((await installation.VmmctlAsync<VcpuNested>("nested", "show", id)).Level == 2)
                    return true;
                await installation.VmmctlAsync("vm", "resume", id);
                return false;
            },
            "L2 stands");
        Assert.InRange(await GuestRipAsync("vmcs01"), 1UL << 63, ulong.MaxValue);
        Assert.InRange(await GuestRipAsync("vmcs02"), 0x1000UL, 0xFFFFUL);
        Assert.InRange(await GuestRipAsync("vmcs12"), 0x1000UL, 0xFFFFUL);
        await installation.VmmctlAsync("nested", "save", id, state);
        Assert.Contains("L2 is active", await installation.VmmctlAsync("nested", "decode", state), StringComparison.Ordinal);

        // A file that is none is refused and changes nothing; the right one is the same again.
        byte[] bytes = await File.ReadAllBytesAsync(state);
        await File.WriteAllBytesAsync(broken, bytes[..^1]);
        Assert.NotEmpty(await installation.RefusedAsync("nested", "load", id, broken));
        foreach (string? loaded in (string?[])[null, state])
        {
            if (loaded is not null)
                await installation.VmmctlAsync("nested", "load", id, loaded);
            await installation.VmmctlAsync("nested", "save", id, again);
            Assert.Equal(Convert.ToHexString(bytes), Convert.ToHexString(await File.ReadAllBytesAsync(again)));
        }

        // And L1 goes on with it, and with other guests.
        await installation.VmmctlAsync("vm", "resume", id);
        await installation.RunsL2Async(id);
        await guest.SendAsync(Interrupt);
        await guest.WaitForAsync(Initramfs.Prompt, Installation.Patience);
        await guest.SendLineAsync("l2");
        await guest.WaitForAsync(NestedMonitor.Greeting, Installation.Patience);
        await guest.SendAsync(Interrupt);
        await guest.WaitForAsync(Initramfs.Prompt, Installation.Patience);
        await guest.SendLineAsync("poweroff -f");
        Assert.Equal(0, await guest.WaitForExitAsync(Installation.Patience));
        Assert.DoesNotMatch(DebianGuest.Trouble(), guest.Output);
        await installation.VmmctlAsync("vm", "delete", id);

        // Linux's kernel is in the upper half, and l2's guest in real mode.
        async Task<ulong> GuestRipAsync(string vmcs) =>
            Assert.Single((await installation.VmmctlAsync<ReadVmcsResponse>("nested", "vmcs", id, vmcs, "--field", "Guest RIP")).Fields).Value;
    }
}
