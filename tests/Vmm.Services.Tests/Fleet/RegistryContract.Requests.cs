using Grpc.Core;
using Vmm.Registry;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <content>Ids of requests.</content>
internal abstract partial class RegistryContract
{
    public async Task A_request_id_is_taken_by_one_of_those_that_come_at_once()
    {
        const int atOnce = 8, rounds = 10;
        for (int round = 0; round < rounds; round++)
        {
            RequestKey[] requests = [.. Enumerable.Range(0, atOnce).Select(i => Key($"claim{round}", (byte)i))];
            bool[] taken = await Task.WhenAll(requests.Select(request => Task.Run(() => IsTakenAsync(request))));
            RequestKey first = Assert.Single(requests.Where((_, i) => taken[i]));
            Assert.True(await IsTakenAsync(first));
            await RefusedAsync(StatusCode.InvalidArgument, "REQUEST_ID_REUSED", () => Registry.LocateVmAsync(Name("none"), requests.First(request => request != first), None));
            // Whoever asks with it may find its source gone.
            Assert.NotNull((await Registry.LocateVmAsync(Name("none"), first, None)).Answer);
        }

        async Task<bool> IsTakenAsync(RequestKey request)
        {
            try
            {
                await Registry.ClaimRequestAsync(request, None);
                return true;
            }
            catch (RpcException exception)
            {
                Assert.Equal("REQUEST_ID_REUSED", Client.VmmError.From(exception).Reason);
                return false;
            }
        }
    }
}
