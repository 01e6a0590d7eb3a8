using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Grpc.Net.Client;
using Vmm.Client;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Services.Tests;

/// <summary>
/// Every method of the API, found by its descriptor, called with arguments that are empty, oversized, extreme, contradictory
/// and random: whatever comes back is a status with a reason, and never UNKNOWN or INTERNAL; and where it is an error, nothing has changed. What is
/// in another project than the caller's <see cref="Security.ProjectTests"/> asks for.
/// </summary>
public sealed partial class EveryMethodTests(ITestOutputHelper output) : ServerTest
{

    public static TheoryData<string> Methods()
    {
        var names = new TheoryData<string>();
        foreach (MethodDescriptor method in PublicApi.Methods)
            names.Add(method.FullName);
        return names;
    }

    [Theory]
    [MemberData(nameof(Methods))]
    public async Task No_argument_leads_to_unknown_or_internal(string fullName)
    {
        const int seed = 20_260;
        output.WriteLine($"seed {seed}");
        MethodDescriptor method = PublicApi.Methods.Single(candidate => candidate.FullName == fullName);
        await StartAsync("one");
        await Connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = "one", Snapshot = new Snapshot { Vm = "projects/default/vms/one" } });
        using GrpcChannel channel = GrpcChannel.ForAddress(Server.Address);
        CallInvoker invoker = channel.CreateCallInvoker();
        var random = new Random(seed);
        string before = await StateAsync();
        foreach (IMessage request in BadRequests.Of(method.InputType, random))
        {
            VmmError answer = await RawCall.SendAsync(invoker, method, request);
            Assert.True(
                answer.Code is not (StatusCode.Unknown or StatusCode.Internal or StatusCode.Unimplemented),
                $"{fullName} answers {answer} to {BadRequests.TextOf(request)}");
            string after = await StateAsync();
            // A wait that ends by its deadline waits for what was done; everything else that is an error has done nothing.
            if (answer.Code is not (StatusCode.OK or StatusCode.DeadlineExceeded))
                Assert.True(before == after, $"{fullName} answers {answer} to {BadRequests.TextOf(request)}, and changes\n{before}\nto\n{after}");
            before = after;
        }

        // The server is as well as before.
        Assert.NotNull(await Vms.ListVmsAsync(new ListVmsRequest()));
    }

    /// <summary>All that there is, but for what counts by itself.</summary>
    private async Task<string> StateAsync()
    {
        var state = new System.Text.StringBuilder();
        foreach (string project in (await Connection.Projects.ListProjectsAsync(new ListProjectsRequest())).Projects.Select(project => project.Name))
        {
            state.Append(await Vms.ListVmsAsync(new ListVmsRequest { Parent = project, PageSize = 1000 }));
            state.Append(await Images.ListImagesAsync(new ListImagesRequest { Parent = project, PageSize = 1000 }));
            state.Append(await Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { Parent = project, PageSize = 1000 }));
        }

        state.Append(await Connection.Projects.ListProjectsAsync(new ListProjectsRequest()));
        state.Append(await Connection.Tokens.ListTokensAsync(new ListTokensRequest { PageSize = 1000 }));
        state.Append(await Connection.Workers.ListWorkersAsync(new ListWorkersRequest()));
        FakeMachine one = Factory.Made[0];
        state.Append(System.Globalization.CultureInfo.InvariantCulture, $"{one.RunState} {one.Input} {one.ButtonPresses} {one.Share}");
        return Counters().Replace(state.ToString(), "");
    }

    [System.Text.RegularExpressions.GeneratedRegex("\"(instructionsRetired|l2InstructionsRetired|memoryBytes|lastUseTime|cpuTime|throttledTime)\": \"[^\"]*\",? ?")]
    private static partial System.Text.RegularExpressions.Regex Counters();
}
