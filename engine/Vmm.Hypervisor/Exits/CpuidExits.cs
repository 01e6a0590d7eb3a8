using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>CPUID exits. What is answered to L1 is left with the processor, which then answers by itself.</summary>
internal static unsafe class CpuidExits
{
    public static void Cpuid(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        CpuidContext context = new(vcpu.Apic.InitialId, vcpu.Apic.Mode != ApicMode.Disabled, vcpu.GuestCr4, s->Xcr0, s->Xss);
        uint leaf = (uint)s->Gpr[Gpr.Rax], subleaf = (uint)s->Gpr[Gpr.Rcx];
        CpuidResult result = CpuidModel.Query(vcpu.Machine.Model, context, leaf, subleaf);
        if (!vcpu.IsGuestMode)
            vcpu.CpuidAnswers.Note(s, leaf, subleaf, result.Eax, result.Ebx, result.Ecx, result.Edx);
        s->Gpr[Gpr.Rax] = result.Eax;
        s->Gpr[Gpr.Rbx] = result.Ebx;
        s->Gpr[Gpr.Rcx] = result.Ecx;
        s->Gpr[Gpr.Rdx] = result.Edx;
        vcpu.SkipInstruction();
    }
}
