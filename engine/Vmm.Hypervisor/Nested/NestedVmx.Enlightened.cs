using System.Buffers.Binary;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Nested;

/// <summary>What has become of the enlightened VMCS that a VM entry is to use.</summary>
internal enum EnlightenedEntry
{
    /// <summary>L1 does not use one: the current VMCS counts.</summary>
    Absent,

    /// <summary>It is in vmcs12.</summary>
    Loaded,

    /// <summary>Its version is none that there is.</summary>
    Refused,

    /// <summary>It is not in memory.</summary>
    NotMemory,
}

/// <content>The enlightened VMCS: see <see cref="EnlightenedVmcsLayout"/>.</content>
public sealed unsafe partial class NestedVmx
{
    /// <summary>The address of the active enlightened VMCS; <see cref="NoPointer"/> for none. With one there is no current VMCS.</summary>
    public ulong EnlightenedPointer { get; internal set; } = NoPointer;

    /// <summary>Whether an enlightened VMCS is active: VM entries have used it, and VM exits write to it.</summary>
    public bool IsEnlightened => EnlightenedPointer != NoPointer;

    /// <summary>Whether vmcs12 is one: the current VMCS, or the active enlightened one.</summary>
    public bool HasVmcs12 => HasCurrent || IsEnlightened;

    /// <summary>The address of the VMCS that is in vmcs12.</summary>
    internal ulong Vmcs12Pointer => IsEnlightened ? EnlightenedPointer : CurrentPointer;

    /// <summary>
    /// VMLAUNCH or VMRESUME: where the VP assist page says that VM entries are enlightened, makes the VMCS that it names the active one and
    /// reads it, all of it for VMLAUNCH or where it is another than before, else what is not clean.
    /// </summary>
    internal EnlightenedEntry LoadEnlightened(bool launch)
    {
        if (_vcpu.AssistPage.EnlightenedVmcs is not { } pointer)
        {
            ReleaseEnlightened();
            return EnlightenedEntry.Absent;
        }
        if (!Memory.IsRam(pointer, EnlightenedVmcsLayout.Size) || (pointer & 0xFFF) != 0)
            return EnlightenedEntry.NotMemory;
        Span<byte> structure = stackalloc byte[EnlightenedVmcsLayout.Size];
        ReadRegion(pointer, structure);
        var clean = (CleanFields)BinaryPrimitives.ReadUInt32LittleEndian(structure[EnlightenedVmcsLayout.Clean..]);
        if (pointer != EnlightenedPointer)
        {
            // Hyper-V itself puts the revision of the capability MSRs there, whatever the specification says.
            uint version = BinaryPrimitives.ReadUInt32LittleEndian(structure);
            if (version != EnlightenedVmcsLayout.Version && version != Capabilities.RevisionId)
            {
                ReleaseEnlightened();
                return EnlightenedEntry.Refused;
            }
            ReleaseCurrent(clear: false);
            EnlightenedPointer = pointer;
            foreach (VmcsFieldEntry field in VmcsCatalogue.Fields)
                Vmcs12[field.Field] = 0;
            clean = CleanFields.None;
        }
        EnlightenedVmcsLayout.Load(structure, Vmcs12, launch ? CleanFields.None : clean);
        IsLaunched = !launch;
        return EnlightenedEntry.Loaded;
    }

    /// <summary>After a VM exit: L1 is to find it in the structure.</summary>
    internal void StoreEnlightened()
    {
        if (!IsEnlightened)
            return;
        Span<byte> structure = stackalloc byte[EnlightenedVmcsLayout.Size];
        ReadRegion(EnlightenedPointer, structure);
        EnlightenedVmcsLayout.StoreExit(Vmcs12, structure);
        WriteRegion(EnlightenedPointer, structure);
    }

    /// <summary>After VMfailValid: the error is in the structure.</summary>
    internal void StoreEnlightenedError()
    {
        if (IsEnlightened)
            WriteRegion(EnlightenedPointer + EnlightenedVmcsLayout.InstructionError, BitConverter.GetBytes(Vmcs12.Read32(VmcsField.VmInstructionError)));
    }

    /// <summary>Reads all of the active enlightened VMCS but what VM exits write only.</summary>
    internal void ReadEnlightened(Vmcs vmcs12)
    {
        Span<byte> structure = stackalloc byte[EnlightenedVmcsLayout.Size];
        ReadRegion(EnlightenedPointer, structure);
        EnlightenedVmcsLayout.Load(structure, vmcs12, CleanFields.None);
    }

    /// <summary>VMREAD of the active enlightened VMCS: from memory, where L1 may have written meanwhile.</summary>
    internal bool TryReadEnlightened(VmcsField field, out ulong value)
    {
        Span<byte> structure = stackalloc byte[EnlightenedVmcsLayout.Size];
        ReadRegion(EnlightenedPointer, structure);
        return EnlightenedVmcsLayout.TryRead(structure, field, out value);
    }

    /// <summary>There is no active enlightened VMCS any more. Memory has all that L1 is to know of it.</summary>
    internal void ReleaseEnlightened()
    {
        if (!IsEnlightened)
            return;
        EnlightenedPointer = NoPointer;
        IsLaunched = false;
    }
}
