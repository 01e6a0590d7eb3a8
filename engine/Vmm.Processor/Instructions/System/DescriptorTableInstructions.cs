using System.Runtime.InteropServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Instructions.Integer;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>GDTR, IDTR, LDTR and TR, and the instructions that look at descriptors for a program (SDM volume 2).</summary>
internal static unsafe class DescriptorTableInstructions
{
    [StructLayout(LayoutKind.Sequential, Pack = 2)]
    private struct NarrowTable
    {
        public ushort Limit;
        public uint Base;
    }

    [StructLayout(LayoutKind.Sequential, Pack = 2)]
    private struct WideTable
    {
        public ushort Limit;
        public ulong Base;
    }

    /// <summary>SGDT (<paramref name="T"/> is the base's type in memory).</summary>
    public static Insn* StoreGdt<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        StoreTable<T, M>(s, i, 0, s->GdtBase, s->GdtLimit);

    /// <summary>SIDT.</summary>
    public static Insn* StoreIdt<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing =>
        StoreTable<T, M>(s, i, 1, s->IdtBase, s->IdtLimit);

    /// <summary>LGDT.</summary>
    public static Insn* LoadGdt<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!LoadTable<T, M>(s, i, 2, out ulong address, out ushort limit))
            return null;
        s->GdtBase = address;
        s->GdtLimit = limit;
        return i + 1;
    }

    /// <summary>LIDT.</summary>
    public static Insn* LoadIdt<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!LoadTable<T, M>(s, i, 3, out ulong address, out ushort limit))
            return null;
        s->IdtBase = address;
        s->IdtLimit = limit;
        return i + 1;
    }

    /// <summary>SLDT r.</summary>
    public static Insn* StoreLdtr<T>(CpuState* s, Insn* i) where T : unmanaged => StoreSelector<T>(s, i, 0, s->Ldtr.Selector);

    /// <summary>SLDT m16.</summary>
    public static Insn* StoreLdtrMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing => StoreSelectorMemory<M>(s, i, 0, s->Ldtr.Selector);

    /// <summary>STR r.</summary>
    public static Insn* StoreTr<T>(CpuState* s, Insn* i) where T : unmanaged => StoreSelector<T>(s, i, 1, s->Tr.Selector);

    /// <summary>STR m16.</summary>
    public static Insn* StoreTrMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing => StoreSelectorMemory<M>(s, i, 1, s->Tr.Selector);

    /// <summary>LLDT r.</summary>
    public static Insn* LoadLdtr(CpuState* s, Insn* i) =>
        MayLoad(s, i, 2, memory: false) ? LoadLdtr(s, i, Register.Read<ushort>(s, i->Operand0)) : null;

    /// <summary>LLDT m16.</summary>
    public static Insn* LoadLdtrMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        MayLoad(s, i, 2, memory: true) && Operand.Read<ushort, M>(s, i, out ushort selector) ? LoadLdtr(s, i, selector) : null;

    /// <summary>LTR r.</summary>
    public static Insn* LoadTr(CpuState* s, Insn* i) =>
        MayLoad(s, i, 3, memory: false) ? LoadTr(s, i, Register.Read<ushort>(s, i->Operand0)) : null;

    /// <summary>LTR m16.</summary>
    public static Insn* LoadTrMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing =>
        MayLoad(s, i, 3, memory: true) && Operand.Read<ushort, M>(s, i, out ushort selector) ? LoadTr(s, i, selector) : null;

    private static Insn* LoadLdtr(CpuState* s, Insn* i, ushort selector) =>
        SegmentLoad.LoadLdtr(LogicalProcessor.Of(s), selector) ? i + 1 : Fault.At(s, i);

    private static Insn* LoadTr(CpuState* s, Insn* i, ushort selector) =>
        SegmentLoad.LoadTr(LogicalProcessor.Of(s), selector) ? i + 1 : Fault.At(s, i);

    /// <summary>Whether UMIP bars a program from seeing system registers (SDM volume 3, section 2.5).</summary>
    public static bool IsBarred(CpuState* s) => (s->Cr4 & Cr4.Umip) != 0 && s->Cpl > 0;

    private static bool Exits(CpuState* s) => (s->SecondaryControls & SecondaryControls.DescriptorTableExiting) != 0;

    private static Insn* StoreTable<T, M>(CpuState* s, Insn* i, uint identity, ulong address, uint limit) where T : unmanaged where M : struct, IAddressing
    {
        if (IsBarred(s))
            return Fault.Raise(s, i, Vector.Gp, 0);
        if (Exits(s))
            return ExitForTable<T>(s, i, identity);
        if (sizeof(T) == 8)
            return Operand.Write<WideTable, M>(s, i, new WideTable { Limit = (ushort)limit, Base = address }) ? i + 1 : null;
        // With a 16-bit operand the base has 24 bits and a zero byte follows.
        uint stored = sizeof(T) == 2 ? (uint)address & 0xFF_FFFF : (uint)address;
        return Operand.Write<NarrowTable, M>(s, i, new NarrowTable { Limit = (ushort)limit, Base = stored }) ? i + 1 : null;
    }

    private static bool LoadTable<T, M>(CpuState* s, Insn* i, uint identity, out ulong address, out ushort limit) where T : unmanaged where M : struct, IAddressing
    {
        address = 0;
        limit = 0;
        if (s->Cpl != 0)
        {
            Fault.Raise(s, i, Vector.Gp, 0);
            return false;
        }
        if (Exits(s))
        {
            ExitForTable<T>(s, i, identity);
            return false;
        }
        if (sizeof(T) != 8)
        {
            if (!Operand.Read<NarrowTable, M>(s, i, out NarrowTable narrow))
                return false;
            limit = narrow.Limit;
            address = sizeof(T) == 2 ? narrow.Base & 0xFF_FFFF : narrow.Base;
            return true;
        }
        if (!Operand.Read<WideTable, M>(s, i, out WideTable wide))
            return false;
        limit = wide.Limit;
        address = wide.Base;
        if (Canonical.IsForBase(s, address))
            return true;
        Fault.Raise(s, i, Vector.Gp, 0);
        return false;
    }

    private static Insn* ExitForTable<T>(CpuState* s, Insn* i, uint identity) where T : unmanaged
    {
        uint information = InstructionInformation.OfMemory(i) | (sizeof(T) == 2 ? 0 : 1u << 11) | identity << 28;
        return InstructionInformation.Exit(s, i, ExitReason.GdtrIdtr, information, InstructionInformation.Displacement(s, i));
    }

    private static Insn* ExitForSelector(CpuState* s, Insn* i, uint identity, bool memory)
    {
        uint information = (memory ? InstructionInformation.OfMemory(i) : InstructionInformation.OfRegister(i->Operand0)) | identity << 28;
        return InstructionInformation.Exit(s, i, ExitReason.LdtrTr, information, memory ? InstructionInformation.Displacement(s, i) : 0);
    }

    private static bool MayStore(CpuState* s, Insn* i, uint identity, bool memory)
    {
        if (FarTransfer.IsRealStyle(s))
        {
            Fault.Raise(s, i, Vector.Ud);
            return false;
        }
        if (IsBarred(s))
        {
            Fault.Raise(s, i, Vector.Gp, 0);
            return false;
        }
        if (!Exits(s))
            return true;
        ExitForSelector(s, i, identity, memory);
        return false;
    }

    private static bool MayLoad(CpuState* s, Insn* i, uint identity, bool memory)
    {
        if (FarTransfer.IsRealStyle(s))
        {
            Fault.Raise(s, i, Vector.Ud);
            return false;
        }
        if (s->Cpl != 0)
        {
            Fault.Raise(s, i, Vector.Gp, 0);
            return false;
        }
        if (!Exits(s))
            return true;
        ExitForSelector(s, i, identity, memory);
        return false;
    }

    private static Insn* StoreSelector<T>(CpuState* s, Insn* i, uint identity, ushort selector) where T : unmanaged
    {
        if (!MayStore(s, i, identity, memory: false))
            return null;
        Register.Write(s, i->Operand0, Width.Narrow<T>(selector));
        return i + 1;
    }

    private static Insn* StoreSelectorMemory<M>(CpuState* s, Insn* i, uint identity, ushort selector) where M : struct, IAddressing =>
        MayStore(s, i, identity, memory: true) && Operand.Write<ushort, M>(s, i, selector) ? i + 1 : null;
}
