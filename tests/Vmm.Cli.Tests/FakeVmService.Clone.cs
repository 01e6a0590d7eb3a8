using Grpc.Core;
using Vmm.V1;

namespace Vmm.Cli.Tests;

/// <content>Clones: all are made but the second.</content>
internal sealed partial class FakeVmService
{
    public override Task<CloneVmResponse> CloneVm(CloneVmRequest request, ServerCallContext context)
    {
        Requests.Enqueue(request);
        var response = new CloneVmResponse();
        for (var number = 1; number <= request.Count; number++)
        {
            var result = new CloneResult { Name = $"{request.Parent}/vms/{request.VmIdPrefix}-{number}" };
            if (number == 2)
                result.Failure = new CloneFailure { Code = (int)StatusCode.AlreadyExists, Reason = "ALREADY_EXISTS", Message = "It exists already." };
            else
                result.Vm = new Vmm.V1.Vm { Name = result.Name, Spec = new VmSpec { MemoryMib = 64 }, Status = new VmStatus { State = VmState.Running }, Labels = { request.Labels } };
            response.Results.Add(result);
        }

        return Task.FromResult(response);
    }
}
