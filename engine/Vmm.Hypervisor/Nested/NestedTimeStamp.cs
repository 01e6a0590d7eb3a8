using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// The VM-exit MSR-store list of vmcs02, in private memory: the time-stamp counter alone, where vmcs12 has a list. So what L1 finds in its
/// list is when the hardware left L2, and not when L0 has come to write it.
/// </summary>
internal sealed unsafe class NestedTimeStamp : IDisposable
{
    private readonly PhysicalMemory _memory;
    private readonly ulong _address;
    private readonly ulong* _entry;

    public NestedTimeStamp(PhysicalMemory memory)
    {
        _memory = memory;
        _address = memory.AllocatePrivatePage();
        _entry = (ulong*)memory.HostPage(_address);
        _entry[0] = Msr.TimeStampCounter;
    }

    /// <summary>Makes the list that of vmcs02, or leaves vmcs02 without one.</summary>
    public void Follow(NestedVmx nested)
    {
        bool wanted = nested.Vmcs12.Read32(VmcsField.VmExitMsrStoreCount) != 0;
        nested.Vmcs02[VmcsField.VmExitMsrStoreAddress] = wanted ? _address : 0;
        nested.Vmcs02[VmcsField.VmExitMsrStoreCount] = wanted ? 1u : 0;
    }

    /// <summary>L1's time-stamp counter at the last exit of the hardware from vmcs02; only where vmcs12 has a list.</summary>
    public ulong AtExit(Vcpu vcpu) => _entry[1] + vcpu.TscOffset;

    /// <inheritdoc/>
    public void Dispose() => _memory.FreePrivatePage(_address);
}
