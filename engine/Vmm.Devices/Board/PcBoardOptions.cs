using Vmm.Devices.Acpi;
using Vmm.Devices.Bus;
using Vmm.Devices.Serial;
using Vmm.Devices.Storage;
using Vmm.Devices.Virtio;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Time;

namespace Vmm.Devices.Board;

/// <summary>What the standard PC is built from. Every callback runs on the thread that runs the machine and must not throw.</summary>
public sealed record PcBoardOptions
{
    private readonly int? _maxCpus;

    /// <summary>The machine's clock.</summary>
    public required IMachineClock Clock { get; init; }

    /// <summary>The local APICs.</summary>
    public required IInterruptSink Interrupts { get; init; }

    /// <summary>Guest RAM for devices that master the bus.</summary>
    public required IGuestMemory Memory { get; init; }

    /// <summary>RAM in bytes.</summary>
    public required ulong MemoryBytes { get; init; }

    /// <summary>Virtual processors from the start.</summary>
    public int Cpus { get; init; } = 1;

    /// <summary>Virtual processors that there may come to be, at most <see cref="CpuHotplug.MostCpus"/>: <see cref="Cpus"/> unless this is set.</summary>
    public int MaxCpus
    {
        get => _maxCpus ?? Cpus;
        init => _maxCpus = value;
    }

    /// <summary>Whether there is an HPET.</summary>
    public bool HasHpet { get; init; } = true;

    /// <summary>The guest entered ACPI S5.</summary>
    public required Action PowerOff { get; init; }

    /// <summary>
    /// The guest asked for a hard reset (0xCF9 with bit 1, which is the ACPI reset register, too). Called in the middle of a
    /// guest's access: note it, and reset the vCPUs and <see cref="PcBoard.Reset"/> the board after the instruction.
    /// </summary>
    public required Action ResetRequested { get; init; }

    /// <summary>
    /// The guest pulled the INIT line of all processors (8042, port 0x92, 0xCF9 without bit 1). Called in the middle of a
    /// guest's access; devices and memory stay as they are.
    /// </summary>
    public required Action InitRequested { get; init; }

    /// <summary>What is in the firmware's chip, which ends at 4 GiB: a multiple of 4096 bytes. Empty leaves the chip out.</summary>
    public ReadOnlyMemory<byte> FirmwareRom { get; init; }

    /// <summary>The guest wrote a value to isa-debug-exit; the exit code is <c>(value &lt;&lt; 1) | 1</c>.</summary>
    public required Action<uint> DebugExit { get; init; }

    /// <summary>What the guest sends to COM1 to COM4; null entries and missing ones go nowhere.</summary>
    public IReadOnlyList<ByteSink?> SerialOutput { get; init; } = [];

    /// <summary>What the guest sends to the debug console at port 0xE9.</summary>
    public ByteSink? DebugConsoleOutput { get; init; }

    /// <summary>virtio-blk disks, in order, at most 28. The board does not own them.</summary>
    public IReadOnlyList<BoardDisk> Disks { get; init; } = [];

    /// <summary>What virtio-rng gives out; null leaves the device out.</summary>
    public EntropySource? Entropy { get; init; }

    /// <summary>What the guest sends to virtio-console; null leaves the device out.</summary>
    public ByteSink? VirtioConsoleOutput { get; init; }

    /// <summary>Whether pc-testdev's ports and memory are there.</summary>
    public bool HasTestDevice { get; init; } = true;
}

/// <summary>A disk on the board.</summary>
/// <param name="Disk">Its content.</param>
/// <param name="Serial">What it calls itself to the guest, up to 20 characters.</param>
public sealed record BoardDisk(IDisk Disk, string Serial);
