using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.V1;

namespace Vmm.Worker.Storage;

/// <summary>A request that is being done: makes the record that goes with its change.</summary>
internal sealed class RequestScope(string parent, string requestId, string method, ByteString fingerprint, string? vm, TimeProvider time)
{
    /// <summary>The VM that it makes or changes, or null.</summary>
    public string? Vm => vm;

    /// <summary>The scope of a request.</summary>
    public static RequestScope Of(string parent, string method, IMessage request, TimeProvider time)
    {
        (string requestId, ByteString fingerprint) = RequestFingerprint.Of(method, request);
        return new RequestScope(parent, requestId, method, fingerprint, VmOf(parent, request), time);
    }

    /// <summary>The request as the registry knows it; null where it has no id.</summary>
    public RequestKey? Key => requestId.Length == 0 ? null : new RequestKey(parent, requestId, fingerprint);

    /// <summary>A change that nobody asked for by a request.</summary>
    public static RequestScope None(TimeProvider time) => new("", "", "", ByteString.Empty, null, time);

    /// <summary>The record of the request's completion with this answer, or null where the request has no id.</summary>
    public CompletedRequest? Completed(IMessage response) => requestId.Length == 0 ? null : new CompletedRequest
    {
        Parent = parent,
        RequestId = requestId,
        Method = method,
        Fingerprint = fingerprint,
        Response = response.ToByteString(),
        CompleteTime = Timestamp.FromDateTimeOffset(time.GetUtcNow()),
        Vm = vm ?? "",
    };

    private static string? VmOf(string parent, IMessage request) => request switch
    {
        CreateVmRequest creation => ResourceName.Vm(parent, creation.VmId),
        RestoreSnapshotRequest restore => ResourceName.Vm(parent, restore.VmId),
        UpdateVmRequest update => update.Vm.Name,
        _ => request.Descriptor.FindFieldByName("name")?.Accessor.GetValue(request) is string name && ResourceName.TryParseVm(name, out _, out _) ? name : null,
    };
}

/// <summary>Does every request once. Thread-safe.</summary>
internal sealed class RequestLedger(WorkerStore store, ReportQueue reports, TimeProvider time)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<(string Parent, string Id), (ByteString Fingerprint, Task<IMessage> Task)> _running = [];

    /// <summary>
    /// Runs <paramref name="action"/>, or gives the answer of the request that was done, or is being done, under the same id. The
    /// action must commit <see cref="RequestScope.Completed"/> together with its change.
    /// </summary>
    /// <param name="parent">The project that the id belongs to.</param>
    /// <param name="method">The method's name.</param>
    /// <param name="request">The request.</param>
    /// <param name="action">What to do. It is not cancelled with its caller: another may be waiting for its answer.</param>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: the id was used for another request.</exception>
    public async Task<TResponse> OnceAsync<TResponse>(string parent, string method, IMessage request, Func<RequestScope, Task<TResponse>> action)
        where TResponse : class, IMessage<TResponse>, new()
    {
        RequestScope scope = RequestScope.Of(parent, method, request, time);
        if (scope.Key is not { Id: var requestId, Fingerprint: var fingerprint })
        {
            TResponse result = await action(scope);
            await reports.FlushedAsync(result as Vm);
            return result;
        }

        var key = (parent, requestId);
        Task<IMessage> task;
        lock (_lock)
        {
            if (_running.TryGetValue(key, out var running))
            {
                RequireSame(running.Fingerprint, fingerprint);
                task = running.Task;
            }
            else if (FindDone<TResponse>(parent, requestId, fingerprint) is { } answer)
            {
                // It may be in the journal and not have been reported when the worker ended.
                task = CompleteAsync(scope, Task.FromResult(answer));
            }
            else
            {
                task = Task.Run(() => CompleteAsync(scope, action(scope)));
                _running[key] = (fingerprint, task);
                _ = ForgetAsync(key, task);
            }
        }

        return (TResponse)await task;
    }

    /// <summary>What the fleet is told of a request that was done; nothing where there is none.</summary>
    public static IReadOnlyList<RequestReport> ReportsOf(CompletedRequest? done) =>
        done is null ? [] : [new RequestReport(new RequestKey(done.Parent, done.RequestId, done.Fingerprint), done.Response, done.Vm.Length > 0 ? done.Vm : null)];

    /// <summary>Makes a request that was done known to the fleet, after all that it changed.</summary>
    public async Task ReportAsync(RequestScope scope, IMessage answer)
    {
        long place = scope.Key is { } key ? reports.Add(new RequestReport(key, answer.ToByteString(), scope.Vm)) : 0;
        await reports.FlushedAsync(answer as Vm, place);
    }

    /// <summary>
    /// For a request that is harmless to repeat but must not change its meaning: the scope to complete it with.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT: the id was used for another request.</exception>
    public RequestScope Begin(string parent, string method, IMessage request)
    {
        RequestScope scope = RequestScope.Of(parent, method, request, time);
        if (scope.Key is { } key && store.FindRequest(parent, key.Id) is { } done)
            RequireSame(done.Fingerprint, key.Fingerprint);
        return scope;
    }

    /// <summary>The answer of a request that was done and still counts.</summary>
    private TResponse? FindDone<TResponse>(string parent, string requestId, ByteString fingerprint)
        where TResponse : class, IMessage<TResponse>, new()
    {
        if (store.FindRequest(parent, requestId) is not { } done)
            return null;
        RequireSame(done.Fingerprint, fingerprint);
        var answer = new TResponse();
        answer.MergeFrom(done.Response);
        // A VM that was another worker's in the end was never acknowledged, and is gone; had it been, the registry would have answered.
        bool makes = done.Method is nameof(WorkerApi.CreateVm) or nameof(WorkerApi.RestoreSnapshot);
        return makes && answer is Vm vm && store.FindVm(vm.Name)?.Vm.Uid != vm.Uid ? null : answer;
    }

    private async Task<IMessage> CompleteAsync<TResponse>(RequestScope scope, Task<TResponse> action)
        where TResponse : class, IMessage<TResponse>
    {
        TResponse answer = await action;
        await ReportAsync(scope, answer);
        return answer;
    }

    private async Task ForgetAsync((string, string) key, Task<IMessage> task)
    {
        await task.ContinueWith(static _ => { }, CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        lock (_lock)
            _running.Remove(key);
    }

    private static void RequireSame(ByteString known, ByteString now)
    {
        if (!known.Equals(now))
            throw ApiError.InvalidField("request_id", "was used for another request; take a new one.", "REQUEST_ID_REUSED");
    }
}
