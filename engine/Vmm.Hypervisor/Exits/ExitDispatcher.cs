using Vmm.Hypervisor.HyperV;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>What to do after a VM exit.</summary>
public enum ExitResult
{
    /// <summary>Enter the guest again, if its activity allows.</summary>
    Resume,

    /// <summary>Let another vCPU run.</summary>
    Yield,
}

/// <summary>Takes each VM exit of L1 to its handler.</summary>
public static class ExitDispatcher
{
    /// <summary>Handles an exit.</summary>
    /// <exception cref="InvalidOperationException">An exit that L0's controls rule out, or a failed VM entry: an error of the engine.</exception>
    public static ExitResult Handle(Vcpu vcpu, ExitReason reason)
    {
        switch (reason)
        {
            case ExitReason.Cpuid:
                CpuidExits.Cpuid(vcpu);
                break;
            case ExitReason.Rdmsr:
                MsrExits.Rdmsr(vcpu);
                break;
            case ExitReason.Wrmsr:
                MsrExits.Wrmsr(vcpu);
                break;
            case ExitReason.ControlRegister:
                ControlRegisterExits.Access(vcpu);
                break;
            case ExitReason.Xsetbv:
                ControlRegisterExits.Xsetbv(vcpu);
                break;
            case ExitReason.Hlt:
                vcpu.SkipInstruction();
                vcpu.Activity = VcpuActivity.Halted;
                break;
            case ExitReason.Pause:
                vcpu.SkipInstruction();
                return ExitResult.Yield;
            case ExitReason.TripleFault:
                vcpu.Activity = VcpuActivity.Shutdown;
                break;
            case ExitReason.TaskSwitch:
                TaskSwitchExits.Switch(vcpu);
                break;
            case ExitReason.InterruptWindow:
            case ExitReason.NmiWindow:
                // The next entry injects what waited.
                break;
            case ExitReason.ApicWrite:
                ApicExits.Write(vcpu);
                break;
            case ExitReason.VirtualizedEoi:
                ApicExits.EndOfInterrupt(vcpu);
                break;
            case ExitReason.ApicAccess:
                vcpu.StepApicAccess();
                break;
            case ExitReason.Invd:
            case ExitReason.Wbinvd:
                // There are no caches to write back.
                vcpu.SkipInstruction();
                break;
            case ExitReason.Vmcall:
                Hypercall(vcpu);
                break;
            case ExitReason.Rsm:
                vcpu.SystemManagement.Return();
                break;
            case ExitReason.Vmxon:
                VmxInstructions.Vmxon(vcpu);
                break;
            case ExitReason.Vmxoff:
                VmxInstructions.Vmxoff(vcpu);
                break;
            case ExitReason.Vmclear:
                VmxInstructions.Vmclear(vcpu);
                break;
            case ExitReason.Vmptrld:
                VmxInstructions.Vmptrld(vcpu);
                break;
            case ExitReason.Vmptrst:
                VmxInstructions.Vmptrst(vcpu);
                break;
            case ExitReason.Vmread:
                VmxInstructions.Vmread(vcpu);
                break;
            case ExitReason.Vmwrite:
                VmxInstructions.Vmwrite(vcpu);
                break;
            case ExitReason.Vmlaunch or ExitReason.Vmresume:
                VmxInstructions.Enter(vcpu, launch: reason == ExitReason.Vmlaunch);
                break;
            case ExitReason.Invept:
                VmxInstructions.Invept(vcpu);
                break;
            case ExitReason.Invvpid:
                VmxInstructions.Invvpid(vcpu);
                break;
            case ExitReason.Vmfunc or ExitReason.Getsec or ExitReason.Monitor
                or ExitReason.Mwait or ExitReason.Encls:
                vcpu.InjectException(Vector.Ud);
                break;
            case ExitReason.VmFailValid or ExitReason.InvalidGuestState:
                throw new InvalidOperationException($"vCPU {vcpu.Index} was not entered: {vcpu.Vmcs.FailedRule} is violated.");
            default:
                throw new InvalidOperationException(
                    $"vCPU {vcpu.Index} left the guest at {vcpu.Vmcs[VmcsField.GuestRip]:x} with exit reason {reason} ({(uint)reason:x}), "
                    + $"qualification {vcpu.Vmcs[VmcsField.ExitQualification]:x}, which no control asks for.");
        }
        return ExitResult.Resume;
    }

    /// <summary>
    /// VMCALL: there are no hypercalls, which guests that look for some learn the way that Linux guests expect it, by -ENOSYS of
    /// the KVM convention (-1000) in RAX; or that of the Hyper-V interface, where they have named themselves to that.
    /// </summary>
    private static unsafe void Hypercall(Vcpu vcpu)
    {
        const ulong NoSuchCall = unchecked((ulong)-1000L);
        if (vcpu.State->Cpl != 0)
        {
            vcpu.InjectException(Vector.Ud);
            return;
        }
        if (vcpu.Machine.HyperV.IsIdentified)
        {
            // In RAX, or EDX:EAX of 32-bit code.
            vcpu.State->Gpr[Gpr.Rax] = HypervisorInterface.InvalidHypercallCode;
            if (!vcpu.IsLongCode)
                vcpu.State->Gpr[Gpr.Rdx] = 0;
            vcpu.SkipInstruction();
            return;
        }
        vcpu.State->Gpr[Gpr.Rax] = vcpu.IsLongCode ? NoSuchCall : unchecked((uint)NoSuchCall);
        vcpu.SkipInstruction();
    }
}
