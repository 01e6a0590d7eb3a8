using System.Diagnostics.CodeAnalysis;

namespace Vmm.Protos;

/// <summary>The resource names of the API, and what may stand in them.</summary>
public static class ResourceName
{
    /// <summary>What an image's id begins with; the digest follows.</summary>
    public const string ImageIdPrefix = "sha256-";

    /// <summary>The project that an empty parent stands for.</summary>
    public const string DefaultParent = "projects/default";

    private const int MaxIdLength = 63;
    private const int Sha256Digits = 64;

    /// <summary>Whether this can be a project's or VM's id: <c>[a-z]([a-z0-9-]{0,61}[a-z0-9])?</c>.</summary>
    public static bool IsId(ReadOnlySpan<char> id)
    {
        if (id.Length is 0 or > MaxIdLength || !char.IsAsciiLetterLower(id[0]) || id[^1] == '-')
            return false;
        foreach (char c in id)
            if (!char.IsAsciiLetterLower(c) && !char.IsAsciiDigit(c) && c != '-')
                return false;
        return true;
    }

    /// <summary>Whether these are the 64 lower-case hexadecimal digits of a SHA-256.</summary>
    public static bool IsSha256(ReadOnlySpan<char> digits)
    {
        if (digits.Length != Sha256Digits)
            return false;
        foreach (char c in digits)
            if (!char.IsAsciiHexDigitLower(c))
                return false;
        return true;
    }

    /// <summary><c>projects/{project}</c>.</summary>
    public static bool TryParseProject(string name, [NotNullWhen(true)] out string? project)
    {
        ArgumentNullException.ThrowIfNull(name);
        project = name.StartsWith("projects/", StringComparison.Ordinal) && IsId(name.AsSpan(9)) ? name[9..] : null;
        return project is not null;
    }

    /// <summary><c>projects/{project}/vms/{vm}</c>.</summary>
    public static bool TryParseVm(string name, [NotNullWhen(true)] out string? parent, [NotNullWhen(true)] out string? id) =>
        TryParseChild(name, "/vms/", out parent, out id) && IsId(id);

    /// <summary><c>projects/{project}/images/sha256-{digits}</c>.</summary>
    public static bool TryParseImage(string name, [NotNullWhen(true)] out string? parent, [NotNullWhen(true)] out string? sha256)
    {
        if (TryParseChild(name, "/images/", out parent, out sha256) && sha256.StartsWith(ImageIdPrefix, StringComparison.Ordinal))
        {
            sha256 = sha256[ImageIdPrefix.Length..];
            return IsSha256(sha256);
        }

        return false;
    }

    /// <summary><c>projects/{project}/snapshots/{snapshot}</c>.</summary>
    public static bool TryParseSnapshot(string name, [NotNullWhen(true)] out string? parent, [NotNullWhen(true)] out string? id) =>
        TryParseChild(name, "/snapshots/", out parent, out id) && IsId(id);

    /// <summary>The full name of a VM.</summary>
    public static string Vm(string parent, string id) => $"{parent}/vms/{id}";

    /// <summary>The full name of an image.</summary>
    public static string Image(string parent, string sha256) => $"{parent}/images/{ImageIdPrefix}{sha256}";

    /// <summary>The full name of a snapshot.</summary>
    public static string Snapshot(string parent, string id) => $"{parent}/snapshots/{id}";

    private static bool TryParseChild(string name, string collection, [NotNullWhen(true)] out string? parent, [NotNullWhen(true)] out string? id)
    {
        ArgumentNullException.ThrowIfNull(name);
        int at = name.IndexOf(collection, StringComparison.Ordinal);
        if (at > 0 && TryParseProject(name[..at], out _))
        {
            parent = name[..at];
            id = name[(at + collection.Length)..];
            return true;
        }

        parent = id = null;
        return false;
    }
}
