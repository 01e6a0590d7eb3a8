using Grpc.Core;

namespace Vmm.Frontend;

/// <summary>
/// Decides whether a caller may see a resource. Asked at every call before anything is done or revealed; whether his role allows the
/// method has been decided by then.
/// </summary>
public interface IAuthorizer
{
    /// <summary>Returns where the caller may.</summary>
    /// <param name="call">The call.</param>
    /// <param name="resource">The resource, or the project for calls on a collection.</param>
    /// <exception cref="RpcException">NOT_FOUND: it is not for his eyes.</exception>
    ValueTask AuthorizeAsync(ServerCallContext call, string resource);
}
