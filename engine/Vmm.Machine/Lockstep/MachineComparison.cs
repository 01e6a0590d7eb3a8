using System.Collections.Frozen;
using System.Globalization;
using System.Text.Json;
using Vmm.Hypervisor.SavedState;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;
using Vmm.Processor.Vmx;

namespace Vmm.Machine.Lockstep;

/// <summary>A machine that stands.</summary>
/// <param name="State">Everything but RAM.</param>
/// <param name="Memory">RAM.</param>
/// <param name="Pages">The pages that were written since it was last seen, as <see cref="Migration.IMachineSource.TakeDirtyPages"/> has them.</param>
/// <param name="End">How it ended, or null.</param>
internal sealed record MachineSight(MachineState State, PhysicalMemory Memory, ulong[] Pages, MachineEnd? End);

/// <summary>Compares two machines.</summary>
internal static unsafe class MachineComparison
{
    private const int MostPages = 16;

    private static readonly FrozenSet<string> ExitInformation =
        VmcsCatalogue.Fields.Where(entry => entry.IsReadOnly).Select(entry => entry.Name).ToFrozenSet(StringComparer.Ordinal);

    /// <summary>What differs, as lines "where: this value and that"; empty where nothing does.</summary>
    public static List<string> Compare(MachineSight one, MachineSight other)
    {
        var found = new List<string>();
        if (one.End != other.End)
            found.Add($"end: {Text(one.End)} and {Text(other.End)}");
        byte[] state = Serialize(one.State), otherState = Serialize(other.State);
        if (!state.AsSpan().SequenceEqual(otherState))
            found.AddRange(Differences(Flatten(state), Flatten(otherState)));
        int pages = 0;
        foreach (int index in AgreedMoment.PagesOf(one.Pages, other.Pages))
        {
            ulong address = one.Memory.PageAddress(index);
            byte* page = one.Memory.Page(address), otherPage = other.Memory.Page(address);
            if (page == null)
                continue;
            ReadOnlySpan<byte> bytes = new(page, PhysicalMemory.PageSize), otherBytes = new(otherPage, PhysicalMemory.PageSize);
            int same = bytes.CommonPrefixLength(otherBytes);
            if (same == PhysicalMemory.PageSize)
                continue;
            if (++pages > MostPages)
            {
                found.Add("memory: and more pages");
                break;
            }
            int from = Math.Min(same & ~7, PhysicalMemory.PageSize - 8);
            found.Add($"memory at {address + (ulong)from:x}: {Convert.ToHexStringLower(bytes.Slice(from, 8))} and {Convert.ToHexStringLower(otherBytes.Slice(from, 8))}");
        }
        return found;
    }

    private static string Text(MachineEnd? end) => end == null ? "none" : $"{end.Reason} {end.ExitCode} {end.Detail}".TrimEnd();

    private static byte[] Serialize(MachineState state) => JsonSerializer.SerializeToUtf8Bytes(state with
    {
        // Where from: one machine has them from outside, the other from the first one's log.
        Inputs = new InputsState { Console = [], IsConsoleOffered = false, Log = [], Replay = [] },
        VirtualMachine = state.VirtualMachine with { Vcpus = [.. state.VirtualMachine.Vcpus.Select(WithoutExitInformation)] },
    }, SnapshotJson.Strict.MachineState);

    // What the hardware has told L0 about the last exit. A request from outside brings about an exit of one machine alone, and no guest sees it.
    private static VcpuState WithoutExitInformation(VcpuState vcpu) => vcpu with
    {
        Vmcs01 = WithoutExitInformation(vcpu.Vmcs01),
        Nested = vcpu.Nested with { Vmcs02 = WithoutExitInformation(vcpu.Nested.Vmcs02) },
    };

    private static VmcsState WithoutExitInformation(VmcsState vmcs) => vmcs with
    {
        Fields = new(vmcs.Fields.Where(field => !ExitInformation.Contains(field.Key)).ToDictionary(), StringComparer.Ordinal),
    };

    private static IEnumerable<string> Differences(SortedDictionary<string, string> one, SortedDictionary<string, string> other) =>
        from path in one.Keys.Union(other.Keys, StringComparer.Ordinal)
        let values = (one.GetValueOrDefault(path, "nothing"), other.GetValueOrDefault(path, "nothing"))
        where values.Item1 != values.Item2
        select $"{path}: {values.Item1} and {values.Item2}";

    /// <summary>Every value by its path. The numbers of armed timers are replaced by their order, which is what they are for.</summary>
    private static SortedDictionary<string, string> Flatten(byte[] json)
    {
        var values = new SortedDictionary<string, string>(StringComparer.Ordinal);
        var orders = new List<(ulong Order, string Path)>();
        using JsonDocument document = JsonDocument.Parse(json);
        Visit(document.RootElement, "");
        orders.Sort();
        for (int k = 0; k < orders.Count; k++)
            values[orders[k].Path] = $"number {k}";
        return values;

        void Visit(JsonElement element, string path)
        {
            switch (element.ValueKind)
            {
                case JsonValueKind.Object:
                    foreach (JsonProperty property in element.EnumerateObject())
                        Visit(property.Value, path.Length == 0 ? property.Name : $"{path}.{property.Name}");
                    break;
                case JsonValueKind.Array:
                    int index = 0;
                    foreach (JsonElement each in element.EnumerateArray())
                        Visit(each, $"{path}[{index++}]");
                    break;
                case JsonValueKind.Number when element.TryGetUInt64(out ulong number):
                    if (path.EndsWith(".order", StringComparison.Ordinal))
                        orders.Add((number, path));
                    else
                        values.Add(path, number < 10 ? number.ToString(CultureInfo.InvariantCulture) : $"0x{number:x}");
                    break;
                default:
                    values.Add(path, element.ToString());
                    break;
            }
        }
    }
}
