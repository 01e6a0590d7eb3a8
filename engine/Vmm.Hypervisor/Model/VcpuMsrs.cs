using Vmm.Hypervisor.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.Model;

/// <summary>
/// The model-specific registers that L0 keeps for a vCPU and that are nobody else's business: identification, machine check,
/// memory types. Those that the processor acts on are the processor's; the local APIC and the time-stamp counter have theirs.
/// </summary>
public sealed class VcpuMsrs
{
    /// <summary>IA32_PAT after power-up (SDM volume 3, table 12-12).</summary>
    public const ulong PowerUpPat = 0x0007_0406_0007_0406;

    /// <summary>Machine-check banks. None of them ever reports anything.</summary>
    public const int MachineCheckBanks = 4;

    // MCG_CTL_P: IA32_MCG_CTL is there.
    private const ulong MachineCheckCapability = MachineCheckBanks | 1 << 8;

    // RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO,
    // GDS_NO, RFDS_NO: there is no speculation and no cache to leak from.
    private const ulong ArchitecturalCapabilities = 1UL << 0 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 14 | 1 << 15
        | 1 << 20 | 1 << 24 | 1 << 26 | 1 << 27;

    // Fast strings; no branch trace store, no precise event-based sampling.
    private const ulong MiscEnableReset = 1 << 0 | 1 << 11 | 1 << 12;
    private const ulong MiscEnableWritable = 1 << 0 | 1 << 3 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1UL << 34;

    private readonly ProcessorModel _model;
    private readonly ulong[] _banks = new ulong[MachineCheckBanks * 4];
    private ulong _miscEnable;
    private ulong _machineCheckControl;
    private ulong _machineCheckStatus;

    /// <summary>Creates the registers as after power-up.</summary>
    public VcpuMsrs(ProcessorModel model)
    {
        _model = model;
        MemoryTypes = new MemoryTypeRanges(model.PhysicalAddressBits);
        Reset();
    }

    /// <summary>The memory-type range registers.</summary>
    public MemoryTypeRanges MemoryTypes { get; }

    /// <summary>IA32_TSC_ADJUST.</summary>
    public ulong TscAdjust { get; set; }

    /// <summary>The state after power-up, and after what firmware does then.</summary>
    public void Reset()
    {
        MemoryTypes.Reset();
        _miscEnable = MiscEnableReset;
        _machineCheckControl = ulong.MaxValue;
        _machineCheckStatus = 0;
        for (int bank = 0; bank < MachineCheckBanks; bank++)
            _banks[bank * 4] = ulong.MaxValue;
        TscAdjust = 0;
    }

    /// <summary>Everything that it holds.</summary>
    public VcpuMsrsState Save() => new()
    {
        MiscEnable = _miscEnable,
        McgControl = _machineCheckControl,
        McgStatus = _machineCheckStatus,
        MachineCheckBanks = [.. _banks],
        TscAdjust = TscAdjust,
        MtrrDefaultType = MemoryTypes.DefaultType,
        MtrrFixed = [.. MemoryTypes.Fixed],
        MtrrVariable = [.. MemoryTypes.Variable],
    };

    /// <summary>Takes a saved state, as after <see cref="Reset"/> before.</summary>
    /// <exception cref="InvalidStateException">A register could not be written with such a value.</exception>
    public void Load(VcpuMsrsState state)
    {
        InvalidStateException.ThrowUnlessLength(state.MachineCheckBanks, _banks.Length, "VcpuMsrs.MachineCheckBanks");
        Write(Msr.MiscEnable, state.MiscEnable);
        Write(Msr.McgControl, state.McgControl);
        Write(Msr.McgStatus, state.McgStatus);
        for (uint k = 0; k < _banks.Length; k++)
            Write(Msr.McBank0 + k, state.MachineCheckBanks[k]);
        TscAdjust = state.TscAdjust;
        MemoryTypes.Load(state.MtrrDefaultType, state.MtrrFixed, state.MtrrVariable);

        void Write(uint msr, ulong value) => InvalidStateException.ThrowUnless(TryWrite(msr, value), $"VcpuMsrs[0x{msr:x}]", $"0x{value:x} is not allowed.");
    }

    /// <summary>Reads a register. False where it is not one of these.</summary>
    public bool TryRead(uint msr, out ulong value)
    {
        switch (msr)
        {
            case Msr.PlatformId:
                value = 0;
                return true;
            case Msr.FeatureControl:
                // Locked; VMX outside SMX operation is enabled where there is VMX.
                value = _model.Vmx ? 5u : 1;
                return true;
            case Msr.BiosSignature:
                value = (ulong)_model.MicrocodeRevision << 32;
                return true;
            case Msr.PlatformInfo:
                // The maximum non-turbo ratio, in steps of 100 MHz.
                value = ProcessorModel.TscFrequency / 100_000_000 << 8;
                return true;
            case Msr.MtrrCapability:
                value = MemoryTypeRanges.Capability;
                return true;
            case Msr.ArchCapabilities:
                value = ArchitecturalCapabilities;
                return true;
            case Msr.MiscFeatureEnables:
                value = 0;
                return true;
            case Msr.McgCapability:
                value = MachineCheckCapability;
                return true;
            case Msr.McgStatus:
                value = _machineCheckStatus;
                return true;
            case Msr.McgControl:
                value = _machineCheckControl;
                return true;
            case Msr.MiscEnable:
                value = _miscEnable;
                return true;
            case >= Msr.McBank0 and < Msr.McBank0 + MachineCheckBanks * 4:
                value = _banks[msr - Msr.McBank0];
                return true;
            default:
                return MemoryTypes.TryRead(msr, out value);
        }
    }

    /// <summary>Writes a register. False, with nothing changed, where it is not one of these, is read-only, or the value is not allowed.</summary>
    public bool TryWrite(uint msr, ulong value)
    {
        switch (msr)
        {
            case Msr.BiosSignature:
            case Msr.BiosUpdateTrigger:
                // The revision is cleared before CPUID reloads it; an update is accepted and has no effect.
                return true;
            case Msr.MiscFeatureEnables:
                return value == 0;
            case Msr.McgStatus:
                if ((value & ~7UL) != 0)
                    return false;
                _machineCheckStatus = value;
                return true;
            case Msr.McgControl:
                if (value is not (0 or ulong.MaxValue))
                    return false;
                _machineCheckControl = value;
                return true;
            case Msr.MiscEnable:
                if (((value ^ _miscEnable) & ~MiscEnableWritable & ~MiscEnableReset) != 0)
                    return false;
                _miscEnable = (_miscEnable & ~MiscEnableWritable) | (value & MiscEnableWritable);
                return true;
            case >= Msr.McBank0 and < Msr.McBank0 + MachineCheckBanks * 4:
                return TryWriteBank(msr - Msr.McBank0, value);
            default:
                return MemoryTypes.TryWrite(msr, value);
        }
    }

    // A bank's control takes all or nothing and its status is only cleared (SDM volume 3, section 16.3.2); what address and
    // miscellaneous hold is of no consequence without an error, so they take anything.
    private bool TryWriteBank(uint register, ulong value)
    {
        bool allowed = (register & 3) switch
        {
            0 => value is 0 or ulong.MaxValue,
            1 => value == 0,
            _ => true,
        };
        if (allowed)
            _banks[register] = value;
        return allowed;
    }
}
