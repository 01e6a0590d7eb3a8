using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Npgsql;
using Vmm.Protos;
using Vmm.Registry.Placement;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Registry.Postgres;

/// <content>Projects, tokens and the audit log.</content>
public sealed partial class PostgresRegistry
{
    private static readonly TimeSpan UploadPatience = TimeSpan.FromHours(1);
    private static readonly TimeSpan UseResolution = TimeSpan.FromMinutes(1);

    /// <inheritdoc/>
    public Task<Project> CreateProjectAsync(Project project, RequestKey? request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(project);
        return OnceAsync(request, Project.Parser, cancellation, async sql =>
        {
            Project made = Quotas.Stamp(project.Clone(), await NowAsync(sql));
            int created = await sql.ExecuteAsync(
                "INSERT INTO projects (name, record) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET record = excluded.record WHERE projects.record IS NULL", made.Name, made.ToByteArray());
            return created == 1 ? made : throw ApiError.AlreadyExists(made.Name);
        });
    }

    /// <inheritdoc/>
    public Task<Project?> FindProjectAsync(string name, CancellationToken cancellation) => ReadAsync(cancellation, sql => FindProjectAsync(sql, name, ""));

    /// <inheritdoc/>
    public Task<IReadOnlyList<Project>> ListProjectsAsync(CancellationToken cancellation) => ReadAsync<IReadOnlyList<Project>>(
        cancellation, async sql => await sql.QueryAsync("SELECT name, record FROM projects WHERE record IS NOT NULL ORDER BY name COLLATE \"C\"", ReadProject));

    /// <inheritdoc/>
    public Task<Project> UpdateProjectAsync(string name, Action<Project> change, string etag, RequestKey? request, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(change);
        return OnceAsync(request, Project.Parser, cancellation, async sql =>
        {
            Project next = await FindProjectAsync(sql, name, "FOR NO KEY UPDATE") ?? throw ApiError.NotFound(name);
            Quotas.RequireEtag(next, etag);
            change(next);
            Quotas.Stamp(next, await NowAsync(sql));
            await sql.ExecuteAsync("UPDATE projects SET record = $2 WHERE name = $1", name, next.ToByteArray());
            return next;
        });
    }

    /// <inheritdoc/>
    public Task DeleteProjectAsync(string name, string etag, RequestKey? request, CancellationToken cancellation) => OnceAsync(request, Empty.Parser, cancellation, async sql =>
    {
        // Placements lock the key of the row: none is half done after this.
        Project project = await FindProjectAsync(sql, name, "FOR UPDATE") ?? throw ApiError.NotFound(name);
        Quotas.RequireEtag(project, etag);
        Quotas.RequireDeletable(name, !await sql.ScalarAsync<bool>(
            """
            SELECT EXISTS (SELECT FROM vms WHERE project = $1) OR EXISTS (SELECT FROM images WHERE project = $1)
                OR EXISTS (SELECT FROM snapshots WHERE project = $1) OR EXISTS (SELECT FROM image_uploads WHERE project = $1)
            """,
            name));
        await sql.ExecuteAsync("UPDATE projects SET record = NULL WHERE name = $1", name);
        await sql.ExecuteAsync("DELETE FROM tokens WHERE project = $1", name);
        return new Empty();
    });

    /// <inheritdoc/>
    public Task AdmitImageAsync(string image, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(image);
        return TransactAsync(cancellation, async sql =>
        {
            string name = ProjectOf(image);
            Project project = await RequireProjectAsync(sql, name, "FOR NO KEY UPDATE");
            if (project.Quota is { HasImages: true })
                Quotas.RequireRoomForImage(name, project.Quota, await sql.ScalarAsync<long>(
                    "SELECT count(*) FROM (SELECT name FROM images WHERE project = $1 UNION SELECT name FROM image_uploads WHERE project = $1) present WHERE name <> $2", name, image));
            return await sql.ExecuteAsync(
                "INSERT INTO image_uploads (name, project) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET begin_time = excluded.begin_time", image, name);
        });
    }

