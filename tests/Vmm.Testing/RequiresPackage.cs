using Xunit;

namespace Vmm.Testing;

/// <summary>A test that is skipped, with the reason in the test output, where a Debian package is not installed.</summary>
/// <example><c>[RequiresPackageFact("qemu-system-x86")]</c></example>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresPackageFactAttribute : FactAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>.</summary>
    public RequiresPackageFactAttribute(params string[] packages)
    {
        Packages = packages;
        Skip = DebianTool.MissingReason(packages);
    }

    /// <summary>What the test needs.</summary>
    public IReadOnlyList<string> Packages { get; }
}

/// <summary>As <see cref="RequiresPackageFactAttribute"/>, for a theory.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresPackageTheoryAttribute : TheoryAttribute
{
    /// <summary>Needs all of <paramref name="packages"/>.</summary>
    public RequiresPackageTheoryAttribute(params string[] packages)
    {
        Packages = packages;
        Skip = DebianTool.MissingReason(packages);
    }

    /// <summary>What the test needs.</summary>
    public IReadOnlyList<string> Packages { get; }
}

/// <summary>A test that boots Debian's cloud kernel: skipped, with the reason, where it can neither be found nor fetched.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresLinuxGuestFactAttribute : FactAttribute
{
    /// <summary>Needs Debian's kernel and busybox.</summary>
    public RequiresLinuxGuestFactAttribute() => Skip = DebianTool.MissingGuestReason();
}

/// <summary>As <see cref="RequiresLinuxGuestFactAttribute"/>, for a theory.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class RequiresLinuxGuestTheoryAttribute : TheoryAttribute
{
    /// <summary>Needs Debian's kernel and busybox.</summary>
    public RequiresLinuxGuestTheoryAttribute() => Skip = DebianTool.MissingGuestReason();
}
