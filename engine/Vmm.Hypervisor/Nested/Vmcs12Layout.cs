using System.Buffers.Binary;
using System.Collections.Immutable;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>Where a field is in the region of a vmcs12.</summary>
/// <param name="Field">The field.</param>
/// <param name="Offset">Bytes from the beginning of the region.</param>
/// <param name="Size">2, 4 or 8 bytes; a natural-width field has 8.</param>
public readonly record struct Vmcs12Slot(VmcsField Field, int Offset, int Size);

/// <summary>
/// What L1's VMCS regions hold: a header, and the fields at the offsets that Linux gives them (its revision 0x11E57ED0), so that a
/// nested state saved by either can be read by the other. Fields that Linux does not keep have their places from
/// <see cref="OwnFields"/> on, in what Linux leaves unused.
/// </summary>
public static class Vmcs12Layout
{
    /// <summary>The VMCS revision identifier that L1 sees in IA32_VMX_BASIC.</summary>
    public const uint Revision = 0x11E5_7ED0;

    /// <summary>The size of a region in bytes.</summary>
    public const int RegionSize = 4096;

    /// <summary>Bit 31 of the header's first word: a shadow VMCS.</summary>
    public const uint ShadowIndicator = 1u << 31;

    /// <summary>Offset of the VMX-abort indicator, 4 bytes.</summary>
    public const int AbortIndicator = 4;

    /// <summary>Offset of the launch state, 4 bytes: 0 clear, 1 launched.</summary>
    public const int LaunchState = 8;

    /// <summary>Offset of the first field that Linux has no place for.</summary>
    public const int OwnFields = 1024;

    private static readonly Vmcs12Slot[] Table = Build();

    /// <summary>All fields, in the order of their offsets.</summary>
    public static ImmutableArray<Vmcs12Slot> Slots { get; } = [.. Table];

    /// <summary>Takes every field out of a region.</summary>
    /// <param name="region"><see cref="RegionSize"/> bytes.</param>
    /// <param name="vmcs">Gets the values.</param>
    public static void Load(ReadOnlySpan<byte> region, Vmcs vmcs)
    {
        foreach (Vmcs12Slot slot in Table)
        {
            ReadOnlySpan<byte> bytes = region[slot.Offset..];
            vmcs[slot.Field] = slot.Size switch
            {
                2 => BinaryPrimitives.ReadUInt16LittleEndian(bytes),
                4 => BinaryPrimitives.ReadUInt32LittleEndian(bytes),
                _ => BinaryPrimitives.ReadUInt64LittleEndian(bytes),
            };
        }
    }

