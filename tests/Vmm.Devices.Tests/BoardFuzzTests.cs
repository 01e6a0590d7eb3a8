using Vmm.Devices.Board;
using Vmm.Devices.Tests.Fixture;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Devices.Tests;

/// <summary>Random accesses to a whole board: whatever a guest does, nothing throws. The seeds are printed.</summary>
public sealed class BoardFuzzTests(ITestOutputHelper output)
{
    private static TestBoard NewBoard() => new(options => options with
    {
        Cpus = 2,
        Disks = [new BoardDisk(new MemoryDisk(1 << 20), "fuzz")],
        Entropy = bytes => bytes.Fill(1),
        VirtioConsoleOutput = _ => { },
    });

    private static readonly ulong[] Windows =
    [
        0xFEC0_0000, BoardLayout.HpetBase, 0xFF00_0000, BoardLayout.EcamBase, BoardLayout.EcamBase + (2 << 15),
        BoardLayout.EcamBase + (3 << 15), BoardLayout.EcamBase + (4 << 15), 0xA_0000, BoardLayout.PciMemoryBase,
        BoardLayout.PciMemoryBase + 0x8000, BoardLayout.PciMemoryBase + 0x1_0000, ulong.MaxValue - 8,
    ];

    private static readonly ushort[] Ports =
    [
        0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xE0, 0xE8, 0xF4, 0x2000,
        0x3F8, 0x3F9, 0x3FA, 0x3FC, 0x2F8, 0x510, 0x511, 0x514, 0x518, 0x600, 0x604, 0x608, 0x620, 0xCF8, 0xCF9, 0xCFC, 0xFFFF,
    ];

    private static ulong Value(Random random) => random.Next(4) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => (ulong)random.Next(256),
        2 => 1UL << random.Next(64),
        _ => ulong.MaxValue,
    };

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void RandomAccessesNeverThrow(int seed)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        TestBoard board = NewBoard();
        for (int i = 0; i < 200_000; i++)
        {
            int size = 1 << random.Next(3);
            ushort port = random.Next(4) == 0 ? (ushort)random.Next(0x1_0000) : (ushort)(Ports[random.Next(Ports.Length)] + random.Next(2));
            ulong address = Windows[random.Next(Windows.Length)] + (ulong)random.Next(random.Next(2) == 0 ? 0x100 : 0x4000);
            switch (random.Next(8))
            {
                case 0 or 1:
                    board.Board.Bus.ReadPort(port, size);
                    break;
                case 2 or 3:
                    board.Board.Bus.WritePort(port, size, (uint)Value(random));
                    break;
                case 4:
                    board.Board.Bus.ReadMemory(address, 1 << random.Next(4));
                    break;
                case 5:
                    board.Board.Bus.WriteMemory(address, 1 << random.Next(4), Value(random));
                    break;
                case 6 when random.Next(8) == 0:
                    // A few timers fire in between; a fast one must not make the test long.
                    board.Clock.AdvanceMicroseconds((ulong)random.Next(200));
                    break;
                case 7:
                    Disturb(board, random);
                    break;
            }
            board.Sink.Messages.Clear();
        }
    }

    private static void Disturb(TestBoard board, Random random)
    {
        switch (random.Next(6))
        {
            case 0:
                board.Board.Pic.Acknowledge();
                break;
            case 1:
                board.Board.IoApic.EndOfInterrupt((byte)random.Next(256));
                break;
            case 2:
                board.Board.Power.PressPowerButton();
                break;
            case 3:
                board.Board.Serial[0].Receive([1, 2, 3]);
                break;
            case 4:
                board.Board.VirtioConsole!.Receive([1, 2, 3]);
                break;
            case 5 when random.Next(100) == 0:
                board.Board.Reset();
                break;
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void RandomRingsNeverThrowAndNeverLeaveMemory(int seed)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        TestBoard board = NewBoard();
        ulong[] features = [VirtioDriver.Version1, VirtioDriver.Version1 | VirtioDriver.Indirect, VirtioDriver.Version1 | VirtioDriver.Indirect | VirtioDriver.EventIndex];
        int served = 0;
        int refused = 0;
        for (int round = 0; round < 1500; round++)
        {
            var driver = new VirtioDriver(board, 2 + random.Next(3));
            int queues = driver.Read(0x12, 2) == 2 ? 2 : 1;
            driver.Start(queues, features[random.Next(features.Length)]);
            for (int queue = 0; queue < queues; queue++)
            {
                for (int i = 0; i < driver.QueueSize; i++)
                {
                    ulong address = random.Next(8) == 0 ? (ulong)random.NextInt64() : (ulong)(0x10_0000 + random.Next(0x1_0000));
                    uint length = random.Next(8) == 0 ? (uint)random.NextInt64() : (uint)random.Next(2048);
                    ushort flags = (ushort)(random.Next(3) == 0 ? random.Next(8) : random.Next(4));
                    driver.Descriptor(driver.Table(queue), i, address, length, flags, (ushort)random.Next(driver.QueueSize + 1));
                }
                random.NextBytes(driver.Memory(0x10_0000, 256));
                for (int i = random.Next(4); i >= 0; i--)
                    driver.OfferHead(queue, (ushort)random.Next(driver.QueueSize + (random.Next(10) == 0 ? 5 : 0)));
                if (random.Next(20) == 0)
                    random.NextBytes(driver.Memory(driver.Available(queue), 40));
                driver.Notify(queue);
                served += driver.UsedIndex(queue);
            }
            refused += driver.NeedsReset ? 1 : 0;
            board.Board.VirtioConsole!.Receive([1, 2, 3]);
            driver.Memory(0x1_0000, 0x2_0000).Clear();
            board.Sink.Messages.Clear();
        }
        // Both outcomes must occur, or the rings were not worth the name.
        output.WriteLine($"{served} chains served, {refused} devices broken");
        Assert.True(served > 100 && refused > 100);
    }
}
