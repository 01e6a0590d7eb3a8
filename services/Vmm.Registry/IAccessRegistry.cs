using Google.Protobuf;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Registry;

/// <summary>
/// Who may do what, how much there may be, and what was done: projects with their quotas, tokens, and the audit log. Every method is one
/// transaction; time is the registry's own. Thread-safe. VMs are counted against quotas by <see cref="IRegistry.PlaceVmAsync"/>.
/// </summary>
/// <remarks>Every method may also throw an <see cref="Grpc.Core.RpcException"/> with UNAVAILABLE, reason REGISTRY_UNAVAILABLE.</remarks>
public interface IAccessRegistry
{
    /// <summary>Makes a project, or answers as the first time.</summary>
    /// <param name="project">With its name; times and etag are filled in.</param>
    /// <param name="request">The request, where the client may repeat it.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS; INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task<Project> CreateProjectAsync(Project project, RequestKey? request, CancellationToken cancellation);

    /// <summary>A project; null where there is none of that name.</summary>
    Task<Project?> FindProjectAsync(string name, CancellationToken cancellation);

    /// <summary>Every project, ordered by name.</summary>
    Task<IReadOnlyList<Project>> ListProjectsAsync(CancellationToken cancellation);

    /// <summary>Changes a project, or answers as the first time.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="change">Makes of it, which is a copy, what it is to be; may be called more than once.</param>
    /// <param name="etag">What it must be now; empty for whatever it is.</param>
    /// <param name="request">The request, where the client may repeat it.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND; ABORTED, reason ETAG_MISMATCH; INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task<Project> UpdateProjectAsync(string name, Action<Project> change, string etag, RequestKey? request, CancellationToken cancellation);

    /// <summary>Deletes an empty project and its tokens.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND; FAILED_PRECONDITION, reason PROJECT_NOT_EMPTY or PROJECT_REQUIRED; ABORTED, reason ETAG_MISMATCH;
    /// INVALID_ARGUMENT: the request id was used for another request.</exception>
    Task DeleteProjectAsync(string name, string etag, RequestKey? request, CancellationToken cancellation);

    /// <summary>
    /// Takes room for an image that is about to be uploaded. It is given back by <see cref="SettleImageAsync"/>, or after an hour, unless the
    /// image is there by then.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED; NOT_FOUND: there is no such project.</exception>
    Task AdmitImageAsync(string image, CancellationToken cancellation);

    /// <summary>An upload is over: the image is there now, or it is not.</summary>
    Task SettleImageAsync(string image, CancellationToken cancellation);

    /// <summary>Takes a place among the streams of a project, which counts until it is given back or its holder's lease ends.</summary>
    /// <exception cref="Grpc.Core.RpcException">RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED.</exception>
    Task AdmitStreamAsync(StreamPlace place, CancellationToken cancellation);

    /// <summary>Gives places back. Those that were never taken, or given back before, change nothing.</summary>
    Task LeaveStreamsAsync(IReadOnlyList<StreamPlace> places, CancellationToken cancellation);

    /// <summary>
    /// Renews a holder's lease of its places, for <see cref="RegistryOptions.LeaseDuration"/> from now on. Places that it has lost with a lease that
    /// ended are its again, whether or not there is room for them: their streams are under way.
    /// </summary>
    /// <param name="holder">Whose.</param>
    /// <param name="places">All that it has.</param>
    /// <param name="cancellation">Gives up.</param>
    Task RenewStreamsAsync(string holder, IReadOnlyList<StreamPlace> places, CancellationToken cancellation);

    /// <summary>Gives back every place that a holder has.</summary>
    Task EndStreamsAsync(string holder, CancellationToken cancellation);

    /// <summary>
    /// Makes a token; creation time filled in. Made again by the same request it gets the new secret.
    /// </summary>
    /// <exception cref="Grpc.Core.RpcException">ALREADY_EXISTS; NOT_FOUND: there is no such project.</exception>
    Task<Token> CreateTokenAsync(StoredToken token, CancellationToken cancellation);

    /// <summary>Makes a token, or gives the one of that name this secret and these rights.</summary>
    Task PutTokenAsync(StoredToken token, CancellationToken cancellation);

    /// <summary>The token of that name, or null. That it was asked for counts as its use where <paramref name="uses"/>.</summary>
    Task<KnownToken?> FindTokenAsync(string name, bool uses, CancellationToken cancellation);

    /// <summary>Every token, ordered by name.</summary>
    Task<IReadOnlyList<Token>> ListTokensAsync(CancellationToken cancellation);

    /// <summary>Revokes a token.</summary>
    /// <exception cref="Grpc.Core.RpcException">NOT_FOUND.</exception>
    Task DeleteTokenAsync(string name, CancellationToken cancellation);

    /// <summary>Adds to the audit log; names and times are filled in. All of it lasts when this returns.</summary>
    Task AppendAuditAsync(IReadOnlyList<AuditEntry> entries, CancellationToken cancellation);

    /// <summary>Entries of the audit log, the latest first.</summary>
    /// <param name="project">Of this project only; null for all.</param>
    /// <param name="before">Those with numbers below this.</param>
    /// <param name="limit">So many at most.</param>
    /// <param name="cancellation">Gives up.</param>
    Task<IReadOnlyList<AuditEntry>> ReadAuditAsync(string? project, long before, int limit, CancellationToken cancellation);
}

/// <summary>A token as the registry knows it.</summary>
/// <param name="Token">The token.</param>
/// <param name="SecretSha256">SHA-256 of its secret.</param>
/// <param name="IsExpired">By the registry's clock.</param>
public sealed record KnownToken(Token Token, ByteString SecretSha256, bool IsExpired);

/// <summary>A place among the streams of a project.</summary>
/// <param name="Holder">The front end that has the stream: one life of one process.</param>
/// <param name="Id">Names the stream, and nothing else ever.</param>
/// <param name="Project"><c>projects/{project}</c>.</param>
public sealed record StreamPlace(string Holder, string Id, string Project);
