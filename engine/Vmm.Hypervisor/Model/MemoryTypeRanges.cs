using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.Model;

/// <summary>
/// The memory-type range registers of one vCPU (SDM volume 3, section 12.11; 13.11 in newer editions). The engine has no caches, so they are kept, checked
/// and otherwise without effect.
/// </summary>
public sealed class MemoryTypeRanges(int physicalAddressBits)
{
    /// <summary>Variable ranges.</summary>
    public const int VariableCount = 8;

    private const byte Uncacheable = 0, WriteProtected = 5, WriteBack = 6;
    private const ulong Enabled = 1 << 11, FixedEnabled = 1 << 10;

    private readonly ulong[] _fixed = new ulong[11];
    private readonly ulong[] _variable = new ulong[VariableCount * 2];
    private readonly ulong _addressMask = (1UL << physicalAddressBits) - 1 & ~0xFFFUL;
    private ulong _defaultType;

    /// <summary>IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.</summary>
    public const ulong Capability = VariableCount | 1 << 8 | 1 << 10;

    /// <summary>
    /// The ranges as a PC's firmware leaves them: RAM is write-back, the video window, the hole for devices below 4 GiB is not
    /// cached, and what would be firmware is write-protected.
    /// </summary>
    public void Reset()
    {
        Array.Clear(_variable);
        for (int i = 0; i < _fixed.Length; i++)
            _fixed[i] = Repeat(i switch { < 2 => WriteBack, 2 => Uncacheable, _ => WriteProtected });
        _defaultType = Enabled | FixedEnabled | WriteBack;
        _variable[0] = 0xC000_0000 | Uncacheable;
        _variable[1] = (_addressMask & ~0x3FFF_FFFFUL) | Enabled;
    }

    /// <summary>Reads one of the registers. False where there is none of that number.</summary>
    public bool TryRead(uint msr, out ulong value)
    {
        if (msr == Msr.MtrrDefaultType)
            value = _defaultType;
        else if (msr - Msr.MtrrPhysicalBase0 < VariableCount * 2)
            value = _variable[msr - Msr.MtrrPhysicalBase0];
        else if (FixedIndex(msr) is var index and >= 0)
            value = _fixed[index];
        else
            value = 0;
        return value != 0 || msr == Msr.MtrrDefaultType || msr - Msr.MtrrPhysicalBase0 < VariableCount * 2 || FixedIndex(msr) >= 0;
    }

    /// <summary>Writes one of the registers. False, with nothing changed, where there is none or the value has a reserved bit or type.</summary>
    public bool TryWrite(uint msr, ulong value)
    {
        if (msr == Msr.MtrrDefaultType)
        {
            if ((value & ~(Enabled | FixedEnabled | 0xFF)) != 0 || !IsType((byte)value))
                return false;
            _defaultType = value;
            return true;
        }
        uint variable = msr - Msr.MtrrPhysicalBase0;
        if (variable < VariableCount * 2)
        {
            bool mask = (variable & 1) != 0;
            if ((value & ~(_addressMask | (mask ? Enabled : 0xFF))) != 0 || (!mask && !IsType((byte)value)))
                return false;
            _variable[variable] = value;
            return true;
        }
        int index = FixedIndex(msr);
        if (index < 0)
            return false;
        for (int shift = 0; shift < 64; shift += 8)
        {
            if (!IsType((byte)(value >> shift)))
                return false;
        }
        _fixed[index] = value;
        return true;
    }

    /// <summary>IA32_MTRR_DEF_TYPE.</summary>
    internal ulong DefaultType => _defaultType;

    /// <summary>The fixed ranges, in the order of their addresses.</summary>
    internal ReadOnlySpan<ulong> Fixed => _fixed;

    /// <summary>Base and mask of each variable range.</summary>
    internal ReadOnlySpan<ulong> Variable => _variable;

    /// <summary>Takes saved registers.</summary>
    /// <exception cref="InvalidStateException">One could not be written with such a value.</exception>
    internal void Load(ulong defaultType, ulong[] fixedRanges, ulong[] variable)
    {
        InvalidStateException.ThrowUnlessLength(fixedRanges, _fixed.Length, "MemoryTypeRanges.Fixed");
        InvalidStateException.ThrowUnlessLength(variable, _variable.Length, "MemoryTypeRanges.Variable");
        Write(Msr.MtrrDefaultType, defaultType);
        for (uint k = 0; k < _variable.Length; k++)
            Write(Msr.MtrrPhysicalBase0 + k, variable[k]);
        uint[] numbers = [Msr.MtrrFixed64K, Msr.MtrrFixed16K80000, Msr.MtrrFixed16KA0000, .. Enumerable.Range((int)Msr.MtrrFixed4KC0000, 8).Select(msr => (uint)msr)];
        for (int k = 0; k < _fixed.Length; k++)
            Write(numbers[k], fixedRanges[k]);

        void Write(uint msr, ulong value) => InvalidStateException.ThrowUnless(TryWrite(msr, value), $"MemoryTypeRanges[0x{msr:x}]", $"0x{value:x} is not allowed.");
    }

    private static bool IsType(byte type) => type is 0 or 1 or 4 or 5 or 6;

    private static ulong Repeat(byte type) => type * 0x0101_0101_0101_0101UL;

    private static int FixedIndex(uint msr) => msr switch
    {
        Msr.MtrrFixed64K => 0,
        Msr.MtrrFixed16K80000 => 1,
        Msr.MtrrFixed16KA0000 => 2,
        >= Msr.MtrrFixed4KC0000 and < Msr.MtrrFixed4KC0000 + 8 => (int)(msr - Msr.MtrrFixed4KC0000) + 3,
        _ => -1,
    };
}
