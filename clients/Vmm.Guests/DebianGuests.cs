namespace Vmm.Guests;

/// <summary>A kernel of Debian's, unpacked.</summary>
/// <param name="Version">As <c>uname -r</c> shows it, <c>6.1.0-50-cloud-amd64</c>.</param>
/// <param name="KernelPath">The bzImage.</param>
/// <param name="ModulesPath">The folder of its modules, <c>…/lib/modules/VERSION/kernel</c>.</param>
public sealed record DebianKernel(string Version, string KernelPath, string ModulesPath);

/// <summary>The stock guests of the quickstart and the tests: Debian's cloud kernel and its static busybox, fetched once.</summary>
public sealed class DebianGuests(GuestCache cache)
{
    /// <summary>The meta package of the kernel.</summary>
    public const string KernelPackage = "linux-image-cloud-amd64";

    /// <summary>The package of the shell and its tools.</summary>
    public const string BusyboxPackage = "busybox-static";

    private readonly DebianArchive _archive = new(cache);

    /// <summary>Those of <see cref="GuestCache.Default"/>.</summary>
    public static DebianGuests Default => new(GuestCache.Default);

    /// <summary>Debian's cloud kernel: from the cache, else from the archive.</summary>
    /// <exception cref="GuestUnavailableException">It is not in the cache and cannot be fetched.</exception>
    public async Task<DebianKernel> GetKernelAsync(IProgress<string>? progress, CancellationToken cancellation)
    {
        var folder = await cache.GetOrAddAsync(
            KernelPackage,
            async draft =>
            {
                progress?.Report($"looking up {KernelPackage}");
                var package = await _archive.ResolveAsync(KernelPackage, "linux-image-", progress, cancellation).ConfigureAwait(false);
                await _archive.UnpackAsync(package, draft, progress, cancellation).ConfigureAwait(false);
            },
            cancellation).ConfigureAwait(false);
        const string prefix = "vmlinuz-";
        var kernel = Directory.EnumerateFiles(Path.Combine(folder, "boot"), prefix + "*").Order(StringComparer.Ordinal).LastOrDefault()
            ?? throw new GuestUnavailableException($"Debian's kernel package in {folder} has no {prefix}*; remove the folder and try again.");
        var version = Path.GetFileName(kernel)[prefix.Length..];
        // Debian moved the modules below /usr with trixie.
        var modules = new[] { "lib", "usr/lib" }
            .Select(root => Path.Combine(folder, root, "modules", version, "kernel"))
            .FirstOrDefault(Directory.Exists)
            ?? throw new GuestUnavailableException($"Debian's kernel package in {folder} has no modules; remove the folder and try again.");
        return new DebianKernel(version, kernel, modules);
    }

    /// <summary>The path of a static busybox: from the cache, else from the archive.</summary>
    /// <exception cref="GuestUnavailableException">It is not in the cache and cannot be fetched.</exception>
    public async Task<string> GetBusyboxAsync(IProgress<string>? progress, CancellationToken cancellation)
    {
        var folder = await cache.GetOrAddAsync(
            BusyboxPackage, draft => _archive.UnpackAsync(BusyboxPackage, draft, progress, cancellation), cancellation).ConfigureAwait(false);
        return new[] { "bin/busybox", "usr/bin/busybox" }
            .Select(file => Path.Combine(folder, file))
            .FirstOrDefault(File.Exists)
            ?? throw new GuestUnavailableException($"Debian's {BusyboxPackage} in {folder} has no busybox; remove the folder and try again.");
    }

    /// <summary>
    /// Writes an initial RAM file system into a file of its own in the cache and returns its path. The same content gives the
    /// same path, so that callers need not clean up.
    /// </summary>
    public async Task<string> BuildInitramfsAsync(Initramfs content, IProgress<string>? progress, CancellationToken cancellation)
    {
        var busybox = await GetBusyboxAsync(progress, cancellation).ConfigureAwait(false);
        var modules = content.Modules.Count == 0
            ? []
            : KernelModules.Load((await GetKernelAsync(progress, cancellation).ConfigureAwait(false)).ModulesPath, content.Modules);
        using var image = new MemoryStream();
        content.Write(image, File.ReadAllBytes(busybox), modules);
        image.Position = 0;
        var digest = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(image))[..16];
        var folder = await cache.GetOrAddAsync(
            "initramfs-" + digest,
            draft => File.WriteAllBytesAsync(Path.Combine(draft, "initramfs.cpio"), image.ToArray(), cancellation),
            cancellation).ConfigureAwait(false);
        return Path.Combine(folder, "initramfs.cpio");
    }
}
