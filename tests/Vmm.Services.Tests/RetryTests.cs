using System.Net;
using System.Net.Sockets;
using Vmm.Client;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class RetryTests : ServerTest
{
    [Fact]
    public async Task The_sdk_repeats_a_change_whose_answer_was_lost_and_it_is_done_once()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        Task proxy = ProxyAsync(listener);
        using VmmConnection connection = VmmConnection.Open($"http://{listener.LocalEndpoint}");
        Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, Vm = new Vm { Spec = Spec() } }, cancellationToken: Soon);
        Assert.Equal(vm, Assert.Single((await Vms.ListVmsAsync(new ListVmsRequest())).Vms));
        connection.Dispose();
        await proxy;
    }

    /// <summary>Refuses one connection, carries the next one's request but not its answer, and then works.</summary>
    private async Task ProxyAsync(TcpListener listener)
    {
        (await listener.AcceptTcpClientAsync(Soon)).Dispose();
        using (TcpClient client = await listener.AcceptTcpClientAsync(Soon))
        using (TcpClient server = await ConnectAsync())
        {
            Task requests = CopyAsync(client, server);
            await EventuallyAsync(() => Vms.ListVms(new ListVmsRequest()).Vms.Count == 1, "the VM");
            client.Close();
            await requests;
        }

        using (TcpClient client = await listener.AcceptTcpClientAsync(Soon))
        using (TcpClient server = await ConnectAsync())
        {
            await Task.WhenAny(CopyAsync(client, server), CopyAsync(server, client));
        }
    }

    private async Task<TcpClient> ConnectAsync()
    {
        var client = new TcpClient();
        await client.ConnectAsync(IPEndPoint.Parse(new Uri(Server.Address).Authority), Soon);
        return client;
    }

    private static async Task CopyAsync(TcpClient from, TcpClient to)
    {
        try
        {
            await from.GetStream().CopyToAsync(to.GetStream(), Soon);
        }
        catch (Exception exception) when (exception is IOException or ObjectDisposedException or InvalidOperationException)
        {
            // A connection that was cut is what this is for.
        }
    }
}
