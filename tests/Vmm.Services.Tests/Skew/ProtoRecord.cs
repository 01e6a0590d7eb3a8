using System.Globalization;
using System.Reflection;
using Google.Protobuf.Reflection;
using Vmm.V1;

namespace Vmm.Services.Tests.Skew;

/// <summary>
/// All that two versions must agree on to talk to each other, and to read what the other wrote: messages, fields, enums, methods and
/// what is reserved, one a line, below the line of what they are of. Comments, order and files are no part of it.
/// </summary>
internal sealed class ProtoRecord
{
    private const string VersionKey = "version";

    private readonly SortedDictionary<string, SortedDictionary<string, string>> _owners = new(StringComparer.Ordinal);

    private ProtoRecord(string version) => Version = version;

    /// <summary>Of whom: major and minor.</summary>
    public string Version { get; }

    /// <summary>Everything that is in the protos of this version, as descriptors.</summary>
    public static IReadOnlyList<FileDescriptorProto> Present() =>
    [
        .. typeof(Vm).Assembly.GetTypes()
            .Where(type => type.Name.EndsWith("Reflection", StringComparison.Ordinal))
            .Select(type => type.GetProperty("Descriptor", BindingFlags.Public | BindingFlags.Static)?.GetValue(null))
            .OfType<FileDescriptor>()
            .Select(file => file.ToProto()),
    ];

    /// <summary>Of descriptors.</summary>
    public static ProtoRecord Of(string version, IEnumerable<FileDescriptorProto> files)
    {
        var record = new ProtoRecord(version);
        foreach (FileDescriptorProto file in files)
        {
            foreach (DescriptorProto message in file.MessageType)
                record.Add(file.Package, message);
            foreach (EnumDescriptorProto type in file.EnumType)
                record.Add(file.Package, type);
            foreach (ServiceDescriptorProto service in file.Service)
                record.Add(file.Package, service);
        }

        return record;
    }

    /// <summary>As <see cref="ToString"/> wrote it.</summary>
    public static ProtoRecord Parse(string text)
    {
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        var record = new ProtoRecord(lines[0][(VersionKey.Length + 1)..]);
        SortedDictionary<string, string> owner = [];
        foreach (string line in lines[1..])
        {
            if (line[0] != ' ')
            {
                owner = record.Owner(line);
                continue;
            }

            string[] parts = line.Trim().Split(' ', 3);
            owner.Add($"{parts[0]} {parts[1]}", parts.Length == 3 ? parts[2] : "");
        }

        return record;
    }

    public override string ToString() => string.Join('\n', _owners.SelectMany(owner =>
        (string[])[owner.Key, .. owner.Value.Select(line => $"  {line.Key} {line.Value}".TrimEnd())]).Prepend($"{VersionKey} {Version}")) + "\n";

    /// <summary>
    /// What of this record another version does not keep to, so that the two could not work side by side, one finding each. What is only in the
    /// other version is no finding, unless it uses what was reserved or must be set.
    /// </summary>
    public IReadOnlyList<string> BrokenBy(ProtoRecord later)
    {
        var broken = new List<string>();
        foreach ((string owner, SortedDictionary<string, string> lines) in _owners)
        {
            if (!later._owners.TryGetValue(owner, out SortedDictionary<string, string>? present))
            {
                broken.Add($"{owner} is gone");
                continue;
            }

            foreach ((string key, string value) in lines)
                if (!present.TryGetValue(key, out string? now))
                    broken.Add($"{owner}: {key} {value} is gone");
                else if (now != value)
                    broken.Add($"{owner}: {key} was {value} and is {now}");
            foreach ((string key, string value) in present.Where(line => !lines.ContainsKey(line.Key) && line.Key.StartsWith("field ", StringComparison.Ordinal)))
                if (lines.ContainsKey($"reserved {key["field ".Length..]}") || lines.ContainsKey($"reserved-name {value.Split(' ')[0]}"))
                    broken.Add($"{owner}: {key} {value} uses what was reserved");
        }

        foreach ((string owner, SortedDictionary<string, string> lines) in later._owners)
            broken.AddRange(lines.Where(line => line.Value.Contains(" required ", StringComparison.Ordinal)).Select(line => $"{owner}: {line.Key} {line.Value} must be set"));
        return broken;
    }

