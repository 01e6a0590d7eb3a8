using System.Reflection;
using Google.Protobuf.Reflection;
using Vmm.V1;

namespace Vmm.Services.Tests;

/// <summary>Every method of the public API, found by the descriptors of what is generated.</summary>
internal static class PublicApi
{
    public static IReadOnlyList<MethodDescriptor> Methods { get; } =
    [
        .. typeof(Vm).Assembly.GetTypes()
            .Where(type => type.Namespace == typeof(Vm).Namespace && type.Name.EndsWith("Reflection", StringComparison.Ordinal))
            .Select(type => (FileDescriptor)type.GetProperty("Descriptor", BindingFlags.Public | BindingFlags.Static)!.GetValue(null)!)
            .SelectMany(file => file.Services)
            .SelectMany(service => service.Methods)
            .OrderBy(method => method.FullName, StringComparer.Ordinal),
    ];

    /// <summary>A method's name as it is on the wire.</summary>
    public static string PathOf(MethodDescriptor method) => $"/{method.Service.FullName}/{method.Name}";
}
