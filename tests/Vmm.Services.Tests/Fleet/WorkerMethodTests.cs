using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Vmm.Client;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests.Fleet;

/// <summary>
/// Every method of a worker, as <see cref="EveryMethodTests"/> has those of a front end: whatever another process of the fleet asks of it, the answer is never
/// UNKNOWN or INTERNAL, and an error has changed nothing.
/// </summary>
public sealed class WorkerMethodTests(ITestOutputHelper output)
{
    public static TheoryData<string> Methods() => [.. VmHostService.Descriptor.Methods.Select(method => method.Name)];

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task No_argument_leads_to_unknown_or_internal(string name)
    {
        const int seed = 20_261;
        output.WriteLine($"seed {seed}");
        MethodDescriptor method = VmHostService.Descriptor.FindMethodByName(name);
        await using MigrationFleet fleet = await MigrationFleet.StartAsync();
        await fleet.Connection.Workers.CordonWorkerAsync(new CordonWorkerRequest { Name = "workers/b" });
        Vm vm = await fleet.Vms.CreateVmAsync(new CreateVmRequest { VmId = "one", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = fleet.Write("kernel", [1]) } } } });
        await fleet.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await fleet.Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "one", Snapshot = new Snapshot { Vm = vm.Name } });
        Located there = await fleet.Registry.LocateVmAsync(vm.Name, null, CancellationToken.None);
        CallInvoker worker = fleet.CallerOf(there.Worker!);
        string before = await StateAsync();
        foreach (IMessage request in BadRequests.Of(method.InputType, new Random(seed)))
        {
            VmmError answer = await RawCall.SendAsync(worker, method, request);
            Assert.True(answer.Code is not (StatusCode.Unknown or StatusCode.Internal or StatusCode.Unimplemented), $"{name} answers {answer} to {BadRequests.TextOf(request)}");
            string after = await StateAsync();
            if (answer.Code is not (StatusCode.OK or StatusCode.DeadlineExceeded))
                Assert.True(before == after, $"{name} answers {answer} to {BadRequests.TextOf(request)}, and changes\n{before}\nto\n{after}");
            before = after;
        }

        async Task<string> StateAsync() => string.Join('\n', new object[]
        {
            string.Join(' ', (await fleet.Registry.ListVmsAsync("projects/default", CancellationToken.None)).Select(each => each.Etag)),
            string.Join(' ', await fleet.Registry.ListImagesAsync("projects/default", CancellationToken.None)),
            string.Join(' ', await fleet.Registry.ListSnapshotsAsync("projects/default", CancellationToken.None)),
            $"{fleet.A.Made[0].RunState} {fleet.A.Made[0].Input} {fleet.A.Made[0].ButtonPresses} {fleet.A.Made[0].Share}",
        });
    }
}
