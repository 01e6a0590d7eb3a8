using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Memory;

/// <summary>
/// Linear memory as the current program sees it. Accesses may cross pages; on false the fault is recorded in the state
/// (<see cref="Fault.Record(CpuState*, uint, uint)"/>) and nothing was changed. Where EPT stops the access, what is recorded is
/// <see cref="Vector.VmExit"/>, which becomes a VM exit wherever faults are settled.
/// </summary>
public sealed unsafe partial class Mmu : IDisposable
{
    private const int CodeEntries = 256;

    private readonly LogicalProcessor _cpu;
    private readonly CpuState* _state;
    private readonly AddressSpaces _spaces = new();
    private readonly TranslationCache _tlb = new();
    private CodeTlbEntry* _code;

    // Which regions of 2 MiB and of 1 GiB (hashed) hold cached pieces of large pages, so that INVLPG can find all of them.
    private readonly bool[] _largeRegions = new bool[1024];
    private readonly bool[] _hugeRegions = new bool[1024];

    internal Mmu(LogicalProcessor cpu)
    {
        _cpu = cpu;
        _state = cpu.State;
        _code = (CodeTlbEntry*)NativeMemory.AllocZeroed(CodeEntries * 2, (nuint)sizeof(CodeTlbEntry));
    }

    /// <summary>The PDPTE registers of PAE paging.</summary>
    public ulong[] Pdptes { get; } = new ulong[4];

    /// <summary>Reads with the rights of the current privilege level.</summary>
    public bool Read(ulong linear, byte* destination, int size) => Transfer(linear, destination, size, CurrentRights(), AccessKind.Read);

    /// <summary>Writes with the rights of the current privilege level.</summary>
    public bool Write(ulong linear, byte* source, int size) => Transfer(linear, source, size, CurrentRights() | Access.Write, AccessKind.Write);

    /// <summary>Reads what is about to be written: checks and faults as a write.</summary>
    public bool ReadForWrite(ulong linear, byte* destination, int size) => Transfer(linear, destination, size, CurrentRights() | Access.Write, AccessKind.Read);

    /// <summary>Reads with supervisor rights whatever the privilege level: descriptor tables, task-state segments (SDM volume 3, section 4.6.1, implicit supervisor-mode accesses).</summary>
    public bool ReadSystem(ulong linear, byte* destination, int size) => Transfer(linear, destination, size, Access.Read, AccessKind.Read);

    /// <summary>Writes with supervisor rights whatever the privilege level.</summary>
    public bool WriteSystem(ulong linear, byte* source, int size) => Transfer(linear, source, size, Access.Write, AccessKind.Write);

    /// <summary>Reads with the rights of another privilege level: stacks of gates and returns.</summary>
    public bool ReadAs(int cpl, ulong linear, byte* destination, int size) => Transfer(linear, destination, size, RightsOf(cpl), AccessKind.Read);

    /// <summary>Writes with the rights of another privilege level.</summary>
    public bool WriteAs(int cpl, ulong linear, byte* source, int size) => Transfer(linear, source, size, RightsOf(cpl) | Access.Write, AccessKind.Write);

    /// <summary>Checks, as a write with the rights of a privilege level would, without writing: so that several writes can be made that all succeed.</summary>
    public bool ProbeWriteAs(int cpl, ulong linear, int size) => Transfer(linear, null, size, RightsOf(cpl) | Access.Write, AccessKind.Probe);

    /// <summary>
    /// Translates without side effects that a program could see other than accessed flags, for a debugger: with supervisor rights.
    /// Returns false where the page is not mapped; no fault stays recorded that matters outside an instruction.
    /// </summary>
    public bool TryTranslate(ulong linear, out ulong physical)
    {
        bool mapped = PageWalk.Translate(_cpu, linear, Access.Read | Access.SmapOverride, out Translation translation);
        physical = translation.Physical;
        return mapped;
    }

    /// <summary>Whether an instruction may be fetched at the current privilege level; if not, the fault is recorded.</summary>
    public bool TryTranslateFetch(ulong linear) => TranslateFetch(linear, out _);

    /// <summary>Translates an instruction fetch at the current privilege level.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool TranslateFetch(ulong linear, out ulong physical)
    {
        bool user = _state->Cpl == 3;
        CodeTlbEntry* entry = _code + (int)(linear >> 12 & (CodeEntries - 1)) + (user ? CodeEntries : 0);
        ulong tag = TagOf(linear);
        if (entry->Tag == tag)
        {
            physical = entry->Physical | (linear & 0xFFF);
            return true;
        }
        return WalkForFetch(linear, user, entry, tag, out physical);
    }

