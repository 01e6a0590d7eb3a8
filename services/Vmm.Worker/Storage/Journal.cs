using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Numerics;
using System.Threading.Channels;
using Google.Protobuf;
using Microsoft.Win32.SafeHandles;
using Vmm.Worker.V1;

namespace Vmm.Worker.Storage;

/// <summary>What is on disk is not a journal that was written in order.</summary>
public sealed class DamagedJournalException(string message) : Exception(message);

/// <summary>
/// An append-only file of <see cref="JournalRecord"/>s. A record is either there as a whole or not at all, whenever the process
/// or the host dies; an append completes after its record was flushed to the device. Appends that wait together share a flush.
/// </summary>
/// <remarks>
/// Layout: 8 bytes of magic, then frames. A frame is the payload's length and CRC-32C (4 bytes each, little endian) and the
/// payload: the delimited records of one flush. Only the last frame can have been torn by a crash. A broken frame with a
/// whole one behind it is therefore damage, and the journal refuses to open rather than forget what was acknowledged.
/// </remarks>
internal sealed class Journal : IAsyncDisposable
{
    private const int FrameHeaderBytes = 8;
    private const int MaxRecordBytes = 16 << 20;
    private const int MaxFrameBytes = 2 * MaxRecordBytes;
    private const long MinCompactionBytes = 8 << 20;
    private const long AnewDelayMilliseconds = 500;

    private readonly string _path;
    private readonly Func<IEnumerable<JournalRecord>> _snapshot;
    private readonly Channel<Append> _appends = Channel.CreateUnbounded<Append>(new UnboundedChannelOptions { SingleReader = true });
    private readonly Thread _writer;
    private SafeFileHandle _file;
    private long _length;
    private long _compactAt;

    /// <summary>Why nothing more goes into the file; null where it takes records.</summary>
    private Exception? _failure;
    private long _failedAnew = long.MinValue / 2;

    private Journal(string path, SafeFileHandle file, long length, Func<IEnumerable<JournalRecord>> snapshot)
    {
        _path = path;
        _file = file;
        _length = length;
        _snapshot = snapshot;
        _compactAt = Math.Max(MinCompactionBytes, 2 * length);
        // A thread of its own: the pool's have calls to serve while this one waits for the disk.
        _writer = new Thread(Write) { IsBackground = true, Name = "journal" };
        _writer.Start();
    }

    private static ReadOnlySpan<byte> Magic => "VMMJRNL1"u8;

    /// <summary>Opens or creates the journal and replays it.</summary>
    /// <param name="path">The file; its folder exists.</param>
    /// <param name="replay">Gets every record in order before this returns.</param>
    /// <param name="snapshot">Gives records that say as much as all that were appended so far. Called for compaction, from any thread.</param>
    /// <exception cref="DamagedJournalException">There are acknowledged records that cannot be read.</exception>
    public static Journal Open(string path, Action<JournalRecord> replay, Func<IEnumerable<JournalRecord>> snapshot)
    {
        File.Delete(TemporaryOf(path));
        if (!File.Exists(path))
        {
            WriteTemporary(path, []).Dispose();
            Publish(path);
        }

        byte[] content = File.ReadAllBytes(path);
        if (!content.AsSpan().StartsWith(Magic))
            throw new DamagedJournalException($"{path} is not a journal of this version of vmmd.");
        int end = Magic.Length;
        while (TryRead(content, end, out List<JournalRecord>? records, out int next))
        {
            records.ForEach(replay);
            end = next;
        }

        for (int at = end + 1; at < content.Length; at++)
            if (TryRead(content, at, out _, out _))
                throw new DamagedJournalException($"{path} is damaged at byte {end}: it cannot be read there, and goes on at byte {at}.");
        SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.Read);
        if (end < content.Length)
        {
            RandomAccess.SetLength(file, end);
            RandomAccess.FlushToDisk(file);
        }

