using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>CPUID always exits.</summary>
internal static unsafe class CpuidExits
{
    public static void Cpuid(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        CpuidContext context = new(vcpu.Apic.InitialId, vcpu.Apic.Mode != ApicMode.Disabled, vcpu.GuestCr4, s->Xcr0, s->Xss);
        CpuidResult result = CpuidModel.Query(vcpu.Machine.Model, context, (uint)s->Gpr[Gpr.Rax], (uint)s->Gpr[Gpr.Rcx]);
        s->Gpr[Gpr.Rax] = result.Eax;
        s->Gpr[Gpr.Rbx] = result.Ebx;
        s->Gpr[Gpr.Rcx] = result.Ecx;
        s->Gpr[Gpr.Rdx] = result.Edx;
        vcpu.SkipInstruction();
    }
}
