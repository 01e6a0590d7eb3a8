using System.Buffers.Binary;
using System.Diagnostics;
using Google.Protobuf;
using Vmm.Client;
using Vmm.Server;
using Vmm.Services.Benchmarks;
using Vmm.Testing.Guests;
using Vmm.V1;

// How long an APICv inhibit takes from the call of its RPC, over a unix socket to an embedded server:
//   null       a call that does nothing to the VM (GetVm): what a round trip itself takes;
//   applied    until vmcs01 of the vCPU agrees with it and the answer is here, while L1 runs;
//   deferred   until the answer that it is deferred, while L2 runs;
//   leave      until the answer of a call that waits for the deferred change, while writes to memory make L2 leave to L1 again and again.
// With the argument `fleet` and a connection string of an empty PostgreSQL database, FleetLoad instead; with `clones` and a number, CloneLoad, and `quiet` behind it for a kernel that is told to wake seldom; with `migrate`, MigrationPause; with `telemetry`, TelemetryCost;
// with `simulate`, FleetSimulation; with `registry` and the connection string of an empty database, RegistryLoad; with `census` and the same, CensusCost.
const int Rounds = 2_000;
if (args is ["migrate"])
{
    await MigrationPause.RunAsync();
    return;
}

if (args is ["telemetry"])
{
    await TelemetryCost.RunAsync(Path.Combine(AppContext.BaseDirectory, "vmmd.dll"));
    return;
}

if (args is ["simulate", .. var simulation])
{
    FleetSimulation.Run(Number(simulation, "--workers", 10_000), Number(simulation, "--vms", 1_000_000), Number(simulation, "--seed", 1));
    return;
}

if (args is ["registry", var database, .. var sizes])
{
    await RegistryLoad.RunAsync(database, Number(sizes, "--workers", 10_000), Number(sizes, "--vms", 20_000));
    return;
}

if (args is ["fleet", var registry])
{
    await FleetLoad.RunAsync(registry);
    return;
}

if (args is ["census", var counted])
{
    await CensusCost.RunAsync(counted);
    return;
}

if (args is ["clones", var count, .. var kind] && kind is [] or ["quiet"])
{
    await CloneLoad.RunAsync(int.Parse(count, System.Globalization.CultureInfo.InvariantCulture), quiet: kind.Length > 0);
    return;
}

await using EmbeddedServer server = await EmbeddedServer.StartAsync();
using VmmConnection connection = VmmConnection.Open(server.Address);
string folder = Directory.CreateTempSubdirectory("vmm-bench-").FullName;
try
{
    // A Multiboot kernel of one instruction, a jump to itself.
    uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
    byte[] spin = new byte[34];
    for (int k = 0; k < header.Length; k++)
        BinaryPrimitives.WriteUInt32LittleEndian(spin.AsSpan(k * 4), header[k]);
    spin[32] = 0xEB;
    spin[33] = 0xFE;
    string l1 = await StartAsync("l1", spin);
    await MeasureAsync("null", async _ => await connection.Vms.GetVmAsync(new GetVmRequest { Name = l1 }));
    await MeasureAsync("applied", set => ChangeAsync(l1, set, wait: true));

    // One VM that executes at a time: two would leave the server waiting for a processor.
    await connection.Vms.StopVmAsync(new StopVmRequest { Name = l1, Force = true });

    string l2 = await StartAsync("l2", NestedGuest.Image());
    while ((await connection.Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = l2 })).Level != 2)
        await Task.Yield();
    await MeasureAsync("deferred", set => ChangeAsync(l2, set, wait: false));
    await MeasureAsync("leave", async set =>
    {
        Task change = ChangeAsync(l2, set, wait: true);
        while (!change.IsCompleted)
            await RingAsync(l2);
        await change;
    });
}
finally
{
    Directory.Delete(folder, recursive: true);
}

static int Number(string[] options, string name, int otherwise) =>
    Array.IndexOf(options, name) is >= 0 and var at ? int.Parse(options[at + 1], System.Globalization.CultureInfo.InvariantCulture) : otherwise;

async Task<string> StartAsync(string id, byte[] kernel)
{
    string path = Path.Combine(folder, id);
    await File.WriteAllBytesAsync(path, kernel);
    Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest
    {
        Parent = "projects/default",
        VmId = id,
        Vm = new Vm { Spec = new VmSpec { MemoryMib = 64, Kernel = new FileSource { Path = path } } },
    });
    await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
    return vm.Name;
}

async Task ChangeAsync(string name, bool set, bool wait)
{
    if (set)
        await connection.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq, Wait = wait });
    else
        await connection.Vms.ClearApicvInhibitAsync(new ClearApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Blockirq, Wait = wait });
}

async Task RingAsync(string name) =>
    await connection.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = name, AddressSpace = AddressSpace.Physical, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1, 0, 0, 0) });

async Task MeasureAsync(string what, Func<bool, Task> change)
{
    var taken = new double[Rounds];
    for (int round = -200; round < Rounds; round++)
    {
        long start = Stopwatch.GetTimestamp();
        await change((round & 1) == 0);
        if (round >= 0)
            taken[round] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
    }
    Array.Sort(taken);
    Console.WriteLine($"{what,-10} median {taken[Rounds / 2],8:F0} µs   99 % {taken[Rounds * 99 / 100],8:F0} µs");
}
