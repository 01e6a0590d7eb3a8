using Vmm.Client;
using Vmm.Testing;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests.Fleet;

/// <summary>Images that are uploaded to a fleet.</summary>
public sealed class ImageCopiesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("vmm-images-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [RequiresPackageFact("postgresql")]
    public async Task A_vm_of_an_uploaded_image_goes_on_elsewhere_when_its_worker_is_lost()
    {
        await using FaultFleet fleet = await FaultFleet.StartAsync(frontends: 1, workers: 3);
        using VmmConnection connection = fleet.Process("f1").Connect();
        string kernel = Path.Combine(_folder, "kernel");
        // More than one message of a copy has.
        byte[] content = new byte[3 << 20];
        new Random(1).NextBytes(content);
        await File.WriteAllBytesAsync(kernel, content);
        Image image = await connection.PushImageAsync(kernel, FaultFleet.Project);
        CreateVmRequest creation = fleet.Creation("vm", RestartPolicy.Restart);
        creation.Vm.Spec.Kernel = new FileSource { Image = image.Name };
        Vm vm = await connection.Vms.CreateVmAsync(creation);
        await connection.Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });

        // It is on a worker that has the image, and on no other are there VMs of it.
        fleet.Kill(ResourceNames.Id((await connection.Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.Worker));
        using FleetClient client = fleet.Client(seed: 1);
        await fleet.EventuallyAsync(
            async () => (await client.CallAsync(new GetVmRequest { Name = vm.Name }, static (vms, request, options) => vms.GetVmAsync(request, options))).Status is { State: VmState.Running, RunCount: 2 },
            "the VM runs on another worker");
        // Whoever is asked has the whole image.
        Image copy = await connection.Images.GetImageAsync(new GetImageRequest { Name = image.Name });
        Assert.Equal((image.Sha256, image.SizeBytes), (copy.Sha256, copy.SizeBytes));
    }
}
