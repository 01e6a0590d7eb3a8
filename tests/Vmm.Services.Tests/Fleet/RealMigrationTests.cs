using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Protos;
using Vmm.Registry;
using Vmm.Testing.Guests;
using Vmm.V1;
using Vmm.Worker.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>VMs that move from one worker to another, with the engine's machines.</summary>
public sealed class RealMigrationTests : IAsyncLifetime
{
    private const string Project = "projects/default";

    private MigrationFleet _fleet = null!;

    private static CancellationToken Soon => new CancellationTokenSource(TimeSpan.FromMinutes(2)).Token;

    public async Task InitializeAsync() => _fleet = await MigrationFleet.StartAsync(real: true);

    public async Task DisposeAsync() => await _fleet.DisposeAsync();

    [Fact]
    public async Task A_guest_that_moves_again_and_again_prints_what_one_prints_that_never_does()
    {
        string straight = await RunAsync("stays", ExecutionEngine.Interpreter, moves: false);
        Assert.Equal(CountingGuest.Rounds, straight.Length);
        Assert.Equal(straight, await RunAsync("moves", ExecutionEngine.Interpreter, moves: true));
        Assert.Equal(straight, await RunAsync("compiled", ExecutionEngine.Auto, moves: true));
    }

    [Fact]
    public async Task An_inhibit_that_is_deferred_while_l2_runs_moves_with_it_and_is_applied_at_the_target()
    {
        string name = await CreateAsync("l2", NestedGuest.Image(), Clock.RealTime, cpus: 2);
        using var console = await AttachAsync(name);
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = name });
        await ReadUntilAsync(console, "2");
        Task<ApicvChange> waiting = _fleet.Vms.SetApicvInhibitAsync(new SetApicvInhibitRequest { Name = name, Reason = ApicvInhibitReason.Hyperv, Wait = true }).ResponseAsync;
        while ((await ApicvAsync(name)).State != ApicvUpdateState.Deferred)
            Assert.False(waiting.IsCompleted);
        MigrateVmResponse moved = await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = name, MaxPause = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });
        Assert.Equal((VmState.Running, 1L), (moved.Vm.Status.State, moved.Vm.Status.RunCount));
        Assert.NotEqual(moved.SourceWorker, moved.Vm.Status.Worker);
        Assert.True(await ApicvAsync(name) is { Active: true, GuestMode: true, State: ApicvUpdateState.Deferred });
        Assert.False(waiting.IsCompleted);
        // The bell makes L2 leave to L1, before which the inhibit is applied. The console that was open all the time has what L1 prints.
        await _fleet.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
        Assert.True((await waiting).Vcpus[0] is { State: ApicvUpdateState.Applied });
        Assert.True(await ApicvAsync(name) is { Active: false, State: ApicvUpdateState.Applied });
    }

    /// <summary>A target takes what is sent to it for what it may be, whoever sends it: it is refused in the API's words, or makes a machine that nobody lets go.</summary>
    [Fact]
    public async Task What_a_source_sends_may_be_changed_anywhere()
    {
        const int seed = 4711, changes = 60;
        var random = new Random(seed);
        string name = await CreateAsync("fuzzed", NestedGuest.Image(), Clock.Virtual, cpus: 1);
        using var console = await AttachAsync(name);
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = name });
        await ReadUntilAsync(console, "2");
        var sent = new List<ReceiveVmRequest>();
        _fleet.BeforeSend = request => sent.Add(request.Clone());
        MigrateVmResponse moved = await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = name, MaxPause = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });
        _fleet.BeforeSend = static _ => { };
        Dictionary<string, V1.Worker> workers = (await _fleet.Connection.Workers.ListWorkersAsync(new ListWorkersRequest())).Workers.ToDictionary(worker => worker.Name);
        V1.Worker source = workers[moved.Vm.Status.Worker], target = workers[moved.SourceWorker];
        VmHostService.VmHostServiceClient peer = _fleet.Connect(new WorkerAddress(target.Name, target.Address, target.Incarnation));
        int refused = 0;
        for (int change = 0; change < changes; change++)
        {
            PlannedMove plan = await _fleet.Registry.PlanMoveAsync(new WorkerLease(source.Name, source.Incarnation, TimeSpan.FromMinutes(10)), name, target.Name, CancellationToken.None);
            List<ReceiveVmRequest> requests = [.. sent.Where(request => request.Committed is null).Select(request => request.Clone())];
            requests[0].Offer = new MoveOffer { Ticket = plan.Ticket, Vm = moved.Vm };
            string what = Change(requests, random);
            Sign(requests);
            using AsyncDuplexStreamingCall<ReceiveVmRequest, ReceiveVmResponse> call = peer.ReceiveVm(cancellationToken: Soon);
            try
            {
                foreach (ReceiveVmRequest request in requests)
                    await call.RequestStream.WriteAsync(request);
                await call.RequestStream.CompleteAsync();
            }
            catch (Exception exception) when (exception is RpcException or InvalidOperationException)
            {
                // It was refused before the end.
            }

            RpcException status = await Assert.ThrowsAsync<RpcException>(async () =>
            {
                while (await call.ResponseStream.MoveNext(Soon))
                    Assert.Null(call.ResponseStream.Current.Running);
            });
            Assert.True(ApiError.HasDetails(status), $"seed {seed}, {change}, {what}: {status.Status}");
            Assert.True(
                status.StatusCode is StatusCode.InvalidArgument or StatusCode.FailedPrecondition or StatusCode.DataLoss or StatusCode.Aborted or StatusCode.ResourceExhausted,
                $"seed {seed}, {change}, {what}: {status.Status}");
            refused += status.StatusCode == StatusCode.Aborted ? 0 : 1;
        }

        Assert.InRange(refused, changes / 4, changes - 1);
        Assert.Empty(Directory.GetDirectories(Path.Combine(_fleet.StateOf(target.Name["workers/".Length..]), "vms")));
        Vm now = await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = name });
        Assert.Equal((source.Name, VmState.Running), (now.Status.Worker, now.Status.State));
        await _fleet.Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = name, Address = NestedGuest.Bell, Data = ByteString.CopyFrom(1) });
        await ReadUntilAsync(console, "E");
    }

    // One message is changed, left out, sent twice, or sent later.
    private static string Change(List<ReceiveVmRequest> requests, Random random)
    {
        int at = random.Next(1, requests.Count);
        string which = $"{at} ({requests[at].RequestCase})";
        switch (random.Next(6))
        {
            case 0:
                requests.RemoveAt(at);
                return $"without {which}";
            case 1:
                requests.Insert(at, requests[at].Clone());
                return $"{which} twice";
            case 2:
                int later = random.Next(at, requests.Count);
                (requests[at], requests[later]) = (requests[later], requests[at]);
                return $"{which} and {later} exchanged";
            default:
                while (true)
                {
                    byte[] bytes = requests[at].ToByteArray();
                    for (int flips = random.Next(1, 4); flips > 0; flips--)
                        bytes[random.Next(Math.Min(bytes.Length, random.Next(2) == 0 ? 64 : bytes.Length))] ^= (byte)(1 << random.Next(8));
                    try
                    {
                        var changed = ReceiveVmRequest.Parser.WithDiscardUnknownFields(true).ParseFrom(bytes);
                        if (changed.RequestCase == ReceiveVmRequest.RequestOneofCase.None)
                            continue;
                        requests[at] = changed;
                        return $"{which} flipped";
                    }
                    catch (InvalidProtocolBufferException)
                    {
                        // That would not even leave the sender.
                    }
                }
        }
    }

    // The digest of what is sent, as a peer that means ill makes it.
    private static void Sign(List<ReceiveVmRequest> requests)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (ReceiveVmRequest request in requests)
        {
            switch (request.RequestCase)
            {
                case ReceiveVmRequest.RequestOneofCase.Pages:
                    Add(1, request.Pages.Runs.Count, request.Pages.Data.Length);
                    foreach (Vmm.Worker.V1.PageRun run in request.Pages.Runs)
                        Add(run.First, run.Count, run.Zero ? 1 : 0);
                    hash.AppendData(request.Pages.Data.Span);
                    break;
                case ReceiveVmRequest.RequestOneofCase.Block:
                    Add(2, request.Block.Disk, request.Block.Offset);
                    hash.AppendData(request.Block.Data.Span);
                    break;
                case ReceiveVmRequest.RequestOneofCase.State:
                    Add(3, request.State.Length, 0);
                    hash.AppendData(request.State.Span);
                    break;
                case ReceiveVmRequest.RequestOneofCase.End:
                    request.End.Sha256 = ByteString.CopyFrom(hash.GetCurrentHash());
                    break;
            }
        }

        void Add(params long[] numbers)
        {
            byte[] bytes = new byte[sizeof(long)];
            foreach (long number in numbers)
            {
                BinaryPrimitives.WriteInt64LittleEndian(bytes, number);
                hash.AppendData(bytes);
            }
        }
    }

    private async Task<string> RunAsync(string id, ExecutionEngine engine, bool moves)
    {
        string name = await CreateAsync(id, CountingGuest.Image(), Clock.Virtual, cpus: 1, engine);
        using var console = await AttachAsync(name);
        Task<string> reading = ReadToEndAsync(console);
        await _fleet.Vms.StartVmAsync(new StartVmRequest { Name = name });
        if (moves)
        {
            // Once at rest, so that there is a move in any case; then as often as it lasts.
            await _fleet.Vms.PauseVmAsync(new PauseVmRequest { Name = name });
            await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = name });
            await _fleet.Vms.ResumeVmAsync(new ResumeVmRequest { Name = name });
            while (!reading.IsCompleted)
            {
                try
                {
                    await _fleet.Vms.MigrateVmAsync(new MigrateVmRequest { Name = name, MaxPause = Google.Protobuf.WellKnownTypes.Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) });
                }
                catch (RpcException exception) when (exception.StatusCode == StatusCode.Aborted)
                {
                    // The guest was at its end before the move.
                }
            }
        }

        string output = await reading;
        Vm ended = await _fleet.Vms.GetVmAsync(new GetVmRequest { Name = name });
        Assert.Equal((VmEndReason.DebugExit, 3, 1L), (ended.Status.End.Reason, ended.Status.End.ExitCode, ended.Status.RunCount));
        return output;
    }

    private async Task<string> CreateAsync(string id, byte[] kernel, Clock clock, int cpus, ExecutionEngine engine = ExecutionEngine.Interpreter)
    {
        var spec = new VmSpec { MemoryMib = 16, Cpus = cpus, Clock = clock, Engine = engine, Kernel = new FileSource { Path = _fleet.Write(id, kernel) } };
        return (await _fleet.Vms.CreateVmAsync(new CreateVmRequest { Parent = Project, VmId = id, Vm = new Vm { Spec = spec } })).Name;
    }

    private async Task<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>> AttachAsync(string name)
    {
        AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = _fleet.Vms.Console(cancellationToken: Soon);
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = name } });
        Assert.True(await console.ResponseStream.MoveNext(Soon));
        return console;
    }

    private async Task<VcpuApicv> ApicvAsync(string name) => (await _fleet.Vms.GetApicvAsync(new GetApicvRequest { Name = name })).Vcpus[0];

    private static async Task ReadUntilAsync(AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console, string text)
    {
        string seen = "";
        while (!seen.Contains(text, StringComparison.Ordinal))
        {
            Assert.True(await console.ResponseStream.MoveNext(Soon));
            seen += console.ResponseStream.Current.Output?.Data.ToStringUtf8() ?? throw new InvalidOperationException($"{console.ResponseStream.Current} after '{seen}'");
        }
    }

    // To the end of the run. Whatever was dropped would be missing.
    private static async Task<string> ReadToEndAsync(AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console)
    {
        var text = new StringBuilder();
        ulong offset = 0;
        while (await console.ResponseStream.MoveNext(Soon))
        {
            if (console.ResponseStream.Current.Output is not { } output)
                continue;
            Assert.Equal(offset, output.Offset);
            offset += (ulong)output.Data.Length;
            text.Append(output.Data.ToStringUtf8());
        }

        return text.ToString();
    }

    /// <summary>A Multiboot kernel that prints characters which depend on all that it has executed and on the time at each, and ends.</summary>
    private static class CountingGuest
    {
        public const int Rounds = 3000;
        private const int Work = 20_000;

        public static byte[] Image()
        {
            uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, 0x10_0020];
            byte[] code =
            [
                0xBD, .. BitConverter.GetBytes(Rounds), // mov ebp, rounds
                0xB9, .. BitConverter.GetBytes(Work), // again: mov ecx, work
                0x49, // spin: dec ecx
                0x75, 0xFD, // jnz spin
                0x0F, 0x31, // rdtsc
                0x01, 0x05, 0x00, 0x00, 0x30, 0x00, // add [0x300000], eax
                0xA1, 0x00, 0x00, 0x30, 0x00, // mov eax, [0x300000]
                0xC1, 0xE8, 0x04, // shr eax, 4
                0x24, 0x3F, // and al, 0x3f
                0x04, 0x30, // add al, '0'
                0x66, 0xBA, 0xF8, 0x03, // mov dx, 0x3f8
                0xEE, // out dx, al
                0x4D, // dec ebp
                0x75, 0xDC, // jnz again
                0xB8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1
                0x66, 0xBA, 0xF4, 0x00, // mov dx, 0xf4
                0xEF, // out dx, eax
                0xEB, 0xFE, // jmp $
            ];
            byte[] image = new byte[header.Length * 4 + code.Length];
            for (int i = 0; i < header.Length; i++)
                BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(i * 4), header[i]);
            code.CopyTo(image, header.Length * 4);
            return image;
        }
    }
}
