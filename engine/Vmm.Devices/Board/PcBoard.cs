using Vmm.Devices.Acpi;
using Vmm.Devices.Bus;
using Vmm.Devices.Interrupts;
using Vmm.Devices.Pci;
using Vmm.Devices.Platform;
using Vmm.Devices.Serial;
using Vmm.Devices.Test;
using Vmm.Devices.Timers;
using Vmm.Devices.Virtio;

namespace Vmm.Devices.Board;

/// <summary>
/// The standard PC: every device but processors, local APICs and RAM, on one bus and wired up. The machine gives the vCPUs
/// <see cref="Bus"/>, the boot processor's local APIC <see cref="Pic"/>, all local APICs <see cref="IoApic"/> to tell of ends
/// of interrupts, and calls <see cref="Reset"/> before every boot.
/// </summary>
public sealed partial class PcBoard : IDevice
{
    private const int EntropySlot = 2;
    private const int ConsoleSlot = 3;
    private const int FirstDiskSlot = 4;

    private readonly List<IDevice> _devices = [];
    private readonly InterruptRouting _routing;
    private readonly PcBoardOptions _options;
    private readonly IInterruptLine _picToIoApic;
    private readonly GatedLine _timerLine;
    private readonly GatedLine _clockLine;
    private readonly Hpet? _hpet;
    private readonly CpuHotplug? _cpuHotplug;
    private readonly KeyboardController8042 _keyboard;
    private readonly SystemManagementPort _systemManagement;
    private readonly ResetControl _resetControl;
    private readonly TestDevice? _testDevice;

    /// <summary>Builds and resets the board.</summary>
    /// <exception cref="ArgumentException">There are more disks than slots.</exception>
    public PcBoard(PcBoardOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        _options = options;
        Bus = new SystemBus();
        IoApic = Add(new IoApic(Bus, options.Interrupts, (byte)options.MaxCpus));
        Pic = Add(new PicPair(Bus, OnExternalInterrupt));
        _routing = new InterruptRouting(Pic, IoApic);
        _picToIoApic = _routing.Pin(0);
        _timerLine = new GatedLine(_routing.Isa(0));
        _clockLine = new GatedLine(_routing.Isa(8));
        Pit = Add(new IntervalTimer8254(Bus, options.Clock, _timerLine)
        {
            IsHeard = () => _timerLine.IsOpen && !(Pic.IgnoresEdge(0) && IoApic.IgnoresEdge(BoardLayout.PinOfIrq(0))),
        });
        Pic.Programmed = IoApic.Programmed = Pit.Listen;
        Rtc = Add(new RealTimeClock(Bus, options.Clock, _clockLine));
        if (options.HasHpet)
        {
            _hpet = Add(new Hpet(Bus, BoardLayout.HpetBase, options.Clock, _routing.Pin, [_routing.Isa(0), _routing.Isa(8)], taken =>
            {
                _timerLine.IsOpen = !taken;
                _clockLine.IsOpen = !taken;
                Pit.Listen();
            }));
        }
        Power = Add(new PowerManagement(Bus, options.Clock, _routing.Isa(PowerManagement.SciIrq), options.PowerOff));
        if (options.MaxCpus > options.Cpus)
            _cpuHotplug = Add(new CpuHotplug(Bus, options.Cpus, options.MaxCpus, Power.RaiseGeneralEvent));
        _systemManagement = Add(new SystemManagementPort(Bus, options.Interrupts));
        _keyboard = Add(new KeyboardController8042(Bus, options.InitRequested));
        SystemControlA = Add(new SystemControlPortA(Bus, options.InitRequested));
        _resetControl = Add(new ResetControl(options.ResetRequested, options.InitRequested));
        Pci = Add(new PciHost(Bus, BoardLayout.EcamBase, _resetControl, _routing.Pci));

        var serial = new Uart16550[BoardLayout.SerialPorts.Count];
        for (int i = 0; i < serial.Length; i++)
        {
            var output = i < options.SerialOutput.Count ? options.SerialOutput[i] : null;
            serial[i] = Add(new Uart16550(Bus, BoardLayout.SerialPorts[i], _routing.Isa(BoardLayout.SerialIrqs[i]), output));
        }
        Serial = serial;
        _ = new DebugConsolePort(Bus, options.DebugConsoleOutput);
        _ = new DebugExitPort(Bus, options.DebugExit);
        if (!options.FirmwareRom.IsEmpty)
            _ = new FirmwareRom(Bus, options.FirmwareRom.Span);
        FirmwareConfiguration = Add(new FirmwareConfiguration(Bus, options.Memory));
        FirmwareConfiguration.SetItem(FirmwareItem.CpuCount, (ushort)options.Cpus);
        FirmwareConfiguration.SetItem(FirmwareItem.MaximumCpuCount, (ushort)options.MaxCpus);
        FirmwareConfiguration.SetItem(FirmwareItem.RamSize, options.MemoryBytes);
        if (options.HasTestDevice)
            _testDevice = Add(new TestDevice(Bus, TestLine));
        AddVirtioDevices(options);
        Reset();
    }

    /// <summary>Where the vCPUs' accesses outside RAM go.</summary>
    public SystemBus Bus { get; }

