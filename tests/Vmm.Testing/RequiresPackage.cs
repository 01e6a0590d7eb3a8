using System.Runtime.CompilerServices;
using Xunit;

namespace Vmm.Testing;

/// <summary>A test that is skipped where a Debian package is not installed. The reason is in its name then, which every test runner shows.</summary>
/// <example><c>[RequiresPackageFact("qemu-system-x86")]</c></example>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresPackageFactAttribute : FactAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>, which are divided by spaces.</summary>
    public RequiresPackageFactAttribute(string packages, [CallerMemberName] string? test = null)
    {
        Packages = packages;
        if (DebianTool.MissingReason(packages.Split(' ')) is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }

    /// <summary>What the test needs.</summary>
    public string Packages { get; }
}

/// <summary>As <see cref="RequiresPackageFactAttribute"/>, for a theory.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresPackageTheoryAttribute : TheoryAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>, which are divided by spaces.</summary>
    public RequiresPackageTheoryAttribute(string packages, [CallerMemberName] string? test = null)
    {
        Packages = packages;
        if (DebianTool.MissingReason(packages.Split(' ')) is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }

    /// <summary>What the test needs.</summary>
    public string Packages { get; }
}

/// <summary>A test that takes minutes: skipped but in nightly mode (VMM_NIGHTLY=1), and where a Debian package is not installed.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class NightlyFactAttribute : FactAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>, which are divided by spaces.</summary>
    public NightlyFactAttribute(string packages, [CallerMemberName] string? test = null)
    {
        Packages = packages;
        string? reason = Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? DebianTool.MissingReason(packages.Split(' ')) : "only with VMM_NIGHTLY=1";
        if (reason != null)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }

    /// <summary>What the test needs.</summary>
    public string Packages { get; }
}

/// <summary>A test that boots Debian's cloud kernel: skipped, with the reason in its name, where that can neither be found nor fetched.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresLinuxGuestFactAttribute : FactAttribute
{
    /// <summary>Needs Debian's kernel and busybox.</summary>
    public RequiresLinuxGuestFactAttribute([CallerMemberName] string? test = null)
    {
        if (DebianTool.MissingGuestReason() is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }
}

/// <summary>As <see cref="RequiresLinuxGuestFactAttribute"/>, for a theory.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresLinuxGuestTheoryAttribute : TheoryAttribute
{
    /// <summary>Needs Debian's kernel and busybox.</summary>
    public RequiresLinuxGuestTheoryAttribute([CallerMemberName] string? test = null)
    {
        if (DebianTool.MissingGuestReason() is { } reason)
            (Skip, DisplayName) = (reason, $"{test} ({reason})");
    }
}
