using Vmm.Processor.Execution;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Memory;

/// <summary>
/// A guest-physical access for EPT. The low nine bits are those of the exit qualification of an EPT violation (SDM volume 3,
/// table 28-7).
/// </summary>
[Flags]
internal enum EptAccess : uint
{
    Read = 1 << 0,
    Write = 1 << 1,
    Fetch = 1 << 2,

    /// <summary>It comes from an access to a linear address, which is known.</summary>
    LinearValid = 1 << 7,

    /// <summary>It is the access to the translation of the linear address, not to a guest paging structure on the way.</summary>
    Final = 1 << 8,

    /// <summary>The linear address is a user-mode one (of the page, not of the privilege level). Not part of the qualification.</summary>
    UserLinear = 1 << 16,
}

/// <summary>A VM exit that an access has met, for whoever made the access to bring about.</summary>
/// <param name="Reason">EPT violation, EPT misconfiguration or page-modification log full.</param>
/// <param name="Qualification">The exit qualification without bit 12 (NMI unblocking).</param>
/// <param name="Linear">The guest-linear address, where the qualification says that it is valid.</param>
/// <param name="Physical">The guest-physical address.</param>
/// <param name="Convertible">Whether an EPT violation may become a virtualization exception: bit 63 of the entry is clear.</param>
internal readonly record struct AccessExit(ExitReason Reason, ulong Qualification, ulong Linear, ulong Physical, bool Convertible = false);

/// <summary>What EPT made of a guest-physical address.</summary>
/// <param name="Physical">The host-physical address.</param>
/// <param name="Readable">Whether it may be read.</param>
/// <param name="Writable">Whether it may be written, and is marked dirty already where EPT keeps dirty flags.</param>
internal readonly record struct EptTranslation(ulong Physical, bool Readable, bool Writable);

/// <summary>The EPT pointer's fields and rules (SDM volume 3, sections 25.6.11 and 27.2.1.1).</summary>
public static class EptPointer
{
    /// <summary>Bit 6: accessed and dirty flags are kept.</summary>
    public const ulong AccessedDirty = 1 << 6;

    /// <summary>The address of the root table.</summary>
    public const ulong AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>Whether VM entry accepts the pointer: uncacheable or write-back, four levels, nothing reserved.</summary>
    public static bool IsValid(ulong pointer, int physicalAddressBits) =>
        (pointer & 7) is 0 or 6 && (pointer >> 3 & 7) == 3 && (pointer & 0xF80) == 0 && pointer >> physicalAddressBits == 0;
}

/// <summary>Walks the extended page tables (SDM volume 3, section 29.3): four levels, pages of 4 KiB, 2 MiB and 1 GiB.</summary>
internal static unsafe class EptWalk
{
    private const ulong Read = 1, Write = 2, Execute = 4, Large = 1 << 7, Accessed = 1 << 8, Dirty = 1 << 9, UserExecute = 1 << 10,
        SuppressException = 1UL << 63;
    private const int Levels = 4;

