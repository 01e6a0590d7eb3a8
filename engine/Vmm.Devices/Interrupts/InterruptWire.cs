using Vmm.Devices.Bus;

namespace Vmm.Devices.Interrupts;

/// <summary>A wire that several sources may assert: asserted while at least one does.</summary>
/// <param name="changed">Told the new level whenever it changes.</param>
public sealed class InterruptWire(Action<bool> changed)
{
    private readonly Action<bool> _changed = changed;
    private int _asserting;

    /// <summary>Whether any source asserts the wire.</summary>
    public bool IsAsserted => _asserting > 0;

    /// <summary>Adds a source, released at first.</summary>
    public IInterruptLine AddSource() => new Source(this);

    private sealed class Source(InterruptWire wire) : IInterruptLine
    {
        private readonly InterruptWire _wire = wire;
        private bool _asserted;

        public void Set(bool asserted)
        {
            if (asserted == _asserted)
                return;
            _asserted = asserted;
            _wire._asserting += asserted ? 1 : -1;
            if (_wire._asserting == (asserted ? 1 : 0))
                _wire._changed(asserted);
        }
    }
}
