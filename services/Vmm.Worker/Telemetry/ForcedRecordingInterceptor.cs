using System.Diagnostics;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Vmm.Registry;
using Vmm.Registry.Channels;

namespace Vmm.Worker.Telemetry;

/// <summary>Tells who called that the call is recorded although a sampler has dropped it.</summary>
public sealed class ForcedRecordingInterceptor : Interceptor
{
    /// <inheritdoc/>
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        ArgumentNullException.ThrowIfNull(context);
        ArgumentNullException.ThrowIfNull(continuation);
        Activity? span = Activity.Current;
        try
        {
            return await continuation(request, context);
        }
        finally
        {
            if (span.IsForced())
                context.ResponseTrailers.Add(WorkerCall.ForcedTrailer, "1");
        }
    }
}
