using System.Runtime.CompilerServices;
using Vmm.Processor.FloatingPoint;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Fpu;

/// <summary>The operand size of an environment: 14 or 28 bytes.</summary>
internal interface IEnvironmentSize { static abstract bool Wide { get; } }
internal readonly struct Wide28 : IEnvironmentSize { public static bool Wide => true; }
internal readonly struct Narrow14 : IEnvironmentSize { public static bool Wide => false; }

/// <summary>FNSTENV, FLDENV, FNSAVE and FRSTOR in the four formats of SDM volume 1, figures 8-9 to 8-12.</summary>
internal static unsafe class FpuEnvironment
{
    private const int RegisterBytes = 80;

    public static Insn* StoreEnvironment<W, M>(CpuState* s, Insn* i) where W : struct, IEnvironmentSize where M : struct, IAddressing
    {
        byte* image = stackalloc byte[28];
        Compose<W>(s, image);
        int size = Size<W>();
        if (!BlockMemory.Locate<M>(s, i, (uint)size, write: true, out ulong linear) || !BlockMemory.Write(s, i, linear, image, size))
            return null;
        // The exceptions are masked afterwards; none is pending then.
        s->Fcw |= (ushort)FloatFlags.All;
        X87.UpdateSummary(s);
        return i + 1;
    }

    public static Insn* LoadEnvironment<W, M>(CpuState* s, Insn* i) where W : struct, IEnvironmentSize where M : struct, IAddressing
    {
        byte* image = stackalloc byte[28];
        int size = Size<W>();
        if (!X87.Begin(s, i) || !BlockMemory.Locate<M>(s, i, (uint)size, write: false, out ulong linear) || !BlockMemory.Read(s, i, linear, image, size))
            return null;
        Apply<W>(s, image);
        return i + 1;
    }

    public static Insn* Save<W, M>(CpuState* s, Insn* i) where W : struct, IEnvironmentSize where M : struct, IAddressing
    {
        byte* image = stackalloc byte[28 + RegisterBytes];
        int size = Size<W>();
        Compose<W>(s, image);
        for (int n = 0; n < 8; n++)
        {
            ulong* slot = X87.Slot(s, n);
            Unsafe.WriteUnaligned(image + size + n * 10, new Float80 { Significand = slot[0], SignExponent = (ushort)slot[1] });
        }
        if (!BlockMemory.Locate<M>(s, i, (uint)(size + RegisterBytes), write: true, out ulong linear)
            || !BlockMemory.Write(s, i, linear, image, size + RegisterBytes))
            return null;
        X87.Initialise(s);
        return i + 1;
    }

    public static Insn* Restore<W, M>(CpuState* s, Insn* i) where W : struct, IEnvironmentSize where M : struct, IAddressing
    {
        byte* image = stackalloc byte[28 + RegisterBytes];
        int size = Size<W>();
        if (!X87.Begin(s, i) || !BlockMemory.Locate<M>(s, i, (uint)(size + RegisterBytes), write: false, out ulong linear)
            || !BlockMemory.Read(s, i, linear, image, size + RegisterBytes))
            return null;
        Apply<W>(s, image);
        for (int n = 0; n < 8; n++)
        {
            Float80 raw = Unsafe.ReadUnaligned<Float80>(image + size + n * 10);
            ulong* slot = X87.Slot(s, n);
            slot[0] = raw.Significand;
            slot[1] = raw.SignExponent;
        }
        return i + 1;
    }

    /// <summary>The tag word in full: valid 0, zero 1, special 2, empty 3, two bits for each physical register.</summary>
    public static ushort FullTags(CpuState* s)
    {
        int tags = 0;
        for (int n = 0; n < 8; n++)
        {
            int tag = 3;
            if ((s->Ftw >> n & 1) != 0)
            {
                ulong significand = s->Fpu[2 * n];
                int exponent = (int)s->Fpu[2 * n + 1] & 0x7FFF;
                tag = exponent == 0 && significand == 0 ? 1 : exponent is 0 or 0x7FFF || (long)significand >= 0 ? 2 : 0;
            }
            tags |= tag << 2 * n;
        }
        return (ushort)tags;
    }

    private static int Size<W>() where W : struct, IEnvironmentSize => W.Wide ? 28 : 14;

    private static bool IsProtected(CpuState* s) => (s->Cr0 & Cr0.Pe) != 0 && (s->SystemFlags & Rflags.Vm) == 0;

    private static void Compose<W>(CpuState* s, byte* image) where W : struct, IEnvironmentSize
    {
        ushort status = X87.Status(s), tags = FullTags(s);
        bool isProtected = IsProtected(s);
        uint code = (uint)s->Fip, data = (uint)s->Fdp;
        if (!isProtected)
        {
            code += (uint)s->Fcs << 4;
            data += (uint)s->Fds << 4;
        }
        if (W.Wide)
        {
            uint* words = (uint*)image;
            words[0] = 0xFFFF_0000 | s->Fcw;
            words[1] = 0xFFFF_0000 | status;
            words[2] = 0xFFFF_0000 | tags;
            words[3] = isProtected ? code : 0xFFFF_0000 | (ushort)code;
            words[4] = isProtected ? s->Fcs | (uint)(s->Fop & 0x7FF) << 16 : (code >> 16) << 12 | (s->Fop & 0x7FFu);
            words[5] = isProtected ? data : 0xFFFF_0000 | (ushort)data;
            words[6] = isProtected ? 0xFFFF_0000 | s->Fds : (data >> 16) << 12;
            return;
        }
        ushort* halves = (ushort*)image;
        halves[0] = s->Fcw;
        halves[1] = status;
        halves[2] = tags;
        halves[3] = (ushort)code;
        halves[4] = isProtected ? s->Fcs : (ushort)((code >> 16) << 12 | (s->Fop & 0x7FFu));
        halves[5] = (ushort)data;
        halves[6] = isProtected ? s->Fds : (ushort)((data >> 16) << 12);
    }

    private static void Apply<W>(CpuState* s, byte* image) where W : struct, IEnvironmentSize
    {
        uint* words = (uint*)image;
        ushort* halves = (ushort*)image;
        ushort control = W.Wide ? (ushort)words[0] : halves[0];
        ushort status = W.Wide ? (ushort)words[1] : halves[1];
        ushort tags = W.Wide ? (ushort)words[2] : halves[2];
        if (IsProtected(s))
        {
            s->Fip = W.Wide ? words[3] : halves[3];
            s->Fcs = W.Wide ? (ushort)words[4] : halves[4];
            s->Fdp = W.Wide ? words[5] : halves[5];
            s->Fds = W.Wide ? (ushort)words[6] : halves[6];
            if (W.Wide)
                s->Fop = (ushort)(words[4] >> 16 & 0x7FF);
        }
        else
        {
            s->Fip = W.Wide ? (ushort)words[3] | (words[4] >> 12 & 0xFFFF) << 16 : halves[3] | (uint)halves[4] >> 12 << 16;
            s->Fdp = W.Wide ? (ushort)words[5] | (words[6] >> 12 & 0xFFFF) << 16 : halves[5] | (uint)halves[6] >> 12 << 16;
            s->Fop = (ushort)((W.Wide ? words[4] : halves[4]) & 0x7FF);
            s->Fcs = s->Fds = 0;
        }
        FpuControl.SetControl(s, control);
        X87.SetStatus(s, status);
        int valid = 0;
        for (int n = 0; n < 8; n++)
        {
            if ((tags >> 2 * n & 3) != 3)
                valid |= 1 << n;
        }
        s->Ftw = (ushort)valid;
        X87.UpdateSummary(s);
    }
}