    /// <summary>Whether there is a method, by its path: <c>/vmm.v1.VmService/GetVm</c>.</summary>
    public bool HasMethod(string path) => path.Split('/') is [_, var service, var method] && _owners.TryGetValue($"service {service}", out var methods) && methods.ContainsKey($"method {method}");

    /// <summary>The message type of a field, empty where it is none, or null where the message has no such field.</summary>
    public string? TypeOf(string message, int field)
    {
        if (!_owners.TryGetValue($"message {message}", out var fields) || !fields.TryGetValue(string.Create(CultureInfo.InvariantCulture, $"field {field}"), out string? text))
            return null;
        string type = text.Split(' ').Last(part => part.Length > 0 && !part.StartsWith("oneof=", StringComparison.Ordinal));
        return _owners.ContainsKey($"message {type}") ? type : "";
    }

    private SortedDictionary<string, string> Owner(string name)
    {
        if (!_owners.TryGetValue(name, out SortedDictionary<string, string>? owner))
            _owners.Add(name, owner = new SortedDictionary<string, string>(ByNumber.Instance));
        return owner;
    }

    private void Add(string scope, DescriptorProto message)
    {
        string name = $"{scope}.{message.Name}";
        SortedDictionary<string, string> lines = Owner($"message {name}");
        foreach (FieldDescriptorProto field in message.Field)
        {
            string type = field.TypeName.Length > 0 ? field.TypeName.TrimStart('.') : field.Type.ToString().ToLowerInvariant();
            string cardinality = field.Label switch
            {
                FieldDescriptorProto.Types.Label.Repeated => "repeated ",
                FieldDescriptorProto.Types.Label.Required => "required ",
                _ => field.Proto3Optional ? "optional " : "",
            };
            string oneof = field.HasOneofIndex && !field.Proto3Optional ? $" oneof={message.OneofDecl[field.OneofIndex].Name}" : "";
            lines.Add(string.Create(CultureInfo.InvariantCulture, $"field {field.Number}"), $"{field.Name} {cardinality}{type}{oneof}");
        }

        foreach (DescriptorProto.Types.ReservedRange range in message.ReservedRange)
            for (int number = range.Start; number < range.End; number++)
                lines.Add(string.Create(CultureInfo.InvariantCulture, $"reserved {number}"), "");
        foreach (string reserved in message.ReservedName)
            lines.Add($"reserved-name {reserved}", "");
        foreach (DescriptorProto nested in message.NestedType)
            Add(name, nested);
        foreach (EnumDescriptorProto nested in message.EnumType)
            Add(name, nested);
    }

    private void Add(string scope, EnumDescriptorProto type)
    {
        SortedDictionary<string, string> lines = Owner($"enum {scope}.{type.Name}");
        foreach (EnumValueDescriptorProto value in type.Value)
            lines.Add(string.Create(CultureInfo.InvariantCulture, $"value {value.Number}"), value.Name);
    }

    private void Add(string scope, ServiceDescriptorProto service)
    {
        SortedDictionary<string, string> lines = Owner($"service {scope}.{service.Name}");
        foreach (MethodDescriptorProto method in service.Method)
            lines.Add(
                $"method {method.Name}",
                $"{(method.ClientStreaming ? "stream " : "")}{method.InputType.TrimStart('.')} -> {(method.ServerStreaming ? "stream " : "")}{method.OutputType.TrimStart('.')}");
    }

    private sealed class ByNumber : IComparer<string>
    {
        public static ByNumber Instance { get; } = new();

        public int Compare(string? x, string? y)
        {
            (string kind, string key) = Split(x!);
            (string otherKind, string otherKey) = Split(y!);
            return kind != otherKind ? string.CompareOrdinal(kind, otherKind)
                : int.TryParse(key, CultureInfo.InvariantCulture, out int number) && int.TryParse(otherKey, CultureInfo.InvariantCulture, out int other) ? number.CompareTo(other)
                : string.CompareOrdinal(key, otherKey);
        }

        private static (string Kind, string Key) Split(string line) => line.Split(' ', 2) is [var kind, var key] ? (kind, key) : (line, "");
    }
}
