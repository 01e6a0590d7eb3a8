using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;
using System.Xml.Linq;
using Vmm.Testing;

namespace Vmm.Architecture.Tests;

/// <summary>A product project with what its compiled assembly says.</summary>
/// <param name="Folder">The top-level folder it lives in.</param>
/// <param name="Name">The assembly's name.</param>
/// <param name="References">Names of the assemblies that its code uses.</param>
/// <param name="Types">Full names of its types, generated ones left out.</param>
public sealed record ProductAssembly(string Folder, string Name, IReadOnlySet<string> References, IReadOnlyList<string> Types)
{
    /// <summary>The top-level folders with product code.</summary>
    public static IReadOnlyList<string> ProductFolders { get; } = ["engine", "protos", "services", "clients"];

    /// <summary>All of them, read once.</summary>
    public static IReadOnlyList<ProductAssembly> All { get; } = ReadAll();

    private static List<ProductAssembly> ReadAll()
    {
        var all = new List<ProductAssembly>();
        foreach (var folder in ProductFolders.Where(folder => Directory.Exists(Path.Combine(Repository.Root, folder))))
            foreach (var project in Repository.Files("*.csproj", folder))
            {
                var name = XDocument.Load(Path.Combine(Repository.Root, project)).Descendants("AssemblyName").FirstOrDefault()?.Value
                    ?? Path.GetFileNameWithoutExtension(project);
                all.Add(Read(folder, name));
            }

        return all;
    }

    private static ProductAssembly Read(string folder, string name)
    {
        using var file = new PEReader(File.OpenRead(Path.Combine(AppContext.BaseDirectory, name + ".dll")));
        var metadata = file.GetMetadataReader();
        var references = metadata.AssemblyReferences
            .Select(handle => metadata.GetString(metadata.GetAssemblyReference(handle).Name))
            .ToHashSet(StringComparer.Ordinal);
        var types = metadata.TypeDefinitions
            .Select(metadata.GetTypeDefinition)
            .Select(type => metadata.GetString(type.Namespace) + "." + metadata.GetString(type.Name))
            .Where(type => !type.Contains('<', StringComparison.Ordinal) && !type.Contains(".__", StringComparison.Ordinal)) // compiled, protoc's
            .ToList();
        return new ProductAssembly(folder, name, references, types);
    }
}
