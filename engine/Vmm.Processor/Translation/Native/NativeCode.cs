using System.Buffers.Binary;

namespace Vmm.Processor.Translation.Native;

/// <summary>The native code of a trace or a region. It is generated before it is known where it will be executed.</summary>
/// <param name="bytes">It, for any place that is a multiple of <see cref="Alignment"/>.</param>
/// <param name="references">What in it depends on the place.</param>
/// <param name="pieces">What in it stands for which instruction of the guest, in order.</param>
internal sealed class NativeCode(byte[] bytes, NativeReference[] references, NativePiece[] pieces)
{
    /// <summary>Bytes of which a place must be a multiple.</summary>
    public const int Alignment = 32;

    /// <summary>The bytes; once there is an <see cref="Entry"/>, as they are there.</summary>
    public byte[] Bytes => bytes;

    /// <summary>What in it stands for which instruction of the guest, in order.</summary>
    public NativePiece[] Pieces => pieces;

    /// <summary>Where it is executed; 0 before that is known.</summary>
    public nint Entry { get; private set; }

    /// <summary>Whether it goes around in itself, or may.</summary>
    public required bool IsLoop { get; init; }

    /// <summary>Whether it calls handlers.</summary>
    public required bool CallsHandlers { get; init; }

    /// <summary>Makes the bytes what they have to be at a place.</summary>
    public void Place(nint entry)
    {
        Entry = entry;
        foreach (NativeReference each in references)
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(each.Position, sizeof(int)), checked((int)(each.Target - (entry + each.Position + sizeof(int)))));
    }
}

/// <summary>A distance of 4 bytes from behind it to an address.</summary>
/// <param name="Position">Where in the code it stands.</param>
/// <param name="Target">The address.</param>
internal readonly record struct NativeReference(int Position, nint Target);

/// <summary>A piece of native code that stands for an instruction of the guest, up to the next one.</summary>
/// <param name="Position">Where it begins.</param>
/// <param name="Node">The instruction's trace.</param>
/// <param name="Instruction">Its position in the trace.</param>
internal readonly record struct NativePiece(int Position, RegionNode Node, int Instruction);
