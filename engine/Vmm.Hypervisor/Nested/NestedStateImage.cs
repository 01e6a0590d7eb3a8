using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;

namespace Vmm.Hypervisor.Nested;

/// <summary>
/// A vCPU's nested state in the form in which Linux hands it out for VMX (Documentation/virt/kvm/api.rst, KVM_GET_NESTED_STATE): a header
/// of 128 bytes, then where L1 has a current VMCS the 4096 bytes of vmcs12, then where vmcs12 has a shadow VMCS 4096 bytes more. Little
/// endian. Immutable.
/// </summary>
public sealed class NestedStateImage
{
    /// <summary>The header's size, and where vmcs12 begins.</summary>
    public const int HeaderSize = 128;

    /// <summary>The most bytes of an image.</summary>
    public const int MaxSize = HeaderSize + 2 * Vmcs12Layout.RegionSize;

    private const int FlagsAt = 0, FormatAt = 2, SizeAt = 4, VmxonAt = 8, Vmcs12At = 16, SmmFlagsAt = 24, VmxFlagsAt = 28, DeadlineAt = 32;
    private const ushort FormatVmx = 0, GuestMode = 1, RunPending = 2, Enlightened = 4;
    private const uint HasDeadline = 1;
    private const ushort SmmGuestMode = 1, SmmVmxon = 2;
    private const ulong PageMask = 4095;

    /// <summary>The address of the VMXON region; <see cref="NestedVmx.NoPointer"/> outside VMX operation.</summary>
    public ulong VmxonPointer { get; init; } = NestedVmx.NoPointer;

    /// <summary>The current-VMCS pointer; <see cref="NestedVmx.NoPointer"/> for none.</summary>
    public ulong CurrentPointer { get; init; } = NestedVmx.NoPointer;

    /// <summary>Whether L2 is active.</summary>
    public bool IsGuestMode { get; init; }

    /// <summary>Whether L1 has entered L2 and the processor has not yet.</summary>
    public bool IsRunPending { get; init; }

    /// <summary>Whether vmcs12 is an enlightened VMCS, which the VP assist page names; there is no current VMCS then.</summary>
    public bool IsEnlightened { get; init; }

    /// <summary>Whether an SMI has interrupted VMX operation: the vCPU is in system-management mode.</summary>
    public bool IsVmxonBeforeSmi { get; init; }

    /// <summary>Whether an SMI has interrupted L2.</summary>
    public bool IsGuestModeBeforeSmi { get; init; }

    /// <summary>When the VMX-preemption timer runs out, in units of 32 cycles of L1's time-stamp counter; null where it does not count.</summary>
    public ulong? PreemptionTimerDeadline { get; init; }

    /// <summary>The region of vmcs12, or empty where there is none.</summary>
    public ReadOnlyMemory<byte> Vmcs12 { get; init; }

    /// <summary>The region of vmcs12's shadow VMCS, or empty where there is none.</summary>
    public ReadOnlyMemory<byte> Shadow { get; init; }

    /// <summary>
    /// Reads an image. What its own bytes say is checked in full; whether vmcs12 would pass VM entry, and whether its pointers are to
    /// memory, is for the vCPU that takes it.
    /// </summary>
    /// <param name="bytes">The image.</param>
    /// <param name="image">What it says.</param>
    /// <param name="error">What is wrong with it, in a sentence.</param>
    public static bool TryParse(ReadOnlySpan<byte> bytes, [NotNullWhen(true)] out NestedStateImage? image, [NotNullWhen(false)] out string? error)
    {
        image = null;
        error = Refusal(bytes);
        if (error != null)
            return false;
        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(bytes[FlagsAt..]);
        ushort smmFlags = BinaryPrimitives.ReadUInt16LittleEndian(bytes[SmmFlagsAt..]);
        bool hasDeadline = (BinaryPrimitives.ReadUInt32LittleEndian(bytes[VmxFlagsAt..]) & HasDeadline) != 0;
        image = new NestedStateImage
        {
            VmxonPointer = BinaryPrimitives.ReadUInt64LittleEndian(bytes[VmxonAt..]),
            CurrentPointer = BinaryPrimitives.ReadUInt64LittleEndian(bytes[Vmcs12At..]),
            IsGuestMode = (flags & GuestMode) != 0,
            IsRunPending = (flags & RunPending) != 0,
            IsEnlightened = (flags & Enlightened) != 0,
            IsVmxonBeforeSmi = (smmFlags & SmmVmxon) != 0,
            IsGuestModeBeforeSmi = (smmFlags & SmmGuestMode) != 0,
            PreemptionTimerDeadline = hasDeadline ? BinaryPrimitives.ReadUInt64LittleEndian(bytes[DeadlineAt..]) : null,
            Vmcs12 = bytes.Length > HeaderSize ? bytes.Slice(HeaderSize, Vmcs12Layout.RegionSize).ToArray() : default,
            Shadow = bytes.Length == MaxSize ? bytes[(HeaderSize + Vmcs12Layout.RegionSize)..].ToArray() : default,
        };
        return true;
    }

