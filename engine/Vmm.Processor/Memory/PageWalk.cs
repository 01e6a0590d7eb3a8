using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Memory;

/// <summary>What an access wants to do, and with whose rights.</summary>
[Flags]
public enum Access : byte
{
    Read = 0,
    Write = 1,
    Fetch = 2,

    /// <summary>With user rights (CPL 3).</summary>
    User = 4,

    /// <summary>A supervisor access that may touch user pages although SMAP is on (RFLAGS.AC).</summary>
    SmapOverride = 8,
}

/// <summary>The result of a page walk.</summary>
/// <param name="Physical">The physical address of the byte.</param>
/// <param name="Readable">Whether a read with the same rights is allowed.</param>
/// <param name="Writable">Whether a write with the same rights is allowed, and the page is dirty already.</param>
/// <param name="PageShift">12, 21, 22 or 30.</param>
public readonly record struct Translation(ulong Physical, bool Readable, bool Writable, int PageShift);

/// <summary>
/// What the physical addresses of the guest are: a type parameter of the walk, so that the walk without EPT does not pay for it.
/// </summary>
internal interface IGuestPhysical
{
    /// <summary>Whether they go through EPT.</summary>
    static abstract bool IsExtended { get; }
}

/// <summary>Guest-physical addresses are host-physical ones.</summary>
internal readonly struct Direct : IGuestPhysical
{
    /// <inheritdoc/>
    public static bool IsExtended => false;
}

/// <summary>Guest-physical addresses are translated by EPT.</summary>
internal readonly struct Extended : IGuestPhysical
{
    /// <inheritdoc/>
    public static bool IsExtended => true;
}

/// <summary>
/// Walks the guest's page tables (SDM volume 3, chapter 4): 32-bit, PAE, 4-level and 5-level paging, with accessed and dirty
/// flags, and every cause of a page fault.
/// </summary>
internal static unsafe class PageWalk
{
    private const ulong Present = 1, Writable = 2, User = 4, Accessed = 1 << 5, Dirty = 1 << 6, Large = 1 << 7, NoExecute = 1UL << 63;

    /// <summary>
    /// Translates, setting accessed and dirty flags as needed. Where the access is not allowed, records the page fault, or the VM
    /// exit that EPT calls for, and returns false.
    /// </summary>
    public static bool Translate(LogicalProcessor cpu, ulong linear, Access access, out Translation translation) =>
        cpu.Mmu.EptEnabled ? Walk<Extended>(cpu, linear, access, out translation) : Walk<Direct>(cpu, linear, access, out translation);

    private static bool Walk<P>(LogicalProcessor cpu, ulong linear, Access access, out Translation translation) where P : struct, IGuestPhysical
    {
        cpu.Counters.PageWalks++;
        CpuState* s = cpu.State;
        // Without paging every linear address counts as a user-mode one (SDM volume 3, table 28-7, bit 9).
        if ((s->Cr0 & Cr0.Pg) == 0)
            return Finish<P>(cpu, linear, access, new Translation((uint)linear, true, true, 12), userPage: true, out translation);
        if ((s->Cr4 & Cr4.Pae) == 0)
            return Walk32<P>(cpu, (uint)linear, access, out translation);
        if ((s->Efer & Efer.Lma) == 0)
            return WalkPae<P>(cpu, (uint)linear, access, out translation);
        return WalkLong<P>(cpu, linear, access, out translation);
    }

    private static bool WalkLong<P>(LogicalProcessor cpu, ulong linear, Access access, out Translation translation) where P : struct, IGuestPhysical
    {
        CpuState* s = cpu.State;
        int top = (s->Cr4 & Cr4.La57) != 0 ? 48 : 39;
        ulong reserved = ReservedAddressBits(cpu) | ((s->Efer & Efer.Nxe) == 0 ? NoExecute : 0);
        ulong table = s->Cr3 & 0x000F_FFFF_FFFF_F000;
        return WalkLevels<P>(cpu, linear, access, table, top, reserved, Writable | User, out translation);
    }

    private static bool WalkPae<P>(LogicalProcessor cpu, uint linear, Access access, out Translation translation) where P : struct, IGuestPhysical
    {
        CpuState* s = cpu.State;
        ulong pdpte = cpu.Mmu.Pdptes[linear >> 30];
        if ((pdpte & Present) == 0)
            return NotPresent(s, linear, access, out translation);
        ulong reserved = ReservedAddressBits(cpu) | 0x7FF0_0000_0000_0000 | ((s->Efer & Efer.Nxe) == 0 ? NoExecute : 0);
        return WalkLevels<P>(cpu, linear, access, pdpte & 0x000F_FFFF_FFFF_F000, 21, reserved, Writable | User, out translation);
    }

