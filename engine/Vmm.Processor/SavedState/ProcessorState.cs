namespace Vmm.Processor.SavedState;

/// <summary>
/// What a logical processor holds between a VM exit and the next entry. The guest-state area of the VMCS has the rest: RSP, RIP, RFLAGS,
/// segments, CR0, CR3, CR4.
/// </summary>
public sealed record ProcessorState
{
    /// <summary>Instructions that it has retired.</summary>
    public required ulong InstructionsRetired { get; init; }

    /// <summary>The general-purpose registers but for RSP.</summary>
    public required GeneralRegistersState General { get; init; }

    /// <summary>CR2.</summary>
    public required ulong Cr2 { get; init; }

    /// <summary>CR8.</summary>
    public required ulong Cr8 { get; init; }

    /// <summary>XCR0.</summary>
    public required ulong Xcr0 { get; init; }

    /// <summary>DR0 to DR3.</summary>
    public required ulong[] DebugAddresses { get; init; }

    /// <summary>DR6.</summary>
    public required ulong Dr6 { get; init; }

    /// <summary>DR7.</summary>
    public required ulong Dr7 { get; init; }

    /// <summary>The PDPTE registers.</summary>
    public required ulong[] Pdptes { get; init; }

    /// <summary>The model-specific registers.</summary>
    public required ProcessorMsrsState Msrs { get; init; }

    /// <summary>x87, and MMX in it.</summary>
    public required X87State X87 { get; init; }

    /// <summary>MXCSR.</summary>
    public required uint Mxcsr { get; init; }

    /// <summary>XMM0 to XMM15, 16 bytes each.</summary>
    public required byte[][] Xmm { get; init; }
}

/// <summary>The general-purpose registers but for RSP.</summary>
public sealed record GeneralRegistersState
{
    public required ulong Rax { get; init; }
    public required ulong Rcx { get; init; }
    public required ulong Rdx { get; init; }
    public required ulong Rbx { get; init; }
    public required ulong Rbp { get; init; }
    public required ulong Rsi { get; init; }
    public required ulong Rdi { get; init; }
    public required ulong R8 { get; init; }
    public required ulong R9 { get; init; }
    public required ulong R10 { get; init; }
    public required ulong R11 { get; init; }
    public required ulong R12 { get; init; }
    public required ulong R13 { get; init; }
    public required ulong R14 { get; init; }
    public required ulong R15 { get; init; }
}

/// <summary>The model-specific registers that the processor itself acts on, but for the bases of FS and GS, which are in the segments.</summary>
public sealed record ProcessorMsrsState
{
    public required ulong Efer { get; init; }
    public required ulong Star { get; init; }
    public required ulong Lstar { get; init; }
    public required ulong Cstar { get; init; }
    public required ulong Fmask { get; init; }
    public required ulong KernelGsBase { get; init; }
    public required ulong TscAux { get; init; }
    public required ulong SysenterCs { get; init; }
    public required ulong SysenterEsp { get; init; }
    public required ulong SysenterEip { get; init; }
    public required ulong Pat { get; init; }
    public required ulong DebugCtl { get; init; }
    public required ulong Xss { get; init; }
}

/// <summary>The x87 unit.</summary>
public sealed record X87State
{
    /// <summary>The control word.</summary>
    public required ushort ControlWord { get; init; }

    /// <summary>The status word but for TOP.</summary>
    public required ushort StatusWord { get; init; }

    /// <summary>TOP, 0 to 7.</summary>
    public required int Top { get; init; }

    /// <summary>The tags as FXSAVE has them: bit i is set where physical register i is not empty.</summary>
    public required ushort Tags { get; init; }

    /// <summary>The last opcode.</summary>
    public required ushort Opcode { get; init; }

    /// <summary>The last instruction pointer.</summary>
    public required ulong InstructionPointer { get; init; }

    /// <summary>Its selector.</summary>
    public required ushort InstructionSelector { get; init; }

    /// <summary>The last operand pointer.</summary>
    public required ulong DataPointer { get; init; }

    /// <summary>Its selector.</summary>
    public required ushort DataSelector { get; init; }

    /// <summary>The physical registers R0 to R7.</summary>
    public required X87RegisterState[] Registers { get; init; }
}

/// <summary>A physical x87 register.</summary>
public sealed record X87RegisterState
{
    /// <summary>The significand, or the MMX register.</summary>
    public required ulong Significand { get; init; }

    /// <summary>The exponent, and the sign in bit 15.</summary>
    public required ulong SignAndExponent { get; init; }
}
