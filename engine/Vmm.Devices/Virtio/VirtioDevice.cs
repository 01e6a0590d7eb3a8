using System.Buffers.Binary;
using Vmm.Devices.Bus;
using Vmm.Devices.Pci;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apic;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Virtio;

/// <summary>
/// A virtio 1.x device on the PCI transport (virtio 1.2, section 4.1), without the legacy interface. BAR 0 holds the four
/// structures, BAR 1 the MSI-X table. What a device of a type does is in the derived classes: queues and configuration.
/// </summary>
public abstract class VirtioDevice : PciFunction, IMemoryDevice
{
    private const ushort VendorId = 0x1AF4;
    private const ushort DeviceIdBase = 0x1040;

    // The structures in BAR 0, a page each.
    private const uint CommonOffset = 0x0000;
    private const uint InterruptStatusOffset = 0x1000;
    private const uint DeviceOffset = 0x2000;
    private const uint NotifyOffset = 0x3000;
    private const uint WindowLength = 0x4000;
    private const uint NotifyMultiplier = 4;

    private const ushort NoVector = 0xFFFF;

    private const ulong IndirectFeature = 1UL << 28;
    private const ulong EventIndexFeature = 1UL << 29;
    private const ulong Version1Feature = 1UL << 32;

    private const byte FeaturesOk = 8;
    private const byte DriverOk = 4;
    private const byte NeedsReset = 64;

    private const byte QueueInterrupt = 1;
    private const byte ConfigurationInterrupt = 2;

    private readonly MessageSignalledInterrupts _messages;
    private readonly int _messageCapability;
    private readonly VirtioRing[] _rings;
    private readonly ushort[] _vectors;
    private readonly List<VirtioBuffer> _buffers = [];
    private readonly ulong _features;
    private uint _deviceFeatureSelect;
    private uint _driverFeatureSelect;
    private ulong _driverFeatures;
    private ushort _configurationVector;
    private ushort _queueSelect;
    private byte _status;
    private byte _interruptStatus;

