namespace Vmm.Processor.Memory;

/// <content>RAM page by page, as it goes to another process. Pages count densely: see <see cref="PageIndex(ulong)"/>.</content>
public sealed unsafe partial class PhysicalMemory
{
    /// <summary>
    /// Copies pages out from one on, as long as they are like it: all of zeros, which are not copied, or all not. While no processor
    /// executes.
    /// </summary>
    /// <param name="first">The first page.</param>
    /// <param name="most">Pages at most, from 1 on.</param>
    /// <param name="destination">Room for so many.</param>
    /// <param name="isZero">Whether they are all of zeros.</param>
    /// <returns>How many they are.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There are no such pages.</exception>
    public int CopyPages(int first, int most, Span<byte> destination, out bool isZero)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfLessThan(most, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(most, PageCount - first);
        ulong at = (ulong)first * PageSize;
        ulong end = at + (ulong)most * PageSize;
        int length = Run(at, end, zero: false);
        isZero = length == 0;
        if (isZero)
        {
            length = Run(at, end, zero: true);
            GiveBack(_base + at, length);
        }
        else
        {
            new ReadOnlySpan<byte>(_base + at, length).CopyTo(destination);
        }
        return length / PageSize;
    }

    /// <summary>Copies whole pages into RAM before anything runs in it.</summary>
    /// <param name="first">The first page.</param>
    /// <param name="source">What is in them: whole pages.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are no such pages.</exception>
    public void LoadPages(int first, ReadOnlySpan<byte> source) => source.CopyTo(Pages(first, source.Length / PageSize));

    /// <summary>Makes pages zero before anything runs in RAM.</summary>
    /// <param name="first">The first page.</param>
    /// <param name="count">How many.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are no such pages.</exception>
    public void ClearPages(int first, int count) => Pages(first, count).Clear();

    private Span<byte> Pages(int first, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfNegative(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, PageCount - first);
        return new Span<byte>(_base + (ulong)first * PageSize, checked(count * PageSize));
    }
}
