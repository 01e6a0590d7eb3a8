using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Instructions.System;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>Control registers: of CR0 to CR4 the guest has its own, CR8 is the local APIC's task priority.</summary>
internal static unsafe class ControlRegisterExits
{
    // The exit qualification (SDM volume 3, table 28-3): register in 3:0, access type in 5:4, general-purpose register in 11:8.
    public static void Access(Vcpu vcpu)
    {
        ulong qualification = vcpu.Vmcs[VmcsField.ExitQualification];
        int register = (int)qualification & 15;
        int access = (int)(qualification >> 4) & 3;
        int general = (int)(qualification >> 8) & 15;
        if (register is 0 or 4 && !vcpu.IsGuestMode && access == 0)
        {
            Move(vcpu, register, vcpu.General(general));
            return;
        }
        if (register != 8 || access > 1)
            throw new InvalidOperationException($"vCPU {vcpu.Index} left the guest for an access to CR{register}, which no control asks for.");
        if (access == 1)
        {
            vcpu.SetGeneral(general, vcpu.Apic.TaskPriority >> 4);
        }
        else
        {
            ulong value = vcpu.General(general);
            if (value > 15)
            {
                vcpu.InjectException(Vector.Gp, 0);
                return;
            }
            vcpu.Apic.SetTaskPriority((uint)value << 4);
        }
        vcpu.SkipInstruction();
    }

    public static void Xsetbv(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        ulong value = (uint)s->Gpr[Gpr.Rax] | s->Gpr[Gpr.Rdx] << 32;
        // Privilege and CR4.OSXSAVE are checked before the exit; the values here.
        if ((uint)s->Gpr[Gpr.Rcx] == 0 && ControlRegisters.SetXcr0(s, value))
            vcpu.SkipInstruction();
        else
            vcpu.InjectException(Vector.Gp, 0);
    }

    /// <summary>
    /// MOV by L1 to a register of which it changes a bit that L0 owns: CR4.VMXE, which is only in the read shadow, or in VMX operation
    /// a bit that is fixed there (SDM volume 3, section 24.8).
    /// </summary>
    private static void Move(Vcpu vcpu, int register, ulong value)
    {
        CpuState* s = vcpu.State;
        // In system-management mode VMXE is reserved (section 32.14.3).
        bool offered = (vcpu.Machine.Model.Vmx && !vcpu.SystemManagement.IsActive) || (value & Cr4.Vmxe) == 0;
        bool leaves = vcpu.Nested.IsOn && (register == 0 || (value & Cr4.Vmxe) == 0);
        if (leaves || !offered || !ControlRegisters.SetCr4(s, value | Cr4.Vmxe))
        {
            vcpu.InjectException(Vector.Gp, 0);
            return;
        }
        vcpu.SetGuestCr4(value);
        vcpu.SkipInstruction();
    }
}
