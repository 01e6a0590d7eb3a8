using System.Text.Json;
using System.Text.Json.Nodes;
using Vmm.Devices.Board;
using Vmm.Devices.Tests.Fixture;
using Vmm.Processor.SavedState;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Devices.Tests;

/// <summary>A board that has loaded another one's state is that other one: the same answers, interrupts and output for the same work.</summary>
public sealed class SavedStateTests(ITestOutputHelper output)
{
    private static readonly ulong Hpet = BoardLayout.HpetBase;

    private static readonly Dictionary<string, SavedBoardArea> Areas = new()
    {
        ["interrupt controllers"] = new(
            [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x2001, 0x2003, 0x2005, 0x2009, 0x200C, 0x2011], [0xFEC0_0000, 0xFEC0_0010, 0xFEC0_0040],
            [0x11, 0x13, 0x19, 0x20, 0x0A, 0x0B, 0x0C, 0x68, 0x48, 0x80, 0xA0, 0xC3, 0xE2]),
        ["timers"] = new(
            [0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71],
            [Hpet + 0x10, Hpet + 0x20, Hpet + 0xF0, Hpet + 0x100, Hpet + 0x108, Hpet + 0x120, Hpet + 0x128, Hpet + 0x140, Hpet + 0x148],
            [0x00, 0x34, 0x36, 0x30, 0xB0, 0xB6, 0x72, 0xC2, 0xE2, 0xDE, 3, 0x0A, 0x0B, 0x0C, 0x72, 0x26, 0x2F, 0x82, 0x44, 0x4C, 0x104, 0x10C, 0x2806]),
        ["clock"] = new([0x70, 0x71], [], [0x0A, 0x0B, 0x0C, 0x01, 0x05, 0x32, 0x26, 0x2A, 0x72, 0x82, 0x22, 0x12, 0x02], MostMicroseconds: 2_500_000),
        ["power and reset"] = new([0x600, 0x602, 0x604, 0x608, 0x620, 0x622, 0x640, 0x644, 0x60, 0x64, 0x92, 0xCF8, 0xCF9], [], [0x2000, 0x101, 0xD1, 0xFE, 0xD4, 0x20, 0x60], MostMicroseconds: 4_000_000),
        ["system management"] = new([0xB2, 0xB3, 0x630, 0x634], [], [0x21, 0x20]),
        ["serial"] = new([0x3F8, 0x3F9, 0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF, 0x2F8, 0x2F9, 0x2FC], [], [0x10, 0x01, 0x07, 0xC1, 0x83, 0x03]),
        ["firmware and test devices"] = new(
            [0x510, 0x511, 0x514, 0x518, 0xE0, 0xE4, 0xE9, 0x2004], [0xFF00_0000, 0xFF00_8000], [0x19, 0x20, 5, 0x0F00_0000]),
        ["pci"] = new([0xCF8, 0xCFC, 0xCFE], [BoardLayout.EcamBase + (2 << 15), BoardLayout.EcamBase + (3 << 15), BoardLayout.EcamBase + (4 << 15)], [6, 0x406], true),
        ["virtio"] = new([], [BoardLayout.PciMemoryBase, BoardLayout.PciMemoryBase + 0x1_0000], [], true),
    };

    private static readonly SavedBoardArea Everything = new(
        [.. Areas.Values.SelectMany(area => area.Ports)], [.. Areas.Values.SelectMany(area => area.Registers)], [.. Areas.Values.SelectMany(area => area.Values)], true);

    public static TheoryData<string> AreaNames => [.. Areas.Keys, "everything"];

    private static SavedBoardArea Area(string name) => Areas.GetValueOrDefault(name, Everything);

    [Theory]
    [MemberData(nameof(AreaNames))]
    public void ABoardThatIsLoadedGoesOnAsTheOneThatWasSaved(string name)
    {
        SavedBoardArea area = Area(name);
        for (int seed = 1; seed <= 12; seed++)
        {
            output.WriteLine($"seed {seed}");
            var board = new SavedBoard();
            board.Work(new Random(seed), area, 400);
            for (int round = 0; round < 10; round++)
            {
                SavedBoard copy = board.Copy();
                Assert.Equal(board.Save(), copy.Save());
                int work = seed * 1000 + round;
                Assert.Equal(board.Work(new Random(work), area, 150), copy.Work(new Random(work), area, 150));
                Assert.Equal(board.Save(), copy.Save());
                Assert.Equal(board.Board.Memory.Bytes.AsSpan(), copy.Board.Memory.Bytes.AsSpan());
                Assert.Equal(board.Board.Clock.ArmedTimers, copy.Board.Clock.ArmedTimers);
            }
        }
    }

