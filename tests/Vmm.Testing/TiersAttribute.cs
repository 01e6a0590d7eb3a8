using System.Reflection;
using Xunit.Sdk;

namespace Vmm.Testing;

/// <summary>A theory that every tier executes: its last parameter is the <see cref="Tier"/>.</summary>
/// <param name="values">The values of a parameter before that one; with none, the tier is the only parameter.</param>
[AttributeUsage(AttributeTargets.Method)]
public sealed class TiersAttribute(params object[] values) : DataAttribute
{
    /// <summary>The values of the parameter before the tier.</summary>
    public IReadOnlyList<object> Values { get; } = values;

    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod) =>
        from tier in Enum.GetValues<Tier>()
        from before in Values.Count == 0 ? [[]] : Values.Select(value => new[] { value })
        select (object[])[.. before, tier];
}
