using Grpc.Core;

namespace Vmm.Frontend.Fleet;

/// <summary>Passing streams between a client and a worker.</summary>
internal static class WorkerStreams
{
    /// <summary>Writes to a worker; <see cref="OperationCanceledException"/> where it has ended the call, whose status says why.</summary>
    public static async Task SendAsync<T>(IClientStreamWriter<T> worker, T message, CancellationToken cancellation)
    {
        try
        {
            await worker.WriteAsync(message, cancellation);
        }
        catch (Exception exception) when (exception is RpcException or InvalidOperationException or IOException)
        {
            throw new OperationCanceledException("The worker has ended the call.", exception);
        }
    }

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
        // Where the worker has ended the call under a write, its status is on the way.
        if (await Task.WhenAny(up, down) == up && (up.IsCompletedSuccessfully || (up.IsCanceled && !ending.IsCancellationRequested)))
            await down.ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        // Where both failed, the worker's status says why, unless only the client's own input was refused here.
        Task decisive = up.IsFaulted && !down.IsFaulted ? up : down;
        await ending.CancelAsync();
        await Task.WhenAll(up, down).ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        await decisive;
    }
}
