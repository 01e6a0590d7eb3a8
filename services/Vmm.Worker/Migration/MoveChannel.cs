using Google.Protobuf;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;
using Vmm.Machine.Migration;
using Vmm.Protos;
using Vmm.Worker.Machines;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Migration;

/// <summary>The source's end of the stream to the worker that a VM goes to.</summary>
/// <param name="call">The stream.</param>
/// <param name="run">The machine; null where the VM is stopped.</param>
/// <param name="disks">The paths of the disks that come along, by their numbers.</param>
/// <param name="progress">Hears of what was sent: bytes in all, and those that are left of the round.</param>
internal sealed class MoveChannel(
    AsyncDuplexStreamingCall<ReceiveVmRequest, ReceiveVmResponse> call, MachineRun? run, IReadOnlyDictionary<int, string> disks, Action<long, long> progress) : IDisposable
{
    private const int StatePartBytes = 1 << 20;
    private const int PageBytes = 4096;

    private readonly MoveDigest _digest = new();

    /// <summary>What was sent of memory and disks.</summary>
    public long Bytes { get; private set; }

    /// <summary>Sends pages of memory and blocks of disks as they are now.</summary>
    /// <param name="pages">Which; empty for none.</param>
    /// <param name="blocks">Which, by disk.</param>
    /// <param name="isFirst">Nothing was sent before, so that disks are of zeros on the target.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task CopyAsync(ulong[] pages, IReadOnlyDictionary<int, ulong[]> blocks, bool isFirst, CancellationToken cancellation)
    {
        long left = DirtySet.Count(pages) * PageBytes + blocks.Values.Sum(set => DirtySet.Count(set)) * LoggedDisk.BlockBytes;
        for (int at = 0; (at = DirtySet.Next(pages, at)) >= 0;)
        {
            PageBatch batch = run!.Use(machine => machine.CopyPages(pages, at));
            var message = new MemoryPages { Data = UnsafeByteOperations.UnsafeWrap(batch.Data) };
            message.Runs.AddRange(batch.Runs.Select(each => new V1.PageRun { First = each.First, Count = each.Count, Zero = each.IsZero }));
            _digest.Add(message);
            await SendAsync(new ReceiveVmRequest { Pages = message }, cancellation);
            left -= batch.Runs.Sum(each => (long)each.Count) * PageBytes;
            Bytes += batch.Data.Length;
            progress(Bytes, left);
            at = batch.Next;
        }

        foreach ((int disk, ulong[] set) in blocks)
        {
            using SafeFileHandle file = PosixFile.OpenRegardlessOfLocks(disks[disk]);
            for (int block = 0; (block = DirtySet.Next(set, block)) >= 0; block++)
            {
                var data = new byte[LoggedDisk.BlockBytes];
                int count = RandomAccess.Read(file, data, (long)block * LoggedDisk.BlockBytes);
                left -= LoggedDisk.BlockBytes;
                if (count == 0 || (isFirst && !data.AsSpan(0, count).ContainsAnyExcept((byte)0)))
                    continue;
                var message = new DiskBlock { Disk = disk, Offset = (long)block * LoggedDisk.BlockBytes, Data = UnsafeByteOperations.UnsafeWrap(data.AsMemory(0, count)) };
                _digest.Add(message);
                await SendAsync(new ReceiveVmRequest { Block = message }, cancellation);
                Bytes += count;
                progress(Bytes, left);
            }
        }
    }

    /// <summary>Says that a round is over, and waits until everything before is in place.</summary>
    public async Task EndRoundAsync(MoveRound round, CancellationToken cancellation)
    {
        await SendAsync(new ReceiveVmRequest { Round = round }, cancellation);
        await ExpectAsync(ReceiveVmResponse.ResponseOneofCase.Round, cancellation);
    }

    /// <summary>Offers the VM.</summary>
    public async Task OfferAsync(MoveOffer offer, CancellationToken cancellation)
    {
        await SendAsync(new ReceiveVmRequest { Offer = offer }, cancellation);
        await ExpectAsync(ReceiveVmResponse.ResponseOneofCase.Accepted, cancellation);
    }

    /// <summary>Sends the rest, and waits until the VM is ready on the target.</summary>
    public async Task FinishAsync(MovedState state, CancellationToken cancellation)
    {
        ByteString bytes = state.ToByteString();
        for (int at = 0; at < bytes.Length; at += StatePartBytes)
        {
            ByteString part = UnsafeByteOperations.UnsafeWrap(bytes.Memory.Slice(at, Math.Min(StatePartBytes, bytes.Length - at)));
            _digest.AddState(part);
            await SendAsync(new ReceiveVmRequest { State = part }, cancellation);
        }

        await SendAsync(new ReceiveVmRequest { End = new MoveEnd { Sha256 = _digest.Finish() } }, cancellation);
        await ExpectAsync(ReceiveVmResponse.ResponseOneofCase.Ready, cancellation);
    }

    /// <summary>Lets the target go on with the VM.</summary>
    public Task CommitAsync(CancellationToken cancellation) => SendAsync(new ReceiveVmRequest { Committed = new MoveCommitted() }, cancellation);

    /// <summary>Waits until the target says that the VM goes on.</summary>
    public async Task ConfirmedAsync(CancellationToken cancellation)
    {
        await ExpectAsync(ReceiveVmResponse.ResponseOneofCase.Running, cancellation);
        await call.RequestStream.CompleteAsync();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        call.Dispose();
        _digest.Dispose();
    }

    private async Task SendAsync(ReceiveVmRequest request, CancellationToken cancellation)
    {
        try
        {
            await call.RequestStream.WriteAsync(request, cancellation);
        }
        catch (InvalidOperationException)
        {
            // The target has ended the call; its status says why.
            await ExpectAsync(ReceiveVmResponse.ResponseOneofCase.None, cancellation);
        }
    }

    private async Task ExpectAsync(ReceiveVmResponse.ResponseOneofCase expected, CancellationToken cancellation)
    {
        if (!await call.ResponseStream.MoveNext(cancellation) || call.ResponseStream.Current.ResponseCase != expected)
            throw ApiError.Unavailable("MIGRATION_FAILED", $"The target of the move did not answer with {expected} when it should have.");
    }
}
