using Vmm.Hypervisor.SavedState;

namespace Vmm.Devices.SavedState;

/// <summary>
/// A board's devices between two accesses. What a board is built from is not in it: that comes from the machine's spec, and
/// the items of fw_cfg from the files that it was booted with.
/// </summary>
public sealed record BoardState
{
    /// <summary>The sources on each of the 16 ISA wires to the 8259 pair: asserted or not, in the order in which the board adds them.</summary>
    public required bool[][] LegacyWires { get; init; }

    /// <summary>The sources on each of the 24 wires to the I/O APIC.</summary>
    public required bool[][] Wires { get; init; }

    /// <summary>The timer's line, which the HPET can cut.</summary>
    public required GatedLineState TimerLine { get; init; }

    /// <summary>The real-time clock's line, which the HPET can cut.</summary>
    public required GatedLineState ClockLine { get; init; }

    /// <summary>The I/O APIC.</summary>
    public required IoApicState IoApic { get; init; }

    /// <summary>The 8259 pair.</summary>
    public required PicPairState Pic { get; init; }

    /// <summary>The interval timer.</summary>
    public required IntervalTimerState Pit { get; init; }

    /// <summary>The real-time clock.</summary>
    public required RealTimeClockState Rtc { get; init; }

    /// <summary>The HPET, where there is one.</summary>
    public required HpetState? Hpet { get; init; }

    /// <summary>ACPI's fixed hardware.</summary>
    public required PowerManagementState Power { get; init; }

    /// <summary>The processors, where some may be added; null on a board that has all of them from the start.</summary>
    public CpuHotplugState? CpuHotplug { get; init; }

    /// <summary>The ports of the SMI handler; null where they are as after reset.</summary>
    public SystemManagementPortState? SystemManagement { get; init; }

    /// <summary>The keyboard controller.</summary>
    public required KeyboardControllerState Keyboard { get; init; }

    /// <summary>Bit 0 of port 0x92.</summary>
    public required bool InitBit { get; init; }

    /// <summary>The reset control register.</summary>
    public required byte ResetControl { get; init; }

    /// <summary>The PCI host with its functions.</summary>
    public required PciHostState Pci { get; init; }

    /// <summary>COM1 to COM4.</summary>
    public required UartState[] Serial { get; init; }

    /// <summary>fw_cfg.</summary>
    public required FirmwareConfigurationState FirmwareConfiguration { get; init; }

    /// <summary>The test device, where there is one.</summary>
    public required TestDeviceState? TestDevice { get; init; }
}

/// <summary>A line that can be cut.</summary>
public sealed record GatedLineState
{
    /// <summary>What the source sets.</summary>
    public required bool Asserted { get; init; }

    /// <summary>Whether it is passed on.</summary>
    public required bool IsOpen { get; init; }
}

/// <summary>ACPI's fixed hardware: registers as the guest sees them.</summary>
public sealed record PowerManagementState
{
    /// <summary>PM1 status.</summary>
    public required ushort Status { get; init; }

    /// <summary>PM1 enable.</summary>
    public required ushort Enable { get; init; }

    /// <summary>PM1 control.</summary>
    public required ushort Control { get; init; }

    /// <summary>GPE0 status.</summary>
    public required ushort GeneralStatus { get; init; }

    /// <summary>GPE0 enable.</summary>
    public required ushort GeneralEnable { get; init; }

    /// <summary>How often the timer's top bit has toggled, as far as the status accounts for it.</summary>
    public required ulong Carries { get; init; }

    /// <summary>Waits for the next carry.</summary>
    public required TimerState? Timer { get; init; }
}

/// <summary>Processors that are added while the guest runs.</summary>
public sealed record CpuHotplugState
{
    /// <summary>The processors that are there.</summary>
    public required int Cpus { get; init; }

    /// <summary>Those of which the guest has not taken note, one bit each.</summary>
    public required uint Added { get; init; }
}

/// <summary>A keyboard controller.</summary>
public sealed record KeyboardControllerState
{
    /// <summary>Its 32 bytes of memory; the first is the command byte.</summary>
    public required byte[] Memory { get; init; }

    /// <summary>The status register.</summary>
    public required byte Status { get; init; }

    /// <summary>The output buffer.</summary>
    public required byte Output { get; init; }

    /// <summary>The command that waits for its data byte, or 0.</summary>
    public required byte PendingCommand { get; init; }
}

/// <summary>fw_cfg, without its items.</summary>
public sealed record FirmwareConfigurationState
{
    /// <summary>The selected item.</summary>
    public required ushort Selector { get; init; }

    /// <summary>The next byte in it.</summary>
    public required uint Offset { get; init; }

    /// <summary>The high half of the DMA address.</summary>
    public required uint AddressHigh { get; init; }
}

/// <summary>pc-testdev.</summary>
public sealed record TestDeviceState
{
    /// <summary>The four bytes of echo.</summary>
    public required byte[] Echo { get; init; }

    /// <summary>The scratch registers up to the last that is not zero.</summary>
    public required byte[] Scratch { get; init; }
}

/// <summary>A serial port.</summary>
public sealed record UartState
{
    /// <summary>Bytes that wait for the guest, the oldest first.</summary>
    public required byte[] Input { get; init; }

    /// <summary>Bytes in the FIFO in loopback, the oldest first.</summary>
    public required byte[] Loop { get; init; }

    /// <summary>Whether input was refused since the queue was last half empty.</summary>
    public required bool FellShort { get; init; }

    /// <summary>The interrupt enable register.</summary>
    public required byte InterruptEnable { get; init; }

    /// <summary>The FIFO control register.</summary>
    public required byte FifoControl { get; init; }

    /// <summary>The line control register.</summary>
    public required byte LineControl { get; init; }

    /// <summary>The modem control register.</summary>
    public required byte ModemControl { get; init; }

    /// <summary>The error bits of the line status register.</summary>
    public required byte LineErrors { get; init; }

    /// <summary>The lines of the modem status register as the deltas account for them.</summary>
    public required byte ModemLines { get; init; }

    /// <summary>The delta bits of the modem status register.</summary>
    public required byte ModemDeltas { get; init; }

    /// <summary>The scratch register.</summary>
    public required byte Scratch { get; init; }

    /// <summary>The divisor latch.</summary>
    public required ushort Divisor { get; init; }

    /// <summary>The transmitter's interrupt is pending.</summary>
    public required bool TransmittedPending { get; init; }
}

/// <summary>The ports of the SMI handler.</summary>
public sealed record SystemManagementPortState
{
    /// <summary>APM_CNT.</summary>
    public required byte Control { get; init; }

    /// <summary>APM_STS.</summary>
    public required byte Data { get; init; }

    /// <summary>SMI_EN.</summary>
    public required uint Enable { get; init; }

    /// <summary>SMI_STS.</summary>
    public required uint Status { get; init; }
}