    private bool WalkForFetch(ulong linear, bool user, CodeTlbEntry* entry, ulong tag, out ulong physical)
    {
        if (!Canonical.Is(_state, linear) || !PageWalk.Translate(_cpu, linear, Access.Fetch | (user ? Access.User : 0), out Translation translation))
        {
            if (!Canonical.Is(_state, linear))
                Fault.Record(_state, Vector.Gp, 0);
            physical = 0;
            return false;
        }
        physical = translation.Physical;
        if (IsApicAccess(physical))
            return RecordApicAccess(ApicAccessType.Fetch, physical);
        entry->Tag = tag;
        entry->Physical = physical & ~0xFFFUL;
        NoteLarge(linear, translation.PageShift);
        return true;
    }

    /// <summary>INVLPG: forgets what is cached for one page.</summary>
    public void InvalidatePage(ulong linear)
    {
        if (ForgetPage(linear))
            return;
        Flush(global: true);
        _cpu.ModeChanged();
    }

    /// <summary>Forgets what is cached for one page in any address space; false where it may be part of a page too large for that.</summary>
    private bool ForgetPage(ulong linear)
    {
        if (_hugeRegions[(int)(linear >> 30 & 1023)])
            return false;
        ulong region = linear >> 21;
        if (_largeRegions[(int)(region & 1023)])
        {
            // A 2 or 4 MiB page fills a block of slots: 4 MiB is two neighbouring regions.
            _tlb.ForgetRegion(region & ~1UL);
            _tlb.ForgetRegion(region | 1);
            new Span<byte>(_code, CodeEntries * 2 * sizeof(CodeTlbEntry)).Clear();
            _cpu.CodeMappingChanged();
            return true;
        }
        _tlb.ForgetPage(linear);
        CodeTlbEntry* code = _code + (int)(linear >> 12 & (CodeEntries - 1));
        code->Tag = 0;
        code[CodeEntries].Tag = 0;
        _cpu.CodeMappingChanged(linear);
        return true;
    }

    /// <summary>
    /// Forgets everything of the current address space, and of all others of the current VPID too where asked (CR4.PGE changes,
    /// INVPCID of all contexts).
    /// </summary>
    public void Flush(bool global)
    {
        if (global && _spaces.HasOneVpid)
        {
            FlushEverything();
            return;
        }
        if (global)
        {
            _spaces.ForgetVpid(_spaces.Vpid);
        }
        else
        {
            _spaces.Forget(CurrentPcid());
        }
        _cpu.AddressSpaceChanged();
    }

    /// <summary>Forgets everything, of every VPID and EPT pointer.</summary>
    public void FlushEverything()
    {
        _spaces.ForgetAll();
        GuestPhysical.Clear();
        Array.Clear(_largeRegions);
        Array.Clear(_hugeRegions);
        _cpu.AddressSpaceChanged();
    }

    /// <summary>INVPCID and MOV to CR3 with PCIDs: forgets everything of one PCID.</summary>
    public void FlushPcid(uint pcid)
    {
        _spaces.Forget(pcid);
        _cpu.AddressSpaceChanged();
    }

    /// <summary>
    /// Loads and checks the four PDPTEs when PAE paging is in use after a write of CR0, CR3 or CR4 (SDM volume 3, section 4.4.1).
    /// Returns false, recording #GP(0), where a reserved bit is set in a present one; nothing is then changed.
    /// </summary>
    public bool LoadPdptes(ulong cr3)
    {
        ulong* loaded = stackalloc ulong[4];
        ulong reserved = 0x1E6 | ~((1UL << _cpu.Environment.Features.PhysicalAddressBits) - 1);
        ulong physical = cr3 & 0xFFFF_FFE0;
        if (EptEnabled)
        {
            // A read even where EPT keeps dirty flags, and no part of a translation of a linear address (section 29.3.5).
            if (!EptWalk.Translate(_cpu, 0, physical, EptAccess.Read, out EptTranslation translation))
                return false;
            physical = translation.Physical;
            if (IsApicAccess(physical))
                return RecordApicAccess(ApicAccessType.GuestPhysical, physical);
        }
        if (!_cpu.Environment.Memory.TryRead(physical, new Span<byte>(loaded, 32)))
            new Span<ulong>(loaded, 4).Fill(ulong.MaxValue);
        for (int k = 0; k < 4; k++)
        {
            if ((loaded[k] & 1) != 0 && (loaded[k] & reserved) != 0)
                return Fault.Record(_state, Vector.Gp, 0);
        }
        for (int k = 0; k < 4; k++)
            Pdptes[k] = loaded[k];
        return true;
    }

