using System.Text.Json;
using System.Text.Json.Serialization;

namespace Vmm.Machine.Snapshots;

/// <summary>The JSON of a snapshot: strict, since files come from anywhere.</summary>
[JsonSerializable(typeof(MachineState))]
[JsonSerializable(typeof(SnapshotManifest))]
internal sealed partial class SnapshotJson : JsonSerializerContext
{
    public static SnapshotJson Strict { get; } = new(new JsonSerializerOptions
    {
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
        AllowDuplicateProperties = false,
        WriteIndented = true,
        // A number could be one that the enumeration has not.
        Converters = { new JsonStringEnumConverter(allowIntegerValues: false) },
    });
}
