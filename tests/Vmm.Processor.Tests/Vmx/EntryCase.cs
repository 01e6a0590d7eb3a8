using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>A VMCS that passes every check, to be spoiled by a test.</summary>
public sealed class EntryCase : IDisposable, IEntryMemory
{
    public const ulong AllCr4 = 0x7F_1FFF & ~Cr4.Smxe | Cr4.Fsgsbase;
    private readonly Dictionary<ulong, ulong> _memory = [];

    private EntryCase()
    {
        Pin |= PinControls.ExternalInterruptExiting | PinControls.NmiExiting | PinControls.VirtualNmis
            | (PinControls)Capabilities.Required(VmxControlWord.Pin);
        Proc |= ProcControls.ActivateSecondary | ProcControls.TprShadow | ProcControls.UseIoBitmaps | ProcControls.UseMsrBitmaps
            | (ProcControls)Capabilities.Required(VmxControlWord.Proc);
        Secondary |= SecondaryControls.EnableEpt | SecondaryControls.EnableVpid;
        Exit |= VmExitControls.HostAddressSpaceSize | VmExitControls.LoadEfer | VmExitControls.LoadPat | VmExitControls.LoadPerfGlobalCtrl
            | VmExitControls.AcknowledgeInterrupt | (VmExitControls)Capabilities.Required(VmxControlWord.Exit);
        Entry |= VmEntryControls.LoadDebugControls | VmEntryControls.LoadEfer | VmEntryControls.LoadPat | VmEntryControls.LoadBndcfgs
            | VmEntryControls.LoadPerfGlobalCtrl | (VmEntryControls)Capabilities.Required(VmxControlWord.Entry);
        this[VmcsField.VirtualProcessorId] = 1;
        this[VmcsField.EptPointer] = 0x1_0000 | 3 << 3 | 6;
        this[VmcsField.VmcsLinkPointer] = ulong.MaxValue;

        this[VmcsField.HostCr0] = Cr0.Pe | Cr0.Pg | Cr0.Ne;
        this[VmcsField.HostCr4] = Cr4.Pae | Cr4.Vmxe;
        this[VmcsField.HostEfer] = Efer.Lme | Efer.Lma;
        this[VmcsField.HostCsSelector] = 8;
        this[VmcsField.HostSsSelector] = 16;
        this[VmcsField.HostTrSelector] = 24;
        this[VmcsField.HostRip] = 0x10_0000;

        this[VmcsField.GuestCr0] = Cr0.Pe | Cr0.Pg | Cr0.Ne;
        this[VmcsField.GuestCr4] = Cr4.Pae | Cr4.Vmxe;
        this[VmcsField.GuestRflags] = Rflags.Fixed1;
        this[VmcsField.GuestRip] = 0x1000;
        for (int n = Seg.Es; n <= Seg.Gs; n++)
            SetSegment(n, 16, 0xFFFF_FFFF, 0xC093);
        SetSegment(Seg.Cs, 8, 0xFFFF_FFFF, 0xC09B);
        SetSegment(Seg.Ldtr, 0, 0, SegmentRights.Unusable);
        SetSegment(Seg.Tr, 24, 0x67, 0x8B);
    }

    public Vmcs Vmcs { get; } = new();
    public VmxCapabilities Capabilities { get; set; } = VmxCapabilities.Hardware(AllCr4, performanceMonitoring: true, memoryProtection: true);
    public bool HostInLongMode { get; set; } = true;
    public ulong VmcsAddress { get; set; } = 0x9000;

    public EntrySubject Subject => new(Vmcs, Capabilities,
        new EntryLimits(46, Efer.Sce | Efer.Lme | Efer.Lma | Efer.Nxe) { PerfGlobalCtrlAllowed = 0xF }, this, HostInLongMode, VmcsAddress);

    public ulong this[VmcsField field] { get => Vmcs[field]; set => Vmcs[field] = value; }

