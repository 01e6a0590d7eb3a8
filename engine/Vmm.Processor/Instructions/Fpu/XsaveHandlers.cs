using Vmm.Processor.Execution;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Instructions.System;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>Whether an instruction saves 64-bit pointers: REX.W forms.</summary>
internal interface IPointerSize { static abstract bool Wide { get; } }
internal readonly struct Pointers64 : IPointerSize { public static bool Wide => true; }
internal readonly struct Pointers32 : IPointerSize { public static bool Wide => false; }

/// <summary>What tells the save instructions apart.</summary>
internal interface ISaveKind
{
    /// <summary>Components in their initial state are left out (SDM volume 1, section 13.6).</summary>
    static abstract bool SkipsInitial { get; }
    /// <summary>The compacted format.</summary>
    static abstract bool Compacts { get; }
    /// <summary>Supervisor components as well, at CPL 0.</summary>
    static abstract bool Supervisor { get; }
}

internal readonly struct Xsave : ISaveKind { public static bool SkipsInitial => false; public static bool Compacts => false; public static bool Supervisor => false; }
internal readonly struct Xsaveopt : ISaveKind { public static bool SkipsInitial => true; public static bool Compacts => false; public static bool Supervisor => false; }
internal readonly struct Xsavec : ISaveKind { public static bool SkipsInitial => true; public static bool Compacts => true; public static bool Supervisor => false; }
internal readonly struct Xsaves : ISaveKind { public static bool SkipsInitial => true; public static bool Compacts => true; public static bool Supervisor => true; }

/// <summary>What tells XRSTOR from XRSTORS.</summary>
internal interface IRestoreKind { static abstract bool Supervisor { get; } }
internal readonly struct Xrstor : IRestoreKind { public static bool Supervisor => false; }
internal readonly struct Xrstors : IRestoreKind { public static bool Supervisor => true; }

/// <summary>FXSAVE, FXRSTOR, the XSAVE family and XGETBV (SDM volume 1, chapter 13).</summary>
internal static unsafe class XsaveHandlers
{
    private const int AreaSize = ExtendedState.LegacySize + ExtendedState.HeaderSize;
    private const ulong CompactedBit = 1UL << 63;

    public static Insn* Fxsave<W, M>(CpuState* s, Insn* i) where W : struct, IPointerSize where M : struct, IAddressing
    {
        byte* area = stackalloc byte[ExtendedState.LegacySize];
        if (!Locate<M>(s, i, ExtendedState.LegacySize, 16, write: true, out ulong linear)
            || !BlockMemory.ReadForWrite(s, i, linear, area, ExtendedState.LegacySize))
            return null;
        // What the instruction does not define (reserved bytes, the registers that the mode lacks) keeps its contents.
        ExtendedState.SaveX87(s, area, W.Wide);
        ExtendedState.SaveMxcsr(s, area);
        ExtendedState.SaveXmm(s, area);
        return BlockMemory.Write(s, i, linear, area, ExtendedState.LegacySize) ? i + 1 : null;
    }

    public static Insn* Fxrstor<W, M>(CpuState* s, Insn* i) where W : struct, IPointerSize where M : struct, IAddressing
    {
        byte* area = stackalloc byte[ExtendedState.LegacySize];
        if (!Locate<M>(s, i, ExtendedState.LegacySize, 16, write: false, out ulong linear)
            || !BlockMemory.Read(s, i, linear, area, ExtendedState.LegacySize))
            return null;
        uint mxcsr = *(uint*)(area + ExtendedState.MxcsrOffset);
        if ((mxcsr & ~Mxcsr.Writable) != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);
        ExtendedState.LoadX87(s, area, W.Wide);
        s->Mxcsr = mxcsr;
        ExtendedState.LoadXmm(s, area);
        return i + 1;
    }

    public static Insn* Save<K, W, M>(CpuState* s, Insn* i) where K : struct, ISaveKind where W : struct, IPointerSize where M : struct, IAddressing
    {
        byte* area = stackalloc byte[AreaSize];
        if (!Permitted(s, i, K.Supervisor))
            return null;
        if (K.Supervisor && IsIntercepted(s))
            return InstructionInformation.Exit(s, i, ExitReason.Xsaves, InstructionInformation.OfMemory(i), InstructionInformation.Displacement(s, i));
        if (!Locate<M>(s, i, AreaSize, 64, write: true, out ulong linear))
            return null;
        ulong requested = Requested(s, K.Supervisor);
        ulong inUse = ExtendedState.InUse(s);
        if (K.Compacts && s->Mxcsr != Mxcsr.Default)
            inUse |= ExtendedState.SseBit;
        ulong saved = K.SkipsInitial ? requested & inUse : requested;
        if (!BlockMemory.ReadForWrite(s, i, linear, area, AreaSize))
            return null;
        if ((saved & ExtendedState.X87Bit) != 0)
            ExtendedState.SaveX87(s, area, W.Wide);
        if ((saved & ExtendedState.SseBit) != 0)
            ExtendedState.SaveXmm(s, area);
        // The standard format has MXCSR with SSE and AVX whether they are in use or not; the compacted one with SSE only.
        if (((K.Compacts ? saved : requested) & ExtendedState.SseBit) != 0 || (!K.Compacts && (requested & ExtendedState.AvxBit) != 0))
            ExtendedState.SaveMxcsr(s, area);
        ulong* header = (ulong*)(area + ExtendedState.LegacySize);
        header[0] = K.Compacts ? requested & inUse : (header[0] & ~requested) | (requested & inUse);
        if (K.Compacts)
            header[1] = requested | CompactedBit;
        return BlockMemory.Write(s, i, linear, area, AreaSize) ? i + 1 : null;
    }