    /// <summary>
    /// Translates a guest-physical address, setting accessed and dirty flags and logging modified pages. On false the VM exit is
    /// recorded (<see cref="Mmu.RecordExit"/>) and nothing was changed.
    /// </summary>
    public static bool Translate(LogicalProcessor cpu, ulong linear, ulong guest, EptAccess access, out EptTranslation translation)
    {
        Mmu mmu = cpu.Mmu;
        ulong needed = (ulong)(access & (EptAccess.Read | EptAccess.Write));
        if ((access & EptAccess.Fetch) != 0)
            needed |= mmu.EptModeBasedExecute && (access & EptAccess.UserLinear) != 0 ? UserExecute : Execute;
        ulong guestPage = guest & ~0xFFFUL;
        // Bit 11 of the pointer is reserved, and so free to say what execution needs.
        ulong tables = mmu.EptRoot | (mmu.EptModeBasedExecute ? 1UL << 11 : 0);
        // Hypervisors that clear dirty flags expect them set again, and logged, once linear addresses are translated anew, as on processors
        // that keep guest-physical mappings for their walks of the guest's tables alone.
        bool mayBeKnown = !mmu.EptAccessedDirty || (access & EptAccess.Final) == 0;
        if (mayBeKnown && mmu.GuestPhysical.TryFind(guestPage, tables, needed, out ulong hostPage, out ulong known))
        {
            translation = new EptTranslation(hostPage | (guest & 0xFFF), (known & Read) != 0, (known & Write) != 0);
            return true;
        }
        ulong** slots = stackalloc ulong*[Levels];
        ulong* places = stackalloc ulong[Levels];
        ulong present = Read | Write | Execute | (mmu.EptModeBasedExecute ? UserExecute : 0);
        ulong reserved = EptPointer.AddressMask & ~((1UL << cpu.Environment.Features.PhysicalAddressBits) - 1);
        ulong rights = ulong.MaxValue;
        ulong table = mmu.EptRoot & EptPointer.AddressMask;
        ulong entry;
        int count = 0;
        int shift = 39;
        translation = default;
        while (true)
        {
            ulong at = table + ((guest >> shift & 0x1FF) << 3);
            byte* page = cpu.Environment.Memory.Page(at);
            entry = page == null ? ulong.MaxValue : *(ulong*)(page + (at & 0xFFF));
            if ((entry & present) == 0)
                return mmu.RecordExit(new AccessExit(ExitReason.EptViolation, (ulong)access & 0x1FF, linear, guest, Convertible(entry)));
            bool leaf = shift == 12 || (shift <= 30 && (entry & Large) != 0);
            if (IsMisconfigured(entry, leaf, shift, reserved))
                return mmu.RecordExit(new AccessExit(ExitReason.EptMisconfiguration, 0, linear, guest));
            slots[count] = (ulong*)(page + (at & 0xFFF));
            places[count++] = at;
            rights &= entry;
            if (leaf)
                break;
            table = entry & EptPointer.AddressMask;
            shift -= 9;
        }
        if ((rights & needed) != needed)
        {
            ulong allowed = (rights & 7) << 3 | (mmu.EptModeBasedExecute ? rights >> 4 & 1 << 6 : 0);
            return mmu.RecordExit(new AccessExit(ExitReason.EptViolation, (ulong)access & 0x1FF | allowed, linear, guest, Convertible(entry)));
        }
        if (mmu.EptAccessedDirty)
        {
            bool dirties = (access & EptAccess.Write) != 0 && (entry & Dirty) == 0;
            if (dirties && mmu.PageModificationLog && !Log(cpu, guest))
                return mmu.RecordExit(new AccessExit(ExitReason.PmlFull, 0, linear, guest));
            for (int k = 0; k < count; k++)
                Mark(cpu, slots[k], places[k], Accessed | (dirties && k == count - 1 ? Dirty : 0));
            if (dirties)
                entry |= Dirty;
        }
        ulong mask = (1UL << shift) - 1;
        bool writable = (rights & Write) != 0 && (!mmu.EptAccessedDirty || (entry & Dirty) != 0);
        translation = new EptTranslation((entry & EptPointer.AddressMask & ~mask) | (guest & mask), (rights & Read) != 0, writable);
        if (mayBeKnown)
            mmu.GuestPhysical.Add(guestPage, tables, translation.Physical & ~0xFFFUL, writable ? rights : rights & ~Write);
        return true;
    }

    // The entry is the one that is not present, or that of the page (SDM volume 3, section 26.5.7.1).
    private static bool Convertible(ulong entry) => (entry & SuppressException) == 0;

    /// <summary>SDM volume 3, section 29.3.3.1. Execute-only pages are supported.</summary>
    private static bool IsMisconfigured(ulong entry, bool leaf, int shift, ulong reserved)
    {
        if ((entry & (Read | Write)) == Write)
            return true;
        if (!leaf)
            return (entry & (reserved | (shift == 39 ? 0xF8UL : 0x78))) != 0;
        if ((entry & (reserved | (((1UL << shift) - 1) & EptPointer.AddressMask))) != 0)
            return true;
        return (entry >> 3 & 7) is 2 or 3 or 7;
    }

    /// <summary>Notes a page that becomes dirty (SDM volume 3, section 29.3.6). False where the log is full.</summary>
    private static bool Log(LogicalProcessor cpu, ulong guest)
    {
        Vmcs vmcs = cpu.Vmcs!;
        var index = (ushort)vmcs[VmcsField.PmlIndex];
        if (index > 511)
            return false;
        ulong at = (vmcs[VmcsField.PmlAddress] & EptPointer.AddressMask) + (ulong)index * 8;
        byte* page = cpu.Environment.Memory.Page(at);
        if (page != null)
        {
            *(ulong*)(page + (at & 0xFFF)) = guest & ~0xFFFUL;
            cpu.Package.Code.Written(at, 8);
        }
        vmcs[VmcsField.PmlIndex] = (ushort)(index - 1);
        return true;
    }

    private static void Mark(LogicalProcessor cpu, ulong* slot, ulong at, ulong flags)
    {
        if ((*slot & flags) == flags)
            return;
        *slot |= flags;
        cpu.Package.Code.Written(at, 8);
    }
}
