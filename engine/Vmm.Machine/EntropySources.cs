using System.Buffers.Binary;
using System.Security.Cryptography;
using Vmm.Processor.Execution;
using Vmm.Processor.SavedState;

namespace Vmm.Machine;

/// <summary>Where a machine's randomness comes from.</summary>
internal static class EntropySources
{
    /// <summary>The host's under the real-time clock; a sequence that follows from the seed under the virtual one.</summary>
    public static IEntropySource For(MachineSpec spec) => spec.Clock == ClockMode.Virtual ? new SeededEntropy(spec.Seed) : new HostEntropy();

    /// <summary>The state of a sequence that follows from a seed; null for the host's randomness.</summary>
    public static ulong? Save(IEntropySource source) => (source as SeededEntropy)?.State;

    /// <summary>Goes on with a sequence from a saved state.</summary>
    /// <exception cref="InvalidStateException">The state is of the other kind of source.</exception>
    public static void Load(IEntropySource source, ulong? state)
    {
        var seeded = source as SeededEntropy;
        InvalidStateException.ThrowUnless(seeded is null == state is null, "Machine.Entropy", "only the virtual clock has a sequence of its own.");
        if (seeded != null)
            seeded.State = state!.Value;
    }

    /// <summary>Fills a buffer.</summary>
    public static void Fill(this IEntropySource source, Span<byte> destination)
    {
        Span<byte> word = stackalloc byte[8];
        while (!destination.IsEmpty)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(word, source.Next());
            int step = Math.Min(destination.Length, word.Length);
            word[..step].CopyTo(destination);
            destination = destination[step..];
        }
    }

    private sealed class HostEntropy : IEntropySource
    {
        private readonly byte[] _bytes = new byte[4096];
        private int _used = 4096;

        public ulong Next()
        {
            if (_used == _bytes.Length)
            {
                RandomNumberGenerator.Fill(_bytes);
                _used = 0;
            }
            ulong value = BinaryPrimitives.ReadUInt64LittleEndian(_bytes.AsSpan(_used));
            _used += 8;
            return value;
        }
    }

    // SplitMix64 (Steele, Lea, Flood 2014): equidistributed over 64 bits, and any seed will do.
    private sealed class SeededEntropy(ulong seed) : IEntropySource
    {
        public ulong State { get; set; } = seed;

        public ulong Next()
        {
            State += 0x9E37_79B9_7F4A_7C15;
            ulong z = State;
            z = (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9;
            z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB;
            return z ^ (z >> 31);
        }
    }
}
