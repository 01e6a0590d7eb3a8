namespace Vmm.Client;

/// <summary>Resource names, and the short forms that people type.</summary>
public static class ResourceNames
{
    /// <summary>The project that stands for none being named.</summary>
    public const string DefaultProject = "default";

    /// <summary><c>projects/{project}</c>; the default project where <paramref name="project"/> is null or empty.</summary>
    public static string Project(string? project = null) =>
        string.IsNullOrEmpty(project) ? $"projects/{DefaultProject}" : project.StartsWith("projects/", StringComparison.Ordinal) ? project : $"projects/{project}";

    /// <summary>A VM's full name from a full name, <c>vms/{vm}</c> or only <c>{vm}</c>.</summary>
    public static string Vm(string nameOrId, string? project = null) => Expand(nameOrId, "vms", project);

    /// <summary>An image's full name from a full name, <c>images/{image}</c>, only <c>{image}</c>, or the 64 digits of its SHA-256.</summary>
    public static string Image(string nameOrId, string? project = null)
    {
        ArgumentNullException.ThrowIfNull(nameOrId);
        return Expand(IsSha256(nameOrId) ? $"sha256-{nameOrId}" : nameOrId, "images", project);
    }

    /// <summary>A snapshot's full name from a full name, <c>snapshots/{snapshot}</c> or only <c>{snapshot}</c>.</summary>
    public static string Snapshot(string nameOrId, string? project = null) => Expand(nameOrId, "snapshots", project);

    /// <summary>A worker's full name from a full name or only <c>{worker}</c>.</summary>
    public static string Worker(string nameOrId)
    {
        ArgumentException.ThrowIfNullOrEmpty(nameOrId);
        return nameOrId.StartsWith("workers/", StringComparison.Ordinal) ? nameOrId : $"workers/{nameOrId}";
    }

    /// <summary>A token's full name from a full name or only <c>{token}</c>.</summary>
    public static string Token(string nameOrId)
    {
        ArgumentException.ThrowIfNullOrEmpty(nameOrId);
        return nameOrId.StartsWith("tokens/", StringComparison.Ordinal) ? nameOrId : $"tokens/{nameOrId}";
    }

    /// <summary>The last part of a resource name.</summary>
    public static string Id(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return name[(name.LastIndexOf('/') + 1)..];
    }

    private static bool IsSha256(string text) => text.Length == 64 && text.All(char.IsAsciiHexDigitLower);

    private static string Expand(string nameOrId, string collection, string? project)
    {
        ArgumentException.ThrowIfNullOrEmpty(nameOrId);
        if (nameOrId.StartsWith("projects/", StringComparison.Ordinal))
            return nameOrId;
        return nameOrId.StartsWith(collection + "/", StringComparison.Ordinal)
            ? $"{Project(project)}/{nameOrId}"
            : $"{Project(project)}/{collection}/{nameOrId}";
    }
}
