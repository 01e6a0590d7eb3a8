using Vmm.Machine.Scheduling;
using Vmm.Protos;
using Vmm.V1;
using Vmm.Worker.Storage;

namespace Vmm.Worker.Machines;

/// <content>Changes that no transition goes with.</content>
internal sealed partial class HostedVm
{
    /// <summary>Changes what the mask names: labels, or what the VM gets of the processors, of which a machine that runs hears at once.</summary>
    public Task<Vm> UpdateAsync(UpdateVmRequest request, RequestScope scope) => LockedAsync(request.Vm.Etag, async () =>
    {
        // A front end that sends no mask knows labels only.
        ICollection<string> paths = request.UpdateMask?.Paths is { Count: > 0 } given ? given : ["labels"];
        VmSpec? spec = request.Vm.Spec;
        if (spec is null && paths.Any(path => path.StartsWith("spec", StringComparison.Ordinal)))
            throw ApiError.InvalidField("vm.spec", "must be set.");
        Vm next = NextVersion(vm =>
        {
            // The default is left out, so that workers take the VM which know no shares.
            if (paths.Contains("spec.cpu_weight"))
                vm.Spec.CpuWeight = spec!.CpuWeight == ProcessorShare.DefaultWeight ? 0 : spec.CpuWeight;
            if (paths.Contains("spec.cpu_limit_millicpus"))
                vm.Spec.CpuLimitMillicpus = spec!.CpuLimitMillicpus;
            if (!paths.Contains("labels"))
                return;
            vm.Labels.Clear();
            foreach ((string name, string value) in request.Vm.Labels.OrderBy(label => label.Key, StringComparer.Ordinal))
                vm.Labels[name] = value;
        });
        await CommitAsync(next, scope.Completed(next));
        _run?.Machine.Share = SpecFiles.ShareOf(next.Spec);
        return Show(next);
    });
}
