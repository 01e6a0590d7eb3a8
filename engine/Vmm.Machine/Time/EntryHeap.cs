namespace Vmm.Machine.Time;

/// <summary>Something that is in at most one <see cref="EntryHeap{T}"/> at a time, and knows where.</summary>
internal abstract class HeapEntry
{
    /// <summary>Its place in the heap, or -1 while it is in none.</summary>
    internal int Place { get; set; } = -1;

    /// <summary>What it is ordered by.</summary>
    internal ulong Key { get; set; }

    /// <summary>What entries of the same key are ordered by.</summary>
    internal ulong Rank { get; set; }
}

/// <summary>Entries by their keys, the least first: a binary heap from which any entry can be taken, and which allocates only where it grows.</summary>
internal sealed class EntryHeap<T> where T : HeapEntry
{
    private T[] _entries = new T[16];

    /// <summary>How many there are.</summary>
    public int Count { get; private set; }

    /// <summary>The one with the least key. There must be one.</summary>
    public T First => _entries[0];

    /// <summary>The least key, or <see cref="ulong.MaxValue"/> where there is no entry.</summary>
    public ulong FirstKey => Count > 0 ? _entries[0].Key : ulong.MaxValue;

    /// <summary>Puts an entry in, or where its key now has it.</summary>
    public void Put(T entry, ulong key, ulong rank)
    {
        if (entry.Place < 0)
        {
            if (Count == _entries.Length)
                Array.Resize(ref _entries, Count * 2);
            entry.Place = Count;
            _entries[Count++] = entry;
        }
        entry.Key = key;
        entry.Rank = rank;
        Settle(entry);
    }

    /// <summary>Takes an entry out; no effect on one that is not in.</summary>
    public void Remove(T entry)
    {
        if (entry.Place < 0)
            return;
        T last = _entries[--Count];
        _entries[Count] = null!;
        if (last != entry)
        {
            last.Place = entry.Place;
            _entries[last.Place] = last;
            Settle(last);
        }
        entry.Place = -1;
    }

    private static bool IsBefore(T a, T b) => a.Key != b.Key ? a.Key < b.Key : a.Rank < b.Rank;

    private void Settle(T entry)
    {
        while (entry.Place > 0 && IsBefore(entry, _entries[(entry.Place - 1) / 2]))
            Swap(entry.Place, (entry.Place - 1) / 2);
        while (true)
        {
            int child = entry.Place * 2 + 1;
            if (child >= Count)
                return;
            if (child + 1 < Count && IsBefore(_entries[child + 1], _entries[child]))
                child++;
            if (!IsBefore(_entries[child], entry))
                return;
            Swap(entry.Place, child);
        }
    }

    private void Swap(int a, int b)
    {
        (_entries[a], _entries[b]) = (_entries[b], _entries[a]);
        _entries[a].Place = a;
        _entries[b].Place = b;
    }
}
