using System.Text;

namespace Vmm.Guests;

/// <summary>What an initial RAM file system of busybox does once it is up.</summary>
public sealed record Initramfs
{
    /// <summary>The line that <c>/init</c> prints once the file systems are mounted, before anything else.</summary>
    public const string ReadyLine = "vmm: /init reached";

    /// <summary>The prompt of the interactive shell.</summary>
    public const string Prompt = "vmm# ";

    /// <summary>Kernel modules to load at boot; those they depend on are added.</summary>
    public IReadOnlyList<string> Modules { get; init; } = [];

    /// <summary>
    /// Lines of shell run as <c>/init</c> after the mounts; empty for an interactive shell on the console. Either way the guest
    /// powers off afterwards.
    /// </summary>
    public string Script { get; init; } = "";

    /// <summary>Further files by path, without a leading slash; executable.</summary>
    public IReadOnlyDictionary<string, byte[]> Files { get; init; } = new SortedDictionary<string, byte[]>(StringComparer.Ordinal);

    /// <summary>Writes the archive, uncompressed.</summary>
    /// <param name="output">Gets the archive; stays open.</param>
    /// <param name="busybox">A static busybox.</param>
    /// <param name="modules">In the order they are to be loaded.</param>
    public void Write(Stream output, ReadOnlySpan<byte> busybox, IReadOnlyList<KernelModule> modules)
    {
        using var archive = new CpioWriter(output);
        foreach (var folder in new[] { "bin", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin" })
            archive.AddDirectory(folder);
        archive.AddCharacterDevice("dev/console", 5, 1);
        archive.AddFile("bin/busybox", busybox, executable: true);
        archive.AddSymbolicLink("bin/sh", "busybox");
        foreach (var module in modules)
            archive.AddFile($"lib/{module.Name}.ko", module.Content);
        foreach (var (path, content) in Files.OrderBy(file => file.Key, StringComparer.Ordinal))
            archive.AddFile(path, content, executable: true);
        archive.AddFile("init", Encoding.UTF8.GetBytes(InitScript(modules)), executable: true);
    }

    private string InitScript(IReadOnlyList<KernelModule> modules)
    {
        var text = new StringBuilder();
        Line("#!/bin/busybox sh");
        Line("/bin/busybox mount -t proc proc /proc");
        Line("/bin/busybox mount -t sysfs sysfs /sys");
        Line("/bin/busybox mount -t devtmpfs devtmpfs /dev");
        Line($"echo '{ReadyLine}'");
        Line("/bin/busybox --install -s");
        Line("export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux");
        foreach (var module in modules)
            Line($"insmod /lib/{module.Name}.ko");
        if (Script.Length != 0)
        {
            Line(Script);
        }
        else
        {
            Line($"export PS1='{Prompt}'");
            // A controlling terminal, so that Ctrl-C reaches what the shell runs and not the shell.
            Line("setsid cttyhack sh -i");
        }

        Line("sync");
        Line("poweroff -f");
        // Power-off does not return; where the machine has none, PID 1 must not end, for the kernel would panic.
        Line("while :; do sleep 3600; done");
        return text.ToString();

        void Line(string line) => text.Append(line).Append('\n');
    }
}
