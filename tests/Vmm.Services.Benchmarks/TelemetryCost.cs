using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.Extensions.Logging;
using Vmm.Client;
using Vmm.Testing.Guests;
using Vmm.V1;

namespace Vmm.Services.Benchmarks;

/// <summary>
/// What telemetry costs, in processor time and pairwise: two <c>vmmd</c> processes that differ in nothing else take turns of a tenth of a second or
/// less, so that whatever disturbs the machine for longer disturbs both. Told is the mean of the blocks' ratios with twice its standard error.
///   metrics    a guest that computes, instructions for a second of processor time of the whole process, with the page for Prometheus
///              scraped once in each <see cref="Scrape"/> of such time and series of the VM against no page; and what one page takes, which is all
///              that differs (the engine's counters are plain fields, there with and without metrics);
///   traces     lifecycle calls (create, label, start, stop, delete), processor time of the server for each, with all spans exported by OTLP to a
///              receiver that takes them, against none.
/// </summary>
internal static class TelemetryCost
{
    private const int Blocks = 24;
    private const int Pages = 500;
    private const int Turns = 50;
    private const int WarmUp = 2_000;

    // Three times as often as deploy/prometheus scrapes. A page for less would weigh what no installation asks for.
    private static readonly TimeSpan Scrape = TimeSpan.FromSeconds(5);

    /// <summary>Measures both.</summary>
    /// <param name="vmmd">The program, <c>vmmd.dll</c>.</param>
    public static async Task RunAsync(string vmmd)
    {
        string folder = Directory.CreateTempSubdirectory("vmm-bench-").FullName;
        try
        {
            Console.WriteLine($"load {(await File.ReadAllTextAsync("/proc/loadavg")).Trim()}, {Environment.ProcessorCount} processors");
            await MetricsAsync(vmmd, folder);
            await TracesAsync(vmmd, folder);
            Console.WriteLine($"load {(await File.ReadAllTextAsync("/proc/loadavg")).Trim()}");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static async Task MetricsAsync(string vmmd, string folder)
    {
        string kernel = Path.Combine(folder, "spin");
        await File.WriteAllBytesAsync(kernel, SpinGuest.Image());
        int port = FreePort();
        using var plain = await Server.StartAsync(vmmd, folder, "plain", []);
        using var measured = await Server.StartAsync(vmmd, folder, "measured", ["--metrics", $"127.0.0.1:{port}"]);
        foreach (Server server in (Server[])[plain, measured])
        {
            await server.Connection.Vms.CreateVmAsync(new CreateVmRequest
            {
                VmId = "one",
                Vm = new Vm { Labels = { ["vmm-metrics"] = "true" }, Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } },
            });
            await server.Connection.Vms.StartVmAsync(new StartVmRequest { Name = "projects/default/vms/one" });
            await server.Connection.Vms.PauseVmAsync(new PauseVmRequest { Name = "projects/default/vms/one" });
        }

        using var http = new HttpClient();
        var page = new Uri($"http://127.0.0.1:{port}/metrics");
        // The first pages are for the JIT.
        await PagesAsync();
        TimeSpan pages = measured.ProcessorTime;
        await PagesAsync();
        pages = (measured.ProcessorTime - pages) / Pages;
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"metrics, one page: {pages.TotalMilliseconds:0.00} ms of processor time, {pages / Scrape * 100:0.000} % of {Scrape.TotalSeconds} s"));

        const string name = "projects/default/vms/one";
        TimeSpan scraped = measured.ProcessorTime;
        await CompareAsync("metrics, interpreter", plain, measured, async server =>
        {
            await server.Connection.Vms.ResumeVmAsync(new ResumeVmRequest { Name = name });
            // By the processor's time: on a machine that has other work a page would otherwise come more often for each instruction.
            if (server == measured && server.ProcessorTime - scraped >= Scrape)
            {
                scraped = server.ProcessorTime;
                await http.GetStringAsync(page);
            }

            await Task.Delay(100);
            await server.Connection.Vms.PauseVmAsync(new PauseVmRequest { Name = name });
        }, async server => (await server.Connection.Vms.GetVmAsync(new GetVmRequest { Name = name })).Status.InstructionsRetired);

