using System.Collections.Concurrent;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Machines;
using Vmm.Worker.Migration;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker;

/// <content>VMs that go to other workers, and that come from them.</content>
public sealed partial class WorkerHost
{
    private const int MaxRemembered = 1024;

    private bool _leaving;

    private readonly ConcurrentDictionary<string, Arrival> _arriving = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<string, byte> _moved = new(StringComparer.Ordinal);
    private readonly ConcurrentQueue<string> _movedByAge = new();

    /// <summary>Moves a VM to another worker.</summary>
    internal Task<MigrateVmResponse> MigrateAsync(MigrateVmRequest request, RequestScope scope) => Require(request.Name).MigrateAsync(request, scope);

    /// <summary>Takes a VM from another worker.</summary>
    internal async Task ReceiveAsync(IAsyncStreamReader<ReceiveVmRequest> requests, IServerStreamWriter<ReceiveVmResponse> responses, CancellationToken cancellation)
    {
        RequireOpen();
        if (Volatile.Read(ref _leaving))
            throw ApiError.Unavailable("SHUTTING_DOWN", "The server is shutting down.");
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(cancellation, Permit.Revoked, _closing.Token);
        using IncomingMove move = await IncomingMove.OpenAsync(_services, requests, responses, ending.Token);
        if (Images.Fetcher is { } fetcher)
            await fetcher.FetchAsync(move.Vm.Spec, ending.Token);
        using var arrival = new Arrival(ending);
        while (!_arriving.TryAdd(move.Vm.Name, arrival))
        {
            // The registry knows one move of a VM at a time, and this is it: one that came before is none any more.
            if (_arriving.TryGetValue(move.Vm.Name, out Arrival? former))
                await former.EndAsync(ending.Token);
        }

        try
        {
            await AddAsync(move.Vm, async (hosted, _) =>
            {
                try
                {
                    return await move.ReceiveAsync(hosted);
                }
                catch
                {
                    await hosted.TakeBackAsync();
                    throw;
                }
            });
        }
        finally
        {
            _arriving.TryRemove(move.Vm.Name, out _);
            arrival.SetEnded();
        }

        _moved.TryRemove(move.Vm.Name, out _);
        await move.ConfirmAsync();
    }

    /// <summary>Completes when every VM that was on its way here is this worker's or is gone; none comes without a lease.</summary>
    internal Task ArrivedAsync() => Task.WhenAll(_arriving.Values.Select(arrival => arrival.Ended));

    private Exception NotHere(string name) =>
        _arriving.ContainsKey(name) ? ApiError.Unavailable("VM_MOVING", $"{name} is about to arrive here.")
        : _moved.ContainsKey(name) || (_vms.TryGetValue(name, out HostedVm? hosted) && hosted.HasMoved) ? ApiError.Unavailable("VM_MOVED", $"{name} has moved to another worker.")
        : ApiError.NotFound(name);

    // Calls that were on their way when it moved: they come within moments.
    private void RememberMoved(string name)
    {
        if (!_moved.TryAdd(name, 0))
            return;
        _movedByAge.Enqueue(name);
        while (_moved.Count > MaxRemembered && _movedByAge.TryDequeue(out string? oldest))
            _moved.TryRemove(oldest, out _);
    }

    /// <summary>A VM that is on its way here.</summary>
    private sealed class Arrival(CancellationTokenSource ending) : IDisposable
    {
        private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private readonly Lock _lock = new();
        private bool _disposed;

        /// <summary>Completes when the VM is this worker's, or is gone.</summary>
        public Task Ended => _ended.Task;

        public void SetEnded() => _ended.SetResult();

        /// <summary>Ends it, unless the registry says that it has happened.</summary>
        public async Task EndAsync(CancellationToken cancellation)
        {
            lock (_lock)
                if (!_disposed)
                    ending.Cancel();
            await Ended.WaitAsync(cancellation);
        }

        public void Dispose()
        {
            lock (_lock)
                _disposed = true;
        }
    }
}
