using Vmm.Hypervisor.Vcpus;
using Vmm.Machine.Boot;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Machine;

/// <summary>Puts the boot processor where firmware and boot loader would have left it: before the kernel's first instruction.</summary>
internal static unsafe class BootProcessor
{
    private const uint CodeRights = SegmentRights.Present | SegmentRights.NotSystem | SegmentRights.Code | SegmentRights.Readable
        | SegmentRights.Accessed | SegmentRights.Granular;
    private const uint DataRights = SegmentRights.Present | SegmentRights.NotSystem | SegmentRights.Writable | SegmentRights.Accessed
        | SegmentRights.Granular | SegmentRights.Big;

    public static void Enter(Vcpu vcpu, InitialProcessorState entry)
    {
        Vmcs vmcs = vcpu.Vmcs;
        CpuState* s = vcpu.State;
        bool wide = entry.Mode == EntryMode.Long64;

        vmcs[VmcsField.GuestCr0] = s->Cr0 = Cr0.Pe | Cr0.Et | Cr0.Ne | (wide ? Cr0.Pg : 0);
        vmcs[VmcsField.GuestCr3] = s->Cr3 = wide ? entry.Cr3 : 0;
        vcpu.SetGuestCr4(wide ? Cr4.Pae : 0);
        s->Cr4 = vmcs[VmcsField.GuestCr4];
        vmcs[VmcsField.GuestEfer] = s->Efer = wide ? Efer.Lme | Efer.Lma : 0;
        if (wide)
            vmcs[VmcsField.VmEntryControls] |= (ulong)VmEntryControls.Ia32eModeGuest;

        vcpu.SetSegment(Seg.Cs, entry.CodeSelector, 0, uint.MaxValue, CodeRights | (wide ? SegmentRights.Long : SegmentRights.Big));
        foreach (int segment in (ReadOnlySpan<int>)[Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs])
            vcpu.SetSegment(segment, entry.DataSelector, 0, uint.MaxValue, DataRights);
        vmcs[VmcsField.GuestGdtrBase] = entry.GdtBase;
        vmcs[VmcsField.GuestGdtrLimit] = entry.GdtLimit;

        vmcs[VmcsField.GuestRip] = entry.Rip;
        vmcs[VmcsField.GuestRsp] = entry.Rsp;
        s->Gpr[Gpr.Rdx] = 0;
        s->Gpr[Gpr.Rax] = entry.Rax;
        s->Gpr[Gpr.Rbx] = entry.Rbx;
        s->Gpr[Gpr.Rsi] = entry.Rsi;
        s->Gpr[Gpr.Rsp] = entry.Rsp;
        vcpu.Apic.EnterVirtualWireMode();
    }
}
