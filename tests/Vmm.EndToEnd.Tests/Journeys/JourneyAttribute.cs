using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;
using Xunit.Sdk;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>
/// A test that every installation runs for which a class is derived from its own; skipped where Debian's kernel or a package cannot be had, or
/// where that class needs what is not there (<see cref="RequirementAttribute"/>).
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
[XunitTestCaseDiscoverer("Vmm.EndToEnd.Tests.Journeys.JourneyDiscoverer", "Vmm.EndToEnd.Tests")]
public sealed class JourneyAttribute : FactAttribute
{
    /// <summary>Needs Debian's kernel and busybox, and further packages, which are divided by spaces.</summary>
    public JourneyAttribute(string packages = "") => (Packages, Skip) = (packages, Requirements.MissingReason(packages));

    /// <summary>What the test needs.</summary>
    public string Packages { get; }
}

/// <summary>As <see cref="JourneyAttribute"/>, for a theory.</summary>
[AttributeUsage(AttributeTargets.Method)]
[XunitTestCaseDiscoverer("Vmm.EndToEnd.Tests.Journeys.JourneyTheoryDiscoverer", "Vmm.EndToEnd.Tests")]
public sealed class JourneyTheoryAttribute : TheoryAttribute
{
    /// <summary>Needs Debian's kernel and busybox.</summary>
    public JourneyTheoryAttribute() => Skip = Requirements.MissingReason("");
}

/// <summary>What the journeys of a class need of the host.</summary>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true)]
public abstract class RequirementAttribute : Attribute
{
    /// <summary>Why they must be skipped, or null.</summary>
    public abstract string? MissingReason { get; }
}

/// <summary>A Docker daemon, Compose and the images of <c>deploy/images/build --postgres</c>.</summary>
public sealed class RequiresDockerAttribute : RequirementAttribute
{
    /// <inheritdoc/>
    public override string? MissingReason => DockerCompose.MissingReason;
}

/// <summary>A package of Debian's.</summary>
public sealed class RequiresPackageAttribute(string package) : RequirementAttribute
{
    /// <summary>Its name.</summary>
    public string Package { get; } = package;

    /// <inheritdoc/>
    public override string? MissingReason => DebianTool.MissingReason(Package);
}

/// <summary>Nightly mode: these journeys take minutes, and another installation makes them every time.</summary>
public sealed class RequiresNightlyAttribute : RequirementAttribute
{
    /// <inheritdoc/>
    public override string? MissingReason => System.Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? null : "only with VMM_NIGHTLY=1";
}

/// <summary>Finds journeys.</summary>
public sealed class JourneyDiscoverer(IMessageSink messages) : FactDiscoverer(messages)
{
    /// <inheritdoc/>
    public override IEnumerable<IXunitTestCase> Discover(ITestFrameworkDiscoveryOptions discoveryOptions, ITestMethod testMethod, IAttributeInfo factAttribute) =>
        Requirements.SkippedCase(DiagnosticMessageSink, discoveryOptions, testMethod) is { } skipped ? [skipped] : base.Discover(discoveryOptions, testMethod, factAttribute);
}

/// <summary>Finds journeys that are theories.</summary>
public sealed class JourneyTheoryDiscoverer(IMessageSink messages) : TheoryDiscoverer(messages)
{
    /// <inheritdoc/>
    public override IEnumerable<IXunitTestCase> Discover(ITestFrameworkDiscoveryOptions discoveryOptions, ITestMethod testMethod, IAttributeInfo theoryAttribute) =>
        Requirements.SkippedCase(DiagnosticMessageSink, discoveryOptions, testMethod) is { } skipped ? [skipped] : base.Discover(discoveryOptions, testMethod, theoryAttribute);
}

/// <summary>Why journeys are skipped.</summary>
internal static class Requirements
{
    public static string? MissingReason(string packages) =>
        DebianTool.MissingReason(packages.Split(' ', StringSplitOptions.RemoveEmptyEntries)) ?? DebianTool.MissingGuestReason();

    /// <summary>The test case in the place of a journey's whose class needs what is not there; null where it can be made.</summary>
    public static IXunitTestCase? SkippedCase(IMessageSink messages, ITestFrameworkDiscoveryOptions options, ITestMethod method)
    {
        string? reason = method.TestClass.Class.ToRuntimeType().GetCustomAttributes(typeof(RequirementAttribute), inherit: true)
            .Cast<RequirementAttribute>().Select(requirement => requirement.MissingReason).FirstOrDefault(missing => missing is not null);
        return reason is null ? null : new XunitSkippedDataRowTestCase(messages, options.MethodDisplayOrDefault(), options.MethodDisplayOptionsOrDefault(), method, reason);
    }
}
