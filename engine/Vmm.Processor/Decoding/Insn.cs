using System.Runtime.InteropServices;

namespace Vmm.Processor.Decoding;

/// <summary>Prefix facts that a handler may need.</summary>
[Flags]
public enum InsnPrefixes : byte
{
    None = 0,
    /// <summary>LOCK.</summary>
    Lock = 1,
    /// <summary>F3 on a string instruction.</summary>
    Rep = 2,
    /// <summary>F2 on a string instruction.</summary>
    Repne = 4,
}

/// <summary>
/// One decoded instruction, bound to its handler. 64 bytes, in native memory, part of a trace. A handler executes it and
/// returns the instruction to execute next (normally the following one), or null to return to the dispatcher with
/// <see cref="CpuState.Stop"/> set.
/// </summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
public unsafe struct Insn
{
    /// <summary>What executes this instruction.</summary>
    public Handler Handler;

    /// <summary>
    /// The immediate, extended to 64 bits as the manual says. For a near branch: the target as a distance from the trace's
    /// first instruction, so that the new RIP is <see cref="CpuState.TraceRip"/> plus this. For a far pointer: offset in bits
    /// 31:0, selector in bits 47:32. For ENTER: size in bits 15:0, level in bits 23:16.
    /// </summary>
    public ulong Immediate;

    /// <summary>The displacement of the memory operand, sign-extended; for a RIP-relative one relative to the trace's first instruction.</summary>
    public long Displacement;

    /// <summary>The address-size mask: 0xFFFF, 0xFFFFFFFF or all ones.</summary>
    public ulong AddressMask;

    /// <summary>Where a direct branch goes, once linked; owned by the trace cache.</summary>
    public Insn* Link;

    /// <summary>Register operands by position: byte offsets into <see cref="CpuState"/>, so AH is RAX's offset plus one.</summary>
    public ushort Operand0, Operand1, Operand2;

    /// <summary>Base and index of the memory operand: byte offsets into <see cref="CpuState"/>; the zero slot where absent.</summary>
    public ushort Base, Index;

    /// <summary>What 64-bit mode adds to the effective address: the offset of FS.base or GS.base, or of the zero slot.</summary>
    public ushort SegmentBase;

    /// <summary>Distance in bytes from the trace's first instruction.</summary>
    public ushort Offset;

    /// <summary>How many instructions of the trace have retired once this one has: 1 for the first.</summary>
    public ushort Count;

    /// <summary>Length in bytes.</summary>
    public byte Length;

    /// <summary>Log2 of the index scale.</summary>
    public byte Scale;

    /// <summary>The segment register of the memory operand, override applied: <see cref="Seg"/>.</summary>
    public byte Segment;

    /// <summary>Prefixes.</summary>
    public InsnPrefixes Prefixes;

    /// <summary>Iced's code for this instruction, for handlers that serve several and for diagnostics.</summary>
    public ushort Code;

    /// <summary>RIP of this instruction, given the running state.</summary>
    public static ulong Rip(CpuState* s, Insn* i) => s->TraceRip + i->Offset;

    /// <summary>RIP of the following instruction, not yet wrapped to the code size.</summary>
    public static ulong NextRip(CpuState* s, Insn* i) => s->TraceRip + i->Offset + i->Length;
}

/// <summary>One entry of the jump cache: a RIP whose trace is known.</summary>
[StructLayout(LayoutKind.Sequential, Size = 32)]
public unsafe struct JumpCacheEntry
{
    /// <summary>RIP.</summary>
    public ulong Rip;
    /// <summary><see cref="CpuState.JumpKey"/> under which the entry is good.</summary>
    public ulong Key;
    /// <summary>The trace's first instruction.</summary>
    public Insn* First;
    /// <summary>How many instructions the trace has.</summary>
    public long Length;
}
