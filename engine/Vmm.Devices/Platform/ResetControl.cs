using Vmm.Devices.Bus;

namespace Vmm.Devices.Platform;

/// <summary>
/// The reset control register at 0xCF9 (ICH9 data sheet, section 13.7.5), which the FADT names as the reset register: bit 2
/// going from 0 to 1 resets: with bit 1 the whole platform, without it the processors alone, by INIT. It takes bytes only, since wider accesses there belong to the PCI configuration address.
/// </summary>
public sealed class ResetControl : IDevice
{
    /// <summary>The port.</summary>
    public const ushort Port = 0xCF9;

    /// <summary>What to write for a full reset.</summary>
    public const byte FullReset = 0x06;

    private const byte Hard = 0x02;

    private readonly Action _reset;
    private readonly Action _init;
    private byte _value;

    /// <summary>Makes the register; the PCI host passes its port's accesses on.</summary>
    /// <param name="reset">Called when the guest asks for a hard reset.</param>
    /// <param name="init">Called when the guest asks for a soft one.</param>
    public ResetControl(Action reset, Action init)
    {
        _reset = reset;
        _init = init;
    }

    /// <inheritdoc/>
    public void Reset() => _value = 0;

    /// <summary>The register.</summary>
    public byte Value
    {
        get => _value;
        set
        {
            bool pulled = (value & ~_value & 0x04) != 0;
            _value = (byte)(value & 0x0A);
            if (!pulled)
                return;
            if ((value & Hard) != 0)
                _reset();
            else
                _init();
        }
    }

    internal byte Save() => _value;

    /// <summary>Takes a saved value, without what its edges do.</summary>
    internal void Load(byte state) => _value = (byte)(state & 0x0A);
}
