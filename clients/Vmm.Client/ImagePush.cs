using System.Security.Cryptography;
using Google.Protobuf;
using Grpc.Core;
using Vmm.V1;

namespace Vmm.Client;

/// <summary>Uploading images.</summary>
public static class ImagePush
{
    private const int ChunkBytes = 1 << 20;
    private const int MaxAttempts = 8;

    /// <summary>
    /// Uploads a file, or finds that the server has its content already. An upload that breaks off is resumed, also one of an
    /// earlier call.
    /// </summary>
    /// <param name="connection">The server.</param>
    /// <param name="path">The file. What is added to it meanwhile is not part of the image, and it must not change otherwise. What can be read only once, such as a
    /// pipe, is kept in a temporary file for as long as the upload takes.</param>
    /// <param name="parent"><c>projects/{project}</c>.</param>
    /// <param name="displayName">For people; null for the file's name.</param>
    /// <param name="progress">Hears how many bytes the server has.</param>
    /// <param name="cancellation">Gives up; what was sent can be resumed.</param>
    /// <exception cref="RpcException">The server refused, or could not be reached any more.</exception>
    /// <exception cref="IOException">The file cannot be read, is empty, or was changed while it was uploaded.</exception>
    public static async Task<Image> PushImageAsync(
        this VmmConnection connection,
        string path,
        string parent,
        string? displayName = null,
        IProgress<long>? progress = null,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(connection);
        await using FileStream file = await OpenAsync(path, cancellation);
        string sha256 = Convert.ToHexStringLower(await SHA256.HashDataAsync(file, cancellation));
        var start = new UploadImageStart
        {
            Parent = parent,
            Sha256 = sha256,
            SizeBytes = file.Position,
            DisplayName = displayName ?? Path.GetFileName(path),
        };
        if (start.SizeBytes == 0)
            throw new IOException($"'{path}' is empty; an image has at least one byte.");
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                QueryImageUploadResponse known = await connection.Images.QueryImageUploadAsync(
                    new QueryImageUploadRequest { Parent = parent, Sha256 = sha256 }, cancellationToken: cancellation);
                if (known.Image is not null)
                {
                    progress?.Report(known.Image.SizeBytes);
                    return known.Image;
                }

                start.Offset = known.ReceivedBytes;
                return await SendAsync(connection, file, start, progress, cancellation);
            }
            catch (RpcException exception) when (start.Offset == 0 && VmmError.From(exception).Reason == "DIGEST_MISMATCH")
            {
                throw new IOException($"'{path}' was changed while it was uploaded. What the server has received of it was thrown away.", exception);
            }
            catch (RpcException exception) when (attempt < MaxAttempts && IsWorthAnother(exception))
            {
                await Task.Delay(TimeSpan.FromMilliseconds(50 << attempt), cancellation);
            }
        }
    }

    // The digest comes before the content, and what broke off is sent again.
    private static async Task<FileStream> OpenAsync(string path, CancellationToken cancellation)
    {
        var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, ChunkBytes, useAsync: true);
        if (file.CanSeek)
            return file;
        await using (file)
        {
            var copy = new FileStream(
                Path.Combine(Path.GetTempPath(), Path.GetRandomFileName()), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, ChunkBytes, FileOptions.Asynchronous | FileOptions.DeleteOnClose);
            try
            {
                await file.CopyToAsync(copy, cancellation);
                copy.Position = 0;
                return copy;
            }
            catch
            {
                await copy.DisposeAsync();
                throw;
            }
        }
    }

    private static bool IsWorthAnother(RpcException exception) => exception.StatusCode switch
    {
        StatusCode.Unavailable => true,
        // A part of an earlier upload was not of this content: it is gone, and all is sent anew.
        StatusCode.InvalidArgument => VmmError.From(exception).Reason == "DIGEST_MISMATCH",
        StatusCode.Aborted or StatusCode.OutOfRange => VmmError.From(exception).Reason is "UPLOAD_IN_PROGRESS" or "UPLOAD_OFFSET_MISMATCH",
        _ => false,
    };

    private static async Task<Image> SendAsync(VmmConnection connection, FileStream file, UploadImageStart start, IProgress<long>? progress, CancellationToken cancellation)
    {
        using AsyncClientStreamingCall<UploadImageRequest, Image> call = connection.Images.UploadImage(cancellationToken: cancellation);
        using var answered = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // The server may answer before the end, and the answer then says more than the failed write does. The write is not waited
        // for then: one that flow control holds back at that moment is never woken by the transport.
        Task writing = WriteAsync(call.RequestStream, file, start, progress, answered.Token);
        if (await Task.WhenAny(writing, call.ResponseAsync) == writing)
            await writing;
        await answered.CancelAsync();
        return await call.ResponseAsync;
    }

    /// <summary>Sends until the end or until the call has ended, whose answer or status says why.</summary>
    private static async Task WriteAsync(IClientStreamWriter<UploadImageRequest> requests, FileStream file, UploadImageStart start, IProgress<long>? progress, CancellationToken cancellation)
    {
        if (!await IsTakenAsync(requests.WriteAsync(new UploadImageRequest { Start = start }, cancellation)))
            return;
        file.Position = start.Offset;
        byte[] buffer = new byte[ChunkBytes];
        while (file.Position < start.SizeBytes)
        {
            int count = await file.ReadAtLeastAsync(buffer.AsMemory(0, (int)Math.Min(buffer.Length, start.SizeBytes - file.Position)), 1, throwOnEndOfStream: false, cancellation);
            if (count == 0)
                throw new IOException($"'{file.Name}' became shorter while it was uploaded.");
            if (!await IsTakenAsync(requests.WriteAsync(new UploadImageRequest { Data = ByteString.CopyFrom(buffer, 0, count) }, cancellation)))
                return;
            progress?.Report(file.Position);
        }

        await IsTakenAsync(requests.CompleteAsync());
    }

    private static async Task<bool> IsTakenAsync(Task write)
    {
        try
        {
            await write;
            return true;
        }
        catch (Exception exception) when (exception is RpcException or InvalidOperationException or IOException or OperationCanceledException)
        {
            return false;
        }
    }
}
