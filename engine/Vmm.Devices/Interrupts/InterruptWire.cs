using Vmm.Devices.Bus;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Interrupts;

/// <summary>A wire that several sources may assert: asserted while at least one does.</summary>
/// <param name="changed">Told the new level whenever it changes.</param>
public sealed class InterruptWire(Action<bool> changed)
{
    private readonly Action<bool> _changed = changed;
    private readonly List<Source> _sources = [];
    private int _asserting;

    /// <summary>Whether any source asserts the wire.</summary>
    public bool IsAsserted => _asserting > 0;

    /// <summary>Adds a source, released at first.</summary>
    public IInterruptLine AddSource()
    {
        var source = new Source(this);
        _sources.Add(source);
        return source;
    }

    /// <summary>Which sources assert the wire, in the order in which they were added.</summary>
    public bool[] Save() => [.. _sources.Select(source => source.Asserted)];

    /// <summary>Takes saved levels without telling anyone: where the wire leads has the level in its own state.</summary>
    /// <exception cref="InvalidStateException">There are more or fewer sources.</exception>
    public void Load(bool[] state)
    {
        InvalidStateException.ThrowUnlessLength(state, _sources.Count, "InterruptWire");
        for (int i = 0; i < state.Length; i++)
            _sources[i].Asserted = state[i];
        _asserting = state.Count(asserted => asserted);
    }

    private sealed class Source(InterruptWire wire) : IInterruptLine
    {
        private readonly InterruptWire _wire = wire;

        internal bool Asserted { get; set; }

        public void Set(bool asserted)
        {
            if (asserted == Asserted)
                return;
            Asserted = asserted;
            _wire._asserting += asserted ? 1 : -1;
            if (_wire._asserting == (asserted ? 1 : 0))
                _wire._changed(asserted);
        }
    }
}
