using Vmm.Machine.Boot;
using Xunit;

namespace Vmm.Machine.Tests.Boot;

public sealed class BootFilesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-boot-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Machines_of_one_file_share_its_content_until_it_is_written()
    {
        string kernel = Path.Combine(_folder, "kernel");
        File.WriteAllBytes(kernel, [1, 2, 3]);
        ReadOnlyMemory<byte> first = Read(), second = Read();
        Assert.True(first.Equals(second));
        Assert.Equal([1, 2, 3], first.ToArray());

        File.WriteAllBytes(kernel, [4, 5, 6]);
        File.SetLastWriteTimeUtc(kernel, File.GetLastWriteTimeUtc(kernel).AddSeconds(1));
        Assert.Equal([4, 5, 6], Read().ToArray());
        Assert.Equal([1, 2, 3], first.ToArray());
        File.Delete(kernel);
        Assert.Throws<InvalidMachineException>(() => Read());

        ReadOnlyMemory<byte> Read() => BootLoader.Read(new MachineSpec { MemoryBytes = 1 << 20, KernelPath = kernel }).Kernel;
    }
}
