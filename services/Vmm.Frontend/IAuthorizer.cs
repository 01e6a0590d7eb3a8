using Grpc.Core;

namespace Vmm.Frontend;

/// <summary>Decides whether a caller may do something. Asked once per call, before anything is done or revealed.</summary>
public interface IAuthorizer
{
    /// <summary>Returns where the caller may.</summary>
    /// <param name="call">The call.</param>
    /// <param name="resource">The resource, or the project for calls on a collection.</param>
    /// <exception cref="RpcException">UNAUTHENTICATED or PERMISSION_DENIED.</exception>
    ValueTask AuthorizeAsync(ServerCallContext call, string resource);
}

/// <summary>Everybody may do everything: for a server that only its own user can reach.</summary>
public sealed class SingleUserAuthorizer : IAuthorizer
{
    /// <inheritdoc/>
    public ValueTask AuthorizeAsync(ServerCallContext call, string resource) => ValueTask.CompletedTask;
}
