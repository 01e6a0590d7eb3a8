using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Log;
using Vmm.Machine.Snapshots;
using Vmm.Testing.Guests;
using Xunit.Abstractions;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>A snapshot whose files someone has changed is refused, or makes a machine that runs; the process goes on either way.</summary>
public sealed class SnapshotFuzzTests(ITestOutputHelper output)
{
    private static readonly int Trials = Environment.GetEnvironmentVariable("VMM_NIGHTLY") is null ? 120 : 5_000;

    private static readonly ulong[] Corners =
        [0, 1, 2, 3, 7, 8, 16, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0xFFFF, 0x1_0000, int.MaxValue, uint.MaxValue, 1UL << 51, 0x0000_8000_0000_0000, long.MaxValue, ulong.MaxValue];

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(4, true)]
    public void A_changed_value_is_refused_or_the_machine_runs(int seed, bool inSmiHandler)
    {
        using SnapshotBench bench = Nested();
        string original = inSmiHandler ? SaveInSmiHandler(bench) : SaveInL2(bench);
        string text = File.ReadAllText(Path.Combine(original, SnapshotFormat.StateFile));
        var random = new Random(seed);
        int refused = 0;
        for (int trial = 0; trial < Trials; trial++)
        {
            JsonNode root = JsonNode.Parse(text)!;
            string what = "";
            for (int changes = random.Next(1, 4); changes > 0; changes--)
                what += Change(root, random) + "; ";
            refused += Try(bench, original, Encoding.UTF8.GetBytes(root.ToJsonString()), $"seed {seed}, trial {trial}: {what}") ? 0 : 1;
        }
        output.WriteLine($"{refused} of {Trials} refused");
        Assert.InRange(refused, 1, Trials - 1);
    }

    [Fact]
    public void Flipped_bits_are_refused_or_the_machine_runs()
    {
        using SnapshotBench bench = Nested();
        string original = SaveInL2(bench);
        byte[] state = File.ReadAllBytes(Path.Combine(original, SnapshotFormat.StateFile));
        var random = new Random(3);
        for (int trial = 0; trial < Trials; trial++)
        {
            byte[] changed = [.. state];
            changed[random.Next(changed.Length)] ^= (byte)(1 << random.Next(7));
            Try(bench, original, changed, $"trial {trial}");
        }
    }

    [Theory]
    [InlineData(SnapshotFormat.ManifestFile)]
    [InlineData(SnapshotFormat.StateFile)]
    [InlineData(SnapshotFormat.MemoryFile)]
    public void A_file_that_is_missing_or_shorter_or_longer_is_refused(string name)
    {
        using SnapshotBench bench = Nested();
        string path = Path.Combine(SaveInL2(bench), name);
        byte[] whole = File.ReadAllBytes(path);
        foreach (int length in (int[])[0, 1, whole.Length / 2, whole.Length - 1])
        {
            File.WriteAllBytes(path, whole[..length]);
            Assert.Throws<InvalidSnapshotException>(() => bench.Restore(Path.GetDirectoryName(path)!, new()));
        }
        if (name != SnapshotFormat.ManifestFile)
        {
            File.WriteAllBytes(path, [.. whole, (byte)' ']);
            Assert.Throws<InvalidSnapshotException>(() => bench.Restore(Path.GetDirectoryName(path)!, new()));
        }
        File.Delete(path);
        Assert.Throws<InvalidSnapshotException>(() => bench.Restore(Path.GetDirectoryName(path)!, new()));
        File.WriteAllBytes(path, whole);
        bench.Restore(Path.GetDirectoryName(path)!, new()).Dispose();
    }

    private static SnapshotBench Nested() => new(NestedGuest.Image(), spec => spec with { MaxCpus = 3 })
    {
        Inputs =
        [
            new(7_000, 0, new(MachineInputKind.VcpuAdded)),
            new(8_000, 0, new(MachineInputKind.ApicvInhibitSet, Inhibit: ApicvInhibit.BlockIrq)),
            new(8_500, 0, new(MachineInputKind.WriteMemory, Address: NestedGuest.Bell, Data: new byte[] { 1 })),
            new(9_900, 0, new(MachineInputKind.WriteMemory, Address: NestedGuest.Bell, Data: new byte[] { 1 })),
        ],
    };

    private static string SaveInL2(SnapshotBench bench)
    {
        using Machine machine = bench.RunTo(8_200, new());
        Assert.Equal(2, machine.GetNested(0).Level);
        return bench.Save(machine);
    }

    // An SMI has interrupted L2. Its handler spins for a while before RSM, which comes when the changed machine runs.
    private static string SaveInSmiHandler(SnapshotBench bench)
    {
        string inL2 = SaveInL2(bench), changed = bench.NewDirectory();
        JsonNode root = JsonNode.Parse(File.ReadAllText(Path.Combine(inL2, SnapshotFormat.StateFile)))!;
        root["virtualMachine"]!["vcpus"]![0]!["requests"] = nameof(VcpuRequest.Smi);
        Write(inL2, changed, Encoding.UTF8.GetBytes(root.ToJsonString()));
        using Machine machine = bench.Restore(changed, new());
        byte[] handler = [0xB9, 0x88, 0x13, 0xE2, 0xFE, 0x0F, 0xAA];
        Assert.True(machine.WriteMemory(MemoryAddressing.Physical, 0, 0x3_8000, handler));
        bench.ResumeTo(machine, machine.InstructionsRetired + 100);
        string saved = bench.Save(machine);
        Assert.Contains("\"isGuestModeBeforeSmi\":true", File.ReadAllText(Path.Combine(saved, SnapshotFormat.StateFile)).Replace(" ", "", StringComparison.Ordinal), StringComparison.Ordinal);
        return saved;
    }

    private static void Write(string original, string directory, byte[] state)
    {
        File.WriteAllBytes(Path.Combine(directory, SnapshotFormat.StateFile), state);
        JsonNode manifest = JsonNode.Parse(File.ReadAllText(Path.Combine(original, SnapshotFormat.ManifestFile)))!;
        manifest["stateSha256"] = Convert.ToHexStringLower(SHA256.HashData(state));
        File.WriteAllText(Path.Combine(directory, SnapshotFormat.ManifestFile), manifest.ToJsonString());
        File.CreateSymbolicLink(Path.Combine(directory, SnapshotFormat.MemoryFile), Path.Combine(original, SnapshotFormat.MemoryFile));
    }

    // Restores the snapshot with another state, whose digest is right, and runs it. False where it was refused.
    private static bool Try(SnapshotBench bench, string original, byte[] state, string what)
    {
        string directory = bench.NewDirectory();
        try
        {
            Write(original, directory, state);
            using Machine machine = bench.Restore(directory, new());
            Task paused = machine.PauseAt(machine.InstructionsRetired + 20_000);
            machine.Resume();
            DateTime end = DateTime.UtcNow + TimeSpan.FromSeconds(20);
            while (!paused.IsCompleted && machine.RunState == MachineRunState.Running && machine.GetRegisters(0).Activity == "active")
                Assert.True(DateTime.UtcNow < end, $"The machine neither executes nor ends. {what}");
            machine.SaveSnapshotIfAlive(bench);
            return true;
        }
        catch (InvalidSnapshotException)
        {
            return false;
        }
        catch (Exception e)
        {
            throw new InvalidOperationException(what, e);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    // Puts something else in the place of a value anywhere in the tree.
    private static string Change(JsonNode root, Random random)
    {
        var leaves = new List<JsonNode>();
        Collect(root, leaves);
        JsonNode leaf = leaves[random.Next(leaves.Count)];
        JsonNode? other = Other(leaf, random);
        string path = leaf.GetPath();
        switch (leaf.Parent)
        {
            case JsonObject parent when random.Next(20) == 0:
                parent.Remove(leaf.GetPropertyName());
                return $"{path} removed";
            case JsonObject parent:
                parent[leaf.GetPropertyName()] = other;
                break;
            case JsonArray parent when random.Next(4) == 0:
                parent.Add(other);
                break;
            case JsonArray parent:
                parent[leaf.GetElementIndex()] = other;
                break;
            default:
                break;
        }
        return $"{path} = {other?.ToJsonString() ?? "null"}";
    }

    private static JsonNode? Other(JsonNode leaf, Random random) => leaf.GetValueKind() switch
    {
        _ when random.Next(15) == 0 => null,
        System.Text.Json.JsonValueKind.Number when random.Next(2) == 0 => Corners[random.Next(Corners.Length)],
        System.Text.Json.JsonValueKind.Number when random.Next(4) == 0 => -random.Next(1, 1 << 20),
        System.Text.Json.JsonValueKind.Number => (ulong)random.NextInt64() >> random.Next(64),
        System.Text.Json.JsonValueKind.True or System.Text.Json.JsonValueKind.False => !leaf.GetValue<bool>(),
        System.Text.Json.JsonValueKind.String when random.Next(3) == 0 => "Nothing",
        System.Text.Json.JsonValueKind.String => Convert.ToBase64String(Bytes(random)),
        _ => random.Next(),
    };

    private static byte[] Bytes(Random random)
    {
        byte[] bytes = new byte[random.Next(40)];
        random.NextBytes(bytes);
        return bytes;
    }

    private static void Collect(JsonNode node, List<JsonNode> leaves)
    {
        switch (node)
        {
            case JsonObject obj:
                foreach ((_, JsonNode? child) in obj)
                {
                    if (child != null)
                        Collect(child, leaves);
                }
                break;
            case JsonArray array:
                foreach (JsonNode? child in array)
                {
                    if (child != null)
                        Collect(child, leaves);
                }
                break;
            default:
                leaves.Add(node);
                break;
        }
    }
}

file static class MachineOfFuzz
{
    /// <summary>What a machine has made of a state that it took can be saved, too.</summary>
    public static void SaveSnapshotIfAlive(this Machine machine, SnapshotBench bench)
    {
        machine.Pause();
        if (machine.RunState == MachineRunState.Paused)
            Directory.Delete(bench.Save(machine), recursive: true);
    }
}
