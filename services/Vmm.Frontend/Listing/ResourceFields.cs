using Google.Protobuf.WellKnownTypes;
using Vmm.V1;

namespace Vmm.Frontend.Listing;

/// <summary>By which fields VMs, images, snapshots and workers are filtered and ordered.</summary>
internal static class ResourceFields
{
    private const string LabelPrefix = "labels.";
    private const string StatePrefix = "VM_STATE_";

    /// <summary>Orders of VMs.</summary>
    public static readonly Dictionary<string, Comparison<Vm>> VmOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
        ["create_time"] = static (a, b) => Comparer<Timestamp>.Default.Compare(a.CreateTime, b.CreateTime),
        ["update_time"] = static (a, b) => Comparer<Timestamp>.Default.Compare(a.UpdateTime, b.UpdateTime),
        ["state"] = static (a, b) => (a.Status?.State ?? default).CompareTo(b.Status?.State ?? default),
    };

    /// <summary>Orders of images.</summary>
    public static readonly Dictionary<string, Comparison<Image>> ImageOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
        ["display_name"] = static (a, b) => string.CompareOrdinal(a.DisplayName, b.DisplayName),
        ["create_time"] = static (a, b) => Comparer<Timestamp>.Default.Compare(a.CreateTime, b.CreateTime),
        ["size_bytes"] = static (a, b) => a.SizeBytes.CompareTo(b.SizeBytes),
    };

    /// <summary>Orders of snapshots.</summary>
    public static readonly Dictionary<string, Comparison<Snapshot>> SnapshotOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
        ["vm"] = static (a, b) => string.CompareOrdinal(a.Vm, b.Vm),
        ["create_time"] = static (a, b) => Comparer<Timestamp>.Default.Compare(a.CreateTime, b.CreateTime),
        ["size_bytes"] = static (a, b) => a.SizeBytes.CompareTo(b.SizeBytes),
    };

    /// <summary>Orders of workers.</summary>
    public static readonly Dictionary<string, Comparison<V1.Worker>> WorkerOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
    };

    /// <summary>A filter of VMs.</summary>
    public static Predicate<Vm> VmFilter(string filter) => FilterParser<Vm>.Parse(filter, static name => name switch
    {
        "name" => (static vm => vm.Name, static value => value),
        "state" => (static vm => vm.Status.State.ToString().ToUpperInvariant(), State),
        _ when name.StartsWith(LabelPrefix, StringComparison.Ordinal) && name.Length > LabelPrefix.Length => (Label(name[LabelPrefix.Length..]), static value => value),
        _ => null,
    });

    /// <summary>A filter of images.</summary>
    public static Predicate<Image> ImageFilter(string filter) => FilterParser<Image>.Parse(filter, static name => name switch
    {
        "name" => (static image => image.Name, static value => value),
        "display_name" => (static image => image.DisplayName, static value => value),
        _ => null,
    });

    /// <summary>A filter of snapshots.</summary>
    public static Predicate<Snapshot> SnapshotFilter(string filter) => FilterParser<Snapshot>.Parse(filter, static name => name switch
    {
        "name" => (static snapshot => snapshot.Name, static value => value),
        "vm" => (static snapshot => snapshot.Vm, static value => value),
        _ => null,
    });

    private static FieldReader<Vm> Label(string key) => vm => vm.Labels.TryGetValue(key, out string? value) ? value : null;

    private static string? State(string value)
    {
        string name = value.ToUpperInvariant();
        if (name.StartsWith(StatePrefix, StringComparison.Ordinal))
            name = name[StatePrefix.Length..];
        return System.Enum.TryParse(name, ignoreCase: true, out VmState state) && System.Enum.IsDefined(state) && state.ToString().Equals(name, StringComparison.OrdinalIgnoreCase) ? name : null;
    }
}