    public PinControls Pin { get => (PinControls)Vmcs.Read32(VmcsField.PinBasedControls); set => Vmcs[VmcsField.PinBasedControls] = (uint)value; }
    public ProcControls Proc { get => (ProcControls)Vmcs.Read32(VmcsField.ProcessorBasedControls); set => Vmcs[VmcsField.ProcessorBasedControls] = (uint)value; }
    public SecondaryControls Secondary { get => (SecondaryControls)Vmcs.Read32(VmcsField.SecondaryControls); set => Vmcs[VmcsField.SecondaryControls] = (uint)value; }
    public VmExitControls Exit { get => (VmExitControls)Vmcs.Read32(VmcsField.VmExitControls); set => Vmcs[VmcsField.VmExitControls] = (uint)value; }
    public VmEntryControls Entry { get => (VmEntryControls)Vmcs.Read32(VmcsField.VmEntryControls); set => Vmcs[VmcsField.VmEntryControls] = (uint)value; }

    /// <summary>A guest in 64-bit mode.</summary>
    public static EntryCase Long()
    {
        var c = new EntryCase();
        c.Entry |= VmEntryControls.Ia32eModeGuest;
        c[VmcsField.GuestEfer] = Efer.Lme | Efer.Lma;
        c[VmcsField.GuestCsAccessRights] = 0xA09B;
        return c;
    }

    /// <summary>A 32-bit guest with PAE paging.</summary>
    public static EntryCase Pae() => new();

    /// <summary>An unrestricted guest in real mode.</summary>
    public static EntryCase Real()
    {
        var c = new EntryCase();
        c.Secondary |= SecondaryControls.UnrestrictedGuest;
        c[VmcsField.GuestCr0] = Cr0.Ne | Cr0.Et;
        c[VmcsField.GuestCr4] = Cr4.Vmxe;
        for (int n = Seg.Es; n <= Seg.Gs; n++)
            c.SetSegment(n, 0, 0xFFFF, 0x93);
        return c;
    }

    /// <summary>A guest in virtual-8086 mode under PAE paging.</summary>
    public static EntryCase Virtual8086()
    {
        var c = new EntryCase();
        c[VmcsField.GuestRflags] = Rflags.Fixed1 | Rflags.Vm | Rflags.Iopl;
        for (int n = Seg.Es; n <= Seg.Gs; n++)
        {
            c.SetSegment(n, 0x1234, 0xFFFF, 0xF3);
            c[Field(VmcsField.GuestEsBase, n)] = 0x12340;
        }
        return c;
    }

    /// <summary>A 32-bit guest of a 32-bit host.</summary>
    public static EntryCase Host32()
    {
        var c = new EntryCase { HostInLongMode = false };
        c.Exit &= ~VmExitControls.HostAddressSpaceSize;
        c[VmcsField.HostEfer] = 0;
        return c;
    }

    public static VmcsField Field(VmcsField first, int n) => (VmcsField)((int)first + 2 * n);

    public void SetSegment(int n, ulong selector, ulong limit, ulong rights)
    {
        this[Field(VmcsField.GuestEsSelector, n)] = selector;
        this[Field(VmcsField.GuestEsLimit, n)] = limit;
        this[Field(VmcsField.GuestEsAccessRights, n)] = rights;
    }

    public void Inject(EventType type, uint vector, uint more = 0) =>
        this[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | (uint)type << 8 | vector | more;

    public void Write(ulong address, ulong value) => _memory[address] = value;

    public void Restrict(uint msr, ulong value) =>
        Capabilities = Capabilities.Restrict(new Dictionary<uint, ulong> { [msr] = value }, out string? refusal) ?? throw new ArgumentException(refusal);

    public uint Read32(ulong address) => (uint)Read64(address);

    public ulong Read64(ulong address) => _memory.GetValueOrDefault(address);

    public void Dispose() => Vmcs.Dispose();
}
