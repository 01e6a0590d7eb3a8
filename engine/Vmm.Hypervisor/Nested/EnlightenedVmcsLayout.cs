using System.Buffers.Binary;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>Which groups of an enlightened VMCS have not changed since the last VM entry (TLFS, HV_VMX_ENLIGHTENED_VMCS).</summary>
[Flags]
internal enum CleanFields : ushort
{
    None = 0,
    IoBitmap = 1 << 0,
    MsrBitmap = 1 << 1,
    ControlGroup2 = 1 << 2,
    ControlGroup1 = 1 << 3,
    ControlProc = 1 << 4,
    ControlEvent = 1 << 5,
    ControlEntry = 1 << 6,
    ControlException = 1 << 7,
    ControlAndDebugRegisters = 1 << 8,
    ControlTranslation = 1 << 9,
    GuestBasic = 1 << 10,
    GuestGroup1 = 1 << 11,
    GuestGroup2 = 1 << 12,
    HostPointer = 1 << 13,
    HostGroup1 = 1 << 14,
}

/// <summary>A field's place in an enlightened VMCS.</summary>
/// <param name="Field">The field.</param>
/// <param name="Offset">Bytes from the beginning.</param>
/// <param name="Size">2, 4 or 8 bytes.</param>
/// <param name="Group">The clean field that it belongs to; none for one that is read at every VM entry.</param>
internal readonly record struct EnlightenedSlot(VmcsField Field, int Offset, int Size, CleanFields Group);

/// <summary>
/// The enlightened VMCS, version 1, of the Hyper-V Hypervisor Top-Level Functional Specification (nested virtualization and
/// HV_VMX_ENLIGHTENED_VMCS): a VMCS as a structure in L1's memory. Fields that it lacks do not exist for an L1 that is offered it.
/// </summary>
internal static class EnlightenedVmcsLayout
{
    /// <summary>The version, in the first four bytes.</summary>
    public const uint Version = 1;

    /// <summary>What there is of the structure's page.</summary>
    public const int Size = 1024;

    /// <summary>Where the VMX-abort indicator is, the VM-instruction error and the clean fields.</summary>
    public const int AbortIndicator = 4, InstructionError = 688, Clean = 824;

    private const PinControls PinWithoutFields = PinControls.PreemptionTimer | PinControls.PostedInterrupts;
    private const SecondaryControls SecondaryWithoutFields = SecondaryControls.VirtualizeApicAccesses | SecondaryControls.ApicRegisterVirtualization
        | SecondaryControls.VirtualInterruptDelivery | SecondaryControls.PauseLoopExiting | SecondaryControls.EnableVmFunctions
        | SecondaryControls.VmcsShadowing | SecondaryControls.EnablePml | SecondaryControls.EptViolationVe | SecondaryControls.TscScaling;
    private const VmExitControls ExitWithoutFields = VmExitControls.SavePreemptionTimer | VmExitControls.LoadPerfGlobalCtrl;
    private const VmEntryControls EntryWithoutFields = VmEntryControls.LoadPerfGlobalCtrl;

    private static readonly EnlightenedSlot[] Table = Build();

    /// <summary>Every field, by its place.</summary>
    public static ReadOnlySpan<EnlightenedSlot> Slots => Table;

    /// <summary>The capability MSRs without the controls for which it has no fields.</summary>
    public static VmxCapabilities Restrict(VmxCapabilities capabilities)
    {
        var values = new Dictionary<uint, ulong>();
        void Without(uint msr, uint exact, uint controls)
        {
            uint which = capabilities.HasTrueControls && exact != 0 ? exact : msr;
            if (capabilities.TryRead(which, out ulong value))
                values[which] = value & ~((ulong)controls << 32);
        }

        Without(VmxMsr.PinBased, VmxMsr.TruePinBased, (uint)PinWithoutFields);
        Without(VmxMsr.ProcBased2, 0, (uint)SecondaryWithoutFields);
        Without(VmxMsr.Exit, VmxMsr.TrueExit, (uint)ExitWithoutFields);
        Without(VmxMsr.Entry, VmxMsr.TrueEntry, (uint)EntryWithoutFields);
        return capabilities.Restrict(values, out string? refusal) ?? throw new InvalidOperationException(refusal);
    }