    /// <summary>The image's bytes.</summary>
    public byte[] ToArray()
    {
        byte[] bytes = new byte[HeaderSize + Vmcs12.Length + Shadow.Length];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(FlagsAt), (ushort)((IsGuestMode ? GuestMode : 0) | (IsRunPending ? RunPending : 0) | (IsEnlightened ? Enlightened : 0)));
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(FormatAt), FormatVmx);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(SizeAt), (uint)bytes.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(VmxonAt), VmxonPointer);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(Vmcs12At), CurrentPointer);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(SmmFlagsAt), (ushort)((IsVmxonBeforeSmi ? SmmVmxon : 0) | (IsGuestModeBeforeSmi ? SmmGuestMode : 0)));
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(VmxFlagsAt), PreemptionTimerDeadline is null ? 0 : HasDeadline);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(DeadlineAt), PreemptionTimerDeadline ?? 0);
        Vmcs12.Span.CopyTo(bytes.AsSpan(HeaderSize));
        Shadow.Span.CopyTo(bytes.AsSpan(HeaderSize + Vmcs12.Length));
        return bytes;
    }

    private static string? Refusal(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length is not (HeaderSize or HeaderSize + Vmcs12Layout.RegionSize or MaxSize))
            return $"It has {bytes.Length} bytes; {HeaderSize}, {HeaderSize + Vmcs12Layout.RegionSize} and {MaxSize} are possible.";
        if (BinaryPrimitives.ReadUInt32LittleEndian(bytes[SizeAt..]) != bytes.Length)
            return $"Its size field has {BinaryPrimitives.ReadUInt32LittleEndian(bytes[SizeAt..])}, and it has {bytes.Length} bytes.";
        if (BinaryPrimitives.ReadUInt16LittleEndian(bytes[FormatAt..]) != FormatVmx)
            return "Its format is not that of VMX.";
        ushort flags = BinaryPrimitives.ReadUInt16LittleEndian(bytes[FlagsAt..]);
        if ((flags & ~(GuestMode | RunPending | Enlightened)) != 0)
            return $"Its flags 0x{flags:x} have unknown ones.";
        if ((flags & RunPending) != 0 && (flags & GuestMode) == 0)
            return "An entry into L2 is pending, and L2 is not active.";
        ushort smmFlags = BinaryPrimitives.ReadUInt16LittleEndian(bytes[SmmFlagsAt..]);
        if ((smmFlags & ~(SmmGuestMode | SmmVmxon)) != 0)
            return $"Its SMM flags 0x{smmFlags:x} have unknown ones.";
        if (smmFlags == SmmGuestMode)
            return "An SMI has interrupted L2, and L1 was not in VMX operation.";
        if (smmFlags != 0 && (flags & GuestMode) != 0)
            return "An SMI has interrupted VMX operation, and L2 is active.";
        if ((BinaryPrimitives.ReadUInt32LittleEndian(bytes[VmxFlagsAt..]) & ~HasDeadline) != 0)
            return "Its VMX flags have unknown ones.";
        return RefusalOfPointers(bytes, flags, smmFlags);
    }

    private static string? RefusalOfPointers(ReadOnlySpan<byte> bytes, ushort flags, ushort smmFlags)
    {
        bool guestMode = (flags & GuestMode) != 0, enlightened = (flags & Enlightened) != 0;
        ulong vmxon = BinaryPrimitives.ReadUInt64LittleEndian(bytes[VmxonAt..]), current = BinaryPrimitives.ReadUInt64LittleEndian(bytes[Vmcs12At..]);
        bool hasCurrent = current != NestedVmx.NoPointer;
        if (vmxon == NestedVmx.NoPointer && (hasCurrent || enlightened || guestMode || smmFlags != 0))
            return "It has a current VMCS, L2 active or an SMI from there outside VMX operation.";
        if (vmxon != NestedVmx.NoPointer && (vmxon & PageMask) != 0)
            return $"The VMXON pointer 0x{vmxon:x} is not page aligned.";
        guestMode |= (smmFlags & SmmGuestMode) != 0;
        if (hasCurrent && enlightened)
            return "It has both a current and an enlightened VMCS.";
        if (guestMode && !hasCurrent && !enlightened)
            return "L2 is active, or interrupted by an SMI, without a current VMCS.";
        if ((hasCurrent || enlightened) != bytes.Length > HeaderSize)
            return hasCurrent || enlightened ? "It has a current VMCS, and its contents are missing." : "It has the contents of a VMCS, and none is current.";
        if (!hasCurrent && !enlightened)
            return null;
        if (hasCurrent && ((current & PageMask) != 0 || current == vmxon))
            return $"The current-VMCS pointer 0x{current:x} is not page aligned, or is the VMXON region's.";
        uint revision = BinaryPrimitives.ReadUInt32LittleEndian(bytes[HeaderSize..]);
        if ((revision & ~Vmcs12Layout.ShadowIndicator) != Vmcs12Layout.Revision || (guestMode && revision != Vmcs12Layout.Revision))
            return $"The revision of vmcs12 is 0x{revision:x}, and 0x{Vmcs12Layout.Revision:x} is needed.";
        if (bytes.Length < MaxSize)
            return null;
        uint shadow = BinaryPrimitives.ReadUInt32LittleEndian(bytes[(HeaderSize + Vmcs12Layout.RegionSize)..]);
        return shadow == (Vmcs12Layout.Revision | Vmcs12Layout.ShadowIndicator) ? null : $"The revision of the shadow VMCS is 0x{shadow:x}.";
    }
}
