using System.Globalization;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;
using Xunit;

namespace Vmm.Processor.Tests.Memory;

public sealed class SavedMemoryTests : IDisposable
{
    private readonly string _path = Path.GetTempFileName();

    public void Dispose() => File.Delete(_path);

    [Fact]
    public void What_is_saved_is_there_again_and_the_file_stays_as_it_is()
    {
        const ulong size = 64 << 20;
        var random = new Random(1);
        ulong[] addresses = [.. Enumerable.Range(0, 200).Select(_ => (ulong)random.NextInt64(1 << 20, (long)size - 8192)), 0, 0x9_FFFF, 0x10_0000, size - 1];
        using (var memory = new PhysicalMemory(size))
        {
            foreach (ulong address in addresses)
                Assert.True(memory.TryWrite(address, [(byte)(address | 1)]));
            Save(memory);
            Assert.All(addresses, address => Assert.Equal((byte)(address | 1), Read(memory, address)));
        }
        using PhysicalMemory one = Map(size), other = Map(size);
        Assert.All(addresses, address => Assert.Equal((byte)(address | 1), Read(one, address)));
        Assert.True(one.TryWrite(addresses[0], [0]));
        Assert.Equal((byte)(addresses[0] | 1), Read(other, addresses[0]));
        Assert.Equal((byte)(addresses[0] | 1), Read(Map(size), addresses[0]));
        Assert.Throws<InvalidStateException>(() => Map(size - 4096));
        Assert.Throws<InvalidStateException>(() => Map(size + 4096));
    }

    [Fact]
    public void A_memory_that_was_mapped_from_a_file_is_saved_as_any_other()
    {
        const ulong size = 4 << 20;
        using (var memory = new PhysicalMemory(size))
        {
            Assert.True(memory.TryWrite(0x1000, [1]) && memory.TryWrite(0x20_0000, [2]));
            Save(memory);
        }
        using PhysicalMemory mapped = Map(size);
        Assert.True(mapped.TryWrite(0x1000, [0]) && mapped.TryWrite(0x30_0000, [3]));
        Assert.Equal(8192UL, Save(mapped));
        using PhysicalMemory again = Map(size);
        Assert.Equal([0, 2, 3], new[] { Read(again, 0x1000), Read(again, 0x20_0000), Read(again, 0x30_0000) });
    }

    [Fact]
    public void To_save_takes_no_memory_of_the_host_for_what_the_guest_has_not_touched()
    {
        if (!OperatingSystem.IsLinux())
            return;
        const ulong size = 1UL << 30;
        using var memory = new PhysicalMemory(size);
        Assert.True(memory.TryWrite(size / 2, [1]));
        long before = SharedMemory();
        Assert.Equal(4096UL, Save(memory));
        Assert.InRange(SharedMemory() - before, -(256 << 20), 256 << 20);
    }

    private ulong Save(PhysicalMemory memory)
    {
        // Another file under the same name: the old one may be mapped.
        File.Delete(_path);
        using FileStream file = new(_path, FileMode.CreateNew);
        return memory.Save(file.SafeFileHandle);
    }

    private PhysicalMemory Map(ulong size)
    {
        using FileStream file = File.OpenRead(_path);
        return new PhysicalMemory(file, size);
    }

    private static byte Read(PhysicalMemory memory, ulong address)
    {
        Span<byte> value = stackalloc byte[1];
        Assert.True(memory.TryRead(address, value));
        return value[0];
    }

    // Bytes of shared memory that are resident in this process.
    private static long SharedMemory()
    {
        string line = File.ReadLines("/proc/self/status").Single(line => line.StartsWith("RssShmem:", StringComparison.Ordinal));
        return long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) << 10;
    }
}
