using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.V1;

namespace Vmm.Frontend.Fleet;

/// <summary>
/// A client's console stream, over all workers that the VM is on meanwhile. Output goes on at the offset where it stood, input at the byte
/// that the guest has not taken yet: both positions move with the VM, so nothing is lost or doubled.
/// </summary>
internal sealed class ConsoleRelay
{
    private readonly FleetRouter _fleet;
    private readonly ConsoleAttach _attach;
    private readonly string _session = Guid.NewGuid().ToString("n");
    private readonly VmFollower _input;
    private readonly TaskCompletionSource _attached = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ulong _offset;
    private long _nextRun;
    private bool _isWriter;
    private long _inputBytes;

    public ConsoleRelay(FleetRouter fleet, ConsoleAttach attach)
    {
        _fleet = fleet;
        _attach = attach;
        _input = new VmFollower(fleet, attach.Name);
    }

    /// <summary>Passes output on until the stream's end.</summary>
    /// <param name="write">Takes a response for the client.</param>
    /// <param name="cancellation">Ends the call.</param>
    public async Task CopyOutputAsync(Func<ConsoleResponse, Task> write, CancellationToken cancellation)
    {
        var follower = new VmFollower(_fleet, _attach.Name);
        while (true)
        {
            try
            {
                VmHostService.VmHostServiceClient worker = await follower.ConnectAsync(cancellation);
                using AsyncServerStreamingCall<HostConsoleResponse> call = worker.Console(Request(), cancellationToken: cancellation);
                while (await call.ResponseStream.MoveNext(cancellation))
                {
                    follower.Arrived();
                    if (Take(call.ResponseStream.Current) is { } response)
                        await write(response);
                    if (_attached.Task.IsCompleted)
                        continue;
                    _input.BeginWith(follower);
                    _attached.SetResult();
                }

                return;
            }
            catch (RpcException exception)
            {
                if (!await follower.HasMovedAsync(exception, cancellation))
                    throw;
            }
        }
    }

    /// <summary>Gives input to the guest; returns when it has taken all of it.</summary>
    public async Task WriteInputAsync(ByteString input, CancellationToken cancellation)
    {
        // The place of the writer is taken with the first response.
        await _attached.Task.WaitAsync(cancellation);
        while (true)
        {
            try
            {
                VmHostService.VmHostServiceClient worker = await _input.ConnectAsync(cancellation);
                await worker.WriteConsoleAsync(
                    new WriteConsoleRequest { Name = _attach.Name, Session = _session, Position = _inputBytes, Data = input }, cancellationToken: cancellation);
                _input.Arrived();
                _inputBytes += input.Length;
                return;
            }
            catch (RpcException exception)
            {
                if (!await _input.HasMovedAsync(exception, cancellation))
                    throw;
            }
        }
    }

    private HostConsoleAttach Request()
    {
        var request = new HostConsoleAttach { Attach = _attach, Session = _session };
        if (!_attached.Task.IsCompleted)
            return request;
        request.Resume = true;
        request.NextRun = _nextRun;
        request.Attach = new ConsoleAttach { Name = _attach.Name, Write = _isWriter, Until = _attach.Until, ResumeOffset = _offset };
        return request;
    }

    // What the client is told; null for what it need not know.
    private ConsoleResponse? Take(HostConsoleResponse item)
    {
        ConsoleResponse response = item.Response;
        _nextRun = item.NextRun;
        switch (response.ResponseCase)
        {
            case ConsoleResponse.ResponseOneofCase.Attached when _attached.Task.IsCompleted:
                bool wasWriter = _isWriter;
                _isWriter = response.Attached.Writer;
                return wasWriter && !_isWriter ? new ConsoleResponse { WriterLost = new ConsoleWriterLost() } : null;
            case ConsoleResponse.ResponseOneofCase.Attached:
                _offset = response.Attached.Offset;
                _isWriter = response.Attached.Writer;
                break;
            case ConsoleResponse.ResponseOneofCase.Output:
                _offset = response.Output.Offset + (ulong)response.Output.Data.Length;
                break;
            case ConsoleResponse.ResponseOneofCase.Dropped:
                _offset += response.Dropped.Bytes;
                break;
            case ConsoleResponse.ResponseOneofCase.WriterLost:
                _isWriter = false;
                break;
        }

        return response;
    }
}
