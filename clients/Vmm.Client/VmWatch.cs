using System.Runtime.CompilerServices;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Client;

/// <summary>Following the VMs of a project over broken connections and restarts of the server.</summary>
public static class VmWatch
{
    private static readonly TimeSpan MaxDelay = TimeSpan.FromSeconds(5);

    /// <summary>
    /// The project's VMs and their changes, each exactly once, until cancelled. After a broken connection the watch resumes
    /// where it was. Where the server no longer has all changes in between, <paramref name="onResync"/> is called and the VMs
    /// come again as ADDED events up to a SYNCED one: forget those that do not.
    /// </summary>
    /// <param name="connection">The server.</param>
    /// <param name="parent"><c>projects/{project}</c>.</param>
    /// <param name="filter">As in ListVms.</param>
    /// <param name="resumeToken">Where to go on; null for the beginning.</param>
    /// <param name="onResync">Called before a new snapshot.</param>
    /// <param name="cancellation">Ends the watch; the enumeration then throws <see cref="OperationCanceledException"/>.</param>
    /// <exception cref="RpcException">The request is refused.</exception>
    public static async IAsyncEnumerable<VmEvent> WatchVmsAsync(
        this VmmConnection connection,
        string parent,
        string filter = "",
        string? resumeToken = null,
        Action? onResync = null,
        [EnumeratorCancellation] CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(connection);
        string token = resumeToken ?? "";
        int failures = 0;
        while (true)
        {
            using AsyncServerStreamingCall<VmEvent> call = connection.Vms.WatchVms(
                new WatchVmsRequest { Parent = parent, Filter = filter, ResumeToken = token }, cancellationToken: cancellation);
            while (true)
            {
                bool more;
                try
                {
                    more = await call.ResponseStream.MoveNext(cancellation);
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
                {
                    more = false;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.OutOfRange && VmmError.From(exception).Reason == "RESUME_TOKEN_EXPIRED")
                {
                    token = "";
                    failures = 0;
                    onResync?.Invoke();
                    break;
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Cancelled && cancellation.IsCancellationRequested)
                {
                    throw new OperationCanceledException("The watch was cancelled.", exception, cancellation);
                }

                if (!more)
                {
                    if (token.Length == 0)
                        onResync?.Invoke();
                    TimeSpan delay = TimeSpan.FromMilliseconds(Math.Min(MaxDelay.TotalMilliseconds, 100 * Math.Pow(2, failures++)));
                    await Task.Delay(delay, cancellation);
                    break;
                }

                failures = 0;
                VmEvent item = call.ResponseStream.Current;
                if (item.ResumeToken.Length > 0)
                    token = item.ResumeToken;
                yield return item;
            }
        }
    }
}
