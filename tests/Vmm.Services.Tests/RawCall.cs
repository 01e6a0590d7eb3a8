using Google.Protobuf;
using Google.Protobuf.Reflection;
using Grpc.Core;
using Vmm.Client;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>Calls of methods that are known by their descriptors only.</summary>
internal static class RawCall
{
    /// <summary>Calls with raw bytes, as a client in another language could, and checks that an error has its reason.</summary>
    public static async Task<VmmError> SendAsync(CallInvoker invoker, MethodDescriptor descriptor, IMessage request, Metadata? headers = null)
    {
        Marshaller<byte[]> bytes = Marshallers.Create(static (byte[] value) => value, static (byte[] value) => value);
        MethodType type = (descriptor.IsClientStreaming, descriptor.IsServerStreaming) switch
        {
            (false, false) => MethodType.Unary,
            (true, false) => MethodType.ClientStreaming,
            (false, true) => MethodType.ServerStreaming,
            _ => MethodType.DuplexStreaming,
        };
        var method = new Method<byte[], byte[]>(type, descriptor.Service.FullName, descriptor.Name, bytes, bytes);
        byte[] payload = request.ToByteArray();
        using var patience = new CancellationTokenSource();
        var options = new CallOptions(headers, cancellationToken: patience.Token, deadline: DateTime.UtcNow.AddMinutes(2));
        try
        {
            switch (type)
            {
                case MethodType.Unary:
                    // A guest that powers off at once lets a graceful stop end.
                    await invoker.AsyncUnaryCall(method, null, options, payload);
                    break;
                case MethodType.ServerStreaming:
                    {
                        using var call = invoker.AsyncServerStreamingCall(method, null, options, payload);
                        await call.ResponseStream.MoveNext(CancellationToken.None);
                        break;
                    }

                case MethodType.ClientStreaming:
                    {
                        using var call = invoker.AsyncClientStreamingCall(method, null, options);
                        await Task.WhenAny(WriteAsync(call.RequestStream, payload), call.ResponseAsync);
                        await call;
                        break;
                    }

                default:
                    {
                        using var call = invoker.AsyncDuplexStreamingCall(method, null, options);
                        Task<bool> answer = call.ResponseStream.MoveNext(CancellationToken.None);
                        await Task.WhenAny(WriteAsync(call.RequestStream, payload), answer);
                        await answer;
                        break;
                    }
            }

            return new VmmError { Code = StatusCode.OK, Message = "" };
        }
        catch (RpcException exception)
        {
            VmmError error = VmmError.From(exception);
            Assert.True(error.Code == StatusCode.DeadlineExceeded || error.Reason.Length > 0, $"{descriptor.FullName} answers {exception.Status} without a reason");
            return error;
        }
    }

    /// <summary>
    /// Sends the payload twice. Not to be waited for alone: a write that the transport holds back when the server answers early may never return.
    /// </summary>
    private static async Task WriteAsync(IClientStreamWriter<byte[]> stream, byte[] payload)
    {
        try
        {
            await stream.WriteAsync(payload);
            await stream.WriteAsync(payload);
            await stream.CompleteAsync();
        }
        catch (Exception exception) when (exception is RpcException or InvalidOperationException or IOException or OperationCanceledException)
        {
            // The server has answered already; the answer is what counts.
        }
    }
}
