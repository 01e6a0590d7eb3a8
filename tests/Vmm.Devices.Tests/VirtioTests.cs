using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Board;
using Vmm.Devices.Storage;
using Vmm.Devices.Tests.Fixture;
using Xunit;

namespace Vmm.Devices.Tests;

public sealed class VirtioTests : IDisposable
{
    private const int RngSlot = 2;
    private const int ConsoleSlot = 3;
    private const int DiskSlot = 4;
    private const ulong Header = 0x8_0000;
    private const ulong Data = 0x9_0000;
    private const ulong StatusByte = 0x8_8000;

    private readonly string _path = Path.Combine(Path.GetTempPath(), $"vmm-virtio-{Guid.NewGuid():n}.img");
    private readonly RawFileDisk _disk;
    private readonly StringBuilder _console = new();
    private readonly TestBoard _board;

    public VirtioTests()
    {
        byte[] content = new byte[64 * 512 + 100];
        for (int i = 0; i < content.Length; i++)
            content[i] = (byte)(i / 512);
        File.WriteAllBytes(_path, content);
        _disk = new RawFileDisk(_path, readOnly: false);
        _board = new TestBoard(options => options with
        {
            Disks = [new BoardDisk(_disk, "disk-0")],
            Entropy = bytes => bytes.Fill(0x5A),
            VirtioConsoleOutput = bytes => _console.Append(Encoding.ASCII.GetString(bytes)),
        });
    }

    public void Dispose()
    {
        _disk.Dispose();
        File.Delete(_path);
    }

    private static void WriteHeader(VirtioDriver driver, uint type, ulong sector)
    {
        Span<byte> header = driver.Memory(Header, 16);
        header.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        driver.Memory(StatusByte, 1)[0] = 0xFF;
    }

    private static byte Request(VirtioDriver driver, uint type, ulong sector, uint length, bool writable)
    {
        WriteHeader(driver, type, sector);
        if (length == 0)
            driver.Offer(0, (Header, 16, false), (StatusByte, 1, true));
        else
            driver.Offer(0, (Header, 16, false), (Data, length, writable), (StatusByte, 1, true));
        driver.Notify(0);
        return driver.Memory(StatusByte, 1)[0];
    }

