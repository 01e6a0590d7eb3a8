using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Security.Cryptography;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Server;
using Vmm.V1;
using Vmm.Worker.Storage;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>What lasts when a server dies.</summary>
public sealed class RestartTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmmd-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string State => Path.Combine(_folder, "state");

    /// <summary>An ELF32 Multiboot kernel of three bytes: <c>hlt; jmp $-1</c>.</summary>
    private string WriteKernel()
    {
        const int headerBytes = 52, programHeaderBytes = 32, multibootBytes = 12;
        const uint load = 0x10_0000;
        const int code = headerBytes + programHeaderBytes + multibootBytes;
        byte[] file = new byte[code + 3];
        ((ReadOnlySpan<byte>)[0x7F, (byte)'E', (byte)'L', (byte)'F', 1, 1, 1]).CopyTo(file);
        Half(16, 2);
        Half(18, 3);
        Word(20, 1);
        Word(24, load + code);
        Word(28, headerBytes);
        Half(40, headerBytes);
        Half(42, programHeaderBytes);
        Half(44, 1);
        Word(52, 1);
        Word(60, load);
        Word(64, load);
        Word(68, (uint)file.Length);
        Word(72, (uint)file.Length);
        Word(76, 5);
        Word(80, 4096);
        Word(84, 0x1BADB002);
        Word(92, unchecked(0 - 0x1BADB002u));
        ((ReadOnlySpan<byte>)[0xF4, 0xEB, 0xFD]).CopyTo(file.AsSpan(code));
        string path = Path.Combine(_folder, "kernel.elf");
        File.WriteAllBytes(path, file);
        return path;

        void Half(int at, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(at), value);
        void Word(int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(at), value);
    }

    private static Vm NewVm(string kernel) => new() { Spec = new VmSpec { MemoryMib = 8, Kernel = new FileSource { Path = kernel } } };

    [Fact]
    public async Task After_kill_9_snapshots_are_there_without_what_was_half_written_and_restore()
    {
        Snapshot snapshot;
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}");
        using (daemon)
        using (connection)
        {
            Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = "one", Vm = NewVm(WriteKernel()) });
            await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
            var request = new CreateSnapshotRequest { Snapshot = new Snapshot { Vm = vm.Name } };
            snapshot = await connection.Snapshots.CreateSnapshotAsync(request);
            // The end comes while snapshots are being written.
            Task<int> writer = Task.Run(async () =>
            {
                for (int i = 0; ; i++)
                {
                    try
                    {
                        await connection.Snapshots.CreateSnapshotAsync(new CreateSnapshotRequest { SnapshotId = $"s{i}", Snapshot = request.Snapshot }, deadline: DateTime.UtcNow.AddSeconds(30));
                    }
                    catch (RpcException)
                    {
                        return i;
                    }
                }
            });
            while (Directory.GetDirectories(Path.Combine(State, "snapshots")).Length < 10)
                await Task.Delay(1);
            daemon.Kill();
            Assert.True(await writer >= 8);
        }

        (daemon, connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}");
        using (daemon)
        using (connection)
        {
            Assert.Equal(snapshot, await connection.Snapshots.GetSnapshotAsync(new GetSnapshotRequest { Name = snapshot.Name }));
            ListSnapshotsResponse all = await connection.Snapshots.ListSnapshotsAsync(new ListSnapshotsRequest { PageSize = 1000 });
            Assert.Equal(
                all.Snapshots.Select(one => one.Uid).Order(StringComparer.Ordinal),
                Directory.GetDirectories(Path.Combine(State, "snapshots")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
            // Each of them is whole.
            foreach (Snapshot one in all.Snapshots)
                Assert.Equal(VmState.Running, (await connection.Snapshots.RestoreSnapshotAsync(new RestoreSnapshotRequest { Name = one.Name })).Status.State);
        }
    }

    [Fact]
    public async Task After_kill_9_everything_acknowledged_is_there_and_vms_are_stopped()
    {
        string kernel = WriteKernel();
        byte[] content = RandomNumberGenerator.GetBytes(3 << 20);
        string file = Path.Combine(_folder, "content");
        await File.WriteAllBytesAsync(file, content);
        var acknowledged = new ConcurrentDictionary<string, Vm>();
        Image image;
        CreateVmRequest known;
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}");
        using (daemon)
        using (connection)
        {
            image = await connection.PushImageAsync(file, "projects/default");
            Vm creation = NewVm(kernel);
            creation.Spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name } });
            known = new CreateVmRequest { VmId = "running", Vm = creation, RequestId = "known" };
            Vm running = await connection.Vms.CreateVmAsync(known);
            running = await connection.Vms.StartVmAsync(new StartVmRequest { Name = running.Name });
            Assert.Equal(VmState.Running, running.Status.State);
            Vm deleted = await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = "deleted", Vm = NewVm(kernel) });
            await connection.Vms.DeleteVmAsync(new DeleteVmRequest { Name = deleted.Name });

            // The end comes while many changes are under way.
            using var ending = new CancellationTokenSource();
            Task[] writers = [.. Enumerable.Range(0, 8).Select(writer => Task.Run(async () =>
            {
                for (int i = 0; !ending.IsCancellationRequested; i++)
                {
                    try
                    {
                        var request = new CreateVmRequest { VmId = $"vm-{writer}-{i}", Vm = NewVm(kernel) };
                        request.Vm.Labels["i"] = $"{i}";
                        Vm vm = await connection.Vms.CreateVmAsync(request, cancellationToken: ending.Token);
                        acknowledged[vm.Name] = vm;
                    }
                    catch (RpcException)
                    {
                        return;
                    }
                    catch (OperationCanceledException)
                    {
                        return;
                    }
                }
            }))];
            while (acknowledged.Count < 40)
                await Task.Delay(5);
            daemon.Kill();
            await ending.CancelAsync();
            await Task.WhenAll(writers);
        }

        (daemon, connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}");
        using (daemon)
        using (connection)
        {
            var listed = new Dictionary<string, Vm>();
            string token = "";
            do
            {
                ListVmsResponse page = await connection.Vms.ListVmsAsync(new ListVmsRequest { PageSize = 100, PageToken = token });
                foreach (Vm vm in page.Vms)
                    listed.Add(ResourceNames.Id(vm.Name), vm);
                token = page.NextPageToken;
            }
            while (token.Length > 0);
            foreach ((string name, Vm vm) in acknowledged)
                Assert.Equal(vm, listed[ResourceNames.Id(name)]);
            Assert.All(listed.Values, vm => Assert.Equal(VmState.Stopped, vm.Status.State));
            Assert.DoesNotContain("deleted", listed.Keys);
            Assert.Equal(VmEndReason.Interrupted, listed["running"].Status.End.Reason);
            Assert.Equal(1, listed["running"].Status.RunCount);
            Assert.Equal(image, await connection.Images.GetImageAsync(new GetImageRequest { Name = image.Name }));
            Assert.Equal(content, await File.ReadAllBytesAsync(Path.Combine(State, "images", "default", image.Sha256)));
            // The id of a request that was done before still stands for it.
            Assert.Equal(listed["running"].Uid, (await connection.Vms.CreateVmAsync(known)).Uid);
            Vm again = await connection.Vms.StartVmAsync(new StartVmRequest { Name = listed["running"].Name });
            Assert.Equal(2, again.Status.RunCount);

            // An orderly end this time.
            Assert.Equal(0, await daemon.TerminateAsync());
        }

        Assert.False(File.Exists(Path.Combine(_folder, "vmmd.sock")));
        (daemon, connection) = await Daemon.StartAsync(_folder, $"--allow-path {_folder}");
        using (daemon)
        using (connection)
            Assert.Equal(VmEndReason.Stopped, (await connection.Vms.GetVmAsync(new GetVmRequest { Name = ResourceNames.Vm("running") })).Status.End.Reason);
    }

    [Fact]
    public async Task Two_servers_do_not_share_a_state_directory_and_wrong_options_are_told()
    {
        (Daemon daemon, VmmConnection connection) = await Daemon.StartAsync(_folder);
        using (daemon)
        using (connection)
        {
            (int exitCode, string errors) = await Daemon.RunAsync($"--state {State} --listen 127.0.0.1:0");
            Assert.Equal(1, exitCode);
            Assert.Contains("in use by another vmmd", errors, StringComparison.Ordinal);
            (exitCode, errors) = await Daemon.RunAsync($"--state {State}2 --listen unix:{_folder}/vmmd.sock");
            Assert.Equal(1, exitCode);
            Assert.Contains("Another server listens", errors, StringComparison.Ordinal);
        }

        foreach ((string arguments, int expected) in ((string, int)[])
            [("--colour red", 64), ("--max-vms none", 64), ("--listen", 64), ("--allow-path relative", 64), ("--listen 0.0.0.0:7443", 1), ("--listen nonsense", 1)])
            Assert.Equal(expected, (await Daemon.RunAsync($"--state {State}3 {arguments}")).ExitCode);
    }

    [Fact]
    public async Task A_torn_last_write_is_cut_off_and_damage_before_it_is_not_passed_over()
    {
        var options = new ServerOptions { StateDirectory = State, Listen = "127.0.0.1:0", AllowedPaths = null };
        string kernel = WriteKernel();
        string journal = Path.Combine(State, "journal");
        await using (VmmServer server = await VmmServer.StartAsync(options, new FakeFactory()))
        {
            using VmmConnection connection = VmmConnection.Open(server.Address);
            for (int i = 0; i < 10; i++)
                await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = $"vm-{i}", Vm = NewVm(kernel) });
        }

        byte[] whole = await File.ReadAllBytesAsync(journal);
        var random = new Random(1);
        for (int lost = 0; lost < 60; lost += 1 + random.Next(10))
        {
            await File.WriteAllBytesAsync(journal, whole[..^lost]);
            Assert.Equal(lost == 0 ? 10 : 9, await CountAsync());
        }

        await File.WriteAllBytesAsync(journal, [.. whole, .. new byte[100]]);
        Assert.Equal(10, await CountAsync());
        await File.WriteAllBytesAsync(journal, [.. whole, .. RandomNumberGenerator.GetBytes(1000)]);
        Assert.Equal(10, await CountAsync());

        byte[] damaged = [.. whole];
        damaged[whole.Length / 2] ^= 1;
        await File.WriteAllBytesAsync(journal, damaged);
        DamagedJournalException exception = await Assert.ThrowsAsync<DamagedJournalException>(CountAsync);
        Assert.Contains("is damaged at byte", exception.Message, StringComparison.Ordinal);
        Assert.Equal(damaged, await File.ReadAllBytesAsync(journal));
        await File.WriteAllTextAsync(journal, "something else entirely");
        await Assert.ThrowsAsync<DamagedJournalException>(CountAsync);

        async Task<int> CountAsync()
        {
            await using VmmServer server = await VmmServer.StartAsync(options, new FakeFactory());
            using VmmConnection connection = VmmConnection.Open(server.Address);
            return (await connection.Vms.ListVmsAsync(new ListVmsRequest { PageSize = 100 })).Vms.Count;
        }
    }

    [Fact]
    public async Task Files_that_nothing_acknowledged_names_are_removed()
    {
        var options = new ServerOptions { StateDirectory = State, Listen = "127.0.0.1:0" };
        await (await VmmServer.StartAsync(options, new FakeFactory())).DisposeAsync();
        Directory.CreateDirectory(Path.Combine(State, "vms", "orphan"));
        await File.WriteAllTextAsync(Path.Combine(State, "vms", "orphan", "disk0"), "x");
        Directory.CreateDirectory(Path.Combine(State, "images", "default"));
        await File.WriteAllTextAsync(Path.Combine(State, "images", "default", new string('0', 64)), "x");
        await (await VmmServer.StartAsync(options, new FakeFactory())).DisposeAsync();
        Assert.Empty(Directory.EnumerateFileSystemEntries(Path.Combine(State, "vms")));
        Assert.Empty(Directory.EnumerateFiles(Path.Combine(State, "images", "default")));
    }

    [Fact]
    public async Task The_journal_is_compacted_and_loses_nothing_by_it()
    {
        var options = new ServerOptions { StateDirectory = State, Listen = "127.0.0.1:0", AllowedPaths = null };
        string kernel = WriteKernel();
        string journal = Path.Combine(State, "journal");
        long longest = 0;
        int updates = 0;
        await using (VmmServer server = await VmmServer.StartAsync(options, new FakeFactory()))
        {
            using VmmConnection connection = VmmConnection.Open(server.Address);
            Vm creation = NewVm(kernel);
            creation.Spec.CommandLine = new string('x', 2000);
            for (int i = 0; i < 50; i++)
                creation.Labels[$"label-{i}"] = new string('y', 63);
            await connection.Vms.CreateVmAsync(new CreateVmRequest { VmId = "vm", Vm = creation });
            while (new FileInfo(journal).Length >= longest)
            {
                longest = new FileInfo(journal).Length;
                await Task.WhenAll(Enumerable.Range(0, 64).Select(_ =>
                {
                    var update = new UpdateVmRequest { Vm = new Vm { Name = ResourceNames.Vm("vm"), Labels = { creation.Labels } } };
                    update.Vm.Labels["n"] = $"{Interlocked.Increment(ref updates)}";
                    return connection.Vms.UpdateVmAsync(update).ResponseAsync;
                }));
                Assert.True(updates < 20_000, "the journal only grows");
            }
        }

        await using (VmmServer server = await VmmServer.StartAsync(options, new FakeFactory()))
        {
            using VmmConnection connection = VmmConnection.Open(server.Address);
            Assert.Equal(51, Assert.Single((await connection.Vms.ListVmsAsync(new ListVmsRequest())).Vms).Labels.Count);
        }
    }

    [Fact]
    public async Task The_embedded_server_leaves_nothing()
    {
        string kernel = WriteKernel();
        string folder;
        await using (EmbeddedServer server = await EmbeddedServer.StartAsync())
        {
            Assert.StartsWith("unix:", server.Address, StringComparison.Ordinal);
            folder = Path.GetDirectoryName(server.Address["unix:".Length..])!;
            using VmmConnection connection = VmmConnection.Open(server.Address);
            Vm vm = await connection.Vms.CreateVmAsync(new CreateVmRequest { Vm = NewVm(kernel) });
            Assert.Equal(VmState.Running, (await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name })).Status.State);
        }

        Assert.False(Directory.Exists(folder));
    }
}
