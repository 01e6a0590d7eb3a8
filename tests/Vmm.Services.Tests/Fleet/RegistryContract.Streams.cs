using Grpc.Core;
using Vmm.Registry;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>Streams.</content>
internal abstract partial class RegistryContract
{
    public async Task Streams_count_over_all_front_ends_until_they_end_or_their_front_end_does()
    {
        await Access.CreateProjectAsync(new Project { Name = Project, Quota = new ProjectQuota { Streams = 3 } }, null, None);
        StreamPlace[] one = [Place("f1", 1), Place("f1", 2)], two = [Place("f2", 3), Place("f2", 4)];
        await Access.RenewStreamsAsync("f1", [], None);
        foreach (StreamPlace place in (StreamPlace[])[.. one, two[0]])
            await Access.AdmitStreamAsync(place, None);
        await FullAsync();
        // Those of other projects do not count, nor does whoever asks twice.
        await Access.AdmitStreamAsync(new StreamPlace("f1", "elsewhere", "projects/q"), None);
        await Access.AdmitStreamAsync(two[0], None);
        await Access.LeaveStreamsAsync([one[0]], None);
        await Access.LeaveStreamsAsync([one[0], Place("f1", 9)], None);
        await Access.AdmitStreamAsync(two[1], None);
        await FullAsync();

        // A front end that does not renew its lease leaves its places to others, which renew theirs.
        await ExpireStreamsAsync("f1");
        await Access.RenewStreamsAsync("f2", two, None);
        StreamPlace three = Place("f2", 5);
        await Access.AdmitStreamAsync(three, None);
        await FullAsync();
        await Registry.PruneAsync(None);
        // When it is back, its streams count again, be they more than there may be then.
        await Access.RenewStreamsAsync("f1", one[1..], None);
        await Access.LeaveStreamsAsync([three], None);
        await FullAsync();
        await Access.EndStreamsAsync("f2", None);
        await Access.AdmitStreamAsync(Place("f1", 6), None);
        await Access.AdmitStreamAsync(Place("f1", 7), None);
        await FullAsync();
        // Where there is no limit, they are counted all the same: it may be set while they are under way.
        await Access.UpdateProjectAsync(Project, static project => project.Quota = null, "", null, None);
        await Access.AdmitStreamAsync(Place("f1", 8), None);
        await Access.UpdateProjectAsync(Project, static project => project.Quota = new ProjectQuota { Streams = 4 }, "", null, None);
        await FullAsync();

        async Task FullAsync()
        {
            Client.VmmError refused = await RefusedAsync(StatusCode.ResourceExhausted, "QUOTA_EXCEEDED", () => Access.AdmitStreamAsync(Place("f1", 100), None));
            Assert.Matches("([34]) of \\1 streams are under way", refused.Message);
        }
    }

    public async Task Concurrent_streams_never_take_more_than_a_quota()
    {
        const int limit = 5, atOnce = 24;
        await Access.CreateProjectAsync(new Project { Name = Project, Quota = new ProjectQuota { Streams = limit } }, null, None);
        StatusCode[] outcomes = await Task.WhenAll(Enumerable.Range(0, atOnce).Select(i => Task.Run(async () =>
        {
            try
            {
                await Access.AdmitStreamAsync(Place($"f{i % 3}", i), None);
                return StatusCode.OK;
            }
            catch (RpcException exception)
            {
                return exception.StatusCode;
            }
        })));
        Assert.Equal((limit, atOnce - limit), (outcomes.Count(code => code == StatusCode.OK), outcomes.Count(code => code == StatusCode.ResourceExhausted)));
    }

    private static StreamPlace Place(string frontend, int number) => new(frontend, $"stream{number}", Project);
}
