using Vmm.Registry;
using Vmm.Registry.Channels;
using Vmm.Worker.V1;

namespace Vmm.Server.InProcess;

/// <summary>Calls the one worker that there is, in this process.</summary>
internal sealed class InProcessConnector(VmHostService.VmHostServiceClient client) : IWorkerConnector
{
    /// <inheritdoc/>
    public VmHostService.VmHostServiceClient Connect(WorkerAddress worker) => client;
}
