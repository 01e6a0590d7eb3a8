using Vmm.Hypervisor.Model;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Vcpus;

/// <content>The state after power-up, INIT and start-up (SDM volume 3, table 10-1 and section 9.4).</content>
public sealed unsafe partial class Vcpu
{
    private const ulong ResetFlags = 2;

    /// <summary>Everything as after power-up or RESET.</summary>
    public void PowerUp()
    {
        Nested.Reset();
        SystemManagement.Reset();
        AssistPage.Register = 0;
        if (IsBootProcessor)
            Machine.HyperV.Reset();
        _initPending = false;
        Init();
        CpuState* s = State;
        Vmcs01[VmcsField.GuestCr0] = Cr0.Cd | Cr0.Nw | Cr0.Et;
        s->Xcr0 = 1;
        s->Xss = 0;
        s->Mxcsr = 0x1F80;
        s->Fcw = 0x40;
        s->Fsw = 0;
        s->Ftw = 0xFF;
        s->FpuTop = 0;
        s->Fop = s->Fcs = s->Fds = 0;
        s->Fip = s->Fdp = 0;
        new Span<ulong>(s->Fpu, 16).Clear();
        new Span<ulong>(s->Xmm, 32).Clear();
        s->Star = s->Lstar = s->Cstar = s->Fmask = s->KernelGsBase = s->TscAux = 0;
        s->SysenterCs = s->SysenterEip = s->SysenterEsp = 0;
        s->Pat = VcpuMsrs.PowerUpPat;
        s->DebugCtl = 0;
        Vmcs01[VmcsField.GuestPat] = VcpuMsrs.PowerUpPat;
        Vmcs01[VmcsField.GuestSysenterCs] = Vmcs01[VmcsField.GuestSysenterEip] = Vmcs01[VmcsField.GuestSysenterEsp] = 0;
        Vmcs01[VmcsField.GuestDebugCtl] = 0;
        Vmcs01[VmcsField.TscOffset] = 0;
        Msrs.Reset();
        Apic.PowerUp();
        CpuidAnswers.Forget();
        // A change of the inhibits that came while the vCPU was not there to be asked is not missed.
        _requests = VcpuRequest.ApicvUpdate;
    }

    /// <summary>Everything as after INIT: caches, x87, SSE and most model-specific registers stay.</summary>
    private void Init()
    {
        CpuState* s = State;
        Vmcs vmcs = Vmcs01;
        SwitchTo(vmcs, guestMode: false);
        ClearEvents();
        InitControls(vmcs);
        Apicv.ControlsReset();
        new Span<ulong>(s->Gpr, 16).Clear();
        s->Gpr[Gpr.Rdx] = Machine.Model.Signature;
        s->Cr2 = 0;
        s->Cr8 = 0;
        new Span<ulong>(s->Dr, 4).Clear();
        s->Dr6 = 0xFFFF_0FF0;
        s->Dr7 = 0x400;
        s->PendingDebug = 0;
        s->NmiBlocked = false;

        vmcs[VmcsField.GuestCr0] = (vmcs[VmcsField.GuestCr0] & (Cr0.Cd | Cr0.Nw)) | Cr0.Et;
        vmcs[VmcsField.GuestCr3] = 0;
        SetGuestCr4(0);
        vmcs[VmcsField.Cr0Mask] = vmcs[VmcsField.Cr0Shadow] = 0;
        vmcs[VmcsField.GuestEfer] = 0;
        s->Efer = 0;
        vmcs[VmcsField.GuestDr7] = 0x400;
        vmcs[VmcsField.GuestRflags] = ResetFlags;
        vmcs[VmcsField.GuestRip] = 0xFFF0;
        vmcs[VmcsField.GuestRsp] = 0;
        SetSegment(Seg.Cs, 0xF000, 0xFFFF_0000, 0xFFFF, 0x9B);
        SetSegment(Seg.Ss, 0, 0, 0xFFFF, 0x93);
        SetSegment(Seg.Ds, 0, 0, 0xFFFF, 0x93);
        SetSegment(Seg.Es, 0, 0, 0xFFFF, 0x93);
        SetSegment(Seg.Fs, 0, 0, 0xFFFF, 0x93);
        SetSegment(Seg.Gs, 0, 0, 0xFFFF, 0x93);
        SetSegment(Seg.Ldtr, 0, 0, 0xFFFF, 0x82);
        SetSegment(Seg.Tr, 0, 0, 0xFFFF, 0x8B);
        vmcs[VmcsField.GuestGdtrBase] = vmcs[VmcsField.GuestIdtrBase] = 0;
        vmcs[VmcsField.GuestGdtrLimit] = vmcs[VmcsField.GuestIdtrLimit] = 0xFFFF;
        vmcs[VmcsField.GuestInterruptibility] = 0;
        vmcs[VmcsField.GuestActivityState] = (ulong)ActivityState.Active;
        vmcs[VmcsField.GuestPendingDebugExceptions] = 0;
        Apic.Init();
        Cpu.Mmu.FlushEverything();
        Activity = IsBootProcessor ? VcpuActivity.Active : VcpuActivity.WaitForSipi;
    }

