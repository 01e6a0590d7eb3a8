using Vmm.Hypervisor.HyperV;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.System;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Exits;

/// <summary>RDMSR and WRMSR: L0 uses no MSR bitmaps for L1, so every access exits.</summary>
internal static unsafe class MsrExits
{
    public static void Rdmsr(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        var msr = (uint)s->Gpr[Gpr.Rcx];
        ulong value;
        if (msr == Msr.TimeStampCounter && vcpu.IsGuestMode)
        {
            // With L2's own offset and scaling, as RDTSC there.
            value = vcpu.Cpu.GuestTimeStamp;
        }
        else if (!TryRead(vcpu, msr, out value))
        {
            vcpu.InjectException(Vector.Gp, 0);
            return;
        }
        s->Gpr[Gpr.Rax] = (uint)value;
        s->Gpr[Gpr.Rdx] = value >> 32;
        vcpu.SkipInstruction();
    }

    public static void Wrmsr(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        if (TryWrite(vcpu, (uint)s->Gpr[Gpr.Rcx], (uint)s->Gpr[Gpr.Rax] | s->Gpr[Gpr.Rdx] << 32))
            vcpu.SkipInstruction();
        else
            vcpu.InjectException(Vector.Gp, 0);
    }

    /// <summary>Reads a register as the guest would. False for #GP.</summary>
    public static bool TryRead(Vcpu vcpu, uint msr, out ulong value)
    {
        switch (msr)
        {
            case Msr.TimeStampCounter:
                value = vcpu.Tsc;
                return true;
            case Msr.TscAdjust:
                value = vcpu.Msrs.TscAdjust;
                return true;
            case Msr.TscDeadline:
                value = vcpu.Apic.TscDeadline;
                return true;
            case Msr.ApicBase:
                value = vcpu.Apic.BaseMsr;
                return true;
            case >= Msr.X2ApicFirst and <= Msr.X2ApicLast:
                return vcpu.Apic.TryReadMsr(msr, out value);
            case >= HypervisorInterface.FirstMsr and <= HypervisorInterface.LastMsr when vcpu.Machine.Model.EnlightenedVmcs:
                return vcpu.Machine.HyperV.TryRead(vcpu, msr, out value);
            case >= VmxMsr.First and <= VmxMsr.Last:
                value = 0;
                return vcpu.Machine.Model.Vmx && vcpu.Nested.Capabilities.TryRead(msr, out value);
            default:
                return vcpu.Msrs.TryRead(msr, out value) || ModelSpecificRegisters.TryRead(vcpu.State, msr, out value);
        }
    }

    /// <summary>Writes a register as the guest would. False, with nothing changed, for #GP.</summary>
    public static bool TryWrite(Vcpu vcpu, uint msr, ulong value)
    {
        switch (msr)
        {
            case Msr.TimeStampCounter:
                MoveTsc(vcpu, value - vcpu.Tsc);
                return true;
            case Msr.TscAdjust:
                MoveTsc(vcpu, value - vcpu.Msrs.TscAdjust);
                return true;
            case Msr.TscDeadline:
                vcpu.Apic.TscDeadline = value;
                return true;
            case Msr.ApicBase:
                return vcpu.Apic.TrySetBase(value);
            case >= Msr.X2ApicFirst and <= Msr.X2ApicLast:
                return vcpu.Apic.TryWriteMsr(msr, value);
            case >= HypervisorInterface.FirstMsr and <= HypervisorInterface.LastMsr when vcpu.Machine.Model.EnlightenedVmcs:
                return vcpu.Machine.HyperV.TryWrite(vcpu, msr, value);
        }
        if (vcpu.Msrs.TryWrite(msr, value))
            return true;
        if (!ModelSpecificRegisters.TryWrite(vcpu.State, msr, value))
            return false;
        StoreToVmcs(vcpu);
        return true;
    }

    // A write of the counter moves IA32_TSC_ADJUST by as much, and the other way round (SDM volume 3, section 18.17.3).
    private static void MoveTsc(Vcpu vcpu, ulong by)
    {
        vcpu.Msrs.TscAdjust += by;
        vcpu.Vmcs01[VmcsField.TscOffset] += by;
        if (vcpu.IsGuestMode)
            vcpu.Vmcs[VmcsField.TscOffset] += by;
        vcpu.Apic.TscOffsetChanged();
    }

    // The processor's own registers are written in its state, of which the next entry loads these from the VMCS.
    private static void StoreToVmcs(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        Vmcs vmcs = vcpu.Vmcs;
        vmcs[VmcsField.GuestEfer] = s->Efer;
        vmcs[VmcsField.GuestPat] = s->Pat;
        vmcs[VmcsField.GuestDebugCtl] = s->DebugCtl;
        vmcs[VmcsField.GuestSysenterCs] = s->SysenterCs;
        vmcs[VmcsField.GuestSysenterEsp] = s->SysenterEsp;
        vmcs[VmcsField.GuestSysenterEip] = s->SysenterEip;
        vmcs[VmcsField.GuestFsBase] = s->Fs.Base;
        vmcs[VmcsField.GuestGsBase] = s->Gs.Base;
    }
}
