using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;
using Vmm.Hypervisor.Apic;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Interrupts;

/// <summary>
/// The two cascaded 8259A controllers of a PC: the master at ports 0x20 and 0x21, the slave at 0xA0 and 0xA1 on the master's
/// input 2, and the edge/level control registers at 0x4D0 and 0x4D1.
/// </summary>
public sealed class PicPair : IDevice, IPortDevice, IExternalInterruptController
{
    /// <summary>The input of the master that the slave's output is wired to.</summary>
    internal const int CascadeInput = 2;

    private const ushort MasterCommand = 0x20;
    private const ushort MasterData = 0x21;
    private const ushort SlaveCommand = 0xA0;
    private const ushort SlaveData = 0xA1;
    private const ushort MasterEdgeLevel = 0x4D0;
    private const ushort SlaveEdgeLevel = 0x4D1;

    // IRQ 0, 1, 2, 8 and 13 are always edge-triggered (the ICH's description of ELCR1 and ELCR2).
    private readonly InterruptController8259 _master = new(isMaster: true, edgeLevelWritable: 0xF8);
    private readonly InterruptController8259 _slave = new(isMaster: false, edgeLevelWritable: 0xDE);
    private readonly Action<bool> _output;
    private bool _asserted;

    /// <summary>Called after a write that may have changed what <see cref="IgnoresEdge"/> says.</summary>
    public Action? Programmed { get; set; }

    /// <summary>Puts the pair on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="output">Told whenever the master's INTR output changes.</param>
    public PicPair(SystemBus bus, Action<bool> output)
    {
        _output = output;
        bus.AddPorts(this, MasterCommand, 2);
        bus.AddPorts(this, SlaveCommand, 2);
        bus.AddPorts(this, MasterEdgeLevel, 2);
    }

    /// <summary>Sets an interrupt request input, 0 to 15 without 2.</summary>
    public void SetInput(int irq, bool asserted)
    {
        if (irq < 8)
            _master.SetInput(irq, asserted);
        else
            _slave.SetInput(irq - 8, asserted);
        Update();
    }

    /// <summary>Whether a further rising edge on an input changes nothing: it is masked, and has been noted already.</summary>
    public bool IgnoresEdge(int irq) => irq < 8 ? _master.IgnoresEdge(irq) : _slave.IgnoresEdge(irq - 8);

    /// <inheritdoc/>
    public void Reset()
    {
        _master.Reset();
        _slave.Reset();
        Update();
    }

    /// <inheritdoc/>
    public byte Acknowledge()
    {
        int input = _master.Acknowledge();
        byte vector = _master.Vector(input);
        if (input == CascadeInput)
            vector = _slave.Vector(_slave.Acknowledge());
        // The slave drops its output during the cycle; a further request of it is a new edge at the master.
        _master.SetInput(CascadeInput, false);
        Update();
        return vector;
    }

    private void Update()
    {
        _master.SetInput(CascadeInput, _slave.PendingInput >= 0);
        bool asserted = _master.PendingInput >= 0;
        if (asserted == _asserted)
            return;
        _asserted = asserted;
        _output(asserted);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size)
    {
        byte value;
        switch (port)
        {
            case MasterCommand:
                value = _master.ReadCommand();
                break;
            case MasterData:
                value = _master.ReadData();
                break;
            case SlaveCommand:
                value = _slave.ReadCommand();
                break;
            case SlaveData:
                value = _slave.ReadData();
                break;
            case MasterEdgeLevel:
                return _master.EdgeLevel;
            default:
                return _slave.EdgeLevel;
        }
        // A read may have been a poll, which is an acknowledge.
        Update();
        return value;
    }

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        switch (port)
        {
            case MasterCommand:
                _master.WriteCommand((byte)value);
                break;
            case MasterData:
                _master.WriteData((byte)value);
                break;
            case SlaveCommand:
                _slave.WriteCommand((byte)value);
                break;
            case SlaveData:
                _slave.WriteData((byte)value);
                break;
            case MasterEdgeLevel:
                _master.EdgeLevel = (byte)value;
                break;
            case SlaveEdgeLevel:
                _slave.EdgeLevel = (byte)value;
                break;
        }
        Update();
        Programmed?.Invoke();
    }

    /// <summary>Its state between two accesses.</summary>
    public PicPairState Save() => new() { Master = _master.Save(), Slave = _slave.Save(), Asserted = _asserted };

    /// <summary>Takes a saved state. Nobody is told of the output: the local APIC has the level in its own state.</summary>
    /// <exception cref="InvalidStateException">It is none of an 8259 pair.</exception>
    public void Load(PicPairState state)
    {
        _master.Load(state.Master);
        _slave.Load(state.Slave);
        _asserted = state.Asserted;
    }
}
