using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>Loads a kernel of whatever format its content shows.</summary>
public static class BootLoader
{
    private const string Kernel = nameof(MachineSpec.KernelPath);

    /// <summary>The least RAM that the map of a PC makes sense with.</summary>
    public const ulong SmallestMemory = 0x10_0000;

    /// <summary>Puts a kernel, its modules and its command line into RAM.</summary>
    /// <exception cref="InvalidMachineException">A file or the command line is not acceptable. RAM may hold parts of it; no vCPU may start.</exception>
    public static BootImage Load(BootRequest request, PhysicalMemory memory)
    {
        ArgumentNullException.ThrowIfNull(request);
        ArgumentNullException.ThrowIfNull(memory);
        if (memory.LowSize < SmallestMemory)
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), "A machine needs at least 1 MiB of memory.");
        ReadOnlySpan<byte> file = request.Kernel.Span;
        if (file.IsEmpty)
            throw new InvalidMachineException(Kernel, "The kernel file is empty.");
        var target = new BootMemory(memory);
        if (LinuxLoader.Recognises(file))
            return LinuxLoader.Load(request, target);
        if (MultibootLoader.FindHeader(file) is var header and >= 0)
            return MultibootLoader.Load(request, target, header);
        if (ElfFile.Recognises(file))
        {
            ElfFile elf = ElfFile.Parse(request.Kernel);
            if (PvhLoader.Recognises(elf))
                return PvhLoader.Load(request, target, elf);
            throw new InvalidMachineException(Kernel, "The ELF file has neither a Multiboot header in its first 8192 bytes nor a PVH entry note.");
        }
        throw new InvalidMachineException(Kernel, "The kernel file is not a Linux bzImage, an ELF file with a PVH entry note or a Multiboot 1 kernel.");
    }

    /// <summary>Reads the files of a spec. The guest is told their names without the host's folders.</summary>
    /// <exception cref="InvalidMachineException">One cannot be read.</exception>
    public static BootRequest Read(MachineSpec spec)
    {
        ArgumentNullException.ThrowIfNull(spec);
        var modules = new List<BootModule>();
        if (spec.InitrdPath is { } initrd)
            modules.Add(new(nameof(MachineSpec.InitrdPath), ReadFile(initrd, nameof(MachineSpec.InitrdPath)), Path.GetFileName(initrd)));
        foreach ((string path, string commandLine) in spec.Modules)
            modules.Add(new(nameof(MachineSpec.Modules), ReadFile(path, nameof(MachineSpec.Modules)), $"{Path.GetFileName(path)} {commandLine}".TrimEnd()));
        return new BootRequest
        {
            Kernel = ReadFile(spec.KernelPath, Kernel),
            KernelName = Path.GetFileName(spec.KernelPath),
            CommandLine = spec.CommandLine,
            Modules = modules,
        };
    }

    private static byte[] ReadFile(string path, string field)
    {
        try
        {
            return BootFiles.Read(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new InvalidMachineException(field, $"'{path}' cannot be read: {e.Message}");
        }
    }
}
