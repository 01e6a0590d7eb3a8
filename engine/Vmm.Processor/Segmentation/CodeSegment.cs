using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>CS: its checks and what changes with it.</summary>
public static unsafe class CodeSegment
{
    /// <summary>Rights of the flat code segments that SYSCALL, SYSENTER and their returns load: 64-bit and 32-bit, without DPL.</summary>
    internal const uint FlatLong = 0xA09B, Flat32 = 0xC09B, FlatStack = 0xC093;

    /// <summary>
    /// Reads the descriptor of a code selector for a transfer of control and checks that it is code, and in IA-32e mode that it
    /// does not claim to be 64-bit and 32-bit at once.
    /// </summary>
    internal static bool Fetch(LogicalProcessor cpu, ushort selector, uint external, out Descriptor descriptor)
    {
        CpuState* s = cpu.State;
        descriptor = default;
        if (Selector.IsNull(selector))
            return Fault.Record(s, Vector.Gp, external);
        if (!DescriptorTable.Fetch(cpu, selector, out descriptor, Vector.Gp, external))
            return false;
        bool sound = descriptor.IsCode && !(IsLong(s, descriptor) && descriptor.IsBig);
        return sound || Fault.Record(s, Vector.Gp, Selector.Error(selector, external));
    }

    /// <summary>Checks the present bit.</summary>
    internal static bool CheckPresent(CpuState* s, ushort selector, in Descriptor descriptor, uint external) =>
        descriptor.IsPresent || Fault.Record(s, Vector.Np, Selector.Error(selector, external));

    /// <summary>Whether a descriptor runs 64-bit code.</summary>
    internal static bool IsLong(CpuState* s, in Descriptor descriptor) => (s->Efer & Efer.Lma) != 0 && descriptor.IsLong;

    /// <summary>Checks an instruction pointer against the segment that will run it; records #GP with only the EXT bit.</summary>
    internal static bool CheckTarget(CpuState* s, in Descriptor descriptor, ulong rip, uint external)
    {
        bool good = IsLong(s, descriptor) ? Canonical.Is(s, rip) : rip <= descriptor.Limit;
        return good || Fault.Record(s, Vector.Gp, external);
    }

    /// <summary>Loads CS from a descriptor that passed its checks, with the privilege level that it runs at. Updates the mode.</summary>
    internal static void Load(LogicalProcessor cpu, ushort selector, in Descriptor descriptor, int cpl)
    {
        CpuState* s = cpu.State;
        SegmentLoad.Fill(&s->Cs, (ushort)((selector & 0xFFFC) | cpl), descriptor);
        Update(cpu, cpl);
    }

    /// <summary>Loads CS as SYSCALL and its kind do: flat, without looking at memory.</summary>
    internal static void LoadFlat(LogicalProcessor cpu, ushort selector, uint rights, int cpl)
    {
        CpuState* s = cpu.State;
        s->Cs.Selector = selector;
        s->Cs.Base = 0;
        s->Cs.Limit = 0xFFFF_FFFF;
        s->Cs.Rights = rights | ((uint)cpl << 5);
        s->Cs.Refresh();
        Update(cpu, cpl);
    }

    /// <summary>Loads CS in real-address mode.</summary>
    public static void LoadReal(LogicalProcessor cpu, ushort selector)
    {
        SegmentLoad.LoadReal(&cpu.State->Cs, selector);
        Update(cpu, 0);
    }

    /// <summary>Loads CS in virtual-8086 mode.</summary>
    public static void LoadVirtual8086(LogicalProcessor cpu, ushort selector)
    {
        SegmentLoad.LoadVirtual8086(&cpu.State->Cs, selector);
        Update(cpu, 3);
    }

    /// <summary>The code size that CS and EFER.LMA give.</summary>
    public static int SizeOf(CpuState* s) =>
        (s->Efer & Efer.Lma) != 0 && (s->Cs.Rights & SegmentRights.Long) != 0 ? 64 : (s->Cs.Rights & SegmentRights.Big) != 0 ? 32 : 16;

    private static void Update(LogicalProcessor cpu, int cpl)
    {
        CpuState* s = cpu.State;
        s->Cpl = cpl;
        s->CodeSize = SizeOf(s);
        cpu.ModeChanged();
    }
}