    /// <summary>Takes fields out of a structure, but for those of clean groups and what VM exits write only.</summary>
    public static void Load(ReadOnlySpan<byte> structure, Vmcs vmcs, CleanFields clean)
    {
        foreach (EnlightenedSlot slot in Table)
        {
            if ((slot.Group & clean) == 0 && VmcsCatalogue.Of(slot.Field).Type != VmcsFieldType.ExitInformation)
                vmcs[slot.Field] = Read(structure, slot);
        }
    }

    /// <summary>Puts into a structure what a VM exit changes: guest state, exit information, and those controls that the processor writes.</summary>
    public static void StoreExit(Vmcs vmcs, Span<byte> structure)
    {
        foreach (EnlightenedSlot slot in Table)
        {
            if (VmcsCatalogue.Of(slot.Field).Type is VmcsFieldType.Guest or VmcsFieldType.ExitInformation
                || slot.Field is VmcsField.VmEntryControls or VmcsField.VmEntryInterruptionInformation)
                Write(structure, slot, vmcs[slot.Field]);
        }
    }

    /// <summary>Reads a field. False where the structure has no place for it.</summary>
    public static bool TryRead(ReadOnlySpan<byte> structure, VmcsField field, out ulong value)
    {
        foreach (EnlightenedSlot slot in Table)
        {
            if (slot.Field == field)
            {
                value = Read(structure, slot);
                return true;
            }
        }
        value = 0;
        return false;
    }

    private static ulong Read(ReadOnlySpan<byte> structure, EnlightenedSlot slot) => slot.Size switch
    {
        2 => BinaryPrimitives.ReadUInt16LittleEndian(structure[slot.Offset..]),
        4 => BinaryPrimitives.ReadUInt32LittleEndian(structure[slot.Offset..]),
        _ => BinaryPrimitives.ReadUInt64LittleEndian(structure[slot.Offset..]),
    };

    private static void Write(Span<byte> structure, EnlightenedSlot slot, ulong value)
    {
        if (slot.Size == 2)
            BinaryPrimitives.WriteUInt16LittleEndian(structure[slot.Offset..], (ushort)value);
        else if (slot.Size == 4)
            BinaryPrimitives.WriteUInt32LittleEndian(structure[slot.Offset..], (uint)value);
        else
            BinaryPrimitives.WriteUInt64LittleEndian(structure[slot.Offset..], value);
    }