        return new Journal(path, file, end, snapshot);
    }

    /// <summary>Appends a record. When the task completes, <paramref name="applied"/> has run and the record lasts.</summary>
    /// <param name="record">The record; not to be changed any more.</param>
    /// <param name="applied">Runs after the flush and before anything later is flushed or compacted: brings memory in line.</param>
    /// <exception cref="IOException">The record may or may not last until the next one that the journal takes, and is none from then on. What is to be
    /// appended later is tried again: a full disk has room some day.</exception>
    public async Task AppendAsync(JournalRecord record, Action applied)
    {
        if (record.CalculateSize() > MaxRecordBytes)
            throw new IOException($"A journal record of {record.CalculateSize()} bytes is too large.");
        var append = new Append(record, applied, new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
        if (!_appends.Writer.TryWrite(append))
            throw new IOException("The journal is closed.");
        await append.Done.Task;
    }

    /// <summary>Flushes what waits, and closes.</summary>
    public async ValueTask DisposeAsync()
    {
        _appends.Writer.TryComplete();
        await Task.Run(_writer.Join);
        _file.Dispose();
    }

    private void Write()
    {
        var batch = new List<Append>();
        using var payload = new MemoryStream();
        while (_appends.Reader.WaitToReadAsync().AsTask().GetAwaiter().GetResult())
        {
            batch.Clear();
            payload.SetLength(0);
            while (payload.Length < MaxFrameBytes - MaxRecordBytes - FrameHeaderBytes && _appends.Reader.TryRead(out Append append))
            {
                batch.Add(append);
                append.Record.WriteDelimitedTo(payload);
            }

            try
            {
                if (_failure is not null)
                    BeginAnew();
                _length += WriteFrame(_file, _length, payload);
                RandomAccess.FlushToDisk(_file);
            }
            catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
            {
                Fail(batch, exception);
                continue;
            }

            foreach (Append append in batch)
            {
                append.Applied();
                append.Done.SetResult();
            }

            if (_length > _compactAt)
                Compact();
        }
    }

    /// <summary>
    /// Whether records last after a failed flush is unknown, and a later flush may claim success without them: nothing more goes into
    /// this file, and another takes its place before the next append.
    /// </summary>
    private void Fail(List<Append> batch, Exception cause)
    {
        _failure = cause;
        var failure = new IOException($"{_path} cannot be written: {cause.Message}", cause);
        foreach (Append append in batch)
            append.Done.SetException(failure);
    }

    /// <summary>Puts a journal of what was acknowledged in the place of the one that failed; what failed with it is not in there.</summary>
    /// <exception cref="IOException">It cannot be written either, or was tried a moment ago.</exception>
    private void BeginAnew()
    {
        // Whoever is refused may ask again at once, and the whole journal is to be written.
        if (Environment.TickCount64 - _failedAnew < AnewDelayMilliseconds)
            throw new IOException(_failure!.Message, _failure);
        try
        {
            Replace(WriteTemporary(_path, _snapshot()));
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            _failedAnew = Environment.TickCount64;
            throw;
        }

        _failure = null;
    }

    private void Compact()
    {
        SafeFileHandle fresh;
        try
        {
            fresh = WriteTemporary(_path, _snapshot());
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // A full disk must not cost more than the compaction.
            _compactAt = 2 * _length;
            return;
        }

        try
        {
            Replace(fresh);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // Which file the name means after a crash is not known.
            Fail([], exception);
        }
    }

    private void Replace(SafeFileHandle fresh)
    {
        try
        {
            Publish(_path);
        }
        catch
        {
            fresh.Dispose();
            throw;
        }

        _file.Dispose();
        _file = fresh;
        _length = RandomAccess.GetLength(fresh);
        _compactAt = Math.Max(MinCompactionBytes, 2 * _length);
    }

    /// <summary>Gives the temporary file the journal's name, for good.</summary>
    private static void Publish(string path)
    {
        File.Move(TemporaryOf(path), path, overwrite: true);
        PosixFile.FlushDirectory(Path.GetDirectoryName(path)!);
    }

    private static string TemporaryOf(string path) => path + ".new";

    /// <summary>Writes a journal of these records only beside the one that there is. Leaves nothing where that fails.</summary>
    private static SafeFileHandle WriteTemporary(string path, IEnumerable<JournalRecord> records)
    {
        string temporary = TemporaryOf(path);
        SafeFileHandle file = File.OpenHandle(temporary, FileMode.Create, FileAccess.ReadWrite, FileShare.Read);
        try
        {
            RandomAccess.Write(file, Magic, 0);
            long length = Magic.Length;
            using var payload = new MemoryStream();
            foreach (JournalRecord record in records)
            {
                record.WriteDelimitedTo(payload);
                if (payload.Length < MaxRecordBytes)
                    continue;
                length += WriteFrame(file, length, payload);
                payload.SetLength(0);
            }

            if (payload.Length > 0)
                WriteFrame(file, length, payload);
            RandomAccess.FlushToDisk(file);
            return file;
        }
        catch
        {
            file.Dispose();
            File.Delete(temporary);
            throw;
        }
    }

    private static long WriteFrame(SafeFileHandle file, long offset, MemoryStream payload)
    {
        ReadOnlyMemory<byte> body = payload.GetBuffer().AsMemory(0, (int)payload.Length);
        byte[] header = new byte[FrameHeaderBytes];
        BinaryPrimitives.WriteInt32LittleEndian(header, body.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(4), Checksum(body.Span));
        RandomAccess.Write(file, [header, body], offset);
        return FrameHeaderBytes + body.Length;
    }

    private static bool TryRead(byte[] content, int at, [NotNullWhen(true)] out List<JournalRecord>? records, out int next)
    {
        records = null;
        next = at;
        if (content.Length - at < FrameHeaderBytes)
            return false;
        int length = BinaryPrimitives.ReadInt32LittleEndian(content.AsSpan(at));
        if (length is <= 0 or > MaxFrameBytes || length > content.Length - at - FrameHeaderBytes)
            return false;
        ReadOnlySpan<byte> payload = content.AsSpan(at + FrameHeaderBytes, length);
        if (Checksum(payload) != BinaryPrimitives.ReadUInt32LittleEndian(content.AsSpan(at + 4)))
            return false;
        try
        {
            using var stream = new MemoryStream(content, at + FrameHeaderBytes, length);
            var read = new List<JournalRecord>();
            while (stream.Position < stream.Length)
                read.Add(JournalRecord.Parser.ParseDelimitedFrom(stream));
            records = read;
        }
        catch (InvalidProtocolBufferException)
        {
            return false;
        }

        next = at + FrameHeaderBytes + length;
        return true;
    }

    /// <summary>CRC-32C. The length is part of it, so that zeros are no record.</summary>
    private static uint Checksum(ReadOnlySpan<byte> payload)
    {
        uint crc = BitOperations.Crc32C(uint.MaxValue, (uint)payload.Length);
        while (payload.Length >= sizeof(ulong))
        {
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(payload));
            payload = payload[sizeof(ulong)..];
        }

        foreach (byte value in payload)
            crc = BitOperations.Crc32C(crc, value);
        return ~crc;
    }

    private readonly record struct Append(JournalRecord Record, Action Applied, TaskCompletionSource Done);
}
