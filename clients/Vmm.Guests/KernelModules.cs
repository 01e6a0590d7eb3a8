using System.Buffers.Binary;
using System.Text;

namespace Vmm.Guests;

/// <summary>A kernel module's file.</summary>
/// <param name="Name">As the kernel calls it, with underscores.</param>
/// <param name="Content">The ELF object.</param>
public sealed record KernelModule(string Name, byte[] Content);

/// <summary>Finds kernel modules and what they depend on. Debian makes <c>modules.dep</c> at installation, so it is read from the modules.</summary>
public static class KernelModules
{
    /// <summary>The named modules and all that they depend on, each after its dependencies, as <c>insmod</c> needs them.</summary>
    /// <param name="modulesPath">The <c>kernel</c> folder of an unpacked kernel package.</param>
    /// <param name="names">Module names; dashes and underscores are the same.</param>
    /// <exception cref="GuestUnavailableException">There is no such module (it may be built into the kernel), or it cannot be read.</exception>
    public static IReadOnlyList<KernelModule> Load(string modulesPath, IEnumerable<string> names)
    {
        var files = Directory.EnumerateFiles(modulesPath, "*.ko*", SearchOption.AllDirectories)
            .GroupBy(file => Canonical(Path.GetFileName(file).Split('.')[0]))
            .ToDictionary(group => group.Key, group => group.First(), StringComparer.Ordinal);
        var ordered = new List<KernelModule>();
        var seen = new HashSet<string>(StringComparer.Ordinal);
        foreach (var name in names)
            Add(Canonical(name));
        return ordered;

        void Add(string name)
        {
            if (!seen.Add(name))
                return;
            if (!files.TryGetValue(name, out var file))
                throw new GuestUnavailableException($"The kernel in {modulesPath} has no module '{name}'.");
            if (!file.EndsWith(".ko", StringComparison.Ordinal))
                throw new GuestUnavailableException($"{file} is compressed; only uncompressed modules can be read.");
            var content = File.ReadAllBytes(file);
            foreach (var dependency in ReadDependencies(content))
                Add(Canonical(dependency));
            ordered.Add(new KernelModule(name, content));
        }
    }

    private static string Canonical(string name) => name.Replace('-', '_');

    /// <summary>The <c>depends=</c> entry of the section <c>.modinfo</c> of an ELF64 object (System V ABI, chapter 4).</summary>
    private static string[] ReadDependencies(ReadOnlySpan<byte> elf)
    {
        if (elf.Length < 64 || !elf[..4].SequenceEqual("\u007FELF"u8))
            throw new GuestUnavailableException("A kernel module is not an ELF file.");
        var table = BinaryPrimitives.ReadUInt64LittleEndian(elf[0x28..]);
        var entrySize = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3A..]);
        var count = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3C..]);
        var names = Section(elf, table, entrySize, BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3E..]), out _);
        for (var index = 0; index < count; index++)
        {
            var content = Section(elf, table, entrySize, index, out var nameOffset);
            var name = names[(int)nameOffset..];
            if (!name[..name.IndexOf((byte)0)].SequenceEqual(".modinfo"u8))
                continue;
            foreach (var entry in Encoding.UTF8.GetString(content).Split('\0'))
                if (entry.StartsWith("depends=", StringComparison.Ordinal))
                    return entry["depends=".Length..].Split(',', StringSplitOptions.RemoveEmptyEntries);
        }

        return [];
    }

    private static ReadOnlySpan<byte> Section(ReadOnlySpan<byte> elf, ulong table, int entrySize, int index, out uint nameOffset)
    {
        var header = elf[(int)(table + (ulong)(index * entrySize))..];
        nameOffset = BinaryPrimitives.ReadUInt32LittleEndian(header);
        const uint noBits = 8;
        if (BinaryPrimitives.ReadUInt32LittleEndian(header[4..]) == noBits)
            return [];
        var offset = BinaryPrimitives.ReadUInt64LittleEndian(header[0x18..]);
        var size = BinaryPrimitives.ReadUInt64LittleEndian(header[0x20..]);
        return elf.Slice((int)offset, (int)size);
    }
}
