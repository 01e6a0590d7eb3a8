namespace Vmm.Testing.Oracle;

/// <content>Guest state.</content>
public sealed partial record EntryOracle
{
    private const uint Es = 0, Cs = 1, Ss = 2, Fs = 4, Gs = 5, Ldtr = 6, Tr = 7;

    private bool Protected => Bit(Field(0x6800), 0);

    private bool Virtual8086 => Bit(Field(0x6820), 17);

    private ulong Selector(uint segment) => Field(0x0800 + segment * 2);

    private ulong Base(uint segment) => Field(0x6806 + segment * 2);

    private ulong Limit(uint segment) => Field(0x4800 + segment * 2);

    private ulong Rights(uint segment) => Field(0x4814 + segment * 2);

    private bool Usable(uint segment) => !Bit(Rights(segment), 16);

    private ulong Dpl(uint segment) => Bits(Rights(segment), 6, 5);

    // 27.3.1.1
    private void GuestRegisters()
    {
        ulong cr0 = Field(0x6800), cr4 = Field(0x6804);
        bool paging = Bit(cr0, 31);
        // PE and PG are free with "unrestricted guest"; NW and CD always are.
        Guest(Fixed(cr0, 0x486, (UnrestrictedGuest ? 1UL | 1UL << 31 : 0) | 1UL << 29 | 1UL << 30));
        Guest(!paging || Bit(cr0, 0));
        Guest(Fixed(cr4, 0x488));
        if (Bit(EntryControls, 2))
            Guest((Field(0x2802) & ~DebugCtlBits) == 0 && Field(0x681A) >> 32 == 0);
        if (Ia32eGuest)
            Guest(paging && Bit(cr4, 5));
        else
            Guest(!Bit(cr4, 17));
        Guest(WithinWidth(Field(0x6802)));
        Guest(Canonical(Field(0x6824)) && Canonical(Field(0x6826)));
        if (Bit(EntryControls, 13))
            Guest((Field(0x2808) & ~PerfGlobalCtrlBits) == 0);
        if (Bit(EntryControls, 14))
            Guest(PatTypes(Field(0x2804)));
        if (Bit(EntryControls, 15))
        {
            ulong efer = Field(0x2806);
            Guest((efer & ~EferBits) == 0 && Bit(efer, 10) == Ia32eGuest);
            if (paging)
                Guest(Bit(efer, 10) == Bit(efer, 8));
        }
        if (Bit(EntryControls, 16))
            Guest(Bits(Field(0x2812), 11, 2) == 0 && Canonical(Field(0x2812)));
    }

    // 27.3.1.2 to 27.3.1.4
    private void GuestSegments()
    {
        Guest(!Bit(Selector(Tr), 2));
        if (Usable(Ldtr))
            Guest(!Bit(Selector(Ldtr), 2));
        if (!Virtual8086 && !UnrestrictedGuest)
            Guest(Bits(Selector(Ss), 1, 0) == Bits(Selector(Cs), 1, 0));

        Guest(Canonical(Base(Tr)) && Canonical(Base(Fs)) && Canonical(Base(Gs)));
        if (Usable(Ldtr))
            Guest(Canonical(Base(Ldtr)));
        Guest(Base(Cs) >> 32 == 0);
        foreach (uint segment in (uint[])[Ss, 3, Es])
            Guest(!Usable(segment) || Base(segment) >> 32 == 0);

        for (uint segment = Es; segment <= Gs; segment++)
        {
            if (Virtual8086)
                Guest(Base(segment) == Selector(segment) << 4 && Limit(segment) == 0xFFFF && Rights(segment) == 0xF3);
            else
                CodeOrDataSegment(segment);
        }

        ulong type = Bits(Rights(Tr), 3, 0);
        Guest(Usable(Tr) && (type == 11 || (type == 3 && !Ia32eGuest)));
        SystemSegment(Tr);
        if (Usable(Ldtr))
        {
            Guest(Bits(Rights(Ldtr), 3, 0) == 2);
            SystemSegment(Ldtr);
        }

        Guest(Canonical(Field(0x6816)) && Canonical(Field(0x6818)));
        Guest(Bits(Field(0x4810), 31, 16) == 0 && Bits(Field(0x4812), 31, 16) == 0);

        ulong rip = Field(0x681E), rflags = Field(0x6820);
        Guest(Ia32eGuest && Bit(Rights(Cs), 13) ? Canonical(rip) : rip >> 32 == 0);
        Guest(Bits(rflags, 63, 22) == 0 && !Bit(rflags, 15) && !Bit(rflags, 5) && !Bit(rflags, 3) && Bit(rflags, 1));
        if (Ia32eGuest || !Protected)
            Guest(!Bit(rflags, 17));
        if (Bit(Field(0x4016), 31) && Bits(Field(0x4016), 10, 8) == 0)
            Guest(Bit(rflags, 9));
    }

