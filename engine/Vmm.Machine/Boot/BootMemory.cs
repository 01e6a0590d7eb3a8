using System.Buffers.Binary;
using System.Text;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>
/// Guest RAM while a kernel is loaded: it remembers what was put where, so that nothing lies over anything else, and turns
/// what does not fit into a message that names the field at fault.
/// </summary>
public sealed class BootMemory
{
    private sealed record Claim(ulong Start, ulong End, string What);

    private static readonly byte[] ZeroPage = new byte[PhysicalMemory.PageSize];

    private readonly PhysicalMemory _memory;
    private readonly List<Claim> _claims = [];

    /// <summary>Begins to load into a machine's RAM.</summary>
    public BootMemory(PhysicalMemory memory)
    {
        ArgumentNullException.ThrowIfNull(memory);
        _memory = memory;
        Map = MemoryMap.Build(memory.LowSize, memory.HighSize);
        _claims.Add(new(MemoryMap.FirmwareBase, MemoryMap.FirmwareEnd, "the firmware's tables"));
        _claims.Add(new(MemoryMap.ConventionalEnd, 0xA_0000, "the extended BIOS data area"));
    }

    /// <summary>The map that the kernel is told.</summary>
    public IReadOnlyList<MemoryRegion> Map { get; }

    /// <summary>Bytes of RAM from address 0.</summary>
    public ulong LowSize => _memory.LowSize;

    /// <summary>Takes a range for something that cannot move.</summary>
    /// <exception cref="InvalidMachineException">It is not all RAM, or something else is there.</exception>
    public void Reserve(ulong address, ulong length, string field, string what)
    {
        if (length == 0)
            return;
        if (length > ulong.MaxValue - address)
            throw new InvalidMachineException(field, $"{what}: 0x{length:x} bytes from 0x{address:x} wrap around the address space.");
        // The size first: a range of exabytes must not be walked page by page.
        if (length > _memory.Size || !_memory.IsRam(address, length))
            throw new InvalidMachineException(field, $"{what} needs physical addresses 0x{address:x} to 0x{address + length - 1:x}, which are not all RAM of this machine ({_memory.Size >> 20} MiB).");
        foreach (Claim claim in _claims)
        {
            if (address < claim.End && claim.Start < address + length)
                throw new InvalidMachineException(field, $"{what} at 0x{address:x} to 0x{address + length - 1:x} overlaps {claim.What} at 0x{claim.Start:x} to 0x{claim.End - 1:x}.");
        }
        _claims.Add(new(address, address + length, what));
    }

    /// <summary>Takes the lowest free range of RAM in a window.</summary>
    /// <param name="length">Bytes.</param>
    /// <param name="alignment">A power of two.</param>
    /// <param name="from">The lowest address allowed.</param>
    /// <param name="below">The first address that the range must not reach.</param>
    /// <param name="field">The field of the spec to blame.</param>
    /// <param name="what">What it is for.</param>
    /// <exception cref="InvalidMachineException">There is no such range.</exception>
    public ulong Allocate(ulong length, ulong alignment, ulong from, ulong below, string field, string what)
    {
        ulong at = AlignUp(from, alignment);
        below = Math.Min(below, _memory.LowSize);
        while (at < below && length <= below - at)
        {
            if (Obstacle(at, length) is not { } obstacle)
            {
                _claims.Add(new(at, at + length, what));
                return at;
            }
            at = AlignUp(obstacle.End, alignment);
        }
        throw NoRoom(length, field, what);
    }

    /// <summary>Takes the highest free range of RAM in a window. Parameters as in <see cref="Allocate"/>.</summary>
    /// <exception cref="InvalidMachineException">There is no such range.</exception>
    public ulong AllocateTop(ulong length, ulong alignment, ulong from, ulong below, string field, string what)
    {
        below = Math.Min(below, _memory.LowSize);
        while (below >= length && below - length >= from)
        {
            ulong at = below - length & ~(alignment - 1);
            if (at < from)
                break;
            if (Obstacle(at, length) is not { } obstacle)
            {
                _claims.Add(new(at, at + length, what));
                return at;
            }
            below = obstacle.Start;
        }
        throw NoRoom(length, field, what);
    }

    private InvalidMachineException NoRoom(ulong length, string field, string what) =>
        new(field, $"{what} ({length} bytes) does not fit into the {_memory.Size >> 20} MiB of this machine's memory beside what else is loaded; give it more memory.");

    private Claim? Obstacle(ulong address, ulong length)
    {
        if (address < PhysicalMemory.VideoEnd && PhysicalMemory.VideoBase < address + length)
            return new Claim(PhysicalMemory.VideoBase, PhysicalMemory.VideoEnd, "the video window");
        foreach (Claim claim in _claims)
        {
            if (address < claim.End && claim.Start < address + length)
                return claim;
        }
        return null;
    }

    private static ulong AlignUp(ulong value, ulong alignment) => value + (alignment - 1) & ~(alignment - 1);

    /// <summary>Writes into a range that was reserved or allocated before.</summary>
    /// <exception cref="InvalidOperationException">The range is not RAM: a loader wrote outside what it had taken.</exception>
    public void Write(ulong address, ReadOnlySpan<byte> bytes)
    {
        if (!_memory.TryWrite(address, bytes))
            throw new InvalidOperationException($"A boot loader wrote outside RAM, at 0x{address:x}.");
    }

    /// <summary>Clears a range that was reserved or allocated before: after a reset RAM still holds the last run's bytes.</summary>
    public void Clear(ulong address, ulong length)
    {
        Span<byte> old = stackalloc byte[PhysicalMemory.PageSize];
        while (length > 0)
        {
            int step = (int)Math.Min(length, PhysicalMemory.PageSize - (address & 0xFFF));
            // A page that reads as zeros is left alone, so that it stays a hole of the sparse file.
            if (!_memory.TryRead(address, old[..step]) || old[..step].ContainsAnyExcept((byte)0))
                Write(address, ZeroPage.AsSpan(0, step));
            address += (ulong)step;
            length -= (ulong)step;
        }
    }

    /// <summary>Writes a segment: its bytes and zeros up to its length in memory.</summary>
    public void WriteSegment(ulong address, ReadOnlySpan<byte> bytes, ulong length)
    {
        Write(address, bytes);
        Clear(address + (ulong)bytes.Length, length - (ulong)bytes.Length);
    }

    /// <summary>Writes a string with its terminating zero where there is room below 1 MiB or else above, and below 4 GiB.</summary>
    /// <exception cref="InvalidMachineException">It holds a zero, or does not fit.</exception>
    public ulong WriteString(string text, string field, string what)
    {
        byte[] bytes = EncodeString(text, field);
        ulong address = Allocate((ulong)bytes.Length, 16, 0x2_0000, uint.MaxValue, field, what);
        Write(address, bytes);
        return address;
    }

    /// <summary>A string as kernels take it: UTF-8 with a terminating zero.</summary>
    /// <exception cref="InvalidMachineException">It holds a zero itself.</exception>
    public static byte[] EncodeString(string text, string field)
    {
        if (text.Contains('\0'))
            throw new InvalidMachineException(field, "The text contains a NUL character, which would end it.");
        return [.. Encoding.UTF8.GetBytes(text), 0];
    }

    /// <summary>Writes 8-byte values.</summary>
    public void WriteWords(ulong address, ReadOnlySpan<ulong> words)
    {
        Span<byte> bytes = stackalloc byte[8];
        foreach (ulong word in words)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, word);
            Write(address, bytes);
            address += 8;
        }
    }
}
