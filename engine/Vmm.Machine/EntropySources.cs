using System.Buffers.Binary;
using System.Security.Cryptography;
using Vmm.Processor.Execution;

namespace Vmm.Machine;

/// <summary>Where a machine's randomness comes from.</summary>
internal static class EntropySources
{
    /// <summary>The host's under the real-time clock; a sequence that follows from the seed under the virtual one.</summary>
    public static IEntropySource For(MachineSpec spec) => spec.Clock == ClockMode.Virtual ? new SeededEntropy(spec.Seed) : new HostEntropy();

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
        private ulong _state = seed;

        public ulong Next()
        {
            _state += 0x9E37_79B9_7F4A_7C15;
            ulong z = _state;
            z = (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9;
            z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB;
            return z ^ (z >> 31);
        }
    }
}