    private void CodeOrDataSegment(uint segment)
    {
        ulong rights = Rights(segment), type = Bits(rights, 3, 0);
        // SS.DPL is the privilege level, whether or not SS is usable.
        if (segment == Ss)
        {
            if (!UnrestrictedGuest)
                Guest(Dpl(Ss) == Bits(Selector(Ss), 1, 0));
            if (Bits(Rights(Cs), 3, 0) == 3 || !Protected)
                Guest(Dpl(Ss) == 0);
        }
        if (segment != Cs && !Usable(segment))
            return;
        switch (segment)
        {
            case Cs:
                Guest(type is 9 or 11 or 13 or 15 || (type == 3 && UnrestrictedGuest));
                Guest(type switch { 3 => Dpl(Cs) == 0, 9 or 11 => Dpl(Cs) == Dpl(Ss), 13 or 15 => Dpl(Cs) <= Dpl(Ss), _ => true });
                Guest(!Ia32eGuest || !Bit(rights, 13) || !Bit(rights, 14));
                break;
            case Ss:
                Guest(type is 3 or 7);
                break;
            default:
                Guest(Bit(type, 0) && (!Bit(type, 3) || Bit(type, 1)));
                if (!UnrestrictedGuest && type <= 11)
                    Guest(Dpl(segment) >= Bits(Selector(segment), 1, 0));
                break;
        }
        Guest(Bit(rights, 4) && Bit(rights, 7) && Bits(rights, 11, 8) == 0 && Bits(rights, 31, 17) == 0);
        Granularity(segment);
    }

    private void SystemSegment(uint segment)
    {
        ulong rights = Rights(segment);
        Guest(!Bit(rights, 4) && Bit(rights, 7) && Bits(rights, 11, 8) == 0 && Bits(rights, 31, 17) == 0);
        Granularity(segment);
    }

    private void Granularity(uint segment)
    {
        bool pages = Bit(Rights(segment), 15);
        Guest(Bits(Limit(segment), 11, 0) == 0xFFF || !pages);
        Guest(Bits(Limit(segment), 31, 20) == 0 || pages);
    }

    // 27.3.1.5 and 27.3.1.6
    private void GuestNonRegisterState()
    {
        ulong activity = Field(0x4826), blocking = Field(0x4824), information = Field(0x4016), rflags = Field(0x6820), pending = Field(0x6822);
        bool sti = Bit(blocking, 0), movSs = Bit(blocking, 1), injects = Bit(information, 31);
        ulong type = Bits(information, 10, 8), vector = Bits(information, 7, 0);

        Guest(activity == 0 || (activity <= 3 && Bit(Msr(0x485), 5 + (int)activity)));
        Guest(activity != 1 || Dpl(Ss) == 0);
        Guest(activity == 0 || !(sti || movSs));
        if (injects)
        {
            Guest(activity switch
            {
                1 => type is 0 or 2 || (type == 3 && vector is 1 or 18) || (type == 7 && vector == 0),
                2 => type == 2 || (type == 3 && vector == 18),
                3 => false,
                _ => true,
            });
        }

        Guest(Bits(blocking, 31, 4) == 0 && !Bit(blocking, 2) && !(sti && movSs));
        Guest(!sti || Bit(rflags, 9));
        if (injects && type == 0)
            Guest(!sti && !movSs);
        if (injects && type == 2)
        {
            Guest(!movSs);
            Guest(!Bit(Pin, 5) || !Bit(blocking, 3));
            Demand(!sti, EntryVerdicts.NmiUnderSti);
        }

        Guest(Bits(pending, 11, 4) == 0 && !Bit(pending, 13) && Bits(pending, 63, 15) == 0);
        if (sti || movSs || activity == 1)
            Guest(Bit(pending, 14) == (Bit(rflags, 8) && !Bit(Field(0x2802), 1)));

        ulong link = Field(0x2800);
        if (link != ulong.MaxValue)
        {
            bool page = Bits(link, 11, 0) == 0 && WithinWidth(link);
            Demand(page, EntryVerdicts.InvalidLinkPointer);
            if (page)
            {
                uint header = Memory(link);
                Demand(Bits(header, 30, 0) == Bits(Msr(0x480), 30, 0) && Bit(header, 31) == Bit(Secondary, 14), EntryVerdicts.InvalidLinkPointer);
            }
            Demand(link != CurrentVmcs, EntryVerdicts.InvalidLinkPointer);
        }

        if (Bit(Field(0x6800), 31) && Bit(Field(0x6804), 5) && !Ia32eGuest)
            Pdptes();
    }

    private void Pdptes()
    {
        for (uint k = 0; k < 4; k++)
        {
            ulong at = (Field(0x6802) & 0xFFFF_FFE0) + k * 8;
            ulong entry = EnableEpt ? Field(0x280A + k * 2) : Memory(at) | (ulong)Memory(at + 4) << 32;
            bool reserved = Bits(entry, 2, 1) != 0 || Bits(entry, 8, 5) != 0 || entry >> PhysicalAddressBits != 0;
            Demand(!Bit(entry, 0) || !reserved, EntryVerdicts.InvalidPdptes);
        }
    }
}