    /// <summary>Chooses address-space tag and translation-cache set for the current registers.</summary>
    internal void SelectAddressSpace()
    {
        _state->TlbContext = _spaces.Select(CurrentPcid(), out bool wrapped);
        if (wrapped)
        {
            _tlb.Clear();
            new Span<byte>(_code, CodeEntries * 2 * sizeof(CodeTlbEntry)).Clear();
            _cpu.CodeMappingChanged();
        }
        int set;
        if (_state->Cpl == 3)
            set = (_state->Cr0 & Cr0.Am) != 0 && (_state->SystemFlags & Rflags.Ac) != 0 ? Tlb.CheckedSet : Tlb.UserSet;
        else
            set = SupervisorSet((_state->Cr4 & Cr4.Smap) == 0 || (_state->SystemFlags & Rflags.Ac) != 0);
        _state->Tlb = _tlb.Set(set);
    }

    /// <summary>Takes the write permission for one physical page out of the caches: code was decoded from it.</summary>
    internal void ForbidFastWrites(ulong physicalPage) => _tlb.ForbidWrites(physicalPage);

    /// <summary>Takes the write permission for every page out of the caches.</summary>
    internal void ForbidFastWrites() => _tlb.ForbidWrites();

    /// <inheritdoc/>
    public void Dispose()
    {
        _tlb.Dispose();
        NativeMemory.Free(_code);
        _code = null;
    }

    private enum AccessKind
    {
        Read,
        Write,
        Probe,
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool Transfer(ulong linear, byte* data, int size, Access access, AccessKind kind)
    {
        byte* host = Cached(linear, size, access);
        if (host == null)
            return TransferSlowly(linear, data, size, access, kind);
        // A page that may be written without a word to anyone has neither code nor a log that waits for it.
        if (kind == AccessKind.Read)
            Copy(data, host, size);
        else if (kind == AccessKind.Write)
            Copy(host, data, size);
        return true;
    }

    /// <summary>Where the bytes are, as the cache knows it; null where it does not, or where there is more to look at than rights.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private byte* Cached(ulong linear, int size, Access access)
    {
        bool known = IsKnown(linear, access, out TlbEntry* entry) && (linear & 0xFFF) + (ulong)size <= 4096
            && _state->Tlb != _tlb.Set(Tlb.CheckedSet);
        return known ? (byte*)(linear + (ulong)entry->Addend) : null;
    }

