using Vmm.Registry;
using Vmm.V1;
using Vmm.Worker.Fleet;
using Vmm.Worker.Storage;
using Vmm.Worker.V1;

namespace Vmm.Worker.Machines;

/// <summary>
/// The VMs of one project as everybody sees them; the registry is told of each change in order. Messages that are handed in or out
/// are never changed afterwards. Thread-safe.
/// </summary>
internal sealed class ProjectVms(ReportQueue reports)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, Vm> _present = new(StringComparer.Ordinal);

    /// <summary>The VM of that name, or null.</summary>
    public Vm? Find(string name)
    {
        lock (_lock)
            return _present.GetValueOrDefault(name);
    }

    /// <summary>Every VM.</summary>
    public List<Vm> List()
    {
        lock (_lock)
            return [.. _present.Values];
    }

    /// <summary>Makes the VM, in a new version or for the first time, visible.</summary>
    public void Put(Vm vm)
    {
        lock (_lock)
        {
            _present[vm.Name] = vm;
            reports.Add(new VmReport(vm));
        }
    }

    /// <summary>Makes the VM disappear, by a request or by none.</summary>
    public void Remove(string name, CompletedRequest? by)
    {
        lock (_lock)
        {
            _present.Remove(name);
            reports.Add([new VmDeletedReport(name), .. RequestLedger.ReportsOf(by)]);
        }
    }
}
