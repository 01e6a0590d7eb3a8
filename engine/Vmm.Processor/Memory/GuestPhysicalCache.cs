using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <summary>
/// Guest-physical mappings of one processor: what EPT made of pages of guest-physical addresses (SDM volume 3, section 29.4.1). They
/// depend on neither VPID nor PCID, so VM entries and exits, INVVPID and loads of CR3 leave them; INVEPT takes them away. One that lacks a
/// right is no answer: the tables are looked at again, as they are before an EPT violation.
/// </summary>
internal sealed class GuestPhysicalCache
{
    private const int Entries = 512;

    // Made when EPT is first used.
    private Mapping[]? _mappings;

    /// <summary>The mapping of a page if it has all the rights.</summary>
    /// <param name="page">The guest-physical page address.</param>
    /// <param name="tables">Whose tables: see <see cref="Add"/>.</param>
    /// <param name="needed">The rights, as the bits of an EPT entry.</param>
    /// <param name="host">The host-physical page address.</param>
    /// <param name="rights">All rights that it has.</param>
    public bool TryFind(ulong page, ulong tables, ulong needed, out ulong host, out ulong rights)
    {
        if (_mappings is not null)
        {
            ref readonly Mapping mapping = ref _mappings[page >> 12 & Entries - 1];
            host = mapping.Host;
            rights = mapping.Rights;
            return mapping.Guest == page + 1 && mapping.Tables == tables && (rights & needed) == needed;
        }
        host = rights = 0;
        return false;
    }

    /// <summary>Remembers a mapping.</summary>
    /// <param name="page">The guest-physical page address.</param>
    /// <param name="tables">The EPT pointer, with everything else that decides what an entry means.</param>
    /// <param name="host">The host-physical page address.</param>
    /// <param name="rights">Its rights, as the bits of an EPT entry; writing only where nothing is left to be noted about it.</param>
    public void Add(ulong page, ulong tables, ulong host, ulong rights)
    {
        _mappings ??= new Mapping[Entries];
        _mappings[page >> 12 & Entries - 1] = new Mapping(page + 1, tables, host, rights);
    }

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        if (_mappings is not null)
            Array.Clear(_mappings);
    }

    /// <param name="Guest">The page address and 1, so that an empty entry is of no page.</param>
    [StructLayout(LayoutKind.Auto)]
    private readonly record struct Mapping(ulong Guest, ulong Tables, ulong Host, ulong Rights);
}
