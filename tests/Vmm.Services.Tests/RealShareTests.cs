using System.Buffers.Binary;
using System.Diagnostics;
using Google.Protobuf.WellKnownTypes;
using Vmm.Machine;
using Vmm.Machine.Scheduling;
using Vmm.Server;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>A server whose machines execute on one thread, and VMs that never wait for anything.</summary>
public sealed class RealShareTests : ServerTest
{
    // Instructions of many turns, so that the length of one says nothing.
    private const ulong Compared = 100_000_000;

    private protected override Task<VmmServer> StartServerAsync() => VmmServer.StartAsync(Options, new MachineFactory { Threads = 1 }, TimeProvider.System);

    public override async Task InitializeAsync()
    {
        await base.InitializeAsync();
        // A Multiboot kernel of one instruction, a jump to itself.
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
        byte[] spin = new byte[34];
        for (int k = 0; k < header.Length; k++)
            BinaryPrimitives.WriteUInt32LittleEndian(spin.AsSpan(k * 4), header[k]);
        spin[32] = 0xEB;
        spin[33] = 0xFE;
        await File.WriteAllBytesAsync(Kernel, spin);
    }

    [Fact]
    public async Task Vms_that_want_all_execute_in_proportion_to_their_weights()
    {
        await SpinAsync("light", weight: 100);
        await SpinAsync("heavy", weight: 300);
        Assert.InRange(await RatioAsync(), 2, 4.5);
        await UpdateAsync("light", new VmSpec { CpuWeight = 900 }, "spec.cpu_weight");
        Assert.InRange(await RatioAsync(), 1 / 4.5, 0.5);
    }

    [Fact]
    public async Task A_limit_holds_also_where_nobody_else_wants_anything()
    {
        long began = Stopwatch.GetTimestamp();
        await SpinAsync("limited", limit: 100);
        CancellationToken soon = Soon;
        Vm vm = await GetAsync("limited");
        while (vm.Status.Counters.ThrottledTime.ToTimeSpan() < TimeSpan.FromSeconds(1))
            vm = await GetAsync("limited", soon);
        TimeSpan used = vm.Status.Counters.ProcessorTime.ToTimeSpan();
        // What may be used at once, and a slice of a slow host.
        TimeSpan most = Stopwatch.GetElapsedTime(began) / 10 + TimeSpan.FromMilliseconds(10) + TimeSpan.FromMilliseconds(50);
        Assert.True(used <= most, $"{used} is more than {most}");

        // Without a limit it has the thread again.
        await UpdateAsync("limited", new VmSpec(), "spec.cpu_limit_millicpus");
        TimeSpan throttled = (await GetAsync("limited")).Status.Counters.ThrottledTime.ToTimeSpan();
        await RetiresAsync("limited", Compared);
        Assert.Equal(throttled, (await GetAsync("limited")).Status.Counters.ThrottledTime.ToTimeSpan());
    }

    [Fact]
    public async Task A_vm_that_gets_next_to_nothing_answers_and_obeys()
    {
        for (int k = 0; k < 4; k++)
            await SpinAsync($"hog{k}", weight: ProcessorShare.MostWeight);
        await SpinAsync("poor", weight: ProcessorShare.LeastWeight, limit: ProcessorShare.LeastLimit);
        string name = $"{Project}/vms/poor";
        // By its share its next turn would be minutes away.
        CancellationToken soon = Soon;
        for (int round = 0; round < 3; round++)
        {
            await Vms.GetRegistersAsync(new GetRegistersRequest { Name = name }, cancellationToken: soon);
            await Vms.PauseVmAsync(new PauseVmRequest { Name = name }, cancellationToken: soon);
            await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = $"s{round}", Snapshot = new Snapshot { Vm = name } }, cancellationToken: soon);
            await Vms.ResumeVmAsync(new ResumeVmRequest { Name = name }, cancellationToken: soon);
            await Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = $"r{round}", Snapshot = new Snapshot { Vm = name } }, cancellationToken: soon);
            await Vms.ResetVmAsync(new ResetVmRequest { Name = name }, cancellationToken: soon);
        }

        await Vms.StopVmAsync(new StopVmRequest { Name = name, Force = true });
        Assert.Equal(VmState.Stopped, (await GetAsync("poor")).Status.State);
    }

    private async Task SpinAsync(string id, int weight = 0, int limit = 0)
    {
        VmSpec spec = Spec();
        spec.MemoryMib = 4;
        spec.CpuWeight = weight;
        spec.CpuLimitMillicpus = limit;
        await StartAsync(id, spec);
    }

    private async Task<Vm> GetAsync(string id, CancellationToken ending = default) =>
        await Vms.GetVmAsync(new GetVmRequest { Name = $"{Project}/vms/{id}" }, cancellationToken: ending);

    private async Task UpdateAsync(string id, VmSpec spec, string path) =>
        await Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = $"{Project}/vms/{id}", Spec = spec }, UpdateMask = new FieldMask { Paths = { path } } });

    /// <summary>How many instructions the heavy one retires for one of the light one.</summary>
    private async Task<double> RatioAsync()
    {
        (ulong light, ulong heavy) = ((await GetAsync("light")).Status.InstructionsRetired, (await GetAsync("heavy")).Status.InstructionsRetired);
        ulong lightNow = light, heavyNow = heavy;
        CancellationToken soon = Soon;
        while (lightNow - light < Compared || heavyNow - heavy < Compared)
            (lightNow, heavyNow) = ((await GetAsync("light", soon)).Status.InstructionsRetired, (await GetAsync("heavy", soon)).Status.InstructionsRetired);
        return (heavyNow - heavy) / (double)(lightNow - light);
    }

    private async Task RetiresAsync(string id, ulong instructions)
    {
        ulong before = (await GetAsync(id)).Status.InstructionsRetired;
        CancellationToken soon = Soon;
        while ((await GetAsync(id, soon)).Status.InstructionsRetired - before < instructions)
            await Task.Yield();
    }
}
