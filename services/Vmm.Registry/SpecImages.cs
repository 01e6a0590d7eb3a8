using Vmm.V1;

namespace Vmm.Registry;

/// <summary>The images that a VM is made from.</summary>
public static class SpecImages
{
    /// <summary>Their names, each once.</summary>
    public static IReadOnlyList<string> Of(VmSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        IEnumerable<FileSource?> sources = [spec.Kernel, spec.Initrd, .. spec.Modules.Select(module => module.Source), .. spec.Disks.Select(disk => disk.Source)];
        return [.. sources.Where(source => source?.SourceCase == FileSource.SourceOneofCase.Image).Select(source => source!.Image).Distinct(StringComparer.Ordinal)];
    }
}