        async Task PagesAsync()
        {
            for (int index = 0; index < Pages; index++)
                await http.GetStringAsync(page);
        }
    }

    private static async Task TracesAsync(string vmmd, string folder)
    {
        string kernel = Path.Combine(folder, "halt");
        await File.WriteAllBytesAsync(kernel, NestedGuest.Image());
        await using Receiver receiver = await Receiver.StartAsync();
        using var plain = await Server.StartAsync(vmmd, folder, "untraced", []);
        using var traced = await Server.StartAsync(vmmd, folder, "traced", [], ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", $"{receiver.Address}/v1/traces"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"));
        foreach (Server server in (Server[])[plain, traced])
        {
            for (int call = 0; call < WarmUp; call++)
                await LifecycleAsync(server.Connection, kernel);
        }

        await CompareAsync("traces, lifecycle calls", plain, traced, server => LifecycleAsync(server.Connection, kernel));
        Console.WriteLine($"spans came in {receiver.Batches} batches");
    }

    private static async Task LifecycleAsync(VmmConnection connection, string kernel)
    {
        const string name = "projects/default/vms/one";
        await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = "one", Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = kernel } } } });
        await connection.Vms.UpdateVmAsync(new UpdateVmRequest { Vm = new Vm { Name = name, Labels = { ["a"] = "b" } } });
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = name });
        await connection.Vms.StopVmAsync(new StopVmRequest { Name = name, Force = true });
        await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = name });
    }

    private static async Task CompareAsync(string what, Server plain, Server other, Func<Server, Task> turn, Func<Server, Task<double>>? work = null)
    {
        List<double> ratios = [];
        for (int block = -1; block < Blocks; block++)
        {
            (TimeSpan Time, double Work) plainBefore = await SoFarAsync(plain), otherBefore = await SoFarAsync(other);
            for (int index = 0; index < Turns; index++)
            {
                await turn(index % 2 == 0 ? plain : other);
                await turn(index % 2 == 0 ? other : plain);
            }

            double without = await CostAsync(plain, plainBefore), with = await CostAsync(other, otherBefore);
            if (block >= 0)
                ratios.Add(with / without);
        }

        double mean = ratios.Average(), error = Math.Sqrt(ratios.Sum(ratio => (ratio - mean) * (ratio - mean)) / (ratios.Count - 1) / ratios.Count);
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{what}: {(mean - 1) * 100:+0.00;-0.00} % ± {error * 200:0.00} % in {ratios.Count} blocks of {Turns} turns of each"));

        async Task<(TimeSpan Time, double Work)> SoFarAsync(Server server) => (server.ProcessorTime, work is null ? 0 : await work(server));

        async Task<double> CostAsync(Server server, (TimeSpan Time, double Work) before)
        {
            (TimeSpan time, double done) = await SoFarAsync(server);
            return (time - before.Time).TotalSeconds / (work is null ? Turns : done - before.Work);
        }
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    /// <summary>A <c>vmmd</c> in a process of its own.</summary>
    private sealed class Server : IDisposable
    {
        private readonly Process _process;

        private Server(Process process, string address)
        {
            _process = process;
            Connection = VmmConnection.Open(address);
        }

        public VmmConnection Connection { get; }

        public TimeSpan ProcessorTime
        {
            get
            {
                _process.Refresh();
                return _process.TotalProcessorTime;
            }
        }

        public static async Task<Server> StartAsync(string vmmd, string folder, string name, string[] options, params (string Name, string Value)[] environment)
        {
            string address = $"unix:{folder}/{name}.sock";
            var start = new ProcessStartInfo("dotnet", [vmmd, "--state", Path.Combine(folder, name), "--listen", address, "--allow-path", folder, .. options]) { RedirectStandardOutput = true };
            foreach ((string variable, string value) in environment)
                start.Environment[variable] = value;
            Process process = Process.Start(start)!;
            string? line = await process.StandardOutput.ReadLineAsync();
            return line is not null ? new Server(process, address) : throw new InvalidOperationException("vmmd did not start.");
        }

        public void Dispose()
        {
            Connection.Dispose();
            _process.Kill();
            _process.WaitForExit();
            _process.Dispose();
        }
    }

    /// <summary>Takes whatever is posted.</summary>
    private sealed class Receiver : IAsyncDisposable
    {
        private readonly WebApplication _application;
        private int _batches;

        private Receiver()
        {
            WebApplicationBuilder builder = WebApplication.CreateBuilder();
            builder.Logging.ClearProviders();
            builder.WebHost.UseUrls("http://127.0.0.1:0");
            _application = builder.Build();
            _application.Run(async context =>
            {
                await context.Request.Body.CopyToAsync(Stream.Null);
                Interlocked.Increment(ref _batches);
            });
        }

        public string Address => _application.Urls.First();

        public int Batches => Volatile.Read(ref _batches);

        public static async Task<Receiver> StartAsync()
        {
            var receiver = new Receiver();
            await receiver._application.StartAsync();
            return receiver;
        }

        public ValueTask DisposeAsync() => _application.DisposeAsync();
    }
}

/// <summary>A Multiboot kernel that counts in registers and memory for ever.</summary>
internal static class SpinGuest
{
    /// <summary>The file.</summary>
    public static byte[] Image()
    {
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
        // add eax, ebx; xor edx, eax; inc ebx; mov [0x200000], edx; add ecx, [0x200000]; jmp back
        byte[] code = [0x01, 0xD8, 0x31, 0xC2, 0x43, 0x89, 0x15, 0x00, 0x00, 0x20, 0x00, 0x03, 0x0D, 0x00, 0x00, 0x20, 0x00, 0xEB, 0xED];
        return [.. header.SelectMany(BitConverter.GetBytes), .. code];
    }
}
