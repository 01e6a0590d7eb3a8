using System.Collections.Immutable;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Grpc.Core;
using Vmm.Client;
using Vmm.Testing.Processes;
using Vmm.V1;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>
/// Two front ends and three workers with TLS, mutual TLS, tokens and PostgreSQL. Users have both addresses, operators may stop processes and
/// start them, and faults kill them.
/// </summary>
public abstract class Fleet : Installation
{
    private readonly int[] _ports = [FreePort(), FreePort()];

    /// <summary>The ids of its workers.</summary>
    public static IReadOnlyList<string> Workers { get; } = ["a", "b", "c"];

    /// <inheritdoc/>
    public override string Address => AddressOf(0);

    /// <inheritdoc/>
    public override VmmCredentials Credentials => new() { Authorities = Authority, Token = File.ReadAllText(AdminToken).Trim() };

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, string> Environment => EnvironmentAt(0, AdminToken);

    /// <summary>The certificate of its authority.</summary>
    protected string Authority => Path.Combine(Folder, "ca.crt");

    /// <summary>The administrator's secret.</summary>
    protected string AdminToken => Path.Combine(Folder, "admin-token");

    /// <summary>For the files of this installation; goes with it.</summary>
    protected string Folder { get; } = Directory.CreateTempSubdirectory("vmm-fleet-").FullName;

    /// <summary>The variables of a user of a front end, 0 or 1.</summary>
    /// <param name="frontend">Which.</param>
    /// <param name="tokenFile">His secret; null for nobody's.</param>
    public IReadOnlyDictionary<string, string> EnvironmentAt(int frontend, string? tokenFile)
    {
        var variables = ImmutableDictionary<string, string>.Empty.Add("VMM_SERVER", AddressOf(frontend)).Add("VMM_CA", Authority);
        return tokenFile is null ? variables : variables.Add("VMM_TOKEN_FILE", tokenFile);
    }

    /// <summary>The same variables for the other front end.</summary>
    public IReadOnlyDictionary<string, string> OtherEnvironment => EnvironmentAt(1, AdminToken);

    /// <summary>As <c>kill -9</c>.</summary>
    public abstract Task KillFrontendAsync(int frontend);

    /// <summary>As <c>kill -9</c>.</summary>
    public abstract Task KillWorkerAsync(string id);

    /// <summary>Ends a worker in order, which moves its VMs away, and waits until it has ended.</summary>
    public abstract Task StopWorkerAsync(string id);

    /// <summary>Starts what does not run, and waits until all workers are ready for VMs and all front ends say so.</summary>
    public async Task MakeWholeAsync()
    {
        await StartMissingAsync();
        for (int frontend = 0; frontend < _ports.Length; frontend++)
        {
            using VmmConnection connection = VmmConnection.Open(AddressOf(frontend), Credentials);
            await Eventually.HoldsAsync(
                async () => await AskAsync(async () => await connection.Workers.ListWorkersAsync(new ListWorkersRequest())) is { } list
                    && list.Workers.Count(worker => worker.State == WorkerState.Ready) == Workers.Count,
                $"all workers are ready, as front end {frontend} says");
        }
    }

    /// <summary>Where a VM is, and how often it was started.</summary>
    public async Task<(string Worker, VmState State, long Runs)> WhereAsync(string vm) => PlaceOf(await VmmctlAsync<V1.Vm>("vm", "get", vm));

    /// <summary>Waits for a VM to be where it is to be; calls for it are refused as long as its worker is lost.</summary>
    public async Task ComesAsync(string vm, Func<(string Worker, VmState State, long Runs), bool> place, string what)
    {
        using VmmConnection connection = Connect();
        await Eventually.HoldsAsync(
            async () => await AskAsync(async () => await connection.Vms.GetVmAsync(new GetVmRequest { Name = ResourceNames.Vm(vm, null) })) is { } found && place(PlaceOf(found)),
            what);
    }

    /// <summary>Starts whatever of it does not run.</summary>
    protected abstract Task StartMissingAsync();

    /// <summary>Where a front end is reached.</summary>
    protected string AddressOf(int frontend) => string.Create(CultureInfo.InvariantCulture, $"https://localhost:{_ports[frontend]}");

    /// <summary>The port of this host at which it is.</summary>
    protected string PortOf(int frontend) => _ports[frontend].ToString(CultureInfo.InvariantCulture);

    private static (string Worker, VmState State, long Runs) PlaceOf(V1.Vm vm) => (ResourceNames.Id(vm.Status.Worker), vm.Status.State, vm.Status.RunCount);

    private static async Task<T?> AskAsync<T>(Func<Task<T>> call)
        where T : class
    {
        try
        {
            return await call();
        }
        catch (RpcException exception) when (exception.StatusCode == StatusCode.Unavailable)
        {
            return null;
        }
    }

    private static int FreePort()
    {
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        return ((IPEndPoint)probe.LocalEndpoint).Port;
    }
}
