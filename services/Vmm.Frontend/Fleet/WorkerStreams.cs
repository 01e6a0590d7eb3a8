using Grpc.Core;

namespace Vmm.Frontend.Fleet;

/// <summary>Passing streams between a client and a worker.</summary>
internal static class WorkerStreams
{
    /// <summary>
    /// Runs both directions of a stream until the worker's side ends or either fails. The end of the client's side leaves the
    /// worker's going. Each direction awaits its every write, so that a slow side slows the other and nothing piles up.
    /// </summary>
    /// <param name="toWorker">Client to worker; gets a token that ends with the call.</param>
    /// <param name="toClient">Worker to client; gets the same.</param>
    /// <param name="cancellation">The client went away.</param>
    public static async Task RunAsync(Func<CancellationToken, Task> toWorker, Func<CancellationToken, Task> toClient, CancellationToken cancellation)
    {
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Task up = toWorker(ending.Token);
        Task down = toClient(ending.Token);
        if (await Task.WhenAny(up, down) == up && up.IsCompletedSuccessfully)
            await down.ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        // Where both failed, the worker's status says why, unless only the client's own input was refused here.
        Task decisive = up.IsFaulted && !down.IsFaulted ? up : down;
        await ending.CancelAsync();
        await Task.WhenAll(up, down).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        await decisive;
    }

    /// <summary>Everything that a stream has.</summary>
    public static async Task<List<T>> CollectAsync<T>(AsyncServerStreamingCall<T> call, CancellationToken cancellation)
    {
        using (call)
        {
            var all = new List<T>();
            while (await call.ResponseStream.MoveNext(cancellation))
                all.Add(call.ResponseStream.Current);
            return all;
        }
    }
}
