using System.Security.Cryptography;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Images;

/// <summary>Images of a worker: their files, their uploads, and who needs them. Thread-safe.</summary>
internal sealed class ImageStore(WorkerStore store, WorkerOptions options, TimeProvider time)
{
    private const int CopyBytes = 1 << 20;
    private static readonly TimeSpan PatienceWithParts = TimeSpan.FromDays(1);

    private readonly Lock _lock = new();
    private readonly HashSet<string> _uploading = new(StringComparer.Ordinal);
    private readonly Dictionary<string, List<string>> _users = new(StringComparer.Ordinal);
    private readonly HashSet<string> _deleting = new(StringComparer.Ordinal);

    /// <summary>Brings images here that other workers have; null where there is no other worker.</summary>
    public ImageFetcher? Fetcher { get; set; }

    /// <summary>Notes that a VM or a snapshot needs an image, so that it is not deleted.</summary>
    /// <exception cref="RpcException">NOT_FOUND: there is no such image.</exception>
    public void Pin(string image, string user)
    {
        lock (_lock)
        {
            if (store.FindImage(image) is null || _deleting.Contains(image))
                throw ApiError.NotFound(image);
            PinExisting(image, user);
        }
    }

    /// <summary>As <see cref="Pin"/> for one that was there before this process, whatever became of its image.</summary>
    public void PinExisting(string image, string user)
    {
        lock (_lock)
        {
            if (!_users.TryGetValue(image, out List<string>? users))
                _users[image] = users = [];
            users.Add(user);
        }
    }

    /// <summary>Takes one <see cref="Pin"/> back.</summary>
    public void Unpin(string image, string user)
    {
        lock (_lock)
            if (_users.TryGetValue(image, out List<string>? users) && users.Remove(user) && users.Count == 0)
                _users.Remove(image);
    }

    /// <summary>Whether a call receives the image at the moment.</summary>
    public bool IsUploading(string name)
    {
        lock (_lock)
            return _uploading.Contains(name);
    }

    /// <summary>Removes what there is of uploads that nobody has gone on with for a day.</summary>
    public void RemoveAbandoned()
    {
        foreach (FileInfo part in new DirectoryInfo(store.UploadsDirectory).EnumerateFiles().Where(part => part.LastWriteTimeUtc < time.GetUtcNow().UtcDateTime - PatienceWithParts))
        {
            string[] name = part.Name.Split('.');
            lock (_lock)
                if (name.Length != 2 || !_uploading.Contains(ResourceName.Image($"projects/{name[0]}", name[1])))
                    part.Delete();
        }
    }

    /// <summary>How much of an upload is here.</summary>
    public QueryImageUploadResponse Query(QueryImageUploadRequest request)
    {
        Image? image = store.FindImage(ResourceName.Image(request.Parent, request.Sha256));
        if (image is not null)
            return new QueryImageUploadResponse { Image = image, ReceivedBytes = image.SizeBytes };
        var part = new FileInfo(PartPath(request.Parent, request.Sha256));
        return new QueryImageUploadResponse { ReceivedBytes = part.Exists ? part.Length : 0 };
    }

    /// <summary>Deletes an image that nobody needs.</summary>
    /// <exception cref="RpcException">NOT_FOUND, ABORTED (etag) or FAILED_PRECONDITION (in use).</exception>
    public async Task DeleteAsync(DeleteImageRequest request, CompletedRequest? completed)
    {
        string name = request.Name;
        lock (_lock)
        {
            Image image = store.FindImage(name) ?? throw ApiError.NotFound(name);
            if (request.Etag.Length > 0 && request.Etag != image.Etag)
                throw ApiError.Aborted("ETAG_MISMATCH", $"{name} is not what the etag says any more.", ("etag", image.Etag));
            if (_users.TryGetValue(name, out List<string>? users))
                throw ApiError.FailedPrecondition("IMAGE_IN_USE", "IN_USE", name, $"The image is used by {string.Join(", ", users.Distinct().Take(5))}.", ("user", users[0]));
            if (!_deleting.Add(name))
                throw ApiError.NotFound(name);
        }

        try
        {
            await store.CommitAsync(new JournalRecord { Mutations = { new Mutation { DeleteImage = name } }, Request = completed });
            File.Delete(store.ImagePath(name));
        }
        finally
        {
            lock (_lock)
                _deleting.Remove(name);
        }
    }

