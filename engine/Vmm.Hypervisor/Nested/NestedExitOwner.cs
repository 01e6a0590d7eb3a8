using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>Who takes an exit of the hardware from vmcs02: L1 where vmcs12 asks for it, L0 elsewhere.</summary>
internal static unsafe class NestedExitOwner
{
    private const int ControlRegisterAccess = 4;

    /// <summary>Whether L1 gets the exit.</summary>
    public static bool IsL1(Vcpu vcpu, ExitReason reason)
    {
        NestedVmx nested = vcpu.Nested;
        return reason switch
        {
            ExitReason.BudgetExhausted => false,
            ExitReason.InterruptWindow => nested.Has(ProcControls.InterruptWindowExiting),
            ExitReason.NmiWindow => nested.Has(ProcControls.NmiWindowExiting),
            ExitReason.ControlRegister => WantsControlRegister(vcpu, nested),
            ExitReason.Rdmsr => WantsMsr(vcpu, nested, write: false),
            ExitReason.Wrmsr => WantsMsr(vcpu, nested, write: true),
            // L0 asks for nothing else.
            _ => true,
        };
    }

    /// <summary>CR8 is intercepted for L0 too, where L2 shares L1's local APIC.</summary>
    private static bool WantsControlRegister(Vcpu vcpu, NestedVmx nested)
    {
        ulong qualification = vcpu.Vmcs[VmcsField.ExitQualification];
        if ((qualification & 15) != 8)
            return true;
        bool load = (qualification >> ControlRegisterAccess & 3) == 0;
        return nested.Has(load ? ProcControls.Cr8LoadExiting : ProcControls.Cr8StoreExiting);
    }

    /// <summary>The MSR bitmaps of vmcs12 (SDM volume 3, section 25.6.9).</summary>
    private static bool WantsMsr(Vcpu vcpu, NestedVmx nested, bool write)
    {
        if (!nested.Has(ProcControls.UseMsrBitmaps))
            return true;
        var msr = (uint)vcpu.State->Gpr[Processor.State.Gpr.Rcx];
        uint page;
        if (msr < 0x2000)
            page = 0;
        else if (msr - 0xC000_0000 < 0x2000)
            page = 1024;
        else
            return true;
        msr &= 0x1FFF;
        ulong at = nested.Vmcs12[VmcsField.MsrBitmaps] + page + (write ? 2048u : 0) + (msr >> 3);
        byte bits;
        return !nested.Memory.TryRead(at, new Span<byte>(&bits, 1)) || (bits >> (int)(msr & 7) & 1) != 0;
    }
}