    /// <summary>Describes a device.</summary>
    /// <param name="bus">The bus for its memory windows.</param>
    /// <param name="sink">The local APICs, for MSI-X.</param>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="type">The device type (section 5): 1 network, 2 block, 3 console, 4 entropy.</param>
    /// <param name="classCode">The PCI class.</param>
    /// <param name="features">Features of the type, bits 0 to 23.</param>
    /// <param name="queueSizes">The size of each queue.</param>
    protected VirtioDevice(SystemBus bus, IInterruptSink sink, IGuestMemory memory, ushort type, uint classCode, ulong features, params ReadOnlySpan<ushort> queueSizes)
        : base(VendorId, (ushort)(DeviceIdBase + type), classCode, revision: 1, VendorId, (ushort)(DeviceIdBase + type))
    {
        Memory = memory;
        _features = features | IndirectFeature | EventIndexFeature | Version1Feature;
        _rings = new VirtioRing[queueSizes.Length];
        _vectors = new ushort[queueSizes.Length];
        for (int i = 0; i < _rings.Length; i++)
            _rings[i] = new VirtioRing(memory, queueSizes[i]);
        // One vector for the configuration and one for each queue.
        _messages = new MessageSignalledInterrupts(sink, memory, _rings.Length + 1);
        AddBar(bus, 0, WindowLength, this, 4);
        AddBar(bus, 1, MessageSignalledInterrupts.WindowLength, _messages, 8);

        AddStructure(1, CommonOffset, 56);
        AddStructure(3, InterruptStatusOffset, 1);
        AddStructure(4, DeviceOffset, 0x100);
        AddStructure(2, NotifyOffset, (uint)_rings.Length * NotifyMultiplier, NotifyMultiplier);
        byte[] control = new byte[10];
        BinaryPrimitives.WriteUInt16LittleEndian(control, (ushort)(_messages.Count - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(control.AsSpan(2), 1);
        BinaryPrimitives.WriteUInt32LittleEndian(control.AsSpan(6), MessageSignalledInterrupts.PendingOffset | 1);
        _messageCapability = AddCapability(MessageSignalledInterrupts.CapabilityId, control, [0x00, 0xC0]);
    }

    /// <summary>A vendor-specific capability that locates a structure (section 4.1.4).</summary>
    private void AddStructure(byte type, uint offset, uint length, uint? multiplier = null)
    {
        byte[] body = new byte[multiplier == null ? 14 : 18];
        body[0] = (byte)(body.Length + 2);
        body[1] = type;
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(6), offset);
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(10), length);
        if (multiplier is { } value)
            BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(14), value);
        AddCapability(0x09, body);
    }

    /// <summary>Guest RAM.</summary>
    protected IGuestMemory Memory { get; }

    /// <summary>Whether the driver is up and the device not broken.</summary>
    protected bool IsRunning => (_status & (DriverOk | NeedsReset)) == DriverOk;

    /// <summary>Whether the driver accepted a feature.</summary>
    protected bool Negotiated(ulong feature) => (_driverFeatures & feature) != 0;

    /// <inheritdoc/>
    public override void Reset()
    {
        base.Reset();
        _messages.Reset();
        ResetTransport();
    }

    private void ResetTransport()
    {
        _deviceFeatureSelect = _driverFeatureSelect = 0;
        _driverFeatures = 0;
        _configurationVector = NoVector;
        _queueSelect = 0;
        _status = _interruptStatus = 0;
        foreach (VirtioRing ring in _rings)
            ring.Reset();
        Array.Fill(_vectors, NoVector);
        SetInterrupt(false);
        OnReset();
    }

    /// <summary>The driver reset the device.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>Reads a byte of the device's own configuration; what lies beyond it is zero.</summary>
    protected virtual byte ReadConfiguration(int offset) => 0;

    /// <summary>
    /// Works on one chain of buffers.
    /// </summary>
    /// <param name="queue">The queue that it came from.</param>
    /// <param name="buffers">The chain: buffers to read, then buffers to write, all of them RAM.</param>
    /// <returns>The bytes written to it, or null where the request breaks the protocol and the device needs a reset.</returns>
    protected abstract uint? Process(int queue, List<VirtioBuffer> buffers);

    /// <summary>The driver notified a queue. By default works off all that is in it.</summary>
    protected virtual void OnNotify(int queue) => Drain(queue, int.MaxValue);

    /// <summary>Works off up to a number of chains, and interrupts where the driver wants it.</summary>
    /// <returns>How many there were.</returns>
    protected int Drain(int queue, int most)
    {
        if (!IsRunning)
            return 0;
        VirtioRing ring = _rings[queue];
        int done = 0;
        // While the vCPUs stand, the driver cannot add more: the ring's size bounds this.
        while (done < most)
        {
            RingResult result = ring.TryTake(_buffers, out ushort head);
            if (result == RingResult.Empty)
                break;
            if (result == RingResult.Broken || Process(queue, _buffers) is not { } written || !ring.TryReturn(head, written))
            {
                Break();
                break;
            }
            done++;
        }
        if (done > 0 && ring.NeedsInterrupt())
            Interrupt(_vectors[queue], QueueInterrupt);
        return done;
    }

    /// <summary>Stops until the driver resets the device (section 2.1.2).</summary>
    private void Break()
    {
        _status |= NeedsReset;
        if ((_status & DriverOk) != 0)
            Interrupt(_configurationVector, ConfigurationInterrupt);
    }

    private void Interrupt(ushort vector, byte cause)
    {
        if (_messages.Enabled)
        {
            if (vector != NoVector)
                _messages.Send(vector);
            return;
        }
        _interruptStatus |= cause;
        SetInterrupt(true);
    }

    /// <inheritdoc/>
    protected override void OnCapabilityWritten(int offset, int size)
    {
        _messages.SetControl((ushort)ReadConfig(_messageCapability + 2, 2));
        SetInterrupt(_interruptStatus != 0 && !_messages.Enabled);
    }

    /// <inheritdoc/>
    public ulong ReadMemory(ulong offset, int size)
    {
        switch (offset & 0x3000)
        {
            case CommonOffset:
                return ReadCommon((int)offset, size);
            case InterruptStatusOffset:
                if (offset != InterruptStatusOffset)
                    return 0;
                // Reading acknowledges (section 4.1.4.5).
                byte status = _interruptStatus;
                _interruptStatus = 0;
                SetInterrupt(false);
                return status;
            case DeviceOffset:
                ulong value = 0;
                for (int i = 0; i < size; i++)
                    value |= (ulong)ReadConfiguration((int)(offset - DeviceOffset) + i) << i * 8;
                return value;
            default:
                return 0;
        }
    }

    /// <summary>The common configuration structure (section 4.1.4.3); a part of a register reads as that part.</summary>
    private ulong ReadCommon(int offset, int size)
    {
        VirtioRing? ring = _queueSelect < _rings.Length ? _rings[_queueSelect] : null;
        (int start, ulong value) = offset switch
        {
            < 0x04 => (0x00, (ulong)_deviceFeatureSelect),
            < 0x08 => (0x04, _deviceFeatureSelect < 2 ? (uint)(_features >> (int)_deviceFeatureSelect * 32) : 0),
            < 0x0C => (0x08, _driverFeatureSelect),
            < 0x10 => (0x0C, _driverFeatureSelect < 2 ? (uint)(_driverFeatures >> (int)_driverFeatureSelect * 32) : 0),
            < 0x12 => (0x10, _configurationVector),
            < 0x14 => (0x12, (ulong)_rings.Length),
            < 0x15 => (0x14, _status),
            < 0x16 => (0x15, 0UL),
            < 0x18 => (0x16, _queueSelect),
            < 0x1A => (0x18, ring?.Size ?? 0UL),
            < 0x1C => (0x1A, ring == null ? NoVector : _vectors[_queueSelect]),
            < 0x1E => (0x1C, ring is { Enabled: true } ? 1UL : 0),
            < 0x20 => (0x1E, ring == null ? 0UL : _queueSelect),
            < 0x28 => (0x20, ring?.DescriptorTable ?? 0),
            < 0x30 => (0x28, ring?.AvailableRing ?? 0),
            < 0x38 => (0x30, ring?.UsedRing ?? 0),
            _ => (offset, 0UL),
        };
        // A read that runs into the next register is the driver's error and reads zeros there.
        return value >> (offset - start) * 8 & (size == 8 ? ulong.MaxValue : (1UL << size * 8) - 1);
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong offset, int size, ulong value)
    {
        switch (offset & 0x3000)
        {
            case CommonOffset:
                WriteCommon((int)offset, size, value);
                break;
            case DeviceOffset:
                // None of the devices here has configuration for the driver to write.
                break;
            case NotifyOffset:
                int queue = (int)(offset - NotifyOffset) / (int)NotifyMultiplier;
                if (queue < _rings.Length && IsRunning)
                    OnNotify(queue);
                break;
        }
    }

    private void WriteCommon(int offset, int size, ulong value)
    {
        VirtioRing? ring = _queueSelect < _rings.Length ? _rings[_queueSelect] : null;
        switch (offset, size)
        {
            case (0x00, 4):
                _deviceFeatureSelect = (uint)value;
                break;
            case (0x08, 4):
                _driverFeatureSelect = (uint)value;
                break;
            case (0x0C, 4) when _driverFeatureSelect < 2 && (_status & FeaturesOk) == 0:
                int shift = (int)_driverFeatureSelect * 32;
                _driverFeatures = _driverFeatures & ~(0xFFFF_FFFFUL << shift) | value << shift;
                break;
            case (0x10, 2):
                _configurationVector = CheckVector((ushort)value);
                break;
            case (0x14, 1):
                WriteStatus((byte)value);
                break;
            case (0x16, 2):
                _queueSelect = (ushort)value;
                break;
            case (0x1A, 2) when ring != null:
                _vectors[_queueSelect] = CheckVector((ushort)value);
                break;
            case (0x18, 2) when ring is { Enabled: false }:
                ring.Size = (ushort)value;
                break;
            case (0x1C, 2) when ring is { Enabled: false } && value == 1:
                ring.UsesEventIndex = Negotiated(EventIndexFeature);
                ring.AllowsIndirect = Negotiated(IndirectFeature);
                if ((_status & FeaturesOk) == 0 || !ring.TryEnable())
                    Break();
                break;
            case ( >= 0x20 and < 0x38, 4) when ring is { Enabled: false } && offset % 4 == 0:
                WriteRingAddress(ring, offset, (uint)value);
                break;
        }
    }

    private static void WriteRingAddress(VirtioRing ring, int offset, uint value)
    {
        ulong Merge(ulong old) => offset % 8 == 0 ? old & ~0xFFFF_FFFFUL | value : (uint)old | (ulong)value << 32;
        switch (offset & ~7)
        {
            case 0x20:
                ring.DescriptorTable = Merge(ring.DescriptorTable);
                break;
            case 0x28:
                ring.AvailableRing = Merge(ring.AvailableRing);
                break;
            default:
                ring.UsedRing = Merge(ring.UsedRing);
                break;
        }
    }

    /// <summary>A vector that does not exist reads back as none (section 4.1.5.1.2).</summary>
    private ushort CheckVector(ushort vector) => vector < _messages.Count ? vector : NoVector;

    private void WriteStatus(byte value)
    {
        if (value == 0)
        {
            ResetTransport();
            return;
        }
        // Bits are only ever added, and needing a reset is not the driver's to write.
        byte next = (byte)(value & ~NeedsReset | _status);
        bool acceptable = (_driverFeatures & ~_features) == 0 && (_driverFeatures & Version1Feature) != 0;
        if ((next & FeaturesOk) != 0 && (_status & FeaturesOk) == 0 && !acceptable)
            next &= unchecked((byte)~FeaturesOk);
        // A driver may not come up before its features were accepted.
        if ((next & FeaturesOk) == 0)
            next &= unchecked((byte)~DriverOk);
        bool comesUp = (next & ~_status & DriverOk) != 0;
        _status = next;
        if (comesUp)
            OnDriverOk();
    }

    /// <summary>The driver has come up; buffers may be in the queues already.</summary>
    protected virtual void OnDriverOk()
    {
    }

    /// <inheritdoc/>
    public override PciFunctionState Save() => base.Save() with
    {
        Virtio = SaveDevice(new()
        {
            DeviceFeatureSelect = _deviceFeatureSelect,
            DriverFeatureSelect = _driverFeatureSelect,
            DriverFeatures = _driverFeatures,
            ConfigurationVector = _configurationVector,
            QueueSelect = _queueSelect,
            Status = _status,
            InterruptStatus = _interruptStatus,
            Messages = _messages.Save(),
            Rings = [.. _rings.Select(ring => ring.Save())],
            Vectors = [.. _vectors],
            Input = null,
            FellShort = false,
        }),
    };

    /// <inheritdoc/>
    public override void Load(PciFunctionState state)
    {
        base.Load(state);
        VirtioState? saved = state.Virtio;
        InvalidStateException.ThrowUnless(saved != null, "PciFunction.Virtio", "it is missing.");
        InvalidStateException.ThrowUnlessLength(saved!.Rings, _rings.Length, "Virtio.Rings");
        InvalidStateException.ThrowUnlessLength(saved.Vectors, _vectors.Length, "Virtio.Vectors");
        foreach (ushort vector in (ushort[])[saved.ConfigurationVector, .. saved.Vectors])
            InvalidStateException.ThrowUnless(vector == CheckVector(vector), "Virtio.Vectors", $"there is no vector {vector}.");
        for (int i = 0; i < _rings.Length; i++)
        {
            InvalidStateException.ThrowUnless(saved.Rings[i] != null, "Virtio.Rings", "one is missing.");
            _rings[i].Load(saved.Rings[i]);
        }
        _messages.Load(saved.Messages);
        saved.Vectors.CopyTo(_vectors, 0);
        _deviceFeatureSelect = saved.DeviceFeatureSelect;
        _driverFeatureSelect = saved.DriverFeatureSelect;
        _driverFeatures = saved.DriverFeatures;
        _configurationVector = saved.ConfigurationVector;
        _queueSelect = saved.QueueSelect;
        _status = saved.Status;
        _interruptStatus = saved.InterruptStatus;
        LoadDevice(saved);
    }

    /// <summary>Adds what the device itself has.</summary>
    protected virtual VirtioState SaveDevice(VirtioState state) => state;

    /// <summary>Takes what the device itself had.</summary>
    /// <exception cref="InvalidStateException">It is none of this device.</exception>
    protected virtual void LoadDevice(VirtioState state)
    {
    }
}