    /// <summary>Receives an image.</summary>
    /// <param name="start">What was announced; valid.</param>
    /// <param name="content">The requests that follow.</param>
    /// <param name="completed">Makes the record of the request.</param>
    /// <param name="cancellation">The caller went away: what was received is kept for resuming.</param>
    public async Task<Image> UploadAsync(UploadImageStart start, IAsyncStreamReader<UploadImageRequest> content, Func<Image, CompletedRequest?> completed, CancellationToken cancellation)
    {
        string name = ResourceName.Image(start.Parent, start.Sha256);
        if (store.FindImage(name) is { } present)
        {
            if (present.SizeBytes != start.SizeBytes)
                throw ApiError.InvalidField("start.size_bytes", $"is {start.SizeBytes}, and the image of that digest has {present.SizeBytes} bytes.");
            await store.CommitAsync(new JournalRecord { Request = completed(present) });
            return present;
        }

        if (start.SizeBytes > options.MaxImageBytes)
            throw ApiError.InvalidField("start.size_bytes", $"is {start.SizeBytes}; this server takes images of at most {options.MaxImageBytes} bytes.");
        lock (_lock)
        {
            if (!_uploading.Add(name) || _deleting.Contains(name))
                throw ApiError.Aborted("UPLOAD_IN_PROGRESS", "Another call uploads this image, or deletes it.", ("image", name));
        }

        try
        {
            await ReceiveAsync(start, content, cancellation);
            return await FinishAsync(start, name, completed);
        }
        catch (IOException exception)
        {
            throw ApiError.Unavailable("STORAGE_FAILED", $"The server cannot keep the image: {exception.Message}");
        }
        finally
        {
            lock (_lock)
                _uploading.Remove(name);
        }
    }

    private async Task ReceiveAsync(UploadImageStart start, IAsyncStreamReader<UploadImageRequest> content, CancellationToken cancellation)
    {
        await using var part = new FileStream(PartPath(start.Parent, start.Sha256), FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read, CopyBytes, useAsync: true);
        if (start.Offset != part.Length && start.Offset != 0)
            throw ApiError.OutOfRange(
                "UPLOAD_OFFSET_MISMATCH",
                $"The upload goes on at byte {part.Length}, not {start.Offset}.",
                ("received_bytes", part.Length.ToString(System.Globalization.CultureInfo.InvariantCulture)));
        if (start.Offset == 0)
            part.SetLength(0);
        part.Position = start.Offset;
        try
        {
            await WriteAsync(start, content, part, cancellation);
        }
        finally
        {
            // Its age is by this worker's clock, whatever the file system's is.
            await part.FlushAsync(CancellationToken.None);
            File.SetLastWriteTimeUtc(part.SafeFileHandle, time.GetUtcNow().UtcDateTime);
        }

        if (part.Position < start.SizeBytes)
            throw ApiError.InvalidField(
                "data", $"ends after {part.Position} of {start.SizeBytes} bytes; resume the upload to complete it.", "UPLOAD_INCOMPLETE");
    }

    private static async Task WriteAsync(UploadImageStart start, IAsyncStreamReader<UploadImageRequest> content, FileStream part, CancellationToken cancellation)
    {
        while (await content.MoveNext(cancellation))
        {
            if (content.Current.RequestCase != UploadImageRequest.RequestOneofCase.Data)
                throw ApiError.InvalidField("data", "must be set in every request but the first.");
            if (part.Position + content.Current.Data.Length > start.SizeBytes)
            {
                part.SetLength(0);
                throw ApiError.InvalidField("data", $"goes beyond the {start.SizeBytes} bytes that were announced.");
            }

            await part.WriteAsync(content.Current.Data.Memory, CancellationToken.None);
        }

        part.Flush(flushToDisk: true);
    }

    private async Task<Image> FinishAsync(UploadImageStart start, string name, Func<Image, CompletedRequest?> completed)
    {
        string part = PartPath(start.Parent, start.Sha256);
        string sha256;
        await using (var file = new FileStream(part, FileMode.Open, FileAccess.Read, FileShare.Read, CopyBytes, useAsync: true))
            sha256 = Convert.ToHexStringLower(await SHA256.HashDataAsync(file));
        if (sha256 != start.Sha256)
        {
            File.Delete(part);
            throw ApiError.InvalidField("start.sha256", $"is {start.Sha256}, and what was received has {sha256}. It was thrown away.", "DIGEST_MISMATCH");
        }

        string path = store.ImagePath(name);
        string folder = Path.GetDirectoryName(path)!;
        WorkerStore.CreatePrivateDirectory(folder);
        File.Move(part, path, overwrite: true);
        PosixFile.FlushDirectory(folder);
        var image = new Image
        {
            Name = name,
            DisplayName = start.DisplayName,
            SizeBytes = start.SizeBytes,
            Sha256 = sha256,
            CreateTime = Timestamp.FromDateTimeOffset(time.GetUtcNow()),
            Etag = sha256[..16],
        };
        await store.CommitAsync(new JournalRecord { Mutations = { new Mutation { PutImage = image } }, Request = completed(image) });
        return image;
    }

    private string PartPath(string parent, string sha256)
    {
        if (!ResourceName.TryParseProject(parent, out string? project) || !ResourceName.IsSha256(sha256))
            throw ApiError.InvalidField("sha256", "is not the name of an upload.");
        return Path.Combine(store.UploadsDirectory, $"{project}.{sha256}");
    }
}
