namespace Vmm.Processor.Memory;

/// <summary>
/// The address-space tags of one processor. A tag belongs to a VPID, an EPT pointer (0 without EPT) and a PCID (SDM volume 3,
/// section 29.4.1), and to an APIC-access page, which no cached translation may lead to. Each combination has at most one live
/// tag; forgetting is to give it a fresh one, so that no cache is swept until the 4,095 tags have been used up.
/// </summary>
internal sealed class AddressSpaces
{
    private const int Tags = 4096;

    /// <summary>Beyond so many combinations of VPID, EPT pointer and APIC-access page, all are forgotten.</summary>
    private const int MostContexts = 64;

    // The base of the EPT tables alone identifies what INVEPT invalidates.
    private const ulong EptBase = 0x000F_FFFF_FFFF_F000;

    private readonly List<Context> _contexts = [];
    private Context _current = new(0, 0, Mmu.NoApicAccessPage);
    private int _next = 1;

    public AddressSpaces() => _contexts.Add(_current);

    /// <summary>Whether only one VPID has been seen.</summary>
    public bool HasOneVpid
    {
        get
        {
            foreach (Context context in _contexts)
            {
                if (context.Vpid != _current.Vpid)
                    return false;
            }
            return true;
        }
    }

    /// <summary>The VPID in use.</summary>
    public uint Vpid => _current.Vpid;

    /// <summary>Makes a combination of VPID, EPT pointer and APIC-access page the current one.</summary>
    public void Enter(uint vpid, ulong eptPointer, ulong apicAccessPage)
    {
        if (_current.Vpid == vpid && _current.EptPointer == eptPointer && _current.ApicAccessPage == apicAccessPage)
            return;
        foreach (Context context in _contexts)
        {
            if (context.Vpid == vpid && context.EptPointer == eptPointer && context.ApicAccessPage == apicAccessPage)
            {
                _current = context;
                return;
            }
        }
        if (_contexts.Count == MostContexts)
            _contexts.Clear();
        _current = new Context(vpid, eptPointer, apicAccessPage);
        _contexts.Add(_current);
    }

    /// <summary>The current tag of a PCID, a fresh one where it has none. <paramref name="wrapped"/>: tags start again, so every cache must be swept.</summary>
    public ulong Select(uint pcid, out bool wrapped)
    {
        wrapped = false;
        if (_current.Tags[pcid] != 0)
            return _current.Tags[pcid];
        if (_next == Tags)
        {
            ForgetAll();
            _next = 1;
            wrapped = true;
        }
        return _current.Add(pcid, (ushort)_next++);
    }

    /// <summary>Forgets a PCID of the current VPID, under whatever EPT pointer.</summary>
    public void Forget(uint pcid)
    {
        _current.Tags[pcid] = 0;
        if (_contexts.Count == 1)
            return;
        foreach (Context context in _contexts)
        {
            if (context.Vpid == _current.Vpid)
                context.Tags[pcid] = 0;
        }
    }

    /// <summary>Forgets VPID 0 under every EPT pointer.</summary>
    public void ForgetUntagged()
    {
        foreach (Context context in _contexts)
        {
            if (context.Vpid == 0 && context.EptPointer != 0)
                context.Forget();
        }
    }

    /// <summary>Forgets a VPID, or all but VPID 0.</summary>
    public void ForgetVpid(uint? vpid)
    {
        foreach (Context context in _contexts)
        {
            if (vpid is { } one ? context.Vpid == one : context.Vpid != 0)
                context.Forget();
        }
    }

    /// <summary>Forgets what was translated through the EPT tables of a pointer, or through any.</summary>
    public void ForgetEpt(ulong? eptPointer)
    {
        foreach (Context context in _contexts)
        {
            if (context.EptPointer != 0 && (eptPointer is not { } one || ((context.EptPointer ^ one) & EptBase) == 0))
                context.Forget();
        }
    }

    public void ForgetAll()
    {
        foreach (Context context in _contexts)
            context.Forget();
    }

    private sealed class Context(uint vpid, ulong eptPointer, ulong apicAccessPage)
    {
        private readonly List<ushort> _used = [];

        public uint Vpid { get; } = vpid;
        public ulong EptPointer { get; } = eptPointer;
        public ulong ApicAccessPage { get; } = apicAccessPage;
        public ushort[] Tags { get; } = new ushort[AddressSpaces.Tags];

        public ushort Add(uint pcid, ushort tag)
        {
            Tags[pcid] = tag;
            _used.Add((ushort)pcid);
            return tag;
        }

        public void Forget()
        {
            foreach (ushort pcid in _used)
                Tags[pcid] = 0;
            _used.Clear();
        }
    }
}
