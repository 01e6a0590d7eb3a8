namespace Vmm.Testing.Oracle;

/// <summary>How a VM entry may end.</summary>
[Flags]
public enum EntryVerdicts
{
    /// <summary>The entry passes all checks.</summary>
    Entry = 1 << 0,

    /// <summary>VMfailValid, error 7: VM entry with invalid control fields.</summary>
    InvalidControls = 1 << 1,

    /// <summary>VMfailValid, error 8: VM entry with invalid host-state fields.</summary>
    InvalidHostState = 1 << 2,

    /// <summary>VM-entry failure due to invalid guest state, qualification 0.</summary>
    InvalidGuestState = 1 << 3,

    /// <summary>The same with qualification 2: PDPTEs.</summary>
    InvalidPdptes = 1 << 4,

    /// <summary>The same with qualification 3: an NMI under blocking by STI.</summary>
    NmiUnderSti = 1 << 5,

    /// <summary>The same with qualification 4: the VMCS link pointer.</summary>
    InvalidLinkPointer = 1 << 6,
}

/// <summary>
/// The checks of VM entry once more, written down in a straight line from SDM volume 3, sections 27.2.1 to 27.3.1.6, by encodings and
/// bit numbers: it shares nothing with the engine, so that each can find the other's errors. The manual leaves the order open within
/// 27.2 and within 27.3.1, so more than one verdict may be right. Without SMM, processor trace, CET, PKS, UINTR, FRED, RTM, SGX, sub-page
/// permissions and tertiary controls, of which the capability MSRs must allow none.
/// </summary>
/// <param name="Field">A field of the VMCS by its encoding.</param>
/// <param name="Msr">A VMX capability MSR by its number.</param>
/// <param name="Memory">Four bytes of memory at an address.</param>
/// <param name="PhysicalAddressBits">MAXPHYADDR.</param>
/// <param name="LinearAddressBits">Bits of a linear address: 48 or 57.</param>
/// <param name="EferBits">The bits of IA32_EFER that exist.</param>
/// <param name="DebugCtlBits">The bits of IA32_DEBUGCTL that exist.</param>
/// <param name="PerfGlobalCtrlBits">The bits of IA32_PERF_GLOBAL_CTRL that exist.</param>
/// <param name="LongMode">Whether the processor is in IA-32e mode outside non-root operation.</param>
/// <param name="CurrentVmcs">The current-VMCS pointer.</param>
public sealed partial record EntryOracle(
    Func<uint, ulong> Field, Func<uint, ulong> Msr, Func<ulong, uint> Memory, int PhysicalAddressBits, int LinearAddressBits, ulong EferBits,
    ulong DebugCtlBits, ulong PerfGlobalCtrlBits, bool LongMode, ulong CurrentVmcs)
{
    private EntryVerdicts _found;

    private ulong Pin => Field(0x4000);

    private ulong Primary => Field(0x4002);

    private ulong Secondary => Bit(Primary, 31) ? Field(0x401E) : 0;

    private ulong ExitControls => Field(0x400C);

    private ulong EntryControls => Field(0x4012);

    private bool UnrestrictedGuest => Bit(Secondary, 7);

    private bool EnableEpt => Bit(Secondary, 1);

    private bool Ia32eGuest => Bit(EntryControls, 9);

    /// <summary>Every verdict that the manual allows.</summary>
    public EntryVerdicts Judge()
    {
        _found = 0;
        ExecutionControls();
        ExitControlFields();
        EntryControlFields();
        HostState();
        if (_found != 0)
            return _found;
        GuestRegisters();
        GuestSegments();
        GuestNonRegisterState();
        return _found != 0 ? _found : EntryVerdicts.Entry;
    }

    private static bool Bit(ulong value, int bit) => (value >> bit & 1) != 0;

    private static ulong Bits(ulong value, int high, int low) => value >> low & ulong.MaxValue >> 63 - (high - low);

    private void Demand(bool holds, EntryVerdicts otherwise)
    {
        if (!holds)
            _found |= otherwise;
    }

    private void Control(bool holds) => Demand(holds, EntryVerdicts.InvalidControls);

    private void Host(bool holds) => Demand(holds, EntryVerdicts.InvalidHostState);

    private void Guest(bool holds) => Demand(holds, EntryVerdicts.InvalidGuestState);

    private bool WithinWidth(ulong physical) => physical >> PhysicalAddressBits == 0;

    private bool Page(uint encoding) => Bits(Field(encoding), 11, 0) == 0 && WithinWidth(Field(encoding));

    private bool Canonical(ulong address) => Canonical(address, LinearAddressBits);

    private static bool Canonical(ulong address, int bits)
    {
        int shift = 64 - bits;
        return (ulong)((long)(address << shift) >> shift) == address;
    }

    private static bool PatTypes(ulong pat)
    {
        for (int k = 0; k < 8; k++)
        {
            if ((pat >> k * 8 & 0xFF) is not (0 or 1 or 4 or 5 or 6 or 7))
                return false;
        }
        return true;
    }

    // Appendix A.3.1 to A.5: bits that are 1 in the low half must be 1, bits that are 0 in the high half must be 0.
    private bool Allowed(ulong value, uint msr, uint trueMsr)
    {
        ulong settings = Msr(trueMsr != 0 && Bit(Msr(0x480), 55) ? trueMsr : msr);
        return (~value & (uint)settings) == 0 && (value & ~(settings >> 32)) == 0;
    }

    private bool Fixed(ulong value, uint fixed0, ulong exempt = 0) => (~value & Msr(fixed0) & ~exempt) == 0 && (value & ~Msr(fixed0 + 1) & ~exempt) == 0;

    // 27.2.1.1
    private void ExecutionControls()
    {
        Control(Allowed(Pin, 0x481, 0x48D));
        Control(Allowed(Primary, 0x482, 0x48E));
        if (Bit(Primary, 31))
            Control(Allowed(Secondary, 0x48B, 0));
        Control(Field(0x400A) <= Bits(Msr(0x485), 24, 16));
        if (Bit(Primary, 25))
            Control(Page(0x2000) && Page(0x2002));
        if (Bit(Primary, 28))
            Control(Page(0x2004));
        bool tprShadow = Bit(Primary, 21), apicAccesses = Bit(Secondary, 0), x2Apic = Bit(Secondary, 4), registers = Bit(Secondary, 8), delivery = Bit(Secondary, 9);
        if (tprShadow)
        {
            Control(Page(0x2012));
            if (!delivery)
                Control(Bits(Field(0x401C), 31, 4) == 0);
            if (Page(0x2012) && !delivery && !apicAccesses)
                Control(Bits(Field(0x401C), 3, 0) <= Bits(Memory(Field(0x2012) + 0x80), 7, 4));
        }
        else
        {
            Control(!x2Apic && !registers && !delivery);
        }
        if (!Bit(Pin, 3))
            Control(!Bit(Pin, 5));
        if (!Bit(Pin, 5))
            Control(!Bit(Primary, 22));
        if (apicAccesses)
            Control(Page(0x2014));
        if (x2Apic)
            Control(!apicAccesses);
        if (delivery)
            Control(Bit(Pin, 0));
        if (Bit(Pin, 7))
        {
            Control(delivery && Bit(ExitControls, 15) && Bits(Field(0x0002), 15, 8) == 0);
            Control(Bits(Field(0x2016), 5, 0) == 0 && WithinWidth(Field(0x2016)));
        }
        if (Bit(Secondary, 5))
            Control(Field(0x0000) != 0);
        if (EnableEpt)
            Control(EptPointer(Field(0x201A)));
        if (Bit(Secondary, 17))
            Control(EnableEpt && Page(0x200E));
        if (UnrestrictedGuest || Bit(Secondary, 22))
            Control(EnableEpt);
        if (Bit(Secondary, 18))
            Control(Page(0x202A));
        if (Bit(Secondary, 13))
        {
            ulong functions = Field(0x2018);
            Control((functions & ~Msr(0x491)) == 0);
            if (Bit(functions, 0))
                Control(EnableEpt && Page(0x2024));
        }
        if (Bit(Secondary, 14))
            Control(Page(0x2026) && Page(0x2028));
        if (Bit(Secondary, 25))
            Control(Field(0x2032) != 0);
    }

    private bool EptPointer(ulong pointer)
    {
        ulong capabilities = Msr(0x48C);
        bool type = Bits(pointer, 2, 0) switch { 0 => Bit(capabilities, 8), 6 => Bit(capabilities, 14), _ => false };
        bool length = Bits(pointer, 5, 3) switch { 3 => Bit(capabilities, 6), 4 => Bit(capabilities, 7), _ => false };
        return type && length && (!Bit(pointer, 6) || Bit(capabilities, 21)) && (!Bit(pointer, 7) || Bit(capabilities, 23)) && Bits(pointer, 11, 8) == 0 && WithinWidth(pointer);
    }

    private void MsrArea(uint count, uint address)
    {
        if (Field(count) == 0)
            return;
        ulong last = Field(address) + Field(count) * 16 - 1;
        int bits = Bit(Msr(0x480), 48) ? 32 : PhysicalAddressBits;
        Control(Bits(Field(address), 3, 0) == 0 && Field(address) >> bits == 0 && last >> bits == 0);
    }

    // 27.2.1.2
    private void ExitControlFields()
    {
        Control(Allowed(ExitControls, 0x483, 0x48F));
        if (!Bit(Pin, 6))
            Control(!Bit(ExitControls, 22));
        MsrArea(0x400E, 0x2006);
        MsrArea(0x4010, 0x2008);
    }

    // 27.2.1.3
    private void EntryControlFields()
    {
        Control(Allowed(EntryControls, 0x484, 0x490));
        MsrArea(0x4014, 0x200A);
        Control(!Bit(EntryControls, 10) && !Bit(EntryControls, 11));
        ulong information = Field(0x4016);
        if (!Bit(information, 31))
            return;
        ulong type = Bits(information, 10, 8), vector = Bits(information, 7, 0);
        bool monitorTrap = Bit(Bit(Msr(0x480), 55) ? Msr(0x48E) : Msr(0x482), 32 + 27);
        Control(type != 1 && (type != 7 || monitorTrap));
        Control(type switch { 2 => vector == 2, 3 => vector <= 31, 7 => vector == 0, _ => true });
        bool errorCode = Bit(information, 11);
        bool mayDeliver = type == 3 && (!UnrestrictedGuest || Bit(Field(0x6800), 0));
        if (Bit(Msr(0x480), 56))
            Control(!errorCode || mayDeliver);
        else
            Control(errorCode == (mayDeliver && vector is 8 or (>= 10 and <= 14) or 17));
        Control(Bits(information, 30, 12) == 0);
        if (errorCode)
            Control(Bits(Field(0x4018), 31, 16) == 0);
        if (type is 4 or 5 or 6)
            Control(Field(0x401A) <= 15 && (Field(0x401A) != 0 || Bit(Msr(0x485), 30)));
    }

    // 27.2.2 to 27.2.4
    private void HostState()
    {
        bool wide = Bit(ExitControls, 9);
        Host(Fixed(Field(0x6C00), 0x486));
        Host(Fixed(Field(0x6C04), 0x488));
        Host(WithinWidth(Field(0x6C02)));
        Host(Canonical(Field(0x6C10)) && Canonical(Field(0x6C12)));
        if (Bit(ExitControls, 12))
            Host((Field(0x2C04) & ~PerfGlobalCtrlBits) == 0);
        if (Bit(ExitControls, 19))
            Host(PatTypes(Field(0x2C00)));
        if (Bit(ExitControls, 21))
        {
            ulong efer = Field(0x2C02);
            Host((efer & ~EferBits) == 0 && Bit(efer, 10) == wide && Bit(efer, 8) == wide);
        }
        for (uint selector = 0x0C00; selector <= 0x0C0C; selector += 2)
            Host(Bits(Field(selector), 2, 0) == 0);
        Host(Field(0x0C02) != 0 && Field(0x0C0C) != 0);
        if (!wide)
            Host(Field(0x0C04) != 0);
        for (uint address = 0x6C06; address <= 0x6C0E; address += 2)
            Host(Canonical(Field(address)));
        if (!LongMode)
            Host(!Ia32eGuest && !wide);
        else
            Host(wide);
        if (!wide)
            Host(!Ia32eGuest && !Bit(Field(0x6C04), 17) && Field(0x6C16) >> 32 == 0);
        else
            // Alone of all, this address is judged by a CR4.LA57, that of the host-state area ("5-Level Paging and 5-Level EPT", 3.3).
            Host(Bit(Field(0x6C04), 5) && Canonical(Field(0x6C16), Bit(Field(0x6C04), 12) ? 57 : 48));
    }
}