    [Fact]
    public void NegotiationRefusesUnknownFeaturesAndTheLegacyInterface()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        Assert.Equal(VirtioDriver.Version1, driver.DeviceFeatures & VirtioDriver.Version1);
        Assert.False(driver.Negotiate(VirtioDriver.Version1 | 1UL << 40));
        Assert.False(driver.Negotiate(0));
        Assert.True(driver.Negotiate(VirtioDriver.Version1));
        // Coming up without accepted features is not possible.
        Assert.False(driver.Negotiate(0));
        driver.Status = 15;
        Assert.Equal(0, driver.Status & 4);
    }

    [Fact]
    public void BlockReadsWritesAndFlushes()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        driver.Start(1);
        Assert.Equal(64ul, driver.Read(0x2000, 4));
        Assert.Equal(0, Request(driver, 0, 3, 1024, writable: true));
        Assert.Equal((byte)3, driver.Memory(Data, 1)[0]);
        Assert.Equal((byte)4, driver.Memory(Data + 512, 1)[0]);
        Assert.Equal((0u, 1025u), driver.UsedEntry(0, 0));
        driver.Memory(Data, 512).Fill(0xEE);
        Assert.Equal(0, Request(driver, 1, 63, 512, writable: false));
        Assert.Equal(0, Request(driver, 4, 0, 0, writable: false));
        byte[] file = new byte[512];
        Assert.True(_disk.TryRead(63 * 512, file));
        Assert.All(file, b => Assert.Equal(0xEE, b));
        Assert.Equal(0, Request(driver, 8, 0, 20, writable: true));
        Assert.Equal("disk-0", Encoding.ASCII.GetString(driver.Memory(Data, 20)).TrimEnd('\0'));
        Assert.Equal(3 + 1, driver.UsedIndex(0));
    }

    [Fact]
    public void BlockRefusesWhatIsOutsideTheDiskOrUnknown()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        driver.Start(1);
        Assert.Equal(1, Request(driver, 0, 64, 512, writable: true));
        Assert.Equal(1, Request(driver, 1, 63, 1024, writable: false));
        Assert.Equal(1, Request(driver, 0, ulong.MaxValue, 512, writable: true));
        Assert.Equal(1, Request(driver, 0, 0, 511, writable: true));
        Assert.Equal(2, Request(driver, 77, 0, 0, writable: false));
        // Longer than what the device said it takes.
        Assert.Equal(1, Request(driver, 0, 0, 1 << 22, writable: true));
        Assert.False(driver.NeedsReset);
    }

    [Fact]
    public void ARequestMayBeCutIntoAnyPieces()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        driver.Start(1);
        WriteHeader(driver, 0, 5);
        driver.Offer(0, (Header, 4, false), (Header + 4, 12, false), (Data, 100, true), (Data + 0x1000, 412, true), (Data + 0x2000, 513, true));
        driver.Notify(0);
        Assert.Equal(5, driver.Memory(Data + 99, 1)[0]);
        Assert.Equal(5, driver.Memory(Data + 0x1000, 1)[0]);
        Assert.Equal(6, driver.Memory(Data + 0x2000 + 511, 1)[0]);
        Assert.Equal(0, driver.Memory(Data + 0x2000 + 512, 1)[0]);
    }

    [Fact]
    public void AReadOnlyDiskSaysSoAndRefusesWrites()
    {
        using var disk = new ReadOnlyView(_disk);
        var board = new TestBoard(options => options with { Disks = [new BoardDisk(disk, "ro")] });
        var driver = new VirtioDriver(board, DiskSlot);
        Assert.NotEqual(0ul, driver.DeviceFeatures & 1 << 5);
        driver.Start(1);
        Assert.Equal(1, Request(driver, 1, 0, 512, writable: false));
        Assert.Equal(0, Request(driver, 0, 0, 512, writable: true));
    }

    private sealed class ReadOnlyView(IDisk inner) : IDisk
    {
        public long Length => inner.Length;

        public bool IsReadOnly => true;

        public bool TryRead(long offset, Span<byte> destination) => inner.TryRead(offset, destination);

        public bool TryWrite(long offset, ReadOnlySpan<byte> source) => throw new InvalidOperationException("A read-only disk was written.");

        public bool TryFlush() => inner.TryFlush();

        public void Dispose()
        {
        }
    }

    [Fact]
    public void IndirectDescriptorsAreFollowed()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        driver.Start(1, VirtioDriver.Version1 | VirtioDriver.Indirect);
        WriteHeader(driver, 0, 7);
        const ulong Indirect = 0xA_0000;
        driver.Descriptor(Indirect, 0, Header, 16, 1, 1);
        driver.Descriptor(Indirect, 1, Data, 512, 1 | 2, 2);
        driver.Descriptor(Indirect, 2, StatusByte, 1, 2, 0);
        driver.Descriptor(driver.Table(0), 5, Indirect, 48, 4, 0);
        driver.OfferHead(0, 5);
        driver.Notify(0);
        Assert.Equal(7, driver.Memory(Data, 1)[0]);
        Assert.Equal((5u, 513u), driver.UsedEntry(0, 0));
    }

    [Fact]
    public void InterruptsComeOnThePinOrByMessage()
    {
        var driver = new VirtioDriver(_board, RngSlot);
        // Slot 2's INTA is on the third wire.
        _board.Redirect(18, 0x62 | 1 << 15);
        driver.Start(1);
        driver.Offer(0, (Data, 16, true));
        driver.Notify(0);
        Assert.Equal(0x62, Assert.Single(_board.Sink.Messages).Vector);
        Assert.Equal(1ul, driver.Read(0x1000, 1));
        Assert.Equal(0ul, driver.Read(0x1000, 1));
        _board.Board.IoApic.EndOfInterrupt(0x62);
        Assert.Single(_board.Sink.Messages);

        driver.Status = 0;
        ulong table = driver.ReadPciConfig(0x14);
        _board.Board.Bus.WriteMemory(table + 16, 4, 0xFEE0_1000);
        _board.Board.Bus.WriteMemory(table + 24, 4, 0x71);
        _board.Board.Bus.WriteMemory(table + 28, 4, 0);
        int capability = MsixCapability(driver);
        driver.WriteConfig(capability, driver.ReadPciConfig(capability) | 0x8000_0000);
        driver.Memory(0x1_0000, 0x1_0000).Clear();
        driver.Negotiate(VirtioDriver.Version1);
        driver.SetUpQueue(0);
        driver.Write(0x1A, 2, 9);
        Assert.Equal(0xFFFFul, driver.Read(0x1A, 2));
        driver.Write(0x1A, 2, 1);
        driver.Status = 15;
        driver.Offer(0, (Data, 16, true));
        driver.Notify(0);
        Assert.Equal(2, _board.Sink.Messages.Count);
        Assert.Equal(0x71, _board.Sink.Messages[1].Vector);
        Assert.Equal(1u, _board.Sink.Messages[1].Destination);
    }

    private static int MsixCapability(VirtioDriver driver)
    {
        uint at = driver.ReadPciConfig(0x34) & 0xFF;
        while ((driver.ReadPciConfig((int)at) & 0xFF) != 0x11)
            at = driver.ReadPciConfig((int)at) >> 8 & 0xFF;
        return (int)at;
    }

    [Fact]
    public void EventIndicesSuppressInterrupts()
    {
        var driver = new VirtioDriver(_board, RngSlot);
        _board.Redirect(18, 0x62);
        driver.Start(1, VirtioDriver.Version1 | VirtioDriver.EventIndex);
        // The driver wants to hear of the third used buffer.
        BinaryPrimitives.WriteUInt16LittleEndian(driver.Memory(driver.Available(0) + 4 + 2UL * driver.QueueSize, 2), 2);
        int[] expected = [1, 1, 2];
        for (int i = 0; i < 3; i++)
        {
            driver.Offer(0, (Data, 16, true));
            driver.Notify(0);
            driver.Read(0x1000, 1);
            Assert.Equal(expected[i], _board.Sink.Messages.Count);
        }
        // The device asks to be notified of the next.
        Assert.Equal(3, BinaryPrimitives.ReadUInt16LittleEndian(driver.Memory(driver.Used(0) + 4 + 8UL * driver.QueueSize, 2)));
    }

    [Fact]
    public void TheFlagSuppressesInterrupts()
    {
        var driver = new VirtioDriver(_board, RngSlot);
        _board.Redirect(18, 0x62);
        driver.Start(1);
        driver.Memory(driver.Available(0), 1)[0] = 1;
        driver.Offer(0, (Data, 16, true));
        driver.Notify(0);
        Assert.Equal(1, driver.UsedIndex(0));
        Assert.Empty(_board.Sink.Messages);
    }

    [Fact]
    public void EntropyFillsBuffersFromItsSource()
    {
        var driver = new VirtioDriver(_board, RngSlot);
        driver.Start(1);
        driver.Offer(0, (Data, 1500, true), (Data + 0x1000, 10, true));
        driver.Notify(0);
        Assert.Equal((0u, 1510u), driver.UsedEntry(0, 0));
        Assert.False(driver.Memory(Data, 1500).ContainsAnyExcept((byte)0x5A));
        Assert.False(driver.Memory(Data + 0x1000, 10).ContainsAnyExcept((byte)0x5A));
        Assert.Equal(0, driver.Memory(Data + 1500, 1)[0]);
    }

    [Fact]
    public void TheConsoleCarriesBytesBothWays()
    {
        var driver = new VirtioDriver(_board, ConsoleSlot);
        Assert.Equal(3, _board.Board.VirtioConsole!.Receive("abc"u8));
        driver.Start(2);
        "hello"u8.CopyTo(driver.Memory(Data, 5));
        driver.Offer(1, (Data, 5, false));
        driver.Notify(1);
        Assert.Equal("hello", _console.ToString());
        driver.Offer(0, (Data + 0x1000, 2, true));
        driver.Notify(0);
        Assert.Equal((0u, 2u), driver.UsedEntry(0, 0));
        driver.OfferHead(0, 0);
        driver.Notify(0);
        Assert.Equal((0u, 1u), driver.UsedEntry(0, 1));
        Assert.Equal((byte)'c', driver.Memory(Data + 0x1000, 1)[0]);
        // With nothing to give, a buffer waits for input.
        driver.OfferHead(0, 0);
        driver.Notify(0);
        Assert.Equal(2, driver.UsedIndex(0));
        _board.Board.VirtioConsole!.Receive("d"u8);
        Assert.Equal(3, driver.UsedIndex(0));
    }

    [Fact]
    public void TheConsolesInputIsBounded()
    {
        int drained = 0;
        _board.Board.VirtioConsole!.InputDrained += () => drained++;
        Assert.Equal(4096, _board.Board.VirtioConsole!.Receive(new byte[5000]));
        var driver = new VirtioDriver(_board, ConsoleSlot);
        driver.Start(2);
        driver.Offer(0, (Data, 4096, true));
        driver.Notify(0);
        Assert.Equal(1, drained);
    }

    public static TheoryData<string> HostileRings => [.. Hostile.Keys];

    private static readonly Dictionary<string, Action<VirtioDriver>> Hostile = new()
    {
        ["loop"] = d => { d.Descriptor(d.Table(0), 0, Data, 16, 1 | 2, 0); d.OfferHead(0, 0); },
        ["next out of range"] = d => { d.Descriptor(d.Table(0), 0, Data, 16, 1 | 2, 999); d.OfferHead(0, 0); },
        ["head out of range"] = d => d.OfferHead(0, 16),
        ["address out of range"] = d => d.Offer(0, (TestBoard.MemorySize - 8, 16, true)),
        ["address wraps"] = d => d.Offer(0, (ulong.MaxValue - 8, 16, true)),
        ["huge length"] = d => d.Offer(0, (Data, uint.MaxValue, true)),
        ["huge total"] = d => d.Offer(0, [.. Enumerable.Repeat((0UL, (uint)TestBoard.MemorySize, true), 16)]),
        ["index runs ahead"] = d => d.Memory(d.Available(0) + 2, 2)[1] = 1,
        ["readable after writable"] = d => d.Offer(0, (Data, 16, true), (Data, 16, false)),
        ["indirect of odd length"] = d => { d.Descriptor(d.Table(0), 0, Data, 17, 4, 0); d.OfferHead(0, 0); },
        ["empty indirect"] = d => { d.Descriptor(d.Table(0), 0, Data, 0, 4, 0); d.OfferHead(0, 0); },
        ["indirect out of range"] = d => { d.Descriptor(d.Table(0), 0, ulong.MaxValue & ~15UL, 64, 4, 0); d.OfferHead(0, 0); },
        ["indirect within indirect"] = d => { d.Descriptor(d.Table(0), 0, Data, 16, 4, 0); d.Descriptor(Data, 0, Data, 16, 4, 0); d.OfferHead(0, 0); },
        ["indirect with next"] = d => { d.Descriptor(d.Table(0), 0, Data, 16, 4 | 1, 1); d.OfferHead(0, 0); },
        ["loop in indirect"] = d => { d.Descriptor(d.Table(0), 0, Data, 16, 4, 0); d.Descriptor(Data, 0, Data, 16, 1 | 2, 0); d.OfferHead(0, 0); },
    };

    [Theory]
    [MemberData(nameof(HostileRings))]
    public void HostileRingsNeedAReset(string name)
    {
        foreach (int slot in (int[])[RngSlot, DiskSlot])
        {
            var driver = new VirtioDriver(_board, slot);
            driver.Memory(0x1_0000, 0x10_0000).Clear();
            driver.Start(1, VirtioDriver.Version1 | VirtioDriver.Indirect);
            Hostile[name](driver);
            driver.Notify(0);
            // 16 times the whole of memory is below 4 GiB: an honest, if odd, request that the devices cut short or refuse.
            if (name != "huge total")
                Assert.True(driver.NeedsReset);
            // A reset makes it whole again.
            driver.Memory(0x1_0000, 0x10_0000).Clear();
            driver.Start(1);
            Assert.False(driver.NeedsReset);
        }
    }

    [Fact]
    public void RingsOutsideMemoryOrOfOddSizeNeedAReset()
    {
        var driver = new VirtioDriver(_board, RngSlot);
        foreach (ushort size in (ushort[])[0, 3, 128, 0xFFFF])
        {
            driver.QueueSize = size;
            driver.Negotiate(VirtioDriver.Version1);
            driver.SetUpQueue(0);
            Assert.True(driver.NeedsReset);
        }
        driver.QueueSize = 16;
        driver.Negotiate(VirtioDriver.Version1);
        driver.Write(0x16, 2, 0);
        driver.Write(0x20, 4, 0xFFFF_FFF0);
        driver.Write(0x24, 4, 0xFFFF_FFFF);
        driver.Write(0x1C, 2, 1);
        Assert.True(driver.NeedsReset);
    }

    [Fact]
    public void ABlockRequestWithoutHeaderOrStatusNeedsAReset()
    {
        var driver = new VirtioDriver(_board, DiskSlot);
        driver.Start(1);
        driver.Offer(0, (Header, 16, false));
        driver.Notify(0);
        Assert.True(driver.NeedsReset);
        driver.Memory(0x1_0000, 0x1_0000).Clear();
        driver.Start(1);
        driver.Offer(0, (Header, 15, false), (StatusByte, 1, true));
        driver.Notify(0);
        Assert.True(driver.NeedsReset);
    }

    [Fact]
    public void ADiskRefusesFilesThatAreNone()
    {
        Assert.ThrowsAny<IOException>(() => new RawFileDisk(_path + ".missing", readOnly: true));
        string small = _path + ".small";
        File.WriteAllBytes(small, new byte[511]);
        try
        {
            Assert.Throws<IOException>(() => new RawFileDisk(small, readOnly: true));
        }
        finally
        {
            File.Delete(small);
        }
    }

    [Fact]
    public void ATruncatedFileIsAnIoError()
    {
        string path = _path + ".cut";
        File.WriteAllBytes(path, new byte[8192]);
        try
        {
            using var disk = new RawFileDisk(path, readOnly: true);
            using (FileStream other = new(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite))
                other.SetLength(512);
            Assert.False(disk.TryRead(4096, new byte[512]));
        }
        catch (IOException) when (!OperatingSystem.IsLinux())
        {
            // Elsewhere the share mode keeps others from cutting it, which is as good.
        }
        finally
        {
            File.Delete(path);
        }
    }
}
