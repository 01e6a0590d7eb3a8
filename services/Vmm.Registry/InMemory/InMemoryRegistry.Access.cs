using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Registry.InMemory;

/// <content>Projects, tokens and the audit log. Changes are decided one by one, and seen when they last.</content>
public sealed partial class InMemoryRegistry
{
    private static readonly TimeSpan UploadPatience = TimeSpan.FromHours(1);
    private static readonly TimeSpan UseResolution = TimeSpan.FromMinutes(1);

    private readonly SemaphoreSlim _deciding = new(1, 1);
    private readonly SortedDictionary<string, StoredToken> _tokens = new(StringComparer.Ordinal);
    private readonly Dictionary<string, DateTimeOffset> _uploads = new(StringComparer.Ordinal);
    private readonly LinkedList<AuditEntry> _audit = new();
    private long _auditNumber;
    private IAccessLog? _log;

    /// <summary>Has changes last from now on. Nothing but <see cref="Replay"/> was called before.</summary>
    public void KeepIn(IAccessLog log) => _log = log;

    /// <summary>Takes up what an <see cref="IAccessLog"/> has kept, in order.</summary>
    public void Replay(IReadOnlyList<AccessRecord> records, CompletedRequest? request)
    {
        lock (_lock)
            Apply(records, request);
    }

    /// <summary>What says as much as all that was kept.</summary>
    public (IReadOnlyList<AccessRecord> Records, IReadOnlyList<CompletedRequest> Requests) Kept()
    {
        lock (_lock)
            return (
                [
                    .. _projects.Values.Where(project => project.Record is not null).Select(project => new AccessRecord { PutProject = project.Record }),
                    .. _tokens.Values.Select(token => new AccessRecord { PutToken = token.Clone() }),
                    .. _audit.Select(entry => new AccessRecord { AuditEntry = entry }),
                ],
                [.. _requestsByAge.Select(row => Completed(row.Request, "", ByteString.CopyFrom(row.Response), row.Time))]);
    }

    /// <inheritdoc/>
    public async Task<Project> CreateProjectAsync(Project project, RequestKey? request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(project);
        return await DecideAsync(nameof(CreateProjectAsync), request, V1.Project.Parser, () =>
        {
            if (FindProject(project.Name) is not null)
                throw ApiError.AlreadyExists(project.Name);
            Project made = Quotas.Stamp(project.Clone(), time.GetUtcNow());
            return ([new AccessRecord { PutProject = made }], made);
        });
    }

