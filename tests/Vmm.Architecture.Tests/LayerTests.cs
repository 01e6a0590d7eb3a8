using Xunit;

namespace Vmm.Architecture.Tests;

/// <summary>Dependencies point downwards only, as the compiled references show.</summary>
public sealed class LayerTests
{
    /// <summary>The engine from the bottom up; each may use those before it.</summary>
    private static readonly string[] Engine = ["Vmm.Processor", "Vmm.Hypervisor", "Vmm.Devices", "Vmm.Machine"];

    /// <summary>What nothing in the engine may know of: servers, wire formats, loggers, other processes.</summary>
    private static readonly string[] ForeignToEngine =
        ["Grpc.", "Google.", "Microsoft.AspNetCore", "Microsoft.Extensions.", "System.Net.", "Npgsql", "OpenTelemetry", "Serilog", "System.Diagnostics.Process"];

    [Fact]
    public void Engine_references_only_layers_below()
    {
        foreach (var assembly in ProductAssembly.All.Where(assembly => assembly.Folder == "engine"))
        {
            var rank = Array.IndexOf(Engine, assembly.Name);
            Assert.True(rank >= 0, $"{assembly.Name} is in engine/ and has no place in the order of its layers: give it one here and in engine/README.md.");
            foreach (var reference in OwnReferences(assembly))
            {
                var below = Array.IndexOf(Engine, reference);
                Assert.True(below >= 0 && below < rank, $"{assembly.Name} must not reference {reference}: it does not stand below.");
            }
        }
    }

    [Fact]
    public void Engine_knows_no_server_wire_format_or_logger()
    {
        foreach (var assembly in ProductAssembly.All.Where(assembly => assembly.Folder == "engine"))
            foreach (var reference in assembly.References)
                Assert.False(
                    ForeignToEngine.Any(foreign => reference.StartsWith(foreign, StringComparison.Ordinal)),
                    $"{assembly.Name} references {reference}.");
    }

    [Fact]
    public void Protocols_reference_nothing_of_ours_but_protocols() => OnlyFolders("protos", ["protos"]);

    [Fact]
    public void Services_reference_no_client() => OnlyFolders("services", ["services", "protos", "engine"]);

    [Fact]
    public void Clients_reference_no_engine() => OnlyFolders("clients", ["clients", "protos", "services"]);

    [Fact]
    public void Only_vmmctl_hosts_a_server()
    {
        foreach (var assembly in ProductAssembly.All.Where(assembly => assembly.Folder == "clients"))
            foreach (var reference in OwnReferences(assembly).Where(reference => FolderOf(reference) == "services"))
                Assert.True(assembly.Name == "vmmctl" && reference == "vmmd", $"{assembly.Name} must not reference {reference}.");
    }

    [Fact]
    public void Front_end_knows_workers_only_by_protocol()
    {
        foreach (var assembly in ProductAssembly.All.Where(assembly => assembly.Name == "Vmm.Frontend"))
            foreach (var reference in OwnReferences(assembly))
                Assert.True(
                    FolderOf(reference) == "protos" || reference == "Vmm.Registry",
                    $"{assembly.Name} must not reference {reference}: it reaches workers through protos/vmm/worker.");
    }

    [Fact]
    public void Every_product_project_is_looked_at()
    {
        var names = ProductAssembly.All.Select(assembly => assembly.Name).ToList();
        Assert.Superset(Engine.ToHashSet(StringComparer.Ordinal), names.ToHashSet(StringComparer.Ordinal));
        Assert.Equal(names.Count, names.Distinct(StringComparer.Ordinal).Count());
    }

    private static void OnlyFolders(string folder, string[] allowed)
    {
        foreach (var assembly in ProductAssembly.All.Where(assembly => assembly.Folder == folder))
            foreach (var reference in OwnReferences(assembly))
                Assert.True(
                    allowed.Contains(FolderOf(reference)),
                    $"{assembly.Name} in {folder}/ must not reference {reference} in {FolderOf(reference)}/.");
    }

    private static IEnumerable<string> OwnReferences(ProductAssembly assembly) =>
        assembly.References.Where(reference => FolderOf(reference) is not null);

    private static string? FolderOf(string name) => ProductAssembly.All.FirstOrDefault(assembly => assembly.Name == name)?.Folder;
}
