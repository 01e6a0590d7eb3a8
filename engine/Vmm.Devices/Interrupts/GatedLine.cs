using Vmm.Devices.Bus;
using Vmm.Devices.SavedState;

namespace Vmm.Devices.Interrupts;

/// <summary>A line that can be cut, as the HPET's legacy replacement cuts those of the PIT and the RTC.</summary>
/// <param name="target">Where it leads while it is open.</param>
public sealed class GatedLine(IInterruptLine target) : IInterruptLine
{
    private readonly IInterruptLine _target = target;
    private bool _asserted;
    private bool _open = true;

    /// <summary>Whether the level is passed on; a closed line is released.</summary>
    public bool IsOpen
    {
        get => _open;
        set
        {
            _open = value;
            _target.Set(_asserted && _open);
        }
    }

    /// <inheritdoc/>
    public void Set(bool asserted)
    {
        _asserted = asserted;
        _target.Set(asserted && _open);
    }

    internal GatedLineState Save() => new() { Asserted = _asserted, IsOpen = _open };

    /// <summary>Takes a saved state. The level behind it is that of its own source, which is saved with its wire.</summary>
    internal void Load(GatedLineState state)
    {
        _asserted = state.Asserted;
        _open = state.IsOpen;
    }
}
