using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Grpc.Core;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Testing;
using Vmm.V1;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests;

/// <summary><c>docker-compose.yml</c>: brought up, used, hurt and taken down.</summary>
public sealed class ComposeTests(ITestOutputHelper log) : IAsyncLifetime
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    private readonly string _project = $"vmmtest{RandomNumberGenerator.GetHexString(6, lowercase: true)}";
    private readonly string _password = RandomNumberGenerator.GetHexString(32);
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-compose-").FullName;
    private readonly int[] _ports = [FreePort(), FreePort()];

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        if (DockerCompose.MissingReason is null)
            await ComposeAsync("down", "--volumes", "--timeout", "5");
        Directory.Delete(_folder, recursive: true);
    }

    [RequiresDockerFact]
    public async Task A_fleet_in_containers_runs_linux_and_outlives_a_front_end_and_a_worker()
    {
        await ComposeAsync("up", "--detach");
        string authority = Path.Combine(_folder, "ca.crt"), token = Path.Combine(_folder, "admin-token");
        foreach (var (path, target) in ((string, string)[])[("/etc/vmm/ca.crt", authority), ("/var/lib/vmm/admin-token", token)])
            await EventuallyAsync(async () =>
            {
                string content = await ComposeAsync("exec", "-T", "frontend-1", "cat", path);
                await File.WriteAllTextAsync(target, content);
                return content.Length > 0;
            });
        var credentials = new VmmCredentials { Authorities = authority, Token = (await File.ReadAllTextAsync(token)).Trim() };
        using VmmConnection one = Open(0, credentials), two = Open(1, credentials);
        await EventuallyAsync(async () => (await two.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers.Count(worker => worker.State == WorkerState.Ready) == 3);
        using (VmmConnection nobody = Open(0, new VmmCredentials { Authorities = authority }))
            Assert.Equal(StatusCode.Unauthenticated, (await Assert.ThrowsAsync<RpcException>(async () => await nobody.Vms.ListVmsAsync(new ListVmsRequest()))).StatusCode);

        var guests = DebianGuests.Default;
        var kernel = await guests.GetKernelAsync(null, CancellationToken.None);
        string initrd = await guests.BuildInitramfsAsync(new Initramfs { Script = "i=0; while true; do i=$((i + 1)); echo \"count $i\"; sleep 1; done" }, null, CancellationToken.None);
        string parent = ResourceNames.Project();
        var spec = new VmSpec
        {
            MemoryMib = 256,
            Engine = ExecutionEngine.Auto,
            CommandLine = "console=ttyS0 panic=-1",
            Kernel = new FileSource { Image = (await one.PushImageAsync(kernel.KernelPath, parent)).Name },
            Initrd = new FileSource { Image = (await one.PushImageAsync(initrd, parent)).Name },
        };
        V1.Vm vm = await one.Vms.CreateVmAsync(new CreateVmRequest { Parent = parent, VmId = "linux", Vm = new V1.Vm { Spec = spec } });
        await one.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        await CountsAsync(two, vm.Name);

        // The front end that took it all dies, and the worker that has the VM ends in order.
        await ComposeAsync("kill", "frontend-1");
        string worker = (await two.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.Worker;
        await ComposeAsync("stop", $"worker-{ResourceNames.Id(worker)}");
        V1.Vm moved = await two.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
        Assert.Equal((VmState.Running, 1L), (moved.Status.State, moved.Status.RunCount));
        Assert.NotEqual(worker, moved.Status.Worker);
        await CountsAsync(two, vm.Name);

        // What was away comes back, with the database restarted as well.
        await ComposeAsync("restart", "postgres");
        await ComposeAsync("start", "frontend-1", $"worker-{ResourceNames.Id(worker)}");
        await EventuallyAsync(async () => (await one.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers.Count(each => each.State == WorkerState.Ready) == 3);
        Assert.Equal(1, (await one.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.RunCount);
        foreach (string service in (string[])["frontend-1", "frontend-2", "worker-a", "worker-b", "worker-c"])
            await EventuallyAsync(async () => (await RunAsync("docker", "inspect", "--format", "{{.State.Health.Status}} {{.Config.User}}", (await ComposeAsync("ps", "-q", service)).Trim())).Trim() == "healthy 64443:64443");
    }

    /// <summary>Waits until the guest counts on.</summary>
    private static async Task CountsAsync(VmmConnection connection, string vm)
    {
        using var limit = new CancellationTokenSource(Patience);
        using VmConsole console = await VmConsole.AttachAsync(connection, new ConsoleAttach { Name = vm, ScrollbackBytes = 0 }, limit.Token);
        using var output = new Expected("count ", limit);
        await Assert.ThrowsAnyAsync<Exception>(() => console.CopyToAsync(output, null, limit.Token));
        Assert.True(output.Seen, "the guest does not count");
    }

    private VmmConnection Open(int frontend, VmmCredentials credentials) => VmmConnection.Open(string.Create(CultureInfo.InvariantCulture, $"https://localhost:{_ports[frontend]}"), credentials);

    private async Task EventuallyAsync(Func<Task<bool>> condition)
    {
        for (var waited = Stopwatch.StartNew(); ; await Task.Delay(500))
        {
            try
            {
                if (await condition())
                    return;
            }
            catch (Exception exception) when (exception is RpcException or InvalidOperationException && waited.Elapsed < Patience)
            {
                // It begins, or begins again.
            }

            Assert.True(waited.Elapsed < Patience, $"it did not come about\n{(waited.Elapsed < Patience ? "" : await ComposeAsync("logs", "--tail", "20"))}");
        }
    }

    private Task<string> ComposeAsync(params string[] arguments) =>
        RunAsync(DockerCompose.Command[0], [.. DockerCompose.Command.Skip(1), "--project-name", _project, "--file", Path.Combine(Repository.Root, "docker-compose.yml"), .. arguments]);

    private async Task<string> RunAsync(string program, params string[] arguments)
    {
        var start = new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["VMM_POSTGRES_PASSWORD"] = _password;
        start.Environment["VMM_POSTGRES_IMAGE"] = "vmm-postgres:latest";
        (start.Environment["VMM_PORT_1"], start.Environment["VMM_PORT_2"]) = (_ports[0].ToString(CultureInfo.InvariantCulture), _ports[1].ToString(CultureInfo.InvariantCulture));
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), errors = process.StandardError.ReadToEndAsync();
        await process.WaitForExitAsync();
        log.WriteLine($"{program} {string.Join(' ', arguments)}: {process.ExitCode}\n{await errors}");
        return process.ExitCode == 0 ? await output : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}: {await errors}");
    }

    private static int FreePort()
    {
        using var probe = new TcpListener(IPAddress.Loopback, 0);
        probe.Start();
        return ((IPEndPoint)probe.LocalEndpoint).Port;
    }

    /// <summary>A console's output until a text comes, which ends the reading.</summary>
    private sealed class Expected(string text, CancellationTokenSource reading) : MemoryStream
    {
        public bool Seen { get; private set; }

        public override async ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            await base.WriteAsync(buffer, cancellationToken);
            if (!Seen && System.Text.Encoding.Latin1.GetString(ToArray()).Contains(text, StringComparison.Ordinal))
            {
                Seen = true;
                await reading.CancelAsync();
            }
        }
    }
}
