namespace Vmm.Hypervisor.Vcpus;

/// <content>Requests that are not left for the next VM entry.</content>
public sealed unsafe partial class Vcpu
{
    /// <summary>
    /// Services a request to refresh vmcs01 now, as if the next VM entry came, so that a vCPU that waits has applied it too or put it
    /// off. No effect while the vCPU executes: it is about to come to it.
    /// </summary>
    public void SettleApicv()
    {
        if (Machine.Running == this || !IsRequested(VcpuRequest.ApicvUpdate))
            return;
        _requests &= ~VcpuRequest.ApicvUpdate;
        Apicv.Service();
    }
}