    public static Insn* Restore<K, W, M>(CpuState* s, Insn* i) where K : struct, IRestoreKind where W : struct, IPointerSize where M : struct, IAddressing
    {
        byte* area = stackalloc byte[AreaSize];
        if (!Permitted(s, i, K.Supervisor))
            return null;
        if (K.Supervisor && IsIntercepted(s))
            return InstructionInformation.Exit(s, i, ExitReason.Xrstors, InstructionInformation.OfMemory(i), InstructionInformation.Displacement(s, i));
        if (!Locate<M>(s, i, AreaSize, 64, write: false, out ulong linear) || !BlockMemory.Read(s, i, linear, area, AreaSize))
            return null;
        ulong enabled = Enabled(s, K.Supervisor), requested = Requested(s, K.Supervisor);
        ulong* header = (ulong*)(area + ExtendedState.LegacySize);
        ulong present = header[0], layout = header[1];
        bool compacted = (layout & CompactedBit) != 0;
        if (!ValidHeader(header, enabled, compacted, K.Supervisor))
            return Fault.Raise(s, i, Vector.Gp, 0);
        uint mxcsr = *(uint*)(area + ExtendedState.MxcsrOffset);
        bool loadsMxcsr = compacted
            ? (requested & present & ExtendedState.SseBit) != 0
            : (requested & (ExtendedState.SseBit | ExtendedState.AvxBit)) != 0;
        if (loadsMxcsr && (mxcsr & ~Mxcsr.Writable) != 0)
            return Fault.Raise(s, i, Vector.Gp, 0);

        if ((requested & ExtendedState.X87Bit) != 0)
        {
            if ((present & ExtendedState.X87Bit) != 0)
                ExtendedState.LoadX87(s, area, W.Wide);
            else
                ExtendedState.InitialiseX87(s);
        }
        if ((requested & ExtendedState.SseBit) != 0)
        {
            if ((present & ExtendedState.SseBit) != 0)
                ExtendedState.LoadXmm(s, area);
            else
                ExtendedState.InitialiseXmm(s);
            if (compacted && (present & ExtendedState.SseBit) == 0)
                s->Mxcsr = Mxcsr.Default;
        }
        if (loadsMxcsr)
            s->Mxcsr = mxcsr;
        return i + 1;
    }

    /// <summary>XGETBV: XCR0, or for ECX = 1 the components of it that are in use.</summary>
    public static Insn* GetControl(CpuState* s, Insn* i)
    {
        if ((s->Cr4 & Cr4.Osxsave) == 0)
            return Fault.Raise(s, i, Vector.Ud);
        uint index = (uint)s->Gpr[Gpr.Rcx];
        if (index > 1)
            return Fault.Raise(s, i, Vector.Gp, 0);
        ulong value = index == 0 ? s->Xcr0 : s->Xcr0 & ExtendedState.InUse(s);
        s->Gpr[Gpr.Rax] = (uint)value;
        s->Gpr[Gpr.Rdx] = value >> 32;
        return i + 1;
    }

    /// <summary>Checks that come before everything else: CR4.OSXSAVE, what L0 allows, CR0.TS, CPL.</summary>
    private static bool Permitted(CpuState* s, Insn* i, bool supervisor)
    {
        if ((s->Cr4 & Cr4.Osxsave) == 0 || (supervisor && (s->SecondaryControls & SecondaryControls.EnableXsaves) == 0))
            Fault.Raise(s, i, Vector.Ud);
        else if ((s->Cr0 & Cr0.Ts) != 0)
            Fault.Raise(s, i, Vector.Nm);
        else if (supervisor && s->Cpl != 0)
            Fault.Raise(s, i, Vector.Gp, 0);
        else
            return true;
        return false;
    }

    /// <summary>Whether L0 wants to see this XSAVES or XRSTORS (SDM volume 3, section 26.1.3).</summary>
    private static bool IsIntercepted(CpuState* s) =>
        (s->Xss & Mask(s)) != 0 && (s->Xss & Mask(s) & LogicalProcessor.Of(s).Vmcs![VmcsField.XssExitingBitmap]) != 0;

    private static ulong Mask(CpuState* s) => (ulong)(uint)s->Gpr[Gpr.Rdx] << 32 | (uint)s->Gpr[Gpr.Rax];

    private static ulong Enabled(CpuState* s, bool supervisor) => supervisor ? s->Xcr0 | s->Xss : s->Xcr0;

    /// <summary>The requested-feature bitmap: EDX:EAX of what is enabled.</summary>
    private static ulong Requested(CpuState* s, bool supervisor) =>
        Enabled(s, supervisor) & Mask(s);

    /// <summary>The checks of SDM volume 1, sections 13.8 and 13.12.</summary>
    private static bool ValidHeader(ulong* header, ulong enabled, bool compacted, bool supervisor)
    {
        ulong present = header[0], layout = header[1];
        if (!compacted)
            return !supervisor && (present & ~enabled) == 0 && layout == 0 && header[2] == 0;
        if ((layout & ~CompactedBit & ~enabled) != 0 || (present & ~layout) != 0 || (present & CompactedBit) != 0)
            return false;
        for (int n = 2; n < ExtendedState.HeaderSize / 8; n++)
        {
            if (header[n] != 0)
                return false;
        }
        return true;
    }

    /// <summary>The linear address of an area, which must be aligned: #GP(0) if not.</summary>
    private static bool Locate<M>(CpuState* s, Insn* i, uint size, uint alignment, bool write, out ulong linear) where M : struct, IAddressing
    {
        if (!BlockMemory.Locate<M>(s, i, size, write, out linear))
            return false;
        if ((linear & (alignment - 1)) == 0)
            return true;
        Fault.Raise(s, i, Vector.Gp, 0);
        return false;
    }
}
