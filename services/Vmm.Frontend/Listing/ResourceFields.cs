using Google.Protobuf.WellKnownTypes;
using Vmm.Registry;
using Vmm.V1;

namespace Vmm.Frontend.Listing;

/// <summary>By which fields resources are filtered and ordered.</summary>
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

    /// <summary>Orders of projects.</summary>
    public static readonly Dictionary<string, Comparison<Project>> ProjectOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
    };

    /// <summary>Orders of tokens.</summary>
    public static readonly Dictionary<string, Comparison<Token>> TokenOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => string.CompareOrdinal(a.Name, b.Name),
    };

    /// <summary>The order of the audit log: by number, the latest first.</summary>
    public static readonly Dictionary<string, Comparison<AuditEntry>> AuditOrders = new(StringComparer.Ordinal)
    {
        ["name"] = static (a, b) => AuditNames.NumberOf(b).CompareTo(AuditNames.NumberOf(a)),
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

    /// <summary>A filter of tokens.</summary>
    public static Predicate<Token> TokenFilter(string filter) => FilterParser<Token>.Parse(filter, static name => name switch
    {
        "name" => (static token => token.Name, static value => value),
        "project" => (static token => token.Project.Length > 0 ? token.Project : null, static value => value),
        "role" => (static token => token.Role.ToString().ToUpperInvariant(), static value => value.ToUpperInvariant() is "VIEWER" or "OPERATOR" or "ADMIN" ? value.ToUpperInvariant() : null),
        _ => null,
    });

    /// <summary>A filter of the audit log.</summary>
    public static Predicate<AuditEntry> AuditFilter(string filter) => FilterParser<AuditEntry>.Parse(filter, static name => name switch
    {
        "token" => (static entry => entry.Token.Length > 0 ? entry.Token : null, static value => value),
        "method" => (static entry => entry.Method, static value => value),
        "resource" => (static entry => entry.Resource, static value => value),
        "request_id" => (static entry => entry.RequestId.Length > 0 ? entry.RequestId : null, static value => value),
        "code" => (static entry => entry.Code, static value => value.ToUpperInvariant()),
        "reason" => (static entry => entry.Reason.Length > 0 ? entry.Reason : null, static value => value.ToUpperInvariant()),
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
