using Vmm.Guests;

namespace Vmm.Testing;

/// <summary>Programs that tests use where they are installed, by the Debian package that has them. <c>tests/packages</c> lists the same.</summary>
public static class DebianTool
{
    private static readonly Dictionary<string, string> Programs = new(StringComparer.Ordinal)
    {
        ["bochs"] = "bochs",
        ["docker-compose"] = "docker-compose",
        ["gcc"] = "gcc",
        // A file, where the package has no program.
        ["libc6-dev"] = "/usr/include/stdio.h",
        ["nasm"] = "nasm",
        // Debian keeps the server's programs of each version in a folder of their own.
        ["postgresql"] = PostgresProgram("postgres"),
        ["prometheus"] = "prometheus",
        ["qemu-system-x86"] = "qemu-system-x86_64",
        ["systemd"] = "systemd-analyze",
    };

    /// <summary>The path of a program of the newest PostgreSQL server that is installed; names no file where none is.</summary>
    public static string PostgresProgram(string program)
    {
        const string versions = "/usr/lib/postgresql";
        string? newest = Directory.Exists(versions)
            ? Directory.EnumerateDirectories(versions).MaxBy(folder => int.TryParse(Path.GetFileName(folder), out int version) ? version : 0)
            : null;
        return Path.Combine(newest ?? versions, "bin", program);
    }

    /// <summary>The path of the package's program, or null where it is not installed.</summary>
    /// <exception cref="ArgumentException">No test may use that package: <c>tests/packages</c> and this class do not list it.</exception>
    public static string? Find(string package)
    {
        if (!Programs.TryGetValue(package, out var program))
            throw new ArgumentException($"Package '{package}' is not in {nameof(DebianTool)}.", nameof(package));
        return (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .Select(folder => Path.Combine(folder, program))
            .FirstOrDefault(File.Exists);
    }

    /// <summary>Why a test that needs these packages must be skipped, or null where all are there.</summary>
    public static string? MissingReason(params ReadOnlySpan<string> packages)
    {
        var missing = new List<string>();
        foreach (var package in packages)
            if (Find(package) is null)
                missing.Add(package);
        return missing.Count == 0 ? null : $"needs Debian's {string.Join(", ", missing)}: apt-get install {string.Join(' ', missing)}";
    }

    /// <summary>Why a test that boots Debian's kernel must be skipped, or null where it can be had.</summary>
    public static string? MissingGuestReason()
    {
        var cache = GuestCache.Default.Root;
        var cached = Directory.Exists(Path.Combine(cache, DebianGuests.KernelPackage))
            && Directory.Exists(Path.Combine(cache, DebianGuests.BusyboxPackage));
        return cached || DebianArchive.IsAvailable
            ? null
            : $"needs Debian's {DebianGuests.KernelPackage} and {DebianGuests.BusyboxPackage}, and this host has no apt to fetch them";
    }
}