    /// <inheritdoc/>
    public Task SettleImageAsync(string image, CancellationToken cancellation) => TransactAsync(cancellation, sql => sql.ExecuteAsync("DELETE FROM image_uploads WHERE name = $1", image));

    /// <inheritdoc/>
    public Task<Token> CreateTokenAsync(StoredToken token, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(token);
        return TransactAsync(cancellation, async sql =>
        {
            if (token.Token.Project.Length > 0 && await FindProjectAsync(sql, token.Token.Project, "FOR KEY SHARE") is null)
                throw ApiError.NotFound(token.Token.Project);
            if (await InsertTokenAsync(sql, token, "DO NOTHING") is { } made)
                return made;
            var present = (await sql.QueryAsync(
                "SELECT request_id, fingerprint FROM tokens WHERE name = $1 FOR UPDATE", row => (Id: row.GetString(0), Fingerprint: ByteString.CopyFrom(row.GetFieldValue<byte[]>(1))), token.Token.Name)).SingleOrDefault();
            Refusals.RequireRepetition(token, present.Id ?? "", present.Fingerprint ?? ByteString.Empty);
            return (await InsertTokenAsync(sql, token, "DO UPDATE SET secret_sha256 = excluded.secret_sha256"))!;
        });
    }

    /// <inheritdoc/>
    public Task PutTokenAsync(StoredToken token, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(token);
        return TransactAsync(cancellation, sql => InsertTokenAsync(
            sql, token, "DO UPDATE SET project = excluded.project, token = excluded.token, secret_sha256 = excluded.secret_sha256, expire_time = excluded.expire_time"));
    }

    /// <inheritdoc/>
    public Task<KnownToken?> FindTokenAsync(string name, bool uses, CancellationToken cancellation) => ReadAsync(cancellation, async sql =>
    {
        var rows = await sql.QueryAsync(
            """
            SELECT token, create_time, last_use_time, secret_sha256, coalesce(expire_time <= clock_timestamp(), false), coalesce(last_use_time <= clock_timestamp() - $2, true)
            FROM tokens WHERE name = $1
            """,
            row => (Known: new KnownToken(ReadToken(row), ByteString.CopyFrom(row.GetFieldValue<byte[]>(3)), row.GetBoolean(4)), IsStale: row.GetBoolean(5)),
            name,
            UseResolution);
        if (rows is not [var found])
            return null;
        if (uses && found.IsStale)
            await sql.ExecuteAsync("UPDATE tokens SET last_use_time = clock_timestamp() WHERE name = $1", name);
        return found.Known;
    });

    /// <inheritdoc/>
    public Task<IReadOnlyList<Token>> ListTokensAsync(CancellationToken cancellation) => ReadAsync<IReadOnlyList<Token>>(
        cancellation, async sql => await sql.QueryAsync("SELECT token, create_time, last_use_time FROM tokens ORDER BY name COLLATE \"C\"", ReadToken));

    /// <inheritdoc/>
    public Task DeleteTokenAsync(string name, CancellationToken cancellation) => TransactAsync(
        cancellation, async sql => await sql.ExecuteAsync("DELETE FROM tokens WHERE name = $1", name) == 1 ? true : throw ApiError.NotFound(name));

    /// <inheritdoc/>
    public Task AppendAuditAsync(IReadOnlyList<AuditEntry> entries, CancellationToken cancellation) => TransactAsync(cancellation, sql => sql.ExecuteAsync(
        "INSERT INTO audit_entries (project, entry) SELECT * FROM unnest($1, $2)", entries.Select(entry => entry.Project).ToArray(), entries.Select(entry => entry.ToByteArray()).ToArray()));

    /// <inheritdoc/>
    public Task<IReadOnlyList<AuditEntry>> ReadAuditAsync(string? project, long before, int limit, CancellationToken cancellation) => ReadAsync<IReadOnlyList<AuditEntry>>(
        cancellation,
        async sql => await sql.QueryAsync(
            $"SELECT id, time, entry FROM audit_entries WHERE id < $1 {(project is null ? "" : "AND project = $3")} ORDER BY id DESC LIMIT $2",
            row => new AuditEntry(AuditEntry.Parser.ParseFrom(row.GetFieldValue<byte[]>(2))) { Name = AuditNames.Of(row.GetInt64(0)), Time = ReadTime(row, 1) },
            project is null ? [before, limit] : [before, limit, project]));

