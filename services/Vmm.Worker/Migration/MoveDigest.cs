using System.Buffers.Binary;
using System.Security.Cryptography;
using Google.Protobuf;
using Vmm.Worker.V1;

namespace Vmm.Worker.Migration;

/// <summary>SHA-256 over what is sent of a VM, which both sides form: of each message its kind and numbers, then its bytes.</summary>
internal sealed class MoveDigest : IDisposable
{
    private const int PagesKind = 1;
    private const int BlockKind = 2;
    private const int StateKind = 3;

    private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

    public void Add(MemoryPages pages)
    {
        Add(PagesKind, pages.Runs.Count, pages.Data.Length);
        foreach (PageRun run in pages.Runs)
            Add(run.First, run.Count, run.Zero ? 1 : 0);
        _hash.AppendData(pages.Data.Span);
    }

    public void Add(DiskBlock block)
    {
        Add(BlockKind, block.Disk, block.Offset);
        _hash.AppendData(block.Data.Span);
    }

    public void AddState(ByteString part)
    {
        Add(StateKind, part.Length, 0);
        _hash.AppendData(part.Span);
    }

    public ByteString Finish() => ByteString.CopyFrom(_hash.GetHashAndReset());

    public void Dispose() => _hash.Dispose();

    private void Add(long first, long second, long third)
    {
        Span<byte> numbers = stackalloc byte[3 * sizeof(long)];
        BinaryPrimitives.WriteInt64LittleEndian(numbers, first);
        BinaryPrimitives.WriteInt64LittleEndian(numbers[sizeof(long)..], second);
        BinaryPrimitives.WriteInt64LittleEndian(numbers[(2 * sizeof(long))..], third);
        _hash.AppendData(numbers);
    }
}