    /// <summary>Whether the cache allows an access to a page, whose entry it is in any case.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool IsKnown(ulong linear, Access access, out TlbEntry* entry)
    {
        entry = SetFor(access) + (int)(linear >> 12 & (Tlb.Entries - 1));
        return ((access & Access.Write) != 0 ? entry->WriteTag : entry->ReadTag) == TagOf(linear);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong TagOf(ulong linear) => (linear & ~0xFFFUL) | _state->TlbContext;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Copy(byte* to, byte* from, int size)
    {
        switch (size)
        {
            case sizeof(ulong):
                Unsafe.CopyBlockUnaligned(to, from, sizeof(ulong));
                break;
            case sizeof(uint):
                Unsafe.CopyBlockUnaligned(to, from, sizeof(uint));
                break;
            case 2 * sizeof(ulong):
                Unsafe.CopyBlockUnaligned(to, from, 2 * sizeof(ulong));
                break;
            default:
                Unsafe.CopyBlockUnaligned(to, from, (uint)size);
                break;
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool TransferSlowly(ulong linear, byte* data, int size, Access access, AccessKind kind)
    {
        if (_state->Tlb == _tlb.Set(Tlb.CheckedSet) && (access & Access.User) != 0 && size <= 8
            && (size & (size - 1)) == 0 && (linear & (ulong)(size - 1)) != 0)
            return Fault.Record(_state, Vector.Ac, 0);
        // Compatibility mode reaches structures above 4 GiB too: descriptor tables, 64-bit stacks.
        bool legacy = _state->CodeSize != 64 && linear >> 32 == 0;
        int first = (int)Math.Min((ulong)size, 4096 - (linear & 0xFFF));
        // The whole operand is checked for canonical form before either page is walked.
        if (first != size && !legacy && !Canonical.Is(_state, linear + (ulong)size - 1))
            return Fault.Record(_state, Vector.Gp, 0);
        if (!Page(linear, access, out byte* host, out ulong physical))
            return false;
        if (host == null && IsApicAccess(physical))
            return AccessApic(physical, data, size, access, kind, whole: first == size) && NoteAccess(linear, size, access);
        if (first == size)
        {
            Move(host, physical, data, size, kind);
            NoteWatchpoints(linear, size, access);
            return true;
        }
        ulong next = linear + (ulong)first;
        if (legacy)
            next = (uint)next;
        if (!Page(next, access, out byte* host2, out ulong physical2))
            return false;
        if (host2 == null && IsApicAccess(physical2))
            return AccessApic(physical2, data, size, access, kind, whole: false);
        Move(host, physical, data, first, kind);
        Move(host2, physical2, data + first, size - first, kind);
        NoteWatchpoints(linear, size, access);
        return true;
    }

    /// <summary>The host address for one linear address (null for MMIO), filling the cache on the way.</summary>
    private bool Page(ulong linear, Access access, out byte* host, out ulong physical)
    {
        if (IsKnown(linear, access, out TlbEntry* entry))
        {
            host = (byte*)(linear + (ulong)entry->Addend);
            physical = TranslationCache.PhysicalOf(entry) | (linear & 0xFFF);
            return true;
        }
        host = null;
        physical = 0;
        if (!Canonical.Is(_state, linear))
            return Fault.Record(_state, Vector.Gp, 0);
        if (!PageWalk.Translate(_cpu, linear, access, out Translation translation))
            return false;
        physical = translation.Physical;
        byte* page = _cpu.Environment.Memory.Page(physical);
        if (page == null || IsApicAccess(physical))
            return true;
        host = page + (physical & 0xFFF);
        if (_cpu.IsWatched(linear))
            return true;
        ulong tag = TagOf(linear);
        ulong writeTag = translation.Writable && _cpu.Package.Code.AllowsFastWrites(page) ? tag : Tlb.NoTag;
        _tlb.Fill(entry, translation.Readable ? tag : Tlb.NoTag, writeTag, (long)(page - (linear & ~0xFFFUL)), physical & ~0xFFFUL);
        NoteLarge(linear, translation.PageShift);
        return true;
    }

    private void Move(byte* host, ulong physical, byte* data, int size, AccessKind kind)
    {
        if (kind == AccessKind.Probe)
            return;
        if (host == null)
        {
            DeviceAccess.Move(_cpu.Environment.Bus, physical, data, size, kind == AccessKind.Write);
            return;
        }
        if (kind == AccessKind.Read)
        {
            Copy(data, host, size);
            return;
        }
        Copy(host, data, size);
        _cpu.Package.Code.Written(host, size);
    }

    private Access CurrentRights() => RightsOf(_state->Cpl);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Access RightsOf(int cpl) =>
        cpl == 3 ? Access.User : (_state->SystemFlags & Rflags.Ac) != 0 ? Access.SmapOverride : Access.Read;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private TlbEntry* SetFor(Access access)
    {
        if ((access & Access.User) != 0)
            return _tlb.Set(Tlb.UserSet);
        return _tlb.Set(SupervisorSet((access & Access.SmapOverride) != 0 || (_state->Cr4 & Cr4.Smap) == 0));
    }

    private static int SupervisorSet(bool userPagesAllowed) => userPagesAllowed ? Tlb.SupervisorUserAllowedSet : Tlb.SupervisorSet;

    private uint CurrentPcid() => (_state->Cr4 & Cr4.Pcide) != 0 ? (uint)(_state->Cr3 & 0xFFF) : 0;

    private void NoteLarge(ulong linear, int shift)
    {
        if (shift == 12)
            return;
        if (shift == 30)
            _hugeRegions[(int)(linear >> 30 & 1023)] = true;
        else
            _largeRegions[(int)(linear >> 21 & 1023)] = true;
        if (shift == 22)
            _largeRegions[(int)(linear >> 21 & 1023) ^ 1] = true;
    }

    private bool NoteAccess(ulong linear, int size, Access access)
    {
        NoteWatchpoints(linear, size, access);
        return true;
    }

    private void NoteWatchpoints(ulong linear, int size, Access access)
    {
        if (_cpu.HasWatchpoints)
            _cpu.MatchWatchpoints(linear, size, (access & Access.Write) != 0);
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct CodeTlbEntry
    {
        public ulong Tag;
        public ulong Physical;
    }
}

/// <summary>Accesses to physical addresses without RAM, in naturally aligned pieces of at most 8 bytes.</summary>
internal static unsafe class DeviceAccess
{
    public static void Move(IProcessorBus bus, ulong physical, byte* data, int size, bool write)
    {
        while (size > 0)
        {
            int step = size >= 8 && (physical & 7) == 0 ? 8 : size >= 4 && (physical & 3) == 0 ? 4 : size >= 2 && (physical & 1) == 0 ? 2 : 1;
            if (write)
            {
                ulong value = 0;
                Unsafe.CopyBlockUnaligned(&value, data, (uint)step);
                bus.WriteMemory(physical, step, value);
            }
            else
            {
                ulong value = bus.ReadMemory(physical, step);
                Unsafe.CopyBlockUnaligned(data, &value, (uint)step);
            }
            physical += (ulong)step;
            data += step;
            size -= step;
        }
    }
}