    private static bool WalkLevels<P>(LogicalProcessor cpu, ulong linear, Access access, ulong table, int shift, ulong reserved, ulong rights, out Translation translation)
        where P : struct, IGuestPhysical
    {
        CpuState* s = cpu.State;
        ulong noExecute = 0;
        while (true)
        {
            ulong at = table + ((linear >> shift & 0x1FF) << 3);
            if (!Locate<P>(cpu, linear, ref at, out ulong guestAt, out translation))
                return false;
            ulong* slot = (ulong*)Slot(cpu, at);
            ulong entry = slot != null ? *slot : ulong.MaxValue;
            if ((entry & Present) == 0)
                return NotPresent(s, linear, access, out translation);
            bool leaf = shift == 12 || ((entry & Large) != 0 && shift <= 30);
            ulong bad = reserved;
            if (leaf && shift > 12)
                bad |= ((1UL << shift) - 1) & 0x000F_FFFF_FFFF_E000;
            else if (!leaf && shift > 30)
                bad |= Large;
            if ((entry & bad) != 0)
                return Faulted(s, linear, access, 1 | 8, out translation);
            rights &= entry;
            noExecute |= entry & NoExecute;
            if (!leaf)
            {
                if ((entry & Accessed) == 0 && !Store<P>(cpu, linear, guestAt, at, slot, entry | Accessed))
                    return false;
                table = entry & 0x000F_FFFF_FFFF_F000;
                shift -= 9;
                continue;
            }
            if (!Allowed(s, access, rights, noExecute, out bool readable, out bool writable))
                return Faulted(s, linear, access, 1, out translation);
            ulong mark = Accessed | ((access & Access.Write) != 0 ? Dirty : 0);
            if ((entry & mark) != mark)
            {
                entry |= mark;
                if (!Store<P>(cpu, linear, guestAt, at, slot, entry))
                    return false;
            }
            ulong mask = (1UL << shift) - 1;
            var found = new Translation((entry & 0x000F_FFFF_FFFF_F000 & ~mask) | (linear & mask), readable, writable && (entry & Dirty) != 0, shift);
            return Finish<P>(cpu, linear, access, found, (rights & User) != 0, out translation);
        }
    }

    private static bool Walk32<P>(LogicalProcessor cpu, uint linear, Access access, out Translation translation) where P : struct, IGuestPhysical
    {
        CpuState* s = cpu.State;
        ulong at = (s->Cr3 & 0xFFFF_F000) + ((linear >> 22) << 2);
        if (!Locate<P>(cpu, linear, ref at, out ulong guestAt, out translation))
            return false;
        uint* slot = (uint*)Slot(cpu, at);
        uint entry = slot != null ? *slot : uint.MaxValue;
        if ((entry & Present) == 0)
            return NotPresent(s, linear, access, out translation);
        ulong rights = entry;
        int shift = 22;
        ulong page;
        if ((entry & Large) != 0 && (s->Cr4 & Cr4.Pse) != 0)
        {
            // PSE-36: bits 20:13 are address bits 39:32, bit 21 is reserved.
            if ((entry & (1 << 21)) != 0)
                return Faulted(s, linear, access, 1 | 8, out translation);
            page = (entry & 0xFFC0_0000) | ((ulong)(entry >> 13 & 0xFF) << 32);
        }
        else
        {
            if ((entry & Accessed) == 0 && !Store32<P>(cpu, linear, guestAt, at, slot, entry | (uint)Accessed))
                return false;
            at = (entry & 0xFFFF_F000) + ((linear >> 12 & 0x3FF) << 2);
            if (!Locate<P>(cpu, linear, ref at, out guestAt, out translation))
                return false;
            slot = (uint*)Slot(cpu, at);
            entry = slot != null ? *slot : uint.MaxValue;
            if ((entry & Present) == 0)
                return NotPresent(s, linear, access, out translation);
            rights &= entry;
            shift = 12;
            page = entry & 0xFFFF_F000;
        }
        if (!Allowed(s, access, rights, 0, out bool readable, out bool writable))
            return Faulted(s, linear, access, 1, out translation);
        uint mark = (uint)(Accessed | ((access & Access.Write) != 0 ? Dirty : 0));
        if ((entry & mark) != mark)
        {
            entry |= mark;
            if (!Store32<P>(cpu, linear, guestAt, at, slot, entry))
                return false;
        }
        var found = new Translation(page | (linear & ((1u << shift) - 1)), readable, writable && (entry & Dirty) != 0, shift);
        return Finish<P>(cpu, linear, access, found, (rights & User) != 0, out translation);
    }

    /// <summary>The last step, from guest-physical to host-physical, with the rights of both.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Finish<P>(LogicalProcessor cpu, ulong linear, Access access, in Translation found, bool userPage, out Translation translation)
        where P : struct, IGuestPhysical
    {
        translation = found;
        if (!P.IsExtended)
            return true;
        EptAccess kind = EptAccess.LinearValid | EptAccess.Final | (userPage ? EptAccess.UserLinear : 0);
        kind |= (access & Access.Fetch) != 0 ? EptAccess.Fetch : (access & Access.Write) != 0 ? EptAccess.Write : EptAccess.Read;
        if (!EptWalk.Translate(cpu, linear, found.Physical, kind, out EptTranslation host))
            return false;
        translation = new Translation(host.Physical, found.Readable && host.Readable, found.Writable && host.Writable, found.PageShift);
        return true;
    }

