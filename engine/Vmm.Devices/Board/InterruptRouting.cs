using Vmm.Devices.Bus;
using Vmm.Devices.Interrupts;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Board;

/// <summary>The interrupt wires of the board: every ISA interrupt goes to the 8259 pair and to the I/O APIC, as on a PC.</summary>
internal sealed class InterruptRouting
{
    private readonly InterruptWire[] _pic = new InterruptWire[16];
    private readonly InterruptWire[] _pins = new InterruptWire[IoApic.PinCount];

    internal InterruptRouting(PicPair pic, IoApic ioApic)
    {
        for (int i = 0; i < _pic.Length; i++)
        {
            int irq = i;
            _pic[i] = new InterruptWire(asserted => pic.SetInput(irq, asserted));
        }
        for (int i = 0; i < _pins.Length; i++)
        {
            int pin = i;
            _pins[i] = new InterruptWire(asserted => ioApic.SetInput(pin, asserted));
        }
    }

    /// <summary>A source on an ISA interrupt, 0 to 15 without 2.</summary>
    internal IInterruptLine Isa(int irq) => new Pair(_pic[irq].AddSource(), _pins[BoardLayout.PinOfIrq(irq)].AddSource());

    /// <summary>A source on one of the four PCI interrupts.</summary>
    internal IInterruptLine Pci(int wire) => new Pair(_pic[BoardLayout.PciLegacyIrqs[wire]].AddSource(), _pins[BoardLayout.PciFirstPin + wire].AddSource());

    /// <summary>A source on a pin of the I/O APIC alone.</summary>
    internal IInterruptLine Pin(int pin) => _pins[pin].AddSource();

    internal bool[][] SaveLegacyWires() => [.. _pic.Select(wire => wire.Save())];

    internal bool[][] SaveWires() => [.. _pins.Select(wire => wire.Save())];

    internal void Load(bool[][] legacyWires, bool[][] wires)
    {
        Load(legacyWires, _pic, "Board.LegacyWires");
        Load(wires, _pins, "Board.Wires");
    }

    private static void Load(bool[][] state, InterruptWire[] wires, string where)
    {
        InvalidStateException.ThrowUnlessLength(state, wires.Length, where);
        for (int i = 0; i < wires.Length; i++)
        {
            InvalidStateException.ThrowUnless(state[i] != null, where, "one is missing.");
            wires[i].Load(state[i]);
        }
    }

    private sealed class Pair(IInterruptLine first, IInterruptLine second) : IInterruptLine
    {
        private readonly IInterruptLine _first = first;
        private readonly IInterruptLine _second = second;

        public void Set(bool asserted)
        {
            _first.Set(asserted);
            _second.Set(asserted);
        }
    }
}
