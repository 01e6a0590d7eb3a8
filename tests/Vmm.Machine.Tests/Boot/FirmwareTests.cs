using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Board;
using Vmm.Devices.Bus;
using Vmm.Devices.Platform;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Machine.Boot;
using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Machine.Tests.Boot;

public sealed class FirmwareTests
{
    private sealed class StoppedClock : IMachineClock, IMachineTimer
    {
        public ulong Nanoseconds => 0;

        public DateTimeOffset UtcNow => DateTimeOffset.UnixEpoch;

        public bool IsArmed => false;

        public IMachineTimer CreateTimer(Action callback) => this;

        public void Arm(ulong deadline)
        {
        }

        public void Disarm()
        {
        }

        public TimerState? Save() => null;

        public void Load(TimerState? state)
        {
        }
    }

    private sealed class NoApics : IInterruptSink
    {
        public bool Deliver(InterruptMessage message) => false;

        public void SetExternalInterrupt(bool asserted)
        {
        }
    }

    private sealed class Ram(PhysicalMemory memory) : IGuestMemory
    {
        public bool TryRead(ulong address, Span<byte> destination) => memory.TryRead(address, destination);

        public bool TryWrite(ulong address, ReadOnlySpan<byte> source) => memory.TryWrite(address, source);

        public bool IsRam(ulong address, ulong length) => memory.IsRam(address, length);
    }

    private static PcBoard NewBoard(PhysicalMemory memory) => new(new PcBoardOptions
    {
        Clock = new StoppedClock(),
        Interrupts = new NoApics(),
        Memory = new Ram(memory),
        MemoryBytes = memory.Size,
        Cpus = 2,
        PowerOff = () => { },
        ResetRequested = () => { },
        InitRequested = () => { },
        DebugExit = _ => { },
    });

    private static byte[] Item(PcBoard board, ushort selector, int length)
    {
        board.Bus.WritePort(0x510, 2, selector);
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++)
            bytes[i] = (byte)board.Bus.ReadPort(0x511, 1);
        return bytes;
    }

    private static byte[] ReadFile(PcBoard board, string name)
    {
        int count = BinaryPrimitives.ReadInt32BigEndian(Item(board, FirmwareItem.Directory, 4));
        byte[] directory = Item(board, FirmwareItem.Directory, 4 + count * 64);
        for (int at = 4; at < directory.Length; at += 64)
        {
            if (Encoding.ASCII.GetString(directory, at + 8, 56).TrimEnd('\0') == name)
                return Item(board, BinaryPrimitives.ReadUInt16BigEndian(directory.AsSpan(at + 4)), BinaryPrimitives.ReadInt32BigEndian(directory.AsSpan(at)));
        }
        throw new FileNotFoundException(name);
    }

    [Fact]
    public void BootingTellsFirmwareConfigurationWhatWasLoaded()
    {
        using var memory = new PhysicalMemory(64 << 20);
        PcBoard board = NewBoard(memory);
        byte[] initrd = KernelImages.Content(100);
        BootImage image = Firmware.Boot(board, memory, new BootRequest
        {
            Kernel = KernelImages.BzImage(),
            CommandLine = "quiet",
            Modules = [new(nameof(MachineSpec.InitrdPath), initrd, "")],
        });
        Assert.Equal("quiet\0", Encoding.ASCII.GetString(Item(board, FirmwareItem.CommandLineData, 6)));
        Assert.Equal(6, BinaryPrimitives.ReadInt32LittleEndian(Item(board, FirmwareItem.CommandLineSize, 4)));
        Assert.Equal(initrd, Item(board, FirmwareItem.InitrdData, 100));
        Assert.Equal((uint)image.KernelAddress, BinaryPrimitives.ReadUInt32LittleEndian(Item(board, FirmwareItem.KernelAddress, 4)));
        byte[] map = ReadFile(board, "etc/e820");
        Assert.Equal(64ul << 20, BinaryPrimitives.ReadUInt64LittleEndian(map.AsSpan(8)));
        // A second boot of the same machine finds everything as at first.
        Assert.Equal(image.Processor, Firmware.Boot(board, memory, new BootRequest
        {
            Kernel = KernelImages.BzImage(),
            CommandLine = "quiet",
            Modules = [new(nameof(MachineSpec.InitrdPath), initrd, "")],
        }).Processor);
    }

    /// <summary>Does what firmware does with the script, and compares with what the machine itself put into memory.</summary>
    [Fact]
    public void TheTableLoaderScriptMakesTheTablesThatAreInMemory()
    {
        using var memory = new PhysicalMemory(64 << 20);
        PcBoard board = NewBoard(memory);
        Firmware.Boot(board, memory, new BootRequest { Kernel = KernelImages.BzImage() });
        var files = new Dictionary<string, byte[]>
        {
            ["etc/acpi/tables"] = ReadFile(board, "etc/acpi/tables"),
            ["etc/acpi/rsdp"] = ReadFile(board, "etc/acpi/rsdp"),
        };
        var addresses = new Dictionary<string, ulong>();
        byte[] script = ReadFile(board, "etc/table-loader");
        for (int at = 0; at < script.Length; at += 128)
        {
            string Name(int offset) => Encoding.ASCII.GetString(script, at + offset, 56).TrimEnd('\0');
            int Number(int offset) => BinaryPrimitives.ReadInt32LittleEndian(script.AsSpan(at + offset));
            switch (Number(0))
            {
                case 1:
                    addresses[Name(4)] = Name(4) == "etc/acpi/tables" ? MemoryMap.FirmwareBase : Firmware.RsdpAddress;
                    break;
                case 2:
                    Span<byte> pointer = files[Name(4)].AsSpan(Number(116), script[at + 120]);
                    ulong value = BinaryPrimitives.ReadUInt32LittleEndian(pointer) + addresses[Name(60)];
                    BinaryPrimitives.WriteUInt32LittleEndian(pointer, (uint)value);
                    break;
                case 3:
                    byte[] file = files[Name(4)];
                    byte sum = 0;
                    foreach (byte b in file.AsSpan(Number(64), Number(68)))
                        sum += b;
                    file[Number(60)] -= sum;
                    break;
            }
        }
        foreach ((string name, byte[] content) in files)
        {
            byte[] inMemory = new byte[content.Length];
            Assert.True(memory.TryRead(addresses[name], inMemory));
            Assert.Equal(inMemory, content);
        }
    }
}