    /// <summary>
    /// Turns the guest-physical address of a paging-structure entry into a host-physical one. Where EPT keeps dirty flags, every
    /// access to an entry counts as a write too (SDM volume 3, section 29.3.5).
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Locate<P>(LogicalProcessor cpu, ulong linear, ref ulong at, out ulong guestAt, out Translation translation)
        where P : struct, IGuestPhysical
    {
        guestAt = at;
        // The walk sets it in the end; every level of it would clear it before.
        Unsafe.SkipInit(out translation);
        if (!P.IsExtended)
            return true;
        EptAccess kind = EptAccess.LinearValid | EptAccess.Read | (cpu.Mmu.EptAccessedDirty ? EptAccess.Write : 0);
        bool done = EptWalk.Translate(cpu, linear, at, kind, out EptTranslation host);
        at = host.Physical;
        if (done && cpu.Mmu.IsApicAccess(at))
            done = cpu.Mmu.RecordApicAccess(ApicAccessType.GuestPhysical, at);
        if (!done)
            translation = default;
        return done;
    }

    /// <summary>Whether an entry that was read may be written, to set its accessed or dirty flag.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool MayStore<P>(LogicalProcessor cpu, ulong linear, ulong guestAt) where P : struct, IGuestPhysical =>
        !P.IsExtended || cpu.Mmu.EptAccessedDirty
        || EptWalk.Translate(cpu, linear, guestAt, EptAccess.LinearValid | EptAccess.Read | EptAccess.Write, out _);

    /// <summary>The rights of an access against the combined rights of all levels (SDM volume 3, section 4.6.1).</summary>
    private static bool Allowed(CpuState* s, Access access, ulong rights, ulong noExecute, out bool readable, out bool writable)
    {
        bool userPage = (rights & User) != 0;
        bool writablePage = (rights & Writable) != 0;
        if ((access & Access.User) != 0)
        {
            readable = userPage;
            writable = userPage && writablePage;
        }
        else
        {
            readable = !userPage || (s->Cr4 & Cr4.Smap) == 0 || (access & Access.SmapOverride) != 0;
            writable = readable && (writablePage || (s->Cr0 & Cr0.Wp) == 0);
        }
        if ((access & Access.Fetch) != 0)
        {
            bool barred = noExecute != 0 && (s->Efer & Efer.Nxe) != 0;
            if ((access & Access.User) != 0)
                return userPage && !barred;
            return !barred && !(userPage && (s->Cr4 & Cr4.Smep) != 0);
        }
        return (access & Access.Write) != 0 ? writable : readable;
    }

    private static bool NotPresent(CpuState* s, ulong linear, Access access, out Translation translation) =>
        Faulted(s, linear, access, 0, out translation);

    private static bool Faulted(CpuState* s, ulong linear, Access access, uint error, out Translation translation)
    {
        translation = default;
        if ((access & Access.Write) != 0)
            error |= 2;
        if ((access & Access.User) != 0)
            error |= 4;
        if ((access & Access.Fetch) != 0 && ((s->Cr4 & Cr4.Smep) != 0 || ((s->Efer & Efer.Nxe) != 0 && (s->Cr4 & Cr4.Pae) != 0)))
            error |= 16;
        return Fault.RecordPageFault(s, linear, error);
    }

    private static ulong ReservedAddressBits(LogicalProcessor cpu) =>
        0x000F_FFFF_FFFF_F000 & ~((1UL << cpu.Environment.Features.PhysicalAddressBits) - 1);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Slot(LogicalProcessor cpu, ulong physical)
    {
        byte* page = cpu.Environment.Memory.Page(physical);
        return page == null ? null : page + (physical & 0xFFF);
    }

    private static bool Store<P>(LogicalProcessor cpu, ulong linear, ulong guestAt, ulong physical, ulong* slot, ulong value) where P : struct, IGuestPhysical
    {
        if (slot == null)
            return true;
        if (!MayStore<P>(cpu, linear, guestAt))
            return false;
        *slot = value;
        cpu.Package.Code.Written(physical, 8);
        return true;
    }

    private static bool Store32<P>(LogicalProcessor cpu, ulong linear, ulong guestAt, ulong physical, uint* slot, uint value) where P : struct, IGuestPhysical
    {
        if (slot == null)
            return true;
        if (!MayStore<P>(cpu, linear, guestAt))
            return false;
        *slot = value;
        cpu.Package.Code.Written(physical, 4);
        return true;
    }
}