    /// <summary>Values that no work above gives another value to, with the reason.</summary>
    private static readonly string[] Constant =
    [
        // Sources of lines that nothing here drives: the serial ports 3 and 4, which share those of 1 and 2, and pins without a device.
        ".LegacyWires", ".Wires", ".Serial",
        // A vendor's identifiers and what other parts of configuration space are fixed.
        ".Configuration",
        // CMOS memory and the table of MSI-X are large.
        ".Memory", ".Table", ".Scratch", ".Input", ".Loop", ".Frozen",
        // Only counter 0 of the interval timer drives an interrupt, and only counter 2 has a gate; the clock of a test has no
        // order among equal deadlines.
        ".Pit.Channels[1].Timer", ".Pit.Channels[2].Timer", ".Pit.Channels[0].Gate", ".Pit.Channels[1].Gate", ".Pit.Channels[0].Paused", ".Pit.Channels[1].Paused",
        ".Order",
        // The host bridge is no virtio device, and of these only the console queues input.
        ".Pci.Slots[0]", ".Pci.Slots[2].Virtio.FellShort", ".Pci.Slots[4].Virtio.FellShort",
    ];

    [Fact]
    public void TheWorkReachesEveryPartOfTheState()
    {
        var seen = new Dictionary<string, HashSet<string>>();
        foreach (SavedBoardArea area in Areas.Values)
        {
            for (int seed = 1; seed <= 12; seed++)
            {
                var board = new SavedBoard();
                var random = new Random(seed);
                for (int round = 0; round < 40; round++)
                {
                    board.Work(random, area, 50);
                    Collect(JsonNode.Parse(board.Save()), "", seen);
                }
            }
        }
        string[] never = [.. seen.Where(pair => pair.Value is { Count: 1 } only && only.Single() is not ("there" or "") && !IsEmptySlot(pair.Key) && !Constant.Any(pair.Key.Contains)).Select(pair => pair.Key).Order()];
        Assert.True(never.Length == 0, string.Join('\n', never));
    }

    private static bool IsEmptySlot(string path) => path.StartsWith(".Pci.Slots[", StringComparison.Ordinal) && path.EndsWith(']');

    private static void Collect(JsonNode? node, string path, Dictionary<string, HashSet<string>> seen)
    {
        if (!seen.TryGetValue(path, out HashSet<string>? values))
            seen[path] = values = [];
        values.Add(node is JsonObject ? "there" : node is JsonArray ? "" : node?.ToJsonString() ?? "null");
        switch (node)
        {
            case JsonObject members:
                foreach ((string name, JsonNode? value) in members)
                    Collect(value, $"{path}.{name}", seen);
                break;
            case JsonArray elements:
                for (int i = 0; i < elements.Count; i++)
                    Collect(elements[i], $"{path}[{i}]", seen);
                break;
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void AFalsifiedStateIsRefusedOrHarmless(int seed)
    {
        var random = new Random(seed);
        var board = new SavedBoard();
        board.Work(random, Everything, 3000);
        string saved = board.Save();
        int refused = 0;
        int taken = 0;
        for (int i = 0; i < 400; i++)
        {
            JsonNode state = JsonNode.Parse(saved)!;
            string what = "";
            for (int changes = random.Next(1, 4); changes > 0; changes--)
                what += Falsify(state, random) + " ";
            var copy = new SavedBoard();
            try
            {
                copy.Load(state.ToJsonString());
            }
            catch (Exception e) when (e is InvalidStateException or JsonException)
            {
                refused++;
                continue;
            }
            taken++;
            try
            {
                copy.Work(random, Everything, 300);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"Taken and then failed: {what}", e);
            }
        }
        output.WriteLine($"seed {seed}: {refused} refused, {taken} taken");
        Assert.True(refused > 100 && taken > 100);
    }

    /// <summary>Replaces a value anywhere in a state by a wrong one.</summary>
    private static string Falsify(JsonNode state, Random random)
    {
        var places = new List<(JsonNode Parent, string Name, int Index)>();
        Walk(state, places);
        (JsonNode parent, string name, int index) = places[random.Next(places.Count)];
        JsonNode? old = parent is JsonArray array ? array[index] : parent[name];
        JsonNode? wrong = (random.Next(4), old) switch
        {
            (0, JsonArray elements) => new JsonArray([.. elements.Skip(1).Select(e => e?.DeepClone())]),
            (1, JsonArray elements) => new JsonArray([.. elements.Select(e => e?.DeepClone()), null]),
            (_, JsonValue value) when value.TryGetValue(out bool flag) => !flag,
            (_, JsonValue value) when value.TryGetValue(out string? bytes) =>
                Convert.ToBase64String(new byte[random.Next(3) switch { 0 => 0, 1 => 70_000, _ => Convert.FromBase64String(bytes!).Length }]),
            (0, JsonValue) => random.Next(256),
            (1, JsonValue) => 1L << random.Next(63),
            (2, JsonValue) => ulong.MaxValue >> random.Next(64),
            _ => null,
        };
        if (parent is JsonArray target)
            target[index] = wrong;
        else
            parent[name] = wrong;
        return $"{parent.GetPath()}.{name}[{index}] = {wrong?.ToJsonString() ?? "null"}";
    }

    private static void Walk(JsonNode? node, List<(JsonNode, string, int)> places)
    {
        if (node is JsonObject members)
        {
            foreach ((string name, JsonNode? value) in members)
            {
                places.Add((node, name, 0));
                Walk(value, places);
            }
        }
        else if (node is JsonArray elements)
        {
            for (int i = 0; i < elements.Count; i++)
            {
                places.Add((node, "", i));
                Walk(elements[i], places);
            }
        }
    }
}