    /// <summary>A start-up message: real mode at the beginning of a page of the first megabyte.</summary>
    private void StartUpAt(byte page)
    {
        SetSegment(Seg.Cs, (ushort)(page << 8), (ulong)page << 12, 0xFFFF, 0x9B);
        Vmcs01[VmcsField.GuestRip] = 0;
        Activity = VcpuActivity.Active;
    }

    /// <summary>Sets a segment register of the guest, hidden part and all.</summary>
    /// <param name="segment">Its number, as in <see cref="Seg"/>.</param>
    /// <param name="selector">The selector.</param>
    /// <param name="baseAddress">The base.</param>
    /// <param name="limit">The limit in bytes.</param>
    /// <param name="rights">The access rights in the VMCS format.</param>
    public void SetSegment(int segment, ushort selector, ulong baseAddress, uint limit, uint rights) =>
        Vmcs.SetGuestSegment(segment, selector, baseAddress, limit, rights);

    /// <summary>A field of a segment register from that of ES: the encodings are two apart, in the order of <see cref="Seg"/>.</summary>
    public static VmcsField SegmentField(VmcsField es, int segment) => (VmcsField)((int)es + segment * 2);

    /// <summary>What L0 wants of the processor while it runs L1, and where it would go on.</summary>
    private void InitControls(Vmcs vmcs)
    {
        VmxCapabilities hardware = Cpu.Environment.Vmx;
        vmcs[VmcsField.PinBasedControls] = hardware.Required(VmxControlWord.Pin)
            | (ulong)(PinControls.ExternalInterruptExiting | PinControls.NmiExiting | PinControls.VirtualNmis);
        ProcControls primary = ProcControls.TscOffsetting | ProcControls.HltExiting | ProcControls.Cr8LoadExiting
            | ProcControls.MonitorExiting | ProcControls.MwaitExiting | ProcControls.ActivateSecondary;
        // A PAUSE loop waits for another vCPU, which shares this thread: it should run instead.
        if (Machine.Model.Processors > 1)
            primary |= ProcControls.PauseExiting;
        vmcs[VmcsField.ProcessorBasedControls] = hardware.Required(VmxControlWord.Proc) | (ulong)primary;
        vmcs[VmcsField.SecondaryControls] = (ulong)(SecondaryControls.EnableRdtscp | SecondaryControls.UnrestrictedGuest
            | SecondaryControls.EnableInvpcid | SecondaryControls.EnableXsaves);
        vmcs[VmcsField.ExceptionBitmap] = 0;
        vmcs[VmcsField.VmExitControls] = hardware.Required(VmxControlWord.Exit)
            | (ulong)(VmExitControls.SaveDebugControls | VmExitControls.HostAddressSpaceSize | VmExitControls.SavePat
                | VmExitControls.LoadPat | VmExitControls.SaveEfer | VmExitControls.LoadEfer);
        vmcs[VmcsField.VmEntryControls] = hardware.Required(VmxControlWord.Entry)
            | (ulong)(VmEntryControls.LoadDebugControls | VmEntryControls.LoadPat | VmEntryControls.LoadEfer);
        vmcs[VmcsField.VmcsLinkPointer] = ulong.MaxValue;
        InitHostState(vmcs);
    }

    /// <summary>
    /// Host state that passes the checks of VM entry. Nothing is loaded from it: an exit comes back to L0 by return value, and L0 is no
    /// program of the emulated processor.
    /// </summary>
    internal static void InitHostState(Vmcs vmcs)
    {
        vmcs[VmcsField.HostCr0] = Cr0.Pe | Cr0.Ne | Cr0.Et | Cr0.Pg;
        vmcs[VmcsField.HostCr4] = Cr4.Pae | Cr4.Vmxe;
        vmcs[VmcsField.HostEfer] = Efer.Lme | Efer.Lma;
        vmcs[VmcsField.HostPat] = VcpuMsrs.PowerUpPat;
        vmcs[VmcsField.HostCsSelector] = 8;
        vmcs[VmcsField.HostTrSelector] = 16;
    }
}
