using System.Text;
using System.Text.Json;
using Vmm.Devices.Board;
using Vmm.Devices.SavedState;

namespace Vmm.Devices.Tests.Fixture;

/// <summary>
/// A board that is worked on at random, and whose every answer and every deed is written down; and its copies, which are fresh
/// boards that have loaded what it saved.
/// </summary>
public sealed class SavedBoard
{
    private static readonly JsonSerializerOptions Strict = new() { RespectNullableAnnotations = true };

    private readonly MemoryDisk _disk = new(1 << 20);
    private readonly StringBuilder _log = new();
    private byte _entropy;
    private int _power;

    public SavedBoard()
    {
        Board = new(options => options with
        {
            Cpus = 2,
            MaxCpus = 20,
            Disks = [new BoardDisk(_disk, "saved")],
            Entropy = bytes => bytes.Fill(++_entropy),
            VirtioConsoleOutput = bytes => _log.Append($" v:{Convert.ToHexString(bytes)}"),
            SerialOutput = [bytes => _log.Append($" s:{Convert.ToHexString(bytes)}")],
            PowerOff = () => _power++,
        });
        Board.Board.FirmwareConfiguration.SetFile("opt/test/file", new byte[] { 1, 2, 3, 4, 5, 6, 7, 8, 9 });
        Board.Board.Serial[0].InputDrained += () => _log.Append(" drained");
        Board.Board.VirtioConsole!.InputDrained += () => _log.Append(" vdrained");
    }

    public TestBoard Board { get; }

    public string Save() => JsonSerializer.Serialize(Board.Board.Save());

    /// <summary>Loads a state as from a file.</summary>
    public void Load(string state) => Board.Board.Load(JsonSerializer.Deserialize<BoardState>(state, Strict)!);

    /// <summary>A fresh board in the same surroundings that has loaded this one's state.</summary>
    public SavedBoard Copy()
    {
        var copy = new SavedBoard();
        copy.Board.Clock.Advance(Board.Clock.Nanoseconds);
        copy.Board.Sink.Messages.Clear();
        Board.Memory.Bytes.CopyTo(copy.Board.Memory.Bytes, 0);
        _disk.Bytes.CopyTo(copy._disk.Bytes, 0);
        copy._entropy = _entropy;
        // The local APIC has its input in its own state.
        copy.Board.Sink.SetExternalInterrupt(Board.Sink.ExternalInterrupt);
        int writes = copy.Board.Memory.Writes;
        int log = copy._log.Length;
        copy.Load(Save());
        if (copy.Board.Sink.Messages.Count > 0 || copy.Board.Memory.Writes != writes || copy._log.Length != log
            || copy.Board.Sink.ExternalInterrupt != Board.Sink.ExternalInterrupt)
            throw new InvalidOperationException("Loading was heard outside.");
        return copy;
    }

    /// <summary>Works on the board at random for some steps.</summary>
    /// <returns>What was read, and what the board did.</returns>
    public string Work(Random random, SavedBoardArea area, int steps)
    {
        _log.Clear();
        (int power, int resets, int inits, int exits) = (_power, Board.Resets, Board.Inits, Board.Exits.Count);
        for (int i = 0; i < steps; i++)
        {
            _log.Append('\n');
            Step(random, area);
            foreach (var message in Board.Sink.Messages)
                _log.Append($" {message}");
            Board.Sink.Messages.Clear();
            _log.Append($" {Board.Sink.ExternalInterrupt} {_power - power} {Board.Resets - resets} {Board.Inits - inits} {Board.Exits.Count - exits}");
        }
        return _log.ToString();
    }

    private void Step(Random random, SavedBoardArea area)
    {
        PcBoard board = Board.Board;
        int size = 1 << random.Next(3);
        ushort port = area.Ports.Length == 0 ? (ushort)0x80 : area.Ports[random.Next(area.Ports.Length)];
        ulong address = area.Registers.Length == 0 ? 0xA_0000 : area.Registers[random.Next(area.Registers.Length)] + (ulong)random.Next(2) * (ulong)random.Next(0x40);
        switch (random.Next(10))
        {
            case 0 or 1:
                _log.Append($"in {port:x} {board.Bus.ReadPort(port, random.Next(4) == 0 ? size : 1):x}");
                break;
            case 2 or 3:
                board.Bus.WritePort(port, random.Next(4) == 0 ? size : 1, (uint)Value(random, area));
                break;
            case 4:
                _log.Append($"read {address:x} {board.Bus.ReadMemory(address, 1 << random.Next(4)):x}");
                break;
            case 5 or 6:
                board.Bus.WriteMemory(address & ~3UL, 4 << random.Next(2), Value(random, area));
                break;
            case 7:
                Board.Clock.AdvanceMicroseconds((ulong)random.Next(random.Next(4) == 0 ? area.MostMicroseconds : 100));
                break;
            case 8:
                Disturb(board, random);
                break;
            default:
                if (area.Drives)
                    Drive(random);
                break;
        }
    }

