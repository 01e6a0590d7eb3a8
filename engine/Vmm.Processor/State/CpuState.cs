using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.State;

/// <summary>Why the inner loop came back to the dispatcher.</summary>
public enum StopReason : int
{
    /// <summary>Nothing in particular: look up the trace at <see cref="CpuState.Rip"/> and go on.</summary>
    Dispatch,

    /// <summary>The instruction at <see cref="CpuState.Rip"/> raised the exception in the fault fields.</summary>
    Fault,

    /// <summary>A VM exit is described in the exit fields of the current VMCS.</summary>
    VmExit,
}

/// <summary>
/// The registers of one logical processor, blittable and in native memory so that handlers and compiled code reach them at
/// constant offsets. Instruction operands name registers by their byte offset in here.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct CpuState
{
    /// <summary>RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the manual's encoding order.</summary>
    public fixed ulong Gpr[16];

    /// <summary>Always zero: what an absent base, index or segment base refers to.</summary>
    public ulong Zero;

    /// <summary>RIP of the first instruction of the running trace: what RIP-relative operands add to.</summary>
    public ulong TraceRip;

    /// <summary>Lazy arithmetic flags, first half: see <see cref="Flags"/>.</summary>
    public long FlagResult;

    /// <summary>Lazy arithmetic flags, second half: see <see cref="Flags"/>.</summary>
    public ulong FlagCarries;

    /// <summary>The instruction pointer. Current only outside a trace; inside, it is <see cref="TraceRip"/> plus <see cref="Insn.Offset"/>.</summary>
    public ulong Rip;

    /// <summary>Instructions left before the dispatcher must return. Settled at the ends of traces.</summary>
    public long Budget;

    /// <summary>The translation cache for the current privilege and SMAP state.</summary>
    public TlbEntry* Tlb;

    /// <summary>The address-space tag in the low 12 bits of TLB tags.</summary>
    public ulong TlbContext;

    /// <summary>What a jump-cache entry must carry to be good now: address space, mode and privilege.</summary>
    public ulong JumpKey;

    /// <summary>Where recently executed RIPs have their traces.</summary>
    public JumpCacheEntry* JumpCache;

    /// <summary>
    /// Nonzero when something waits for the dispatcher: <see cref="Execution.LogicalProcessor.AttentionExit"/> (an interrupt, a
    /// request; set from any thread) or <see cref="Execution.LogicalProcessor.AttentionBoundary"/>.
    /// </summary>
    public int Attention;

    /// <summary>Why a handler returned null.</summary>
    public StopReason Stop;

    /// <summary>RFLAGS without CF, PF, AF, ZF, SF and OF (those are lazy). Bit 1 is set.</summary>
    public ulong SystemFlags;

    /// <summary>ES, CS, SS, DS, FS, GS in the manual's order, then LDTR and TR: use <see cref="Segment(CpuState*, int)"/>.</summary>
    public SegmentState Es, Cs, Ss, Ds, Fs, Gs, Ldtr, Tr;

    /// <summary>GDTR base and limit.</summary>
    public ulong GdtBase;
    /// <summary>IDTR base.</summary>
    public ulong IdtBase;
    /// <summary>GDTR limit.</summary>
    public uint GdtLimit;
    /// <summary>IDTR limit.</summary>
    public uint IdtLimit;

    /// <summary>Current privilege level (SS.DPL in protected mode, 3 in virtual-8086 mode, 0 in real mode).</summary>
    public int Cpl;

    /// <summary>16, 32 or 64: the default size of the running code segment.</summary>
    public int CodeSize;

    /// <summary>Blocking by STI or MOV SS for the next instruction (the VMX interruptibility bits 0 and 1).</summary>
    public uint InterruptShadow;

    /// <summary>Control registers.</summary>
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8;

    /// <summary>XCR0.</summary>
    public ulong Xcr0;

    /// <summary>DR0 to DR3.</summary>
    public fixed ulong Dr[4];
    /// <summary>DR6 and DR7.</summary>
    public ulong Dr6, Dr7;

    /// <summary>Model-specific registers that the processor itself acts on.</summary>
    public ulong Efer, Star, Lstar, Cstar, Fmask, KernelGsBase, TscAux, SysenterCs, SysenterEsp, SysenterEip, Pat, DebugCtl, Xss;

    /// <summary>The pending exception, when <see cref="Stop"/> is <see cref="StopReason.Fault"/>.</summary>
    public uint FaultVector;
    /// <summary>Its error code.</summary>
    public uint FaultError;
    /// <summary>Its linear address for a page fault (CR2), the DR6 bits for a debug exception.</summary>
    public ulong FaultAddress;
    /// <summary>Whether it pushes an error code.</summary>
    public bool FaultHasError;

    /// <summary>x87 control word.</summary>
    public ushort Fcw;
    /// <summary>x87 status word without TOP (see <see cref="FpuTop"/>).</summary>
    public ushort Fsw;
    /// <summary>x87 tags, abridged as in FXSAVE: bit i is set where physical register i is not empty.</summary>
    public ushort Ftw;
    /// <summary>x87 last opcode.</summary>
    public ushort Fop;
    /// <summary>x87 TOP, 0 to 7.</summary>
    public int FpuTop;
    /// <summary>SSE control and status.</summary>
    public uint Mxcsr;
    /// <summary>x87 last instruction and operand pointers.</summary>
    public ulong Fip, Fdp;
    /// <summary>x87 last instruction and operand selectors.</summary>
    public ushort Fcs, Fds;

    /// <summary>The current VMCS's controls, copied at VM entry for the handlers that intercept.</summary>
    public PinControls PinControls;
    /// <inheritdoc cref="PinControls"/>
    public ProcControls ProcControls;
    /// <inheritdoc cref="PinControls"/>
    public SecondaryControls SecondaryControls;
    /// <inheritdoc cref="PinControls"/>
    public uint ExceptionBitmap;

    /// <summary>Answers to CPUID that need no exit: <see cref="Vmx.CpuidAnswers"/>. Null where each of them is to exit.</summary>
    public CpuidAnswer* CpuidAnswers;

    /// <summary>Whether NMIs are blocked until IRET.</summary>
    public bool NmiBlocked;
    /// <summary>Blocking by SMI: the guest is in system-management mode, where RSM is an instruction and exits.</summary>
    public bool SmiBlocked;

    /// <summary>Whether the IRET that is executing has ended blocking by NMI: a VM exit in its middle reports that.</summary>
    public bool NmiUnblocking;

    /// <summary>Whether MONITOR has armed the monitoring of an address range, for the exit qualification of MWAIT.</summary>
    public bool MonitorArmed;

    /// <summary>Set by HLT and MWAIT, by start-up waits and by shutdown; the dispatcher leaves when it is not active.</summary>
    public ActivityState Activity;

    /// <summary>DR6 bits of debug exceptions that wait for an instruction boundary (single step, data breakpoints; VMX's pending debug exceptions).</summary>
    public ulong PendingDebug;

    /// <summary>What APIC virtualization has for the next instruction boundary: <see cref="Vmx.VirtualApic.ApicEvents"/>.</summary>
    public Vmx.VirtualApic.ApicEvents ApicEvents;

    /// <summary>The length of the instruction whose access has met a VM exit, when <see cref="FaultVector"/> says so; 0 if unknown.</summary>
    public uint FaultLength;

    /// <summary>A GC handle on the <see cref="Execution.LogicalProcessor"/> that owns this state.</summary>
    public nint Self;

    /// <summary>Instructions retired before the current budget was granted.</summary>
    public ulong RetiredBase;
    /// <summary>The budget as granted; retired = <see cref="RetiredBase"/> + granted - <see cref="Budget"/>.</summary>
    public long BudgetGranted;

    /// <summary>
    /// Instructions of the running trace before the one that is accessing a device, so that the device sees the exact time; zero
    /// otherwise.
    /// </summary>
    public long Position;

    /// <summary>Where compiled code and the slow accesses that it calls hand each other a value.</summary>
    public fixed ulong Scratch[2];

    /// <summary>Pending flags of compiled code: what set them (<see cref="Translation.LazyFlags.Kind"/>), or 0 where <see cref="FlagResult"/> and <see cref="FlagCarries"/> are good. Always 0 for the interpreter.</summary>
    public long FlagKind;

    /// <summary>The operands of what set the pending flags.</summary>
    public ulong FlagA, FlagB, FlagC;

    /// <summary>What native code and the managed code that runs it tell each other.</summary>
    public Translation.Native.NativeFrame Native;

    /// <summary>x87 physical registers R0 to R7 (MMX is their low halves): 16 bytes each, significand then sign and exponent. Reach them by <see cref="FpuOffset"/>.</summary>
    public fixed ulong Fpu[16];

    /// <summary>XMM0 to XMM15, 16 bytes each.</summary>
    public fixed ulong Xmm[32];

    /// <summary>Byte offset of a general-purpose register.</summary>
    public static int GprOffset(int register) => register * 8;

    // Managed and marshalled layout differ where there are booleans, so the offsets are measured.
    private static ushort OffsetOf(Func<nint, nint> field)
    {
        CpuState state = default;
        return (ushort)(field((nint)(&state)) - (nint)(&state));
    }

    /// <summary>Byte offset of the always-zero slot.</summary>
    public static readonly ushort ZeroOffset = OffsetOf(s => (nint)(&((CpuState*)s)->Zero));
    /// <summary>Byte offset of <see cref="TraceRip"/>.</summary>
    public static readonly ushort TraceRipOffset = OffsetOf(s => (nint)(&((CpuState*)s)->TraceRip));
    /// <summary>Byte offset of the ES segment; the others follow at <see cref="SegmentState"/>'s size.</summary>
    public static readonly ushort SegmentsOffset = OffsetOf(s => (nint)(&((CpuState*)s)->Es));
    /// <summary>Byte offset of physical x87 register R0.</summary>
    public static readonly ushort FpuOffset = OffsetOf(s => (nint)(((CpuState*)s)->Fpu));
    /// <summary>Byte offset of XMM0.</summary>
    public static readonly ushort XmmOffset = OffsetOf(s => (nint)(((CpuState*)s)->Xmm));

    /// <summary>A segment register by the manual's number: ES 0, CS 1, SS 2, DS 3, FS 4, GS 5; 6 is LDTR and 7 is TR.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static SegmentState* Segment(CpuState* s, int number) => &s->Es + number;
}

