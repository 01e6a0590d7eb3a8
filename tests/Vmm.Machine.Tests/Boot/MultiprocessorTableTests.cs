using System.Buffers.Binary;
using System.Text;
using Vmm.Machine.Boot;
using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Machine.Tests.Boot;

public sealed class MultiprocessorTableTests
{
    private static byte[] Read(PhysicalMemory memory, ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Assert.True(memory.TryRead(address, bytes));
        return bytes;
    }

    [Theory]
    [InlineData(1)]
    [InlineData(16)]
    public void IsFoundByItsPointerAndDescribesTheBoard(int cpus)
    {
        using var memory = new PhysicalMemory(1 << 20);
        ulong at = Firmware.InstallMultiprocessorTable(memory, cpus, cpus);
        Assert.Equal(0ul, at % 16);
        byte[] pointer = Read(memory, at, 16);
        Assert.Equal("_MP_", Encoding.ASCII.GetString(pointer, 0, 4));
        Assert.Equal(0, (byte)pointer.Sum(b => b));
        uint table = BinaryPrimitives.ReadUInt32LittleEndian(pointer.AsSpan(4));
        int length = BinaryPrimitives.ReadUInt16LittleEndian(Read(memory, table + 4, 2));
        byte[] bytes = Read(memory, table, length);
        Assert.Equal("PCMP", Encoding.ASCII.GetString(bytes, 0, 4));
        Assert.Equal(0, (byte)bytes.Sum(b => b));

        var counts = new int[5];
        int entries = 0;
        for (int offset = 44; offset < length; entries++)
        {
            counts[bytes[offset]]++;
            offset += bytes[offset] == 0 ? 20 : 8;
        }
        Assert.Equal(BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(34)), entries);
        Assert.Equal([cpus, 2, 1, 15 + 31 * 4, 2], counts);
        // The first processor is the one that boots, and no other.
        Assert.Equal(3, bytes[44 + 3]);
        if (cpus > 1)
            Assert.Equal(1, bytes[44 + 20 + 3]);
        // ISA interrupt 0 is on pin 2.
        int firstInterrupt = 44 + cpus * 20 + 3 * 8;
        Assert.Equal([3, 0, 0, 0, 1, 0, (byte)cpus, 2], bytes[firstInterrupt..(firstInterrupt + 8)]);
    }
}
