namespace Vmm.Processor.Vmx;

/// <summary>Pin-based VM-execution controls (SDM volume 3, table 25-5).</summary>
[Flags]
public enum PinControls : uint
{
    ExternalInterruptExiting = 1 << 0, NmiExiting = 1 << 3, VirtualNmis = 1 << 5, PreemptionTimer = 1 << 6, PostedInterrupts = 1 << 7,
}

/// <summary>Primary processor-based VM-execution controls (SDM volume 3, table 25-6).</summary>
[Flags]
public enum ProcControls : uint
{
    InterruptWindowExiting = 1 << 2, TscOffsetting = 1 << 3, HltExiting = 1 << 7, InvlpgExiting = 1 << 9, MwaitExiting = 1 << 10,
    RdpmcExiting = 1 << 11, RdtscExiting = 1 << 12, Cr3LoadExiting = 1 << 15, Cr3StoreExiting = 1 << 16, ActivateTertiary = 1 << 17, Cr8LoadExiting = 1 << 19,
    Cr8StoreExiting = 1 << 20, TprShadow = 1 << 21, NmiWindowExiting = 1 << 22, MovDrExiting = 1 << 23, UnconditionalIoExiting = 1 << 24,
    UseIoBitmaps = 1 << 25, MonitorTrapFlag = 1 << 27, UseMsrBitmaps = 1 << 28, MonitorExiting = 1 << 29, PauseExiting = 1 << 30,
    ActivateSecondary = 1u << 31,
}

/// <summary>Secondary processor-based VM-execution controls (SDM volume 3, table 25-7).</summary>
[Flags]
public enum SecondaryControls : uint
{
    VirtualizeApicAccesses = 1 << 0, EnableEpt = 1 << 1, DescriptorTableExiting = 1 << 2, EnableRdtscp = 1 << 3,
    VirtualizeX2Apic = 1 << 4, EnableVpid = 1 << 5, WbinvdExiting = 1 << 6, UnrestrictedGuest = 1 << 7, ApicRegisterVirtualization = 1 << 8,
    VirtualInterruptDelivery = 1 << 9, PauseLoopExiting = 1 << 10, RdrandExiting = 1 << 11, EnableInvpcid = 1 << 12,
    EnableVmFunctions = 1 << 13, VmcsShadowing = 1 << 14, EnclsExiting = 1 << 15, RdseedExiting = 1 << 16, EnablePml = 1 << 17,
    EptViolationVe = 1 << 18, ConcealFromPt = 1 << 19, EnableXsaves = 1 << 20, ModeBasedExecute = 1 << 22, UserWaitPause = 1 << 26,
    TscScaling = 1 << 25, PasidTranslation = 1 << 21, SubPagePermissions = 1 << 23, PconfigExiting = 1 << 27, EnclvExiting = 1 << 28,
    InstructionTimeout = 1u << 31,
}

/// <summary>Tertiary processor-based VM-execution controls (SDM volume 3, table 25-8).</summary>
[Flags]
public enum TertiaryControls : ulong
{
    EnableHlat = 1 << 1, IpiVirtualization = 1 << 4, VirtualizeSpecCtrl = 1 << 7,
}

/// <summary>VM-exit controls (SDM volume 3, table 25-13).</summary>
[Flags]
public enum VmExitControls : uint
{
    SaveDebugControls = 1 << 2, HostAddressSpaceSize = 1 << 9, LoadPerfGlobalCtrl = 1 << 12, AcknowledgeInterrupt = 1 << 15,
    SavePat = 1 << 18, LoadPat = 1 << 19, SaveEfer = 1 << 20, LoadEfer = 1 << 21, SavePreemptionTimer = 1 << 22, ClearBndcfgs = 1 << 23,
    ClearRtitCtl = 1 << 25, ClearLbrCtl = 1 << 26, ClearUinv = 1 << 27, LoadCet = 1 << 28, LoadPkrs = 1 << 29, SavePerfGlobalCtrl = 1 << 30,
    ActivateSecondary = 1u << 31,
}

/// <summary>VM-entry controls (SDM volume 3, table 25-15).</summary>
[Flags]
public enum VmEntryControls : uint
{
    LoadDebugControls = 1 << 2, Ia32eModeGuest = 1 << 9, LoadPerfGlobalCtrl = 1 << 13, LoadPat = 1 << 14, LoadEfer = 1 << 15,
    LoadBndcfgs = 1 << 16, LoadRtitCtl = 1 << 18, LoadUinv = 1 << 19, LoadCet = 1 << 20, LoadLbrCtl = 1 << 21, LoadPkrs = 1 << 22,
}

/// <summary>Basic exit reasons (SDM volume 3, appendix C).</summary>
public enum ExitReason : uint
{
    ExceptionOrNmi = 0, ExternalInterrupt = 1, TripleFault = 2, Init = 3, Sipi = 4, InterruptWindow = 7, NmiWindow = 8, TaskSwitch = 9,
    Cpuid = 10, Getsec = 11, Hlt = 12, Invd = 13, Invlpg = 14, Rdpmc = 15, Rdtsc = 16, Rsm = 17, Vmcall = 18, Vmclear = 19, Vmlaunch = 20,
    Vmptrld = 21, Vmptrst = 22, Vmread = 23, Vmresume = 24, Vmwrite = 25, Vmxoff = 26, Vmxon = 27, ControlRegister = 28, MovDr = 29,
    IoInstruction = 30, Rdmsr = 31, Wrmsr = 32, InvalidGuestState = 33, MsrLoading = 34, Mwait = 36, MonitorTrapFlag = 37, Monitor = 39,
    Pause = 40, MachineCheck = 41, TprBelowThreshold = 43, ApicAccess = 44, VirtualizedEoi = 45, GdtrIdtr = 46, LdtrTr = 47,
    EptViolation = 48, EptMisconfiguration = 49, Invept = 50, Rdtscp = 51, PreemptionTimer = 52, Invvpid = 53, Wbinvd = 54, Xsetbv = 55,
    ApicWrite = 56, Rdrand = 57, Invpcid = 58, Vmfunc = 59, Encls = 60, Rdseed = 61, PmlFull = 62, Xsaves = 63, Xrstors = 64,
    Umwait = 67, Tpause = 68,

    /// <summary>
    /// Not of the manual: a VMX abort (SDM volume 3, section 28.7). <see cref="Vmcs.AbortIndicator"/> says why. Hardware would shut
    /// down; the guest's state has been saved as far as the exit got.
    /// </summary>
    VmxAbort = 0xFFFD,

    /// <summary>
    /// Not of the manual: no VM entry took place, because controls or host state failed their checks. The VM-instruction error field
    /// has 7 or 8, <see cref="Vmcs.FailedRule"/> the rule; nothing else has changed (SDM volume 3, section 27.2).
    /// </summary>
    VmFailValid = 0xFFFE,

    /// <summary>
    /// Not of the manual: the instruction budget that L0 gave with the entry has run out, or L0 asked for the processor's
    /// attention. On hardware L0 would see an external interrupt of its own timer.
    /// </summary>
    BudgetExhausted = 0xFFFF,
}

/// <summary>Types of event in the interruption-information fields (SDM volume 3, table 25-17).</summary>
public enum EventType : uint
{
    ExternalInterrupt = 0, Nmi = 2, HardwareException = 3, SoftwareInterrupt = 4, PrivilegedSoftwareException = 5,
    SoftwareException = 6, Other = 7,
}

/// <summary>Guest activity states (SDM volume 3, section 25.4.2).</summary>
public enum ActivityState : uint
{
    Active = 0, Hlt = 1, Shutdown = 2, WaitForSipi = 3,
}
