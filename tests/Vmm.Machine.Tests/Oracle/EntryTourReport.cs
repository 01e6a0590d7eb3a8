using Vmm.Testing.Oracle;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>What a run of <see cref="EntryTour"/> printed: the processor that it found, and how its entries ended.</summary>
internal sealed class EntryTourReport
{
    /// <summary>Controls that the oracle does not know: in a case that has one of them, and may, nothing is said.</summary>
    private static readonly Dictionary<uint, ulong> Unknown = new()
    {
        [0x4002] = 1 << 17,
        [0x401E] = 0xF980_0000 & ~(1UL << 31 | 1 << 29),
        [0x400C] = 0xFE00_0000,
        [0x4012] = 0xFFFC_0000,
    };

    private readonly Dictionary<uint, ulong> _msrs = [];
    private readonly HashSet<uint> _fields = [];
    private readonly Dictionary<int, (EntryLine Line, ulong First, ulong Second)> _cases = [];
    private readonly int _physicalAddressBits, _linearAddressBits;

    public EntryTourReport(IReadOnlyList<string> lines)
    {
        foreach (string line in lines)
        {
            ulong[] columns = [.. line.Split(' ').Select(c => Convert.ToUInt64(c, 16))];
            switch ((EntryLine)columns[1])
            {
                case EntryLine.Msr when columns[2] == 1:
                    _msrs[(uint)columns[0]] = columns[3];
                    break;
                case EntryLine.Width:
                    (_physicalAddressBits, _linearAddressBits) = ((int)(columns[2] & 0xFF), (int)(columns[2] >> 8 & 0xFF));
                    break;
                case EntryLine.Field when columns[2] == 1:
                    _fields.Add((uint)columns[0]);
                    break;
                case EntryLine.FailInvalid or EntryLine.FailValid or EntryLine.Exit:
                    _cases[(int)columns[0]] = ((EntryLine)columns[1], columns[2], columns[3]);
                    break;
            }
        }
    }

    /// <summary>What a case printed.</summary>
    public (EntryLine Line, ulong First, ulong Second) Line(int number) => _cases[number];

    /// <summary>How a case ended, or null where it did not come to its end.</summary>
    public EntryVerdicts? Verdict(int number) => !_cases.TryGetValue(number, out (EntryLine Line, ulong First, ulong Second) line) ? null : line switch
    {
        (EntryLine.FailValid, 7, _) => EntryVerdicts.InvalidControls,
        (EntryLine.FailValid, 8, _) => EntryVerdicts.InvalidHostState,
        (EntryLine.Exit, 0x8000_0021, 0) => EntryVerdicts.InvalidGuestState,
        (EntryLine.Exit, 0x8000_0021, 2) => EntryVerdicts.InvalidPdptes,
        (EntryLine.Exit, 0x8000_0021, 3) => EntryVerdicts.NmiUnderSti,
        (EntryLine.Exit, 0x8000_0021, 4) => EntryVerdicts.InvalidLinkPointer,
        (EntryLine.Exit, not 0x8000_0021, _) => EntryVerdicts.Entry,
        _ => 0,
    };

    /// <summary>What the oracle allows; null where it does not know.</summary>
    public EntryVerdicts? Allowed(EntryTourCase each)
    {
        Dictionary<uint, ulong> values = Values(each);
        bool known = EntryTour.Fields(0).All(f => f.Msr == 0 || (values.GetValueOrDefault(f.Field) & _msrs[f.Msr] >> 32 & Unknown.GetValueOrDefault(f.Field)) == 0);
        return known ? Judge(values) : null;
    }

    /// <summary>The fields of a case as they are entered, of those that the processor has.</summary>
    public Dictionary<uint, ulong> Values(EntryTourCase each)
    {
        Dictionary<uint, ulong> values = [];
        foreach ((uint field, ulong value, uint msr) in EntryTour.Fields(EntryTour.Origin))
        {
            if (_fields.Contains(field))
                values[field] = msr == 0 ? value : (value | (uint)_msrs[msr]) & _msrs[msr] >> 32;
        }
        foreach (VmcsChange change in each.Changes)
        {
            if (values.TryGetValue(change.Field, out ulong value))
                values[change.Field] = change.Apply(value);
        }
        return values;
    }

    /// <summary>What the oracle says of these fields on this processor.</summary>
    public EntryVerdicts Judge(IReadOnlyDictionary<uint, ulong> values) =>
        new EntryOracle(field => values.GetValueOrDefault(field), _msrs.GetValueOrDefault, Read, _physicalAddressBits, _linearAddressBits, EferBits: 0xD01,
            DebugCtlBits: 3, PerfGlobalCtrlBits: 0, LongMode: true, EntryTour.CurrentVmcs).Judge();

    /// <summary>How many ended how.</summary>
    public IReadOnlyDictionary<EntryVerdicts, int> Outcomes => _cases.Keys.GroupBy(k => Verdict(k)!.Value).ToDictionary(g => g.Key, g => g.Count());

    private uint Read(ulong address)
    {
        if (address is EntryTour.OtherVmcs or EntryTour.CurrentVmcs)
            return (uint)_msrs[0x480] & 0x7FFF_FFFF;
        if (address is EntryTour.ShadowVmcs)
            return (uint)_msrs[0x480] | 1u << 31;
        ulong word = EntryTour.Contents.FirstOrDefault(c => c.Address == (address & ~7UL)).Value;
        return (uint)(word >> (int)(address & 4) * 8);
    }
}