    /// <summary>Puts every field into a region; what belongs to no field stays as it is.</summary>
    public static void Store(Vmcs vmcs, Span<byte> region)
    {
        foreach (Vmcs12Slot slot in Table)
        {
            Span<byte> bytes = region[slot.Offset..];
            ulong value = vmcs[slot.Field];
            if (slot.Size == 2)
                BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)value);
            else if (slot.Size == 4)
                BinaryPrimitives.WriteUInt32LittleEndian(bytes, (uint)value);
            else
                BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        }
    }

    private static Vmcs12Slot[] Build()
    {
        var slots = new List<Vmcs12Slot>();
        void Run(int offset, params ReadOnlySpan<VmcsField> fields)
        {
            foreach (VmcsField field in fields)
            {
                int size = VmcsCatalogue.Of(field).Width switch { VmcsFieldWidth.Bits16 => 2, VmcsFieldWidth.Bits32 => 4, _ => 8 };
                slots.Add(new Vmcs12Slot(field, offset, size));
                offset += size;
            }
        }

        Run(40, VmcsField.IoBitmapA, VmcsField.IoBitmapB, VmcsField.MsrBitmaps, VmcsField.VmExitMsrStoreAddress,
            VmcsField.VmExitMsrLoadAddress, VmcsField.VmEntryMsrLoadAddress, VmcsField.TscOffset, VmcsField.VirtualApicAddress,
            VmcsField.ApicAccessAddress, VmcsField.PostedInterruptDescriptorAddress, VmcsField.EptPointer, VmcsField.EoiExitBitmap0,
            VmcsField.EoiExitBitmap1, VmcsField.EoiExitBitmap2, VmcsField.EoiExitBitmap3, VmcsField.XssExitingBitmap,
            VmcsField.GuestPhysicalAddress, VmcsField.VmcsLinkPointer, VmcsField.GuestDebugCtl, VmcsField.GuestPat, VmcsField.GuestEfer,
            VmcsField.GuestPerfGlobalCtrl, VmcsField.GuestPdpte0, VmcsField.GuestPdpte1, VmcsField.GuestPdpte2, VmcsField.GuestPdpte3,
            VmcsField.GuestBndcfgs, VmcsField.HostPat, VmcsField.HostEfer, VmcsField.HostPerfGlobalCtrl, VmcsField.VmreadBitmap,
            VmcsField.VmwriteBitmap, VmcsField.VmFunctionControls, VmcsField.EptpListAddress, VmcsField.PmlAddress,
            VmcsField.EnclsExitingBitmap, VmcsField.TscMultiplier);
        Run(344, VmcsField.Cr0Mask, VmcsField.Cr4Mask, VmcsField.Cr0Shadow, VmcsField.Cr4Shadow);
        Run(408, VmcsField.ExitQualification, VmcsField.GuestLinearAddress, VmcsField.GuestCr0, VmcsField.GuestCr3, VmcsField.GuestCr4,
            VmcsField.GuestEsBase, VmcsField.GuestCsBase, VmcsField.GuestSsBase, VmcsField.GuestDsBase, VmcsField.GuestFsBase,
            VmcsField.GuestGsBase, VmcsField.GuestLdtrBase, VmcsField.GuestTrBase, VmcsField.GuestGdtrBase, VmcsField.GuestIdtrBase,
            VmcsField.GuestDr7, VmcsField.GuestRsp, VmcsField.GuestRip, VmcsField.GuestRflags, VmcsField.GuestPendingDebugExceptions,
            VmcsField.GuestSysenterEsp, VmcsField.GuestSysenterEip, VmcsField.HostCr0, VmcsField.HostCr3, VmcsField.HostCr4,
            VmcsField.HostFsBase, VmcsField.HostGsBase, VmcsField.HostTrBase, VmcsField.HostGdtrBase, VmcsField.HostIdtrBase,
            VmcsField.HostSysenterEsp, VmcsField.HostSysenterEip, VmcsField.HostRsp, VmcsField.HostRip);
        Run(744, VmcsField.PinBasedControls, VmcsField.ProcessorBasedControls, VmcsField.ExceptionBitmap,
            VmcsField.PageFaultErrorCodeMask, VmcsField.PageFaultErrorCodeMatch, VmcsField.Cr3TargetCount, VmcsField.VmExitControls,
            VmcsField.VmExitMsrStoreCount, VmcsField.VmExitMsrLoadCount, VmcsField.VmEntryControls, VmcsField.VmEntryMsrLoadCount,
            VmcsField.VmEntryInterruptionInformation, VmcsField.VmEntryExceptionErrorCode, VmcsField.VmEntryInstructionLength,
            VmcsField.TprThreshold, VmcsField.SecondaryControls, VmcsField.VmInstructionError, VmcsField.ExitReason,
            VmcsField.VmExitInterruptionInformation, VmcsField.VmExitInterruptionErrorCode, VmcsField.IdtVectoringInformation,
            VmcsField.IdtVectoringErrorCode, VmcsField.VmExitInstructionLength, VmcsField.VmExitInstructionInformation,
            VmcsField.GuestEsLimit, VmcsField.GuestCsLimit, VmcsField.GuestSsLimit, VmcsField.GuestDsLimit, VmcsField.GuestFsLimit,
            VmcsField.GuestGsLimit, VmcsField.GuestLdtrLimit, VmcsField.GuestTrLimit, VmcsField.GuestGdtrLimit, VmcsField.GuestIdtrLimit,
            VmcsField.GuestEsAccessRights, VmcsField.GuestCsAccessRights, VmcsField.GuestSsAccessRights, VmcsField.GuestDsAccessRights,
            VmcsField.GuestFsAccessRights, VmcsField.GuestGsAccessRights, VmcsField.GuestLdtrAccessRights, VmcsField.GuestTrAccessRights,
            VmcsField.GuestInterruptibility, VmcsField.GuestActivityState, VmcsField.GuestSysenterCs, VmcsField.HostSysenterCs,
            VmcsField.PreemptionTimerValue);
        Run(960, VmcsField.VirtualProcessorId, VmcsField.PostedInterruptVector, VmcsField.GuestEsSelector, VmcsField.GuestCsSelector,
            VmcsField.GuestSsSelector, VmcsField.GuestDsSelector, VmcsField.GuestFsSelector, VmcsField.GuestGsSelector,
            VmcsField.GuestLdtrSelector, VmcsField.GuestTrSelector, VmcsField.GuestInterruptStatus, VmcsField.HostEsSelector,
            VmcsField.HostCsSelector, VmcsField.HostSsSelector, VmcsField.HostDsSelector, VmcsField.HostFsSelector,
            VmcsField.HostGsSelector, VmcsField.HostTrSelector, VmcsField.PmlIndex);
        Run(OwnFields, VmcsField.VirtualizationExceptionAddress, VmcsField.ExecutiveVmcsPointer, VmcsField.Cr3Target0,
            VmcsField.Cr3Target1, VmcsField.Cr3Target2, VmcsField.Cr3Target3, VmcsField.IoRcx, VmcsField.IoRsi, VmcsField.IoRdi,
            VmcsField.IoRip, VmcsField.PleGap, VmcsField.PleWindow, VmcsField.GuestSmbase, VmcsField.EptpIndex);
        return [.. slots];
    }
}
