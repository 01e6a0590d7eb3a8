using System.Net;
using System.Net.Sockets;

namespace Vmm.Services.Tests.Fleet;

/// <summary>The way of one process to the database, which can stop passing anything in either direction without closing, as a network does that is partitioned.</summary>
internal sealed class PartitionProxy : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly CancellationTokenSource _ending = new();
    private readonly string _socket;
    private readonly Task _accepting;
    private volatile TaskCompletionSource _passes = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <param name="socket">The unix socket that it leads to.</param>
    public PartitionProxy(string socket)
    {
        _socket = socket;
        _passes.SetResult();
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(64);
        _accepting = AcceptAsync();
    }

    public int Port => ((IPEndPoint)_listener.LocalEndPoint!).Port;

    /// <summary>Passes nothing from here on. What comes waits.</summary>
    public void Freeze()
    {
        if (_passes.Task.IsCompleted)
            _passes = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    /// <summary>Passes what has come, and goes on.</summary>
    public void Thaw() => _passes.TrySetResult();

    public async ValueTask DisposeAsync()
    {
        await _ending.CancelAsync();
        _listener.Dispose();
        Thaw();
        await _accepting;
        _ending.Dispose();
    }

    private async Task AcceptAsync()
    {
        var connections = new List<Task>();
        try
        {
            while (true)
                connections.Add(PassAsync(await _listener.AcceptAsync(_ending.Token)));
        }
        catch (Exception exception) when (exception is OperationCanceledException or ObjectDisposedException or SocketException)
        {
            await Task.WhenAll(connections);
        }
    }

    private async Task PassAsync(Socket near)
    {
        using var far = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        using (near)
        {
            try
            {
                await _passes.Task;
                await far.ConnectAsync(new UnixDomainSocketEndPoint(_socket), _ending.Token);
                // The end of either direction is the end of both.
                await await Task.WhenAny(PassAsync(near, far), PassAsync(far, near));
            }
            catch (Exception exception) when (exception is SocketException or OperationCanceledException or ObjectDisposedException)
            {
                // One of the two went away.
            }
        }
    }

    private async Task PassAsync(Socket from, Socket to)
    {
        byte[] buffer = new byte[16 << 10];
        while (await from.ReceiveAsync(buffer, _ending.Token) is > 0 and int count)
        {
            await _passes.Task;
            for (int sent = 0; sent < count;)
                sent += await to.SendAsync(buffer.AsMemory(sent, count - sent), _ending.Token);
        }
    }
}