    /// <summary>Virtual processors that are there.</summary>
    public int Cpus => _cpuHotplug?.Cpus ?? _options.Cpus;

    /// <summary>Virtual processors that there may come to be. The I/O APIC's ID is the next one.</summary>
    public int MaxCpus => _options.MaxCpus;

    /// <summary>Whether the board can tell the guest of processors that are added.</summary>
    public bool HasCpuHotplug => _cpuHotplug != null;

    /// <summary>Whether there is an HPET.</summary>
    public bool HasHpet => _options.HasHpet;

    /// <summary>The 8259 pair.</summary>
    public PicPair Pic { get; }

    /// <summary>The I/O APIC.</summary>
    public IoApic IoApic { get; }

    /// <summary>The interval timer.</summary>
    public IntervalTimer8254 Pit { get; }

    /// <summary>The real-time clock.</summary>
    public RealTimeClock Rtc { get; }

    /// <summary>ACPI's fixed hardware, with the power button.</summary>
    public PowerManagement Power { get; }

    /// <summary>Port 0x92.</summary>
    public SystemControlPortA SystemControlA { get; }

    /// <summary>PCI bus 0.</summary>
    public PciHost Pci { get; }

    /// <summary>COM1 to COM4.</summary>
    public IReadOnlyList<Uart16550> Serial { get; }

    /// <summary>What fw_cfg tells the guest; the boot loader adds the kernel, the tables and files.</summary>
    public FirmwareConfiguration FirmwareConfiguration { get; }

    /// <summary>The virtio console, or null where there is none.</summary>
    public VirtioConsole? VirtioConsole { get; private set; }

    /// <summary>One more processor is there, and the guest is told.</summary>
    /// <exception cref="InvalidOperationException">The board has all the processors that it has room for.</exception>
    public void AddCpu()
    {
        if (_cpuHotplug == null)
            throw new InvalidOperationException($"The board has room for {MaxCpus} processors.");
        _cpuHotplug.Add();
        FirmwareConfiguration.SetItem(FirmwareItem.CpuCount, (ushort)Cpus);
    }

    private void AddVirtioDevices(PcBoardOptions options)
    {
        if (options.Disks.Count > PciHost.SlotCount - FirstDiskSlot)
            throw new ArgumentException($"A board has room for {PciHost.SlotCount - FirstDiskSlot} disks, not for {options.Disks.Count}.", nameof(options));
        if (options.Entropy is { } entropy)
            Pci.Add(EntropySlot, new VirtioEntropy(Bus, options.Interrupts, options.Memory, entropy));
        if (options.VirtioConsoleOutput is { } output)
        {
            VirtioConsole = new VirtioConsole(Bus, options.Interrupts, options.Memory, output);
            Pci.Add(ConsoleSlot, VirtioConsole);
        }
        for (int i = 0; i < options.Disks.Count; i++)
            Pci.Add(FirstDiskSlot + i, new VirtioBlock(Bus, options.Interrupts, options.Memory, options.Disks[i].Disk, options.Disks[i].Serial));
    }

    /// <summary>A global system interrupt as the test device drives it; 2 belongs to the timer and the cascade.</summary>
    private IInterruptLine? TestLine(int interrupt) => interrupt switch
    {
        2 => null,
        < 16 => _routing.Isa(interrupt),
        _ => _routing.Pin(interrupt),
    };

    private T Add<T>(T device) where T : IDevice
    {
        _devices.Add(device);
        return device;
    }

    /// <summary>The 8259's output goes to LINT0 of the boot processor and, as on most boards, to pin 0 of the I/O APIC.</summary>
    private void OnExternalInterrupt(bool asserted)
    {
        _options.Interrupts.SetExternalInterrupt(asserted);
        _picToIoApic.Set(asserted);
    }

    /// <summary>Resets every device, and leaves the board as firmware hands it to a boot loader.</summary>
    public void Reset()
    {
        foreach (IDevice device in _devices)
            device.Reset();
        InitializeAsFirmware();
    }

    private void InitializeAsFirmware()
    {
        // The 8259 pair: vectors 0x08 and 0x70 as the BIOS has them, everything masked.
        foreach ((ushort command, byte vectorBase, byte cascade) in (ReadOnlySpan<(ushort, byte, byte)>)[(0x20, 0x08, 0x04), (0xA0, 0x70, 0x02)])
        {
            Bus.WritePort(command, 1, 0x11);
            Bus.WritePort((ushort)(command + 1), 1, vectorBase);
            Bus.WritePort((ushort)(command + 1), 1, cascade);
            Bus.WritePort((ushort)(command + 1), 1, 0x01);
            Bus.WritePort((ushort)(command + 1), 1, 0xFF);
        }
        // ACPI's and PCI's interrupts are levels.
        Bus.WritePort(0x4D1, 1, 1 << PowerManagement.SciIrq - 8 | 1 << 10 - 8 | 1 << 11 - 8);

        CmosContent.Write(Rtc, _options.MemoryBytes, Cpus);

        ulong next = BoardLayout.PciMemoryBase;
        foreach ((int slot, PciFunction function) in Pci.Functions)
            next = function.AssignResources(next, (byte)BoardLayout.PciLegacyIrqs[PciHost.WireOf(slot)]);
    }
}
