using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vmm.Processor.Memory;

/// <summary>
/// The cached translations of one processor's data accesses: <see cref="Tlb.Sets"/> direct-mapped sets. The entries of a physical page,
/// under whatever linear addresses, are found without a sweep.
/// </summary>
internal sealed unsafe class TranslationCache : IDisposable
{
    private const int Filled = Tlb.Entries * (Tlb.Sets - 1);
    private const int BlockShift = 6;
    private const int Block = 1 << BlockShift;

    // In TlbEntry.Physical: the entry is in the list of its page.
    private const ulong Listed = 1;

    // Blocks of entries in which there may be translations.
    private readonly bool[] _usedBlocks = new bool[Filled >> BlockShift];
    private TlbEntry* _entries;

    // The entries of physical pages with the same hash are a list, by their numbers from 1 on; it begins in _lists.
    private int* _lists;
    private Link* _links;

    public TranslationCache()
    {
        _entries = (TlbEntry*)NativeMemory.AllocZeroed(Tlb.Entries * Tlb.Sets, (nuint)sizeof(TlbEntry));
        _lists = (int*)NativeMemory.AllocZeroed(Tlb.Entries, sizeof(int));
        _links = (Link*)NativeMemory.AllocZeroed(Filled + 1, (nuint)sizeof(Link));
    }

    /// <summary>The first entry of a set.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TlbEntry* Set(int set) => _entries + set * Tlb.Entries;

    /// <summary>The host-physical page address of an entry.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong PhysicalOf(TlbEntry* entry) => entry->Physical & ~Listed;

    /// <summary>Gives an entry another translation.</summary>
    /// <param name="entry">An entry that may be filled.</param>
    /// <param name="readTag">The tag that a read must match.</param>
    /// <param name="writeTag">The tag that a write must match.</param>
    /// <param name="addend">Host address minus linear address.</param>
    /// <param name="physical">The host-physical page address.</param>
    public void Fill(TlbEntry* entry, ulong readTag, ulong writeTag, long addend, ulong physical)
    {
        if (entry->Physical != (physical | Listed))
            Enlist(entry, physical);
        entry->ReadTag = readTag;
        entry->WriteTag = writeTag;
        entry->Addend = addend;
        _usedBlocks[(int)(entry - _entries) >> BlockShift] = true;
    }

    /// <summary>Forgets one page of linear addresses in every address space.</summary>
    public void ForgetPage(ulong linear)
    {
        TlbEntry* entry = _entries + (int)(linear >> 12 & (Tlb.Entries - 1));
        for (int set = 0; set < Tlb.Sets - 1; set++, entry += Tlb.Entries)
        {
            if (((entry->ReadTag | entry->WriteTag) ^ linear) >> 12 == 0)
                Forget(entry);
        }
    }

    /// <summary>Forgets 2 MiB of linear addresses in every address space.</summary>
    /// <param name="region">Their number.</param>
    public void ForgetRegion(ulong region)
    {
        const int pages = 512;
        TlbEntry* first = _entries + (int)(region * pages & (Tlb.Entries - 1));
        for (int set = 0; set < Tlb.Sets - 1; set++, first += Tlb.Entries)
        {
            for (TlbEntry* entry = first; entry < first + pages; entry++)
            {
                if ((entry->ReadTag | entry->WriteTag) >> 21 == region)
                    Forget(entry);
            }
        }
    }

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        for (int block = 0; block < _usedBlocks.Length; block++)
        {
            if (!_usedBlocks[block])
                continue;
            TlbEntry* first = _entries + (block << BlockShift);
            for (int k = 0; k < Block; k++)
                Forget(first + k);
            _usedBlocks[block] = false;
        }
    }

    /// <summary>Takes the write permission for one physical page away.</summary>
    public void ForbidWrites(ulong physical)
    {
        for (int number = _lists[ListOf(physical)]; number != 0; number = _links[number].Next)
        {
            if (PhysicalOf(_entries + number - 1) == physical)
                _entries[number - 1].WriteTag = Tlb.NoTag;
        }
    }

    /// <summary>Takes the write permission for every page away.</summary>
    public void ForbidWrites()
    {
        for (int block = 0; block < _usedBlocks.Length; block++)
        {
            if (!_usedBlocks[block])
                continue;
            TlbEntry* first = _entries + (block << BlockShift);
            for (int k = 0; k < Block; k++)
                first[k].WriteTag = Tlb.NoTag;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        NativeMemory.Free(_entries);
        NativeMemory.Free(_lists);
        NativeMemory.Free(_links);
        _entries = null;
        _lists = null;
        _links = null;
    }

    // It stays in the list of its page, which it is likely to be given again.
    private static void Forget(TlbEntry* entry) => entry->ReadTag = entry->WriteTag = Tlb.NoTag;

    private static int ListOf(ulong physical) => (int)(physical >> 12 & (Tlb.Entries - 1));

    private void Enlist(TlbEntry* entry, ulong physical)
    {
        int number = (int)(entry - _entries) + 1;
        Link* link = _links + number;
        if ((entry->Physical & Listed) != 0)
        {
            if (link->Previous != 0)
                _links[link->Previous].Next = link->Next;
            else
                _lists[ListOf(entry->Physical)] = link->Next;
            if (link->Next != 0)
                _links[link->Next].Previous = link->Previous;
        }
        int* list = _lists + ListOf(physical);
        link->Previous = 0;
        link->Next = *list;
        if (*list != 0)
            _links[*list].Previous = number;
        *list = number;
        entry->Physical = physical | Listed;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Link
    {
        public int Next;
        public int Previous;
    }
}