    private static ulong Value(Random random, SavedBoardArea area) => random.Next(6) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => 1UL << random.Next(64),
        2 => area.Values.Length > 0 ? area.Values[random.Next(area.Values.Length)] : (ulong)random.Next(65536),
        3 => (ulong)random.Next(0x10_0000),
        _ => (ulong)random.Next(256),
    };

    private void Disturb(PcBoard board, Random random)
    {
        switch (random.Next(10))
        {
            case 0:
                _log.Append($"ack {board.Pic.Acknowledge():x}");
                break;
            case 1:
                board.IoApic.EndOfInterrupt((byte)random.Next(256));
                break;
            case 2:
                board.Power.PressPowerButton();
                break;
            case 3:
                _log.Append($"took {board.Serial[random.Next(2)].Receive(new byte[random.Next(random.Next(4) == 0 ? 5000 : 10)])}");
                break;
            case 4:
                _log.Append($"took {board.VirtioConsole!.Receive(new byte[random.Next(random.Next(4) == 0 ? 5000 : 10)])}");
                break;
            case 5:
                board.Power.RaiseGeneralEvent(random.Next(16));
                break;
            case 6 when random.Next(60) == 0:
                board.Reset();
                break;
            case 7 when random.Next(10) == 0:
                Board.InitializePic();
                break;
            case 8 when board.Cpus < board.MaxCpus && random.Next(3) == 0:
                board.AddCpu();
                break;
            case 9:
                Board.Redirect(random.Next(24), (uint)random.Next(0x1_0000) & 0x1AFFF | (random.Next(2) == 0 ? 0u : 0x1_0000u), (uint)random.Next());
                break;
        }
    }

    /// <summary>Acts as a driver of a virtio device: brings it up, offers buffers, acknowledges.</summary>
    private void Drive(Random random)
    {
        var driver = new VirtioDriver(Board, 2 + random.Next(3));
        int queues = driver.Read(0x12, 2) == 2 ? 2 : 1;
        int queue = random.Next(queues);
        switch (random.Next(6))
        {
            case 0:
                // The windows back in their places, should they have been moved, and MSI-X on, masked or off.
                driver.WriteConfig(0x10, (uint)(BoardLayout.PciMemoryBase + (ulong)random.Next(8) * 0x1_0000));
                driver.WriteConfig(0x14, (uint)(BoardLayout.PciMemoryBase + 0x8000 + (ulong)random.Next(8) * 0x1_0000));
                driver.WriteConfig(0x04, 6);
                break;
            case 1:
                if (driver.Negotiate(VirtioDriver.Version1 | (random.Next(2) == 0 ? VirtioDriver.EventIndex : 0) | (random.Next(2) == 0 ? VirtioDriver.Indirect : 0)))
                {
                    for (int i = 0; i < queues; i++)
                    {
                        driver.Memory(driver.Available(i), 64).Clear();
                        driver.SetUpQueue(i);
                    }
                    driver.Write(0x10, 2, (ulong)random.Next(4));
                    driver.Write(0x16, 2, (ulong)random.Next(3));
                    driver.Write(0x1A, 2, (ulong)random.Next(4));
                    driver.Status = 15;
                }
                break;
            case 2 or 3:
                BoardRequest(driver, queue, random);
                break;
            case 4:
                _log.Append($"isr {driver.Read(0x1000, 1):x}");
                break;
            case 5:
                int capability = (int)(driver.ReadPciConfig(0x34) & 0xFF);
                while (capability != 0 && (driver.ReadPciConfig(capability) & 0xFF) != 0x11)
                    capability = (int)(driver.ReadPciConfig(capability) >> 8 & 0xFF);
                driver.WriteConfig(capability, (uint)random.Next(4) << 30);
                ulong table = driver.ReadPciConfig(0x14);
                int vector = random.Next(3) * 16;
                Board.Write32(table + (ulong)vector, 0xFEE0_0000u | (uint)random.Next(2) << 12);
                Board.Write32(table + (ulong)vector + 8, (uint)random.Next(256));
                Board.Write32(table + (ulong)vector + 12, (uint)random.Next(2));
                break;
        }
        _log.Append($" used {driver.UsedIndex(queue)} {driver.Status:x}");
    }

    private static void BoardRequest(VirtioDriver driver, int queue, Random random)
    {
        if (random.Next(20) == 0)
            driver.OfferHead(queue, 99);
        else
            driver.Offer(queue, (0x20_0000, 16, random.Next(2) == 0), (0x20_1000, 512, true), (0x20_2000, (uint)random.Next(1, 10), true));
        driver.Memory(0x20_0000, 16)[0] = (byte)random.Next(2);
        if (random.Next(3) > 0)
            driver.Notify(queue);
    }
}

/// <summary>Part of a board, for work on it to dwell on.</summary>
/// <param name="Ports">The ports.</param>
/// <param name="Registers">Where its memory-mapped registers begin.</param>
/// <param name="Values">Values that mean something there.</param>
/// <param name="Drives">Whether a virtio driver works too.</param>
/// <param name="MostMicroseconds">How long it waits at most at a time: not long where a timer may have a period of nanoseconds.</param>
public sealed record SavedBoardArea(ushort[] Ports, ulong[] Registers, ulong[] Values, bool Drives = false, int MostMicroseconds = 400);
