using Google.Protobuf;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Client;

/// <summary>
/// An attachment to a VM's console. One thread may read while another writes.
/// </summary>
public sealed class VmConsole : IDisposable
{
    /// <summary>The server's limit for the bytes of one input message.</summary>
    private const int MaxInputBytes = 64 << 10;

    private readonly AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> _call;

    private VmConsole(AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> call, ConsoleAttached attached)
    {
        _call = call;
        IsWriter = attached.Writer;
        StartOffset = attached.Offset;
    }

    /// <summary>Whether input is accepted; false once another client took over.</summary>
    public bool IsWriter { get; private set; }

    /// <summary>Offset of the first byte that will come.</summary>
    public ulong StartOffset { get; }

    /// <summary>Attaches; returns when the server has, so that nothing that happens afterwards is missed.</summary>
    /// <exception cref="RpcException">There is no such VM, or it has a writer and taking over was not asked for.</exception>
    public static async Task<VmConsole> AttachAsync(VmmConnection connection, ConsoleAttach attach, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(connection);
        ArgumentNullException.ThrowIfNull(attach);
        AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> call = connection.Vms.Console(cancellationToken: cancellation);
        try
        {
            await call.RequestStream.WriteAsync(new ConsoleRequest { Attach = attach }, cancellation);
            if (!await call.ResponseStream.MoveNext(cancellation) || call.ResponseStream.Current.Attached is not { } attached)
                throw new RpcException(new Status(StatusCode.Internal, "The server did not confirm that the console is attached."));
            return new VmConsole(call, attached);
        }
        catch
        {
            call.Dispose();
            throw;
        }
    }

    /// <summary>Everything that the server sends after the attachment, until it ends the stream. May be called once.</summary>
    public async IAsyncEnumerable<ConsoleResponse> ReadAsync([System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation = default)
    {
        while (await _call.ResponseStream.MoveNext(cancellation))
        {
            ConsoleResponse response = _call.ResponseStream.Current;
            if (response.ResponseCase == ConsoleResponse.ResponseOneofCase.WriterLost)
                IsWriter = false;
            yield return response;
        }
    }

    /// <summary>
    /// Copies output to <paramref name="output"/> until the stream ends; <paramref name="onDropped"/> hears how many bytes were
    /// lost where the reader was too slow. Returns how the run ended, or null where the stream ended for another reason.
    /// </summary>
    public async Task<VmEnd?> CopyToAsync(Stream output, Action<ulong>? onDropped = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(output);
        VmEnd? end = null;
        await foreach (ConsoleResponse response in ReadAsync(cancellation))
        {
            switch (response.ResponseCase)
            {
                case ConsoleResponse.ResponseOneofCase.Output:
                    await output.WriteAsync(response.Output.Data.Memory, cancellation);
                    await output.FlushAsync(cancellation);
                    break;
                case ConsoleResponse.ResponseOneofCase.Dropped:
                    onDropped?.Invoke(response.Dropped.Bytes);
                    break;
                case ConsoleResponse.ResponseOneofCase.RunEnded:
                    end = response.RunEnded;
                    break;
            }
        }

        return end;
    }

    /// <summary>Sends input. Completes when the transport has taken it; the server passes it on as the guest takes it.</summary>
    public async Task WriteAsync(ReadOnlyMemory<byte> input, CancellationToken cancellation = default)
    {
        for (int at = 0; at < input.Length; at += MaxInputBytes)
        {
            ReadOnlyMemory<byte> part = input.Slice(at, Math.Min(MaxInputBytes, input.Length - at));
            await _call.RequestStream.WriteAsync(new ConsoleRequest { Input = ByteString.CopyFrom(part.Span) }, cancellation);
        }
    }

    /// <summary>Says that no input follows; output keeps coming.</summary>
    public Task CompleteInputAsync() => _call.RequestStream.CompleteAsync();

    /// <summary>Detaches.</summary>
    public void Dispose() => _call.Dispose();
}