    /// <summary>Locks a project whose quota limits VMs against other placements, and gives the quota and what is taken of it; null where it is gone.</summary>
    private static async Task<(ProjectQuota? Quota, Resources Used)?> LockRoomAsync(Transaction sql, string name)
    {
        if (await FindProjectAsync(sql, name, "FOR NO KEY UPDATE") is not { } locked)
            return null;
        Resources used = (await sql.QueryAsync(
            "SELECT count(*)::integer, coalesce(sum(vcpus), 0)::bigint, coalesce(sum(memory_mib), 0)::bigint FROM vms WHERE project = $1",
            row => new Resources(row.GetInt32(0), row.GetInt64(1), row.GetInt64(2)),
            name)).Single();
        return (locked.Quota, used);
    }

    /// <summary>The project, which comes to be where it need not have been created.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    private async Task<Project> RequireProjectAsync(Transaction sql, string name, string locking = "")
    {
        if (await FindProjectAsync(sql, name, locking) is { } project)
            return project;
        if (_options.RequiresProjects)
            throw ApiError.NotFound(name);
        await sql.ExecuteAsync("INSERT INTO projects (name, record) VALUES ($1, '') ON CONFLICT (name) DO UPDATE SET record = '' WHERE projects.record IS NULL", name);
        return new Project { Name = name };
    }

    private static async Task<Project?> FindProjectAsync(Transaction sql, string name, string locking) =>
        (await sql.QueryAsync($"SELECT name, record FROM projects WHERE name = $1 AND record IS NOT NULL {locking}", ReadProject, name)).SingleOrDefault();

    private async Task<T> OnceAsync<T>(RequestKey? request, MessageParser<T> parser, CancellationToken cancellation, Func<Transaction, Task<T>> change) where T : class, IMessage<T> =>
        await TransactAsync(cancellation, async sql =>
        {
            if (await AnswerAsync(sql, request) is { } answer)
                return parser.ParseFrom(answer);
            T made = await change(sql);
            if (request is not null)
                Remember(sql, [new RequestReport(request, made.ToByteString())], "DO UPDATE SET fingerprint = excluded.fingerprint, response = excluded.response, complete_time = excluded.complete_time");
            return made;
        });

    private static async Task<Token?> InsertTokenAsync(Transaction sql, StoredToken token, string onConflict) => (await sql.QueryAsync(
        $"""
        INSERT INTO tokens (name, project, token, secret_sha256, expire_time, request_id, fingerprint) VALUES ($1, $2, $3, $4, $5::timestamptz, $6, $7)
        ON CONFLICT (name) {onConflict} RETURNING token, create_time, last_use_time
        """,
        ReadToken,
        token.Token.Name,
        token.Token.Project,
        token.Token.ToByteArray(),
        token.SecretSha256.ToByteArray(),
        token.Token.ExpireTime?.ToDateTime(),
        token.RequestId,
        token.Fingerprint.ToByteArray())).SingleOrDefault();

    private static Task<DateTime> NowAsync(Transaction sql) => sql.ScalarAsync<DateTime>("SELECT clock_timestamp()");

    private static Project ReadProject(NpgsqlDataReader row)
    {
        Project project = Project.Parser.ParseFrom(row.GetFieldValue<byte[]>(1));
        project.Name = row.GetString(0);
        return project.Etag.Length > 0 ? project : Quotas.Tag(project);
    }

    private static Token ReadToken(NpgsqlDataReader row)
    {
        Token token = Token.Parser.ParseFrom(row.GetFieldValue<byte[]>(0));
        token.CreateTime = ReadTime(row, 1);
        token.LastUseTime = row.IsDBNull(2) ? null : ReadTime(row, 2);
        return token;
    }

    private static Timestamp ReadTime(NpgsqlDataReader row, int column) => Timestamp.FromDateTime(row.GetDateTime(column));
}
