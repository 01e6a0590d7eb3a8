using Vmm.Processor.Memory;
using V = System.Runtime.Intrinsics.Vector128<byte>;

namespace Vmm.Processor.Instructions.Sse;

/// <summary>Blends selected by XMM0, and PTEST.</summary>
internal static unsafe class Blends
{
    /// <summary>Takes the elements of the source whose selector in XMM0 has its sign bit set.</summary>
    public static Insn* Register<T>(CpuState* s, Insn* i) where T : unmanaged
    {
        Apply<T>(s, i, *Xmm.At(s, i->Operand1));
        return i + 1;
    }

    /// <inheritdoc cref="Register{T}"/>
    public static Insn* Memory<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<V, M>(s, i, out V b))
            return null;
        Apply<T>(s, i, b);
        return i + 1;
    }

    /// <summary>PTEST.</summary>
    public static Insn* Test(CpuState* s, Insn* i)
    {
        SetTest(s, *Xmm.At(s, i->Operand0), *Xmm.At(s, i->Operand1));
        return i + 1;
    }

    /// <inheritdoc cref="Test"/>
    public static Insn* TestMemory<M>(CpuState* s, Insn* i) where M : struct, IAddressing
    {
        if (!Operand.ReadAligned<V, M>(s, i, out V b))
            return null;
        SetTest(s, *Xmm.At(s, i->Operand0), b);
        return i + 1;
    }

    private static void Apply<T>(CpuState* s, Insn* i, V b) where T : unmanaged
    {
        V* d = Xmm.At(s, i->Operand0);
        V taken = Vector128.LessThan(Xmm.Zeroth(s).As<byte, T>(), Vector128<T>.Zero).AsByte();
        *d = Vector128.ConditionalSelect(taken, b, *d);
    }

    private static void SetTest(CpuState* s, V a, V b) =>
        Flags.Write(s, ((a & b) == V.Zero ? Rflags.Zf : 0) | ((~a & b) == V.Zero ? Rflags.Cf : 0));
}
