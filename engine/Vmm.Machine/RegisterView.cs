using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Machine;

/// <summary>A vCPU's registers for the machine's interface.</summary>
internal static unsafe class RegisterView
{
    private static readonly string[] SegmentNames = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];

    /// <summary>Reads them, while the vCPU does not execute.</summary>
    public static VcpuRegisters Of(Vcpu vcpu)
    {
        CpuState* s = vcpu.State;
        Vmcs vmcs = vcpu.Vmcs;
        ulong[] general = new Span<ulong>(s->Gpr, 16).ToArray();
        general[Gpr.Rsp] = vmcs[VmcsField.GuestRsp];
        var segments = new List<SegmentRegister>();
        for (int i = 0; i < SegmentNames.Length; i++)
        {
            segments.Add(new(SegmentNames[i], (ushort)vmcs[Vcpu.SegmentField(VmcsField.GuestEsSelector, i)],
                vmcs[Vcpu.SegmentField(VmcsField.GuestEsBase, i)], vmcs.Read32(Vcpu.SegmentField(VmcsField.GuestEsLimit, i)),
                vmcs.Read32(Vcpu.SegmentField(VmcsField.GuestEsAccessRights, i))));
        }
        segments.Add(new("GDTR", 0, vmcs[VmcsField.GuestGdtrBase], vmcs.Read32(VmcsField.GuestGdtrLimit), 0));
        segments.Add(new("IDTR", 0, vmcs[VmcsField.GuestIdtrBase], vmcs.Read32(VmcsField.GuestIdtrLimit), 0));
        var xmm = new (ulong Low, ulong High)[16];
        for (int i = 0; i < xmm.Length; i++)
            xmm[i] = (s->Xmm[i * 2], s->Xmm[i * 2 + 1]);
        return new VcpuRegisters
        {
            Vcpu = vcpu.Index,
            GeneralPurpose = general,
            Rip = vmcs[VmcsField.GuestRip],
            Rflags = vmcs[VmcsField.GuestRflags],
            Control = new Dictionary<string, ulong>
            {
                ["CR0"] = vmcs[VmcsField.GuestCr0],
                ["CR2"] = s->Cr2,
                ["CR3"] = vmcs[VmcsField.GuestCr3],
                ["CR4"] = vcpu.GuestCr4,
                ["CR8"] = vcpu.Apic.TaskPriority >> 4,
                ["XCR0"] = s->Xcr0,
            },
            Debug = new Dictionary<string, ulong>
            {
                ["DR0"] = s->Dr[0],
                ["DR1"] = s->Dr[1],
                ["DR2"] = s->Dr[2],
                ["DR3"] = s->Dr[3],
                ["DR6"] = s->Dr6,
                ["DR7"] = vmcs[VmcsField.GuestDr7],
            },
            Msrs = new Dictionary<string, ulong>
            {
                ["EFER"] = vmcs[VmcsField.GuestEfer],
                ["FS_BASE"] = vmcs[VmcsField.GuestFsBase],
                ["GS_BASE"] = vmcs[VmcsField.GuestGsBase],
                ["KERNEL_GS_BASE"] = s->KernelGsBase,
                ["STAR"] = s->Star,
                ["LSTAR"] = s->Lstar,
                ["CSTAR"] = s->Cstar,
                ["FMASK"] = s->Fmask,
                ["TSC_AUX"] = s->TscAux,
                ["SYSENTER_CS"] = vmcs[VmcsField.GuestSysenterCs],
                ["SYSENTER_ESP"] = vmcs[VmcsField.GuestSysenterEsp],
                ["SYSENTER_EIP"] = vmcs[VmcsField.GuestSysenterEip],
                ["PAT"] = vmcs[VmcsField.GuestPat],
                ["APIC_BASE"] = vcpu.Apic.BaseMsr,
                ["TSC"] = vcpu.Tsc,
            },
            Segments = segments,
            Xmm = xmm,
            Activity = vcpu.Activity switch
            {
                VcpuActivity.Active => "active",
                VcpuActivity.Halted => "hlt",
                VcpuActivity.WaitForSipi => "wait-for-sipi",
                _ => "shutdown",
            },
            InstructionsRetired = vcpu.InstructionsRetired,
        };
    }
}
