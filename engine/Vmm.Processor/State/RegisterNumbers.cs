namespace Vmm.Processor.State;

/// <summary>General-purpose registers by the manual's encoding.</summary>
public static class Gpr
{
    public const int Rax = 0, Rcx = 1, Rdx = 2, Rbx = 3, Rsp = 4, Rbp = 5, Rsi = 6, Rdi = 7;
}

/// <summary>Segment registers by the manual's encoding; LDTR and TR follow as they do in <see cref="CpuState"/>.</summary>
public static class Seg
{
    public const int Es = 0, Cs = 1, Ss = 2, Ds = 3, Fs = 4, Gs = 5, Ldtr = 6, Tr = 7;
}

/// <summary>Bits of RFLAGS (SDM volume 1, section 3.4.3).</summary>
public static class Rflags
{
    public const ulong Cf = 1 << 0, Fixed1 = 1 << 1, Pf = 1 << 2, Af = 1 << 4, Zf = 1 << 6, Sf = 1 << 7, Tf = 1 << 8, If = 1 << 9,
        Df = 1 << 10, Of = 1 << 11, Iopl = 3 << 12, Nt = 1 << 14, Rf = 1 << 16, Vm = 1 << 17, Ac = 1 << 18, Vif = 1 << 19,
        Vip = 1 << 20, Id = 1 << 21;

    /// <summary>The six flags that arithmetic sets.</summary>
    public const ulong Arithmetic = Cf | Pf | Af | Zf | Sf | Of;

    /// <summary>Every flag that a program can change somehow.</summary>
    public const ulong All = Arithmetic | Tf | If | Df | Iopl | Nt | Rf | Vm | Ac | Vif | Vip | Id;
}

/// <summary>Bits of CR0 (SDM volume 3, section 2.5).</summary>
public static class Cr0
{
    public const ulong Pe = 1 << 0, Mp = 1 << 1, Em = 1 << 2, Ts = 1 << 3, Et = 1 << 4, Ne = 1 << 5, Wp = 1 << 16, Am = 1 << 18,
        Nw = 1 << 29, Cd = 1 << 30, Pg = 1UL << 31;
}

/// <summary>Bits of CR4 (SDM volume 3, section 2.5).</summary>
public static class Cr4
{
    public const ulong Vme = 1 << 0, Pvi = 1 << 1, Tsd = 1 << 2, De = 1 << 3, Pse = 1 << 4, Pae = 1 << 5, Mce = 1 << 6, Pge = 1 << 7,
        Pce = 1 << 8, Osfxsr = 1 << 9, Osxmmexcpt = 1 << 10, Umip = 1 << 11, La57 = 1 << 12, Vmxe = 1 << 13, Smxe = 1 << 14,
        Fsgsbase = 1 << 16, Pcide = 1 << 17, Osxsave = 1 << 18, Smep = 1 << 20, Smap = 1 << 21, Pke = 1 << 22;
}

/// <summary>Bits of IA32_EFER (SDM volume 3, section 2.2.1).</summary>
public static class Efer
{
    public const ulong Sce = 1 << 0, Lme = 1 << 8, Lma = 1 << 10, Nxe = 1 << 11;
}

/// <summary>Exception vectors (SDM volume 3, table 6-1).</summary>
public static class Vector
{
    public const uint De = 0, Db = 1, Nmi = 2, Bp = 3, Of = 4, Br = 5, Ud = 6, Nm = 7, Df = 8, Ts = 10, Np = 11, Ss = 12, Gp = 13,
        Pf = 14, Mf = 16, Ac = 17, Mc = 18, Xm = 19, Ve = 20;

    /// <summary>No vector: what an access records in place of a fault when it must leave as a VM exit (see <see cref="Memory.Mmu"/>).</summary>
    public const uint VmExit = 0x100;
}