/// <summary>A segment register with its hidden part.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct SegmentState
{
    /// <summary>Base linear address.</summary>
    public ulong Base;

    /// <summary>One past the last offset that a read may touch without a closer look; 0 where every read needs one.</summary>
    public ulong ReadEnd;

    /// <summary>The same for writes.</summary>
    public ulong WriteEnd;

    /// <summary>Limit in bytes.</summary>
    public uint Limit;

    /// <summary>Access rights in the VMCS format (SDM volume 3, table 25-2): type, S, DPL, P, AVL, L, D/B, G, unusable in bit 16.</summary>
    public uint Rights;

    /// <summary>The selector.</summary>
    public ushort Selector;

    /// <summary>Whether the segment may not be used (a null selector).</summary>
    public readonly bool Unusable => (Rights & SegmentRights.Unusable) != 0;

    /// <summary>Descriptor privilege level.</summary>
    public readonly int Dpl => (int)(Rights >> 5) & 3;

    /// <summary>Recomputes <see cref="ReadEnd"/> and <see cref="WriteEnd"/> after a change of limit or rights.</summary>
    public void Refresh()
    {
        bool usable = (Rights & (SegmentRights.Unusable | SegmentRights.Present)) == SegmentRights.Present;
        bool code = (Rights & SegmentRights.Code) != 0;
        bool expandDown = !code && (Rights & SegmentRights.ExpandDown) != 0;
        ulong end = usable && !expandDown ? (ulong)Limit + 1 : 0;
        ReadEnd = !code || (Rights & SegmentRights.Readable) != 0 ? end : 0;
        WriteEnd = !code && (Rights & SegmentRights.Writable) != 0 ? end : 0;
    }
}

/// <summary>Bits of <see cref="SegmentState.Rights"/> (SDM volume 3, table 25-2).</summary>
public static class SegmentRights
{
    public const uint Accessed = 1 << 0;
    public const uint Writable = 1 << 1;
    public const uint Readable = 1 << 1;
    public const uint ExpandDown = 1 << 2;
    public const uint Conforming = 1 << 2;
    public const uint Code = 1 << 3;
    public const uint NotSystem = 1 << 4;
    public const uint Present = 1 << 7;
    public const uint Available = 1 << 12;
    public const uint Long = 1 << 13;
    public const uint Big = 1 << 14;
    public const uint Granular = 1 << 15;
    public const uint Unusable = 1 << 16;
}