    private static EnlightenedSlot[] Build()
    {
        var slots = new List<EnlightenedSlot>();
        void Run(int offset, CleanFields group, params ReadOnlySpan<VmcsField> fields)
        {
            foreach (VmcsField field in fields)
            {
                int size = VmcsCatalogue.Of(field).Width switch { VmcsFieldWidth.Bits16 => 2, VmcsFieldWidth.Bits32 => 4, _ => 8 };
                slots.Add(new EnlightenedSlot(field, offset, size, group));
                offset += size;
            }
        }

        Run(8, CleanFields.HostGroup1, VmcsField.HostEsSelector, VmcsField.HostCsSelector, VmcsField.HostSsSelector, VmcsField.HostDsSelector,
            VmcsField.HostFsSelector, VmcsField.HostGsSelector, VmcsField.HostTrSelector);
        Run(24, CleanFields.HostGroup1, VmcsField.HostPat, VmcsField.HostEfer, VmcsField.HostCr0, VmcsField.HostCr3, VmcsField.HostCr4,
            VmcsField.HostSysenterEsp, VmcsField.HostSysenterEip, VmcsField.HostRip, VmcsField.HostSysenterCs);
        Run(92, CleanFields.ControlGroup1, VmcsField.PinBasedControls, VmcsField.VmExitControls, VmcsField.SecondaryControls);
        Run(104, CleanFields.IoBitmap, VmcsField.IoBitmapA, VmcsField.IoBitmapB);
        Run(120, CleanFields.MsrBitmap, VmcsField.MsrBitmaps);
        Run(128, CleanFields.GuestGroup2, VmcsField.GuestEsSelector, VmcsField.GuestCsSelector, VmcsField.GuestSsSelector, VmcsField.GuestDsSelector,
            VmcsField.GuestFsSelector, VmcsField.GuestGsSelector, VmcsField.GuestLdtrSelector, VmcsField.GuestTrSelector,
            VmcsField.GuestEsLimit, VmcsField.GuestCsLimit, VmcsField.GuestSsLimit, VmcsField.GuestDsLimit, VmcsField.GuestFsLimit,
            VmcsField.GuestGsLimit, VmcsField.GuestLdtrLimit, VmcsField.GuestTrLimit, VmcsField.GuestGdtrLimit, VmcsField.GuestIdtrLimit,
            VmcsField.GuestEsAccessRights, VmcsField.GuestCsAccessRights, VmcsField.GuestSsAccessRights, VmcsField.GuestDsAccessRights,
            VmcsField.GuestFsAccessRights, VmcsField.GuestGsAccessRights, VmcsField.GuestLdtrAccessRights, VmcsField.GuestTrAccessRights,
            VmcsField.GuestEsBase, VmcsField.GuestCsBase, VmcsField.GuestSsBase, VmcsField.GuestDsBase, VmcsField.GuestFsBase,
            VmcsField.GuestGsBase, VmcsField.GuestLdtrBase, VmcsField.GuestTrBase, VmcsField.GuestGdtrBase, VmcsField.GuestIdtrBase);
        // The specification has no groups for these.
        Run(320, CleanFields.None, VmcsField.VmExitMsrStoreAddress, VmcsField.VmExitMsrLoadAddress, VmcsField.VmEntryMsrLoadAddress,
            VmcsField.Cr3Target0, VmcsField.Cr3Target1, VmcsField.Cr3Target2, VmcsField.Cr3Target3, VmcsField.PageFaultErrorCodeMask,
            VmcsField.PageFaultErrorCodeMatch, VmcsField.Cr3TargetCount, VmcsField.VmExitMsrStoreCount, VmcsField.VmExitMsrLoadCount,
            VmcsField.VmEntryMsrLoadCount);
        Run(400, CleanFields.ControlGroup2, VmcsField.TscOffset, VmcsField.VirtualApicAddress);
        Run(416, CleanFields.GuestGroup1, VmcsField.VmcsLinkPointer, VmcsField.GuestDebugCtl, VmcsField.GuestPat, VmcsField.GuestEfer,
            VmcsField.GuestPdpte0, VmcsField.GuestPdpte1, VmcsField.GuestPdpte2, VmcsField.GuestPdpte3, VmcsField.GuestPendingDebugExceptions,
            VmcsField.GuestSysenterEsp, VmcsField.GuestSysenterEip, VmcsField.GuestActivityState, VmcsField.GuestSysenterCs);
        Run(512, CleanFields.ControlAndDebugRegisters, VmcsField.Cr0Mask, VmcsField.Cr4Mask, VmcsField.Cr0Shadow, VmcsField.Cr4Shadow,
            VmcsField.GuestCr0, VmcsField.GuestCr3, VmcsField.GuestCr4, VmcsField.GuestDr7);
        Run(576, CleanFields.HostPointer, VmcsField.HostFsBase, VmcsField.HostGsBase, VmcsField.HostTrBase, VmcsField.HostGdtrBase,
            VmcsField.HostIdtrBase, VmcsField.HostRsp);
        Run(624, CleanFields.ControlTranslation, VmcsField.EptPointer, VmcsField.VirtualProcessorId);
        Run(680, CleanFields.None, VmcsField.GuestPhysicalAddress, VmcsField.VmInstructionError, VmcsField.ExitReason,
            VmcsField.VmExitInterruptionInformation, VmcsField.VmExitInterruptionErrorCode, VmcsField.IdtVectoringInformation,
            VmcsField.IdtVectoringErrorCode, VmcsField.VmExitInstructionLength, VmcsField.VmExitInstructionInformation,
            VmcsField.ExitQualification, VmcsField.IoRcx, VmcsField.IoRsi, VmcsField.IoRdi, VmcsField.IoRip, VmcsField.GuestLinearAddress);
        Run(768, CleanFields.GuestBasic, VmcsField.GuestRsp, VmcsField.GuestRflags, VmcsField.GuestInterruptibility);
        Run(788, CleanFields.ControlProc, VmcsField.ProcessorBasedControls);
        Run(792, CleanFields.ControlException, VmcsField.ExceptionBitmap);
        Run(796, CleanFields.ControlEntry, VmcsField.VmEntryControls);
        Run(800, CleanFields.ControlEvent, VmcsField.VmEntryInterruptionInformation, VmcsField.VmEntryExceptionErrorCode, VmcsField.VmEntryInstructionLength);
        Run(812, CleanFields.None, VmcsField.TprThreshold, VmcsField.GuestRip);
        Run(896, CleanFields.GuestGroup1, VmcsField.GuestBndcfgs);
        Run(960, CleanFields.ControlGroup2, VmcsField.XssExitingBitmap);
        return [.. slots];
    }
}
