using System.Diagnostics;
using System.Globalization;
using Vmm.Hypervisor.Apicv;
using Vmm.Machine;
using Vmm.Registry;

namespace Vmm.Worker.Telemetry;

/// <summary>
/// Spans of requests that change the APICv inhibits of one machine: for each vCPU from the arrival of the request to the application of the
/// change in its vmcs01, whatever trace the request is of. Thread-safe.
/// </summary>
internal sealed class ApicvSpans : IDisposable
{
    /// <summary>Requests that are followed at a time: a vCPU which never runs keeps them open.</summary>
    private const int MaxRequests = 64;

    private readonly Lock _lock = new();
    private readonly List<Request> _requests = [];
    private int _open;

    /// <summary>A request has come, and what it asks for is about to be done.</summary>
    /// <returns>Null where nobody listens, or it is not followed.</returns>
    public Request? Begin(string vm, string reason, bool set, int vcpus)
    {
        if (!WorkerTraces.Source.HasListeners() || Activity.Current is not { Recorded: true })
            return null;
        lock (_lock)
        {
            if (_requests.Count >= MaxRequests)
                return null;
            var request = new Request(vcpus);
            for (int vcpu = 0; vcpu < vcpus; vcpu++)
            {
                if (WorkerTraces.Source.Begin(WorkerTraces.ApicvUpdate, vm) is not { } span)
                    continue;
                span.SetTag("vmm.vcpu", vcpu).SetTag("vmm.apicv.reason", reason).SetTag("vmm.apicv.inhibit", set);
                request.Spans[vcpu] = span;
            }

            _requests.Add(request);
            Volatile.Write(ref _open, _requests.Count);
            return request;
        }
    }

    /// <summary>What was asked for is done, as far as it could be at once.</summary>
    public void Done(Request? request, ApicvView view)
    {
        if (request is null)
            return;
        lock (_lock)
        {
            request.Generation = view.Generation;
            foreach (VcpuApicvView vcpu in view.Vcpus)
                if (vcpu.AppliedGeneration >= view.Generation || vcpu.Update == ApicvUpdateState.Applied)
                    request.End(vcpu.Vcpu, view.Generation);
            Forget();
        }
    }

    /// <summary>What was asked for was refused.</summary>
    public void Fail(Request? request)
    {
        if (request is null)
            return;
        lock (_lock)
        {
            request.EndAll("refused");
            Forget();
        }
    }

    /// <summary>Something has happened to APICv. On the machine's thread.</summary>
    public void Note(in ApicvEvent item)
    {
        if (Volatile.Read(ref _open) == 0)
            return;
        lock (_lock)
        {
            foreach (Request request in _requests)
                request.Note(item);
            Forget();
        }
    }

    /// <summary>Ends all spans, with the run.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            foreach (Request request in _requests)
                request.EndAll("the run has ended");
            Forget();
        }
    }

    private void Forget()
    {
        _requests.RemoveAll(static request => request.IsOver);
        Volatile.Write(ref _open, _requests.Count);
    }

    /// <summary>One request.</summary>
    internal sealed class Request(int vcpus)
    {
        private readonly ulong?[] _deferredAt = new ulong?[vcpus];

        /// <summary>The open span of each vCPU.</summary>
        public Activity?[] Spans { get; } = new Activity?[vcpus];

        /// <summary>The generation of the inhibits that the change has made; 0 as long as it has made none.</summary>
        public ulong Generation { get; set; }

        /// <summary>Whether there is nothing more to end.</summary>
        public bool IsOver => Spans.All(static span => span is null);

        /// <summary>Takes an event.</summary>
        public void Note(in ApicvEvent item)
        {
            if (item.Vcpu < 0)
            {
                // The next change is most likely the request's; Done says so for certain.
                if (Generation == 0)
                    Generation = item.Generation;
                return;
            }

            if (Generation == 0 || item.Vcpu >= Spans.Length || Spans[item.Vcpu] is not { } span)
                return;
            switch (item.Kind)
            {
                case ApicvEventKind.UpdateDeferred:
                    _deferredAt[item.Vcpu] ??= item.Instructions;
                    span.AddEvent(new ActivityEvent("deferred", tags: new ActivityTagsCollection { ["vmm.vcpu.instructions"] = (long)item.Instructions }));
                    break;
                case ApicvEventKind.UpdateApplied or ApicvEventKind.CurrentVmcsOverwritten when item.Generation >= Generation:
                    if (_deferredAt[item.Vcpu] is { } since)
                        span.AddEvent(new ActivityEvent("l2.exit", tags: new ActivityTagsCollection
                        {
                            ["vmm.exit.reason"] = item.EndedBy is { } reason ? SnakeCase.Of(reason.ToString()) : "none",
                            ["vmm.apicv.deferral.instructions"] = (long)(item.Instructions - since),
                        }));
                    span.SetTag("vmm.apicv.active", item.Active);
                    End(item.Vcpu, item.Generation);
                    break;
            }
        }

        /// <summary>The change is applied on a vCPU.</summary>
        public void End(int vcpu, ulong generation)
        {
            if (vcpu >= Spans.Length || Spans[vcpu] is not { } span)
                return;
            span.SetTag("vmm.apicv.generation", generation.ToString(CultureInfo.InvariantCulture));
            span.SetTag("vmm.result", _deferredAt[vcpu] is null ? "applied" : "deferred");
            span.Finish();
            Spans[vcpu] = null;
        }

        /// <summary>It never is.</summary>
        public void EndAll(string why)
        {
            for (int vcpu = 0; vcpu < Spans.Length; vcpu++)
            {
                Spans[vcpu]?.SetStatus(ActivityStatusCode.Error, why).Finish();
                Spans[vcpu] = null;
            }
        }
    }
}
