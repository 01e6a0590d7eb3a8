using System.Security.Cryptography;
using Google.Protobuf;
using Grpc.Core;
using Vmm.Client;
using Vmm.Server;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class ImageTests : ServerTest
{
    private const int MiB = 1 << 20;

    protected override ServerOptions Options => base.Options with { MaxImageBytes = 64 * MiB };

    private static byte[] Content(int size, int seed = 1)
    {
        byte[] content = new byte[size];
        new Random(seed).NextBytes(content);
        return content;
    }

    private static UploadImageStart Start(byte[] content, long offset = 0) => new()
    {
        Parent = Project,
        Sha256 = Convert.ToHexStringLower(SHA256.HashData(content)),
        SizeBytes = content.Length,
        DisplayName = "vmlinuz",
        Offset = offset,
    };

    private async Task<Image> UploadAsync(UploadImageStart? start, params byte[][] chunks)
    {
        using var call = Images.UploadImage();
        try
        {
            if (start is not null)
                await call.RequestStream.WriteAsync(new UploadImageRequest { Start = start });
            foreach (byte[] chunk in chunks)
                await call.RequestStream.WriteAsync(new UploadImageRequest { Data = ByteString.CopyFrom(chunk) });
            await call.RequestStream.CompleteAsync();
        }
        catch (Exception exception) when (exception is RpcException or InvalidOperationException)
        {
            // The answer says why.
        }

        return await call;
    }

    private async Task<Image> PushAsync(byte[] content, string name = "file")
    {
        string path = Path.Combine(Folder, name);
        await File.WriteAllBytesAsync(path, content);
        return await Connection.PushImageAsync(path, Project);
    }

    [Fact]
    public async Task An_image_is_pushed_listed_used_and_deleted()
    {
        byte[] content = Content((3 * MiB) + 5);
        Image image = await PushAsync(content, "vmlinuz-6.1");
        Assert.Equal($"{Project}/images/sha256-{Convert.ToHexStringLower(SHA256.HashData(content))}", image.Name);
        Assert.Equal("vmlinuz-6.1", image.DisplayName);
        Assert.Equal(content.Length, image.SizeBytes);
        Assert.Equal(image, await Images.GetImageAsync(new GetImageRequest { Name = image.Name }));
        Assert.Equal(image, Assert.Single((await Images.ListImagesAsync(new ListImagesRequest { Parent = Project, Filter = "display_name = vmlinuz*" })).Images));
        Assert.Empty((await Images.ListImagesAsync(new ListImagesRequest { Parent = "projects/other" })).Images);

        VmSpec spec = new() { MemoryMib = 16, Kernel = new FileSource { Image = image.Name } };
        spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name } });
        spec.Disks.Add(new Disk { Source = new FileSource { Image = image.Name }, ReadOnly = true });
        Vm vm = await StartAsync("one", spec);
        FakeMachine machine = Factory.Last;
        Assert.Equal(content, await File.ReadAllBytesAsync(machine.Spec.KernelPath));
        Assert.NotEqual(machine.Spec.KernelPath, machine.Spec.Disks[0].Path);
        Assert.Equal(machine.Spec.KernelPath, machine.Spec.Disks[1].Path);
        Assert.Equal(content, await File.ReadAllBytesAsync(machine.Spec.Disks[0].Path));

        // The guest's writes stay with the VM, over restarts of both.
        await File.WriteAllTextAsync(machine.Spec.Disks[0].Path, "written");
        await CloseAsync();
        await OpenAsync();
        await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        Assert.Equal("written", await File.ReadAllTextAsync(Factory.Last.Spec.Disks[0].Path));

        VmmError error = await FailsAsync(StatusCode.FailedPrecondition, "IMAGE_IN_USE", Images.DeleteImageAsync(new DeleteImageRequest { Name = image.Name }));
        Assert.Contains(vm.Name, error.Message, StringComparison.Ordinal);
        string disk = Factory.Last.Spec.Disks[0].Path;
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name, Force = true });
        Assert.False(File.Exists(disk));
        await FailsAsync(StatusCode.Aborted, "ETAG_MISMATCH", Images.DeleteImageAsync(new DeleteImageRequest { Name = image.Name, Etag = "other" }));
        await Images.DeleteImageAsync(new DeleteImageRequest { Name = image.Name, Etag = image.Etag });
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Images.GetImageAsync(new GetImageRequest { Name = image.Name }));
        Assert.False(File.Exists(machine.Spec.KernelPath));
        VmmError missing = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FILE", Vms.CreateVmAsync(Creation("two", spec)));
        Assert.Equal(["vm.spec.kernel.image", "vm.spec.disks[0].source.image", "vm.spec.disks[1].source.image"], missing.Fields.Select(field => field.Subject));
    }

    [Fact]
    public async Task What_is_there_is_not_sent_again()
    {
        byte[] content = Content(2 * MiB);
        Image first = await PushAsync(content, "a");
        Assert.Equal(first, await PushAsync(content, "b"));
        // A client that does not ask first is answered without sending anything.
        Assert.Equal(first, await UploadAsync(Start(content)));
        UploadImageStart wrong = Start(content);
        wrong.SizeBytes++;
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UploadAsync(wrong));
    }

    [Fact]
    public async Task An_upload_that_broke_off_is_resumed()
    {
        byte[] content = Content(4 * MiB);
        using (var broken = Images.UploadImage())
        {
            await broken.RequestStream.WriteAsync(new UploadImageRequest { Start = Start(content) });
            await broken.RequestStream.WriteAsync(new UploadImageRequest { Data = ByteString.CopyFrom(content, 0, MiB) });
            await EventuallyAsync(() => Received(content) == MiB, "the first part");
            // While it is under way, nobody else may upload the same.
            await FailsAsync(StatusCode.Aborted, "UPLOAD_IN_PROGRESS", () => UploadAsync(Start(content)));
        }

        var start = Start(content, MiB);
        VmmError? error = null;
        await EventuallyAsync(
            () =>
            {
                try
                {
                    Assert.Equal(content.Length, UploadAsync(start, content[MiB..(2 * MiB)], content[(2 * MiB)..(3 * MiB)], content[(3 * MiB)..]).GetAwaiter().GetResult().SizeBytes);
                    return true;
                }
                catch (RpcException exception)
                {
                    error = VmmError.From(exception);
                    Assert.Equal("UPLOAD_IN_PROGRESS", error.Reason);
                    return false;
                }
            },
            "the end of the broken upload");
        Assert.Equal(content.Length, Received(content));
    }

    private long Received(byte[] content) =>
        Images.QueryImageUpload(new QueryImageUploadRequest { Parent = Project, Sha256 = Convert.ToHexStringLower(SHA256.HashData(content)) }).ReceivedBytes;

    [Fact]
    public async Task The_sdk_resumes_over_a_restart_of_the_server()
    {
        byte[] content = Content(8 * MiB);
        await FailsAsync(StatusCode.InvalidArgument, "UPLOAD_INCOMPLETE", () => UploadAsync(Start(content), content[..(2 * MiB)]));
        await CloseAsync();
        await OpenAsync();
        Assert.Equal(2 * MiB, Received(content));
        Assert.Equal(content.Length, (await PushAsync(content)).SizeBytes);
    }

    [Fact]
    public async Task What_is_added_to_a_file_while_it_is_uploaded_is_not_part_of_the_image()
    {
        byte[] content = Content(4 * MiB - 100);
        Image image = await PushWhileAsync(content, file => file.Write("more"u8));
        Assert.Equal((content.Length, Convert.ToHexStringLower(SHA256.HashData(content))), (image.SizeBytes, image.Sha256));
        IOException empty = await Assert.ThrowsAsync<IOException>(() => PushAsync([]));
        Assert.Contains("is empty", empty.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_that_is_changed_while_it_is_uploaded_is_no_image()
    {
        byte[] content = Content(4 * MiB);
        IOException shorter = await Assert.ThrowsAsync<IOException>(() => PushWhileAsync(content, file => file.SetLength(2 * MiB)));
        Assert.Contains("became shorter", shorter.Message, StringComparison.Ordinal);
        IOException changed = await Assert.ThrowsAsync<IOException>(() => PushWhileAsync(Content(4 * MiB, seed: 2), file =>
        {
            file.Position = file.Length - 1;
            file.WriteByte(unchecked((byte)(Content(4 * MiB, seed: 2)[^1] + 1)));
        }));
        Assert.Contains("was changed", changed.Message, StringComparison.Ordinal);
        Assert.Empty(Images.ListImages(new ListImagesRequest { Parent = Project }).Images);
    }

    [Fact]
    public async Task What_an_earlier_upload_has_left_of_other_content_is_sent_anew()
    {
        byte[] content = Content(4 * MiB);
        await FailsAsync(StatusCode.InvalidArgument, "UPLOAD_INCOMPLETE", () => UploadAsync(Start(content), Content(MiB, seed: 2)));
        Assert.Equal(content.Length, (await PushAsync(content)).SizeBytes);
    }

    [Fact]
    public async Task An_upload_that_nobody_goes_on_with_goes_after_a_day()
    {
        byte[] old = Content(MiB), young = Content(MiB, seed: 2);
        string uploads = Path.Combine(Folder, "state", "uploads");
        foreach (byte[] content in (byte[][])[old, young])
            await FailsAsync(StatusCode.InvalidArgument, "UPLOAD_INCOMPLETE", () => UploadAsync(Start(content), content[..^1]));
        await CloseAsync();
        string part = Directory.EnumerateFiles(uploads).Single(path => path.EndsWith(Convert.ToHexStringLower(SHA256.HashData(old)), StringComparison.Ordinal));
        File.SetLastWriteTimeUtc(part, Time.GetUtcNow().UtcDateTime - TimeSpan.FromDays(1.01));
        await OpenAsync();
        await EventuallyAsync(() => !File.Exists(part), "it goes");
        Assert.Equal((0, MiB - 1), (Received(old), Received(young)));
    }

    /// <summary>Uploads a file of which something becomes while its first part is sent.</summary>
    private async Task<Image> PushWhileAsync(byte[] content, Action<FileStream> happen)
    {
        string path = Path.Combine(Folder, "changing");
        await File.WriteAllBytesAsync(path, content);
        return await Connection.PushImageAsync(path, Project, progress: new Once(() =>
        {
            using var file = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            file.Position = file.Length;
            happen(file);
        }));
    }

    private sealed class Once(Action act) : IProgress<long>
    {
        private Action? _act = act;

        public void Report(long value)
        {
            _act?.Invoke();
            _act = null;
        }
    }

    [Fact]
    public async Task Content_that_is_not_what_was_announced_is_thrown_away()
    {
        byte[] content = Content(1000), other = Content(1000, seed: 2);
        await FailsAsync(StatusCode.InvalidArgument, "DIGEST_MISMATCH", () => UploadAsync(Start(content), other));
        Assert.Equal(0, Received(content));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UploadAsync(Start(content), content, [1]));
        Assert.Equal(0, Received(content));
        await FailsAsync(StatusCode.OutOfRange, "UPLOAD_OFFSET_MISMATCH", () => UploadAsync(Start(content, 500), content[500..]));
        Assert.Equal(1000, (await UploadAsync(Start(content), content)).SizeBytes);
        Assert.Empty(Directory.EnumerateFiles(Path.Combine(Folder, "state", "uploads")));
    }

    [Fact]
    public async Task Announcements_that_cannot_be_are_refused()
    {
        byte[] content = Content(10);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UploadAsync(null, content));
        foreach (Action<UploadImageStart> spoil in (Action<UploadImageStart>[])
            [
                start => start.SizeBytes = 0,
                start => start.SizeBytes = -1,
                start => start.SizeBytes = 65 * MiB,
                start => start.Offset = -1,
                start => start.Offset = 11,
                start => start.Sha256 = "",
                start => start.Sha256 = start.Sha256.ToUpperInvariant(),
                start => start.Sha256 = "../../../../etc/passwd",
                start => start.Parent = "projects/../other",
                start => start.DisplayName = "a\0b",
                start => start.DisplayName = new string('x', 300),
                start => start.RequestId = "a b",
            ])
        {
            UploadImageStart start = Start(content);
            spoil(start);
            await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UploadAsync(start, content));
        }

        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", () => UploadAsync(Start(Content(3 * MiB)), Content(3 * MiB)));
    }

    [Theory]
    [InlineData("projects/default/images/../../../etc/passwd")]
    [InlineData("projects/default/images/sha256-..")]
    [InlineData("projects/default/images/")]
    [InlineData("projects/default/images/sha256-0000000000000000000000000000000000000000000000000000000000000000/x")]
    [InlineData("projects/default/images/sha256-000000000000000000000000000000000000000000000000000000000000000\0")]
    [InlineData("projects/default/vms/a")]
    [InlineData("/etc/passwd")]
    [InlineData("")]
    public async Task Hostile_image_names_are_refused(string name)
    {
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Images.GetImageAsync(new GetImageRequest { Name = name }));
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Images.DeleteImageAsync(new DeleteImageRequest { Name = name }));
        VmSpec spec = Spec();
        spec.Kernel = new FileSource { Image = name };
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(Creation("a", spec)));
    }

    [Fact]
    public async Task An_image_of_another_project_cannot_be_used()
    {
        Image image = await PushAsync(Content(10));
        CreateVmRequest creation = Creation("a", new VmSpec { MemoryMib = 16, Kernel = new FileSource { Image = image.Name } });
        creation.Parent = "projects/other";
        VmmError error = await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.CreateVmAsync(creation));
        Assert.Equal("vm.spec.kernel.image", error.Fields[0].Subject);
    }
}
