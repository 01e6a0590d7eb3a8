using System.Numerics;

namespace Vmm.Machine.Migration;

/// <summary>Bitmaps of pages or blocks: bit n % 64 of word n / 64 is number n.</summary>
public static class DirtySet
{
    private const int WordBits = 64;

    /// <summary>All of so many.</summary>
    public static ulong[] All(int count)
    {
        var set = new ulong[(count + WordBits - 1) / WordBits];
        Array.Fill(set, ulong.MaxValue);
        if (count % WordBits != 0)
            set[^1] = (1UL << (count % WordBits)) - 1;
        return set;
    }

    /// <summary>How many there are in it.</summary>
    public static long Count(ReadOnlySpan<ulong> set)
    {
        long count = 0;
        foreach (ulong word in set)
            count += BitOperations.PopCount(word);
        return count;
    }

    /// <summary>The first number in it from one on; -1 where there is none.</summary>
    public static int Next(ReadOnlySpan<ulong> set, int from)
    {
        int word = from / WordBits;
        if (word >= set.Length)
            return -1;
        ulong left = set[word] & (ulong.MaxValue << (from % WordBits));
        while (left == 0)
        {
            if (++word == set.Length)
                return -1;
            left = set[word];
        }
        return word * WordBits + BitOperations.TrailingZeroCount(left);
    }

    /// <summary>How many follow each other from one on that is in it, up to a most.</summary>
    public static int RunLength(ReadOnlySpan<ulong> set, int from, int most)
    {
        int length = 0;
        while (length < most && (from + length) / WordBits < set.Length && (set[(from + length) / WordBits] >> ((from + length) % WordBits) & 1) != 0)
            length++;
        return length;
    }
}