    /// <inheritdoc/>
    public Task<Project?> FindProjectAsync(string name, CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult(FindProject(name)?.Clone());
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<Project>> ListProjectsAsync(CancellationToken cancellation)
    {
        lock (_lock)
        {
            EnsureProject(ResourceName.DefaultParent);
            return Task.FromResult<IReadOnlyList<Project>>([.. _projects.Values.Select(row => row.Record?.Clone()).OfType<Project>().OrderBy(project => project.Name, StringComparer.Ordinal)]);
        }
    }

    /// <inheritdoc/>
    public async Task<Project> UpdateProjectAsync(string name, Action<Project> change, string etag, RequestKey? request, CancellationToken cancellation) =>
        await DecideAsync(nameof(UpdateProjectAsync), request, V1.Project.Parser, () =>
        {
            Project next = FindProject(name)?.Clone() ?? throw ApiError.NotFound(name);
            Quotas.RequireEtag(next, etag);
            change(next);
            Quotas.Stamp(next, time.GetUtcNow());
            return ([new AccessRecord { PutProject = next }], next);
        });

    /// <inheritdoc/>
    public Task DeleteProjectAsync(string name, string etag, RequestKey? request, CancellationToken cancellation) =>
        DecideAsync(nameof(DeleteProjectAsync), request, Empty.Parser, () =>
        {
            Project project = FindProject(name) ?? throw ApiError.NotFound(name);
            Quotas.RequireEtag(project, etag);
            IEnumerable<string> inside = _vms.Keys.Concat(_images.Keys).Concat(_snapshots.Keys).Concat(_uploads.Keys);
            Quotas.RequireDeletable(name, !inside.Any(resource => IsOf(resource, name)));
            IEnumerable<AccessRecord> tokens = _tokens.Values.Where(token => token.Token.Project == name).Select(token => new AccessRecord { DeleteToken = token.Token.Name });
            return ([new AccessRecord { DeleteProject = name }, .. tokens], new Empty());
        });

    /// <inheritdoc/>
    public Task AdmitImageAsync(string image, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(image);
        lock (_lock)
        {
            string name = ProjectOf(image);
            Project project = RequireProject(name);
            Quotas.RequireRoomForImage(name, project.Quota, _images.Keys.Union(_uploads.Keys, StringComparer.Ordinal).Count(other => other != image && IsOf(other, name)));
            _uploads[image] = time.GetUtcNow();
            return Task.CompletedTask;
        }
    }

    /// <inheritdoc/>
    public Task SettleImageAsync(string image, CancellationToken cancellation)
    {
        lock (_lock)
            _uploads.Remove(image);
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task<Token> CreateTokenAsync(StoredToken token, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(token);
        return DecideAsync(nameof(CreateTokenAsync), null, Token.Parser, () =>
        {
            if (token.Token.Project.Length > 0 && FindProject(token.Token.Project) is null)
                throw ApiError.NotFound(token.Token.Project);
            StoredToken made = token.Clone();
            made.Token.CreateTime = Timestamp.FromDateTimeOffset(time.GetUtcNow());
            if (_tokens.TryGetValue(token.Token.Name, out StoredToken? present))
            {
                Refusals.RequireRepetition(token, present.RequestId, present.Fingerprint);
                made.Token.CreateTime = present.Token.CreateTime;
            }

            return ([new AccessRecord { PutToken = made }], made.Token.Clone());
        });
    }

    /// <inheritdoc/>
    public Task PutTokenAsync(StoredToken token, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(token);
        return DecideAsync(nameof(PutTokenAsync), null, Token.Parser, () =>
        {
            StoredToken made = token.Clone();
            made.Token.CreateTime = _tokens.GetValueOrDefault(token.Token.Name)?.Token.CreateTime ?? Timestamp.FromDateTimeOffset(time.GetUtcNow());
            return ([new AccessRecord { PutToken = made }], made.Token.Clone());
        });
    }

    /// <inheritdoc/>
    public Task<KnownToken?> FindTokenAsync(string name, bool uses, CancellationToken cancellation)
    {
        lock (_lock)
        {
            if (!_tokens.TryGetValue(name, out StoredToken? token))
                return Task.FromResult<KnownToken?>(null);
            DateTimeOffset now = time.GetUtcNow();
            var known = new KnownToken(token.Token.Clone(), token.SecretSha256, token.Token.ExpireTime is { } end && end.ToDateTimeOffset() <= now);
            // Not worth a record of its own: a restart forgets it.
            if (uses && (token.Token.LastUseTime is not { } last || last.ToDateTimeOffset() + UseResolution <= now))
                token.Token.LastUseTime = Timestamp.FromDateTimeOffset(now);
            return Task.FromResult<KnownToken?>(known);
        }
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<Token>> ListTokensAsync(CancellationToken cancellation)
    {
        lock (_lock)
            return Task.FromResult<IReadOnlyList<Token>>([.. _tokens.Values.Select(token => token.Token.Clone())]);
    }

    /// <inheritdoc/>
    public Task DeleteTokenAsync(string name, CancellationToken cancellation) => DecideAsync(
        nameof(DeleteTokenAsync), null, Empty.Parser, () => _tokens.ContainsKey(name) ? ([new AccessRecord { DeleteToken = name }], new Empty()) : throw ApiError.NotFound(name));

    /// <inheritdoc/>
    public async Task AppendAuditAsync(IReadOnlyList<AuditEntry> entries, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(entries);
        await _deciding.WaitAsync(cancellation);
        try
        {
            AccessRecord[] records;
            lock (_lock)
            {
                long number = _auditNumber;
                Timestamp now = Timestamp.FromDateTimeOffset(time.GetUtcNow());
                records = [.. entries.Select(entry => new AccessRecord { AuditEntry = new AuditEntry(entry) { Name = AuditNames.Of(++number), Time = now } })];
            }

            await KeepAsync(records, null);
        }
        finally
        {
            _deciding.Release();
        }
    }

    /// <inheritdoc/>
    public Task<IReadOnlyList<AuditEntry>> ReadAuditAsync(string? project, long before, int limit, CancellationToken cancellation)
    {
        lock (_lock)
        {
            var found = new List<AuditEntry>();
            for (LinkedListNode<AuditEntry>? node = _audit.Last; node is not null && found.Count < limit; node = node.Previous)
                if (AuditNames.NumberOf(node.Value) < before && (project is null || node.Value.Project == project))
                    found.Add(node.Value);
            return Task.FromResult<IReadOnlyList<AuditEntry>>(found);
        }
    }

    /// <inheritdoc/>
    public Task ClaimRequestAsync(RequestKey request, CancellationToken cancellation) => DecideAsync(nameof(ClaimRequestAsync), request, Empty.Parser, static () => ([], new Empty()));

    /// <summary>Decides on a change, or finds that it was made before by the same request, and makes it last.</summary>
    private async Task<T> DecideAsync<T>(string method, RequestKey? request, MessageParser<T> parser, Func<(IReadOnlyList<AccessRecord> Records, T Answer)> decide) where T : class, IMessage<T>
    {
        await _deciding.WaitAsync();
        try
        {
            (IReadOnlyList<AccessRecord> Records, T Answer) decided;
            lock (_lock)
            {
                if (Answer(request) is { } answer)
                    return parser.ParseFrom(answer);
                decided = decide();
            }

            await KeepAsync(decided.Records, request is null ? null : Completed(request, method, decided.Answer.ToByteString(), time.GetUtcNow()));
            return decided.Answer;
        }
        finally
        {
            _deciding.Release();
        }
    }

    private static CompletedRequest Completed(RequestKey request, string method, ByteString response, DateTimeOffset now) => new()
    {
        Parent = request.Project,
        RequestId = request.Id,
        Method = method,
        Fingerprint = request.Fingerprint,
        Response = response,
        CompleteTime = Timestamp.FromDateTimeOffset(now),
    };

    private async Task KeepAsync(IReadOnlyList<AccessRecord> records, CompletedRequest? request)
    {
        if (_log is null)
        {
            Replay(records, request);
            return;
        }

        try
        {
            await _log.AppendAsync(records, request, () => Replay(records, request));
        }
        catch (IOException exception)
        {
            throw ApiError.Unavailable("STORAGE_FAILED", $"The change cannot be kept: {exception.Message}");
        }
    }

    private void Apply(IReadOnlyList<AccessRecord> records, CompletedRequest? request)
    {
        foreach (AccessRecord record in records)
        {
            switch (record.ChangeCase)
            {
                case AccessRecord.ChangeOneofCase.PutProject:
                    Project(record.PutProject.Name).Record = record.PutProject.Clone();
                    break;
                case AccessRecord.ChangeOneofCase.DeleteProject:
                    Project(record.DeleteProject).Record = null;
                    break;
                case AccessRecord.ChangeOneofCase.PutToken:
                    _tokens[record.PutToken.Token.Name] = record.PutToken.Clone();
                    break;
                case AccessRecord.ChangeOneofCase.DeleteToken:
                    _tokens.Remove(record.DeleteToken);
                    break;
                case AccessRecord.ChangeOneofCase.AuditEntry:
                    _audit.AddLast(record.AuditEntry);
                    _auditNumber = AuditNames.NumberOf(record.AuditEntry);
                    if (_audit.Count > options.MaxAuditEntries)
                        _audit.RemoveFirst();
                    break;
            }
        }

        if (request is not null)
            Remember(new RequestRow(new RequestKey(request.Parent, request.RequestId, request.Fingerprint), request.Response.ToByteArray(), request.CompleteTime.ToDateTimeOffset()));
    }

    private void PruneAccess()
    {
        DateTimeOffset now = time.GetUtcNow();
        PruneStreams();
        foreach (string image in _uploads.Where(upload => upload.Value + UploadPatience < now).Select(upload => upload.Key).ToList())
            _uploads.Remove(image);
        while (_audit.First is { } first && first.Value.Time.ToDateTimeOffset() + options.KeepAudit < now)
            _audit.RemoveFirst();
    }

    private void RequireRoom(NewVm vm)
    {
        string name = ProjectOf(vm.Name);
        Project project = RequireProject(name);
        if (!Quotas.LimitsVms(project.Quota))
            return;
        var used = default(Resources);
        foreach (VmRow row in _vms.Values.Where(row => IsOf(row.Name, name)))
            used += Resources.Of(row.Spec);
        Quotas.RequireRoom(name, project.Quota, used, Resources.Of(vm.Spec));
    }

    private Project RequireProject(string name) => FindProject(name) ?? (options.RequiresProjects ? throw ApiError.NotFound(name) : EnsureProject(name));

    private Project? FindProject(string name) => name == ResourceName.DefaultParent ? EnsureProject(name) : _projects.GetValueOrDefault(name)?.Record;

    private Project EnsureProject(string name) => Project(name).Record ??= Quotas.Tag(new Project { Name = name });

    private static string ProjectOf(string name) => name[..name.IndexOf('/', "projects/".Length)];
}
