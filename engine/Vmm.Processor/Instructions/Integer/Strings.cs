using System.Numerics;
using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.Integer;

/// <summary>
/// MOVS, STOS, LODS, SCAS, CMPS. With a repeat prefix one execution does at most the iterations that stay within one page on
/// each side, then leaves with the registers advanced and comes back: an interrupt never waits long, and where the boundaries
/// fall depends on nothing but addresses and counts. The source is at <see cref="Insn.Segment"/>:(E/R)SI, the destination at
/// ES:(E/R)DI; <see cref="Insn.AddressMask"/> is the address size.
/// </summary>
public static unsafe class Strings
{
    private const InsnPrefixes Repeated = InsnPrefixes.Rep | InsnPrefixes.Repne;

    /// <summary>MOVS.</summary>
    public static Insn* Movs<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if ((i->Prefixes & Repeated) == 0)
            return MovsOnce<T, M>(s, i) ? i + 1 : null;
        ulong count = Repetitions(s, i);
        if (count == 0)
            return i + 1;
        ulong chunk = Math.Min(Reach<T, M>(s, i, i->Segment, Gpr.Rsi, count), Reach<T, M>(s, i, Seg.Es, Gpr.Rdi, count));
        for (ulong left = chunk; left > 0;)
        {
            byte* from = Span<T, M>(s, i, i->Segment, Gpr.Rsi, left, write: false);
            byte* to = from == null ? null : Span<T, M>(s, i, Seg.Es, Gpr.Rdi, left, write: true);
            if (to != null)
            {
                Copy<T>(from, to, (int)left, Backward(s));
                Advance<T>(s, i, Gpr.Rsi, left);
                Advance<T>(s, i, Gpr.Rdi, left);
                Count(s, i, left);
                break;
            }
            if (!MovsOnce<T, M>(s, i))
                return null;
            Count(s, i, 1);
            left--;
        }
        return chunk == count ? i + 1 : Flow.Again(s, i);
    }

    /// <summary>STOS.</summary>
    public static Insn* Stos<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if ((i->Prefixes & Repeated) == 0)
            return StosOnce<T, M>(s, i) ? i + 1 : null;
        ulong count = Repetitions(s, i);
        if (count == 0)
            return i + 1;
        ulong chunk = Reach<T, M>(s, i, Seg.Es, Gpr.Rdi, count);
        for (ulong left = chunk; left > 0;)
        {
            byte* to = Span<T, M>(s, i, Seg.Es, Gpr.Rdi, left, write: true);
            if (to != null)
            {
                Fill(to, (int)left, Register.Read<T>(s, Gpr.Rax * 8));
                Advance<T>(s, i, Gpr.Rdi, left);
                Count(s, i, left);
                break;
            }
            if (!StosOnce<T, M>(s, i))
                return null;
            Count(s, i, 1);
            left--;
        }
        return chunk == count ? i + 1 : Flow.Again(s, i);
    }

    /// <summary>LODS.</summary>
    public static Insn* Lods<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if ((i->Prefixes & Repeated) == 0)
            return LodsOnce<T, M>(s, i) ? i + 1 : null;
        ulong count = Repetitions(s, i);
        if (count == 0)
            return i + 1;
        ulong chunk = Reach<T, M>(s, i, i->Segment, Gpr.Rsi, count);
        for (ulong left = chunk; left > 0;)
        {
            byte* low = Span<T, M>(s, i, i->Segment, Gpr.Rsi, left, write: false);
            if (low != null)
            {
                // Only what is read last stays.
                Register.Write(s, Gpr.Rax * 8, Unsafe.ReadUnaligned<T>(Backward(s) ? low : low + (left - 1) * (uint)sizeof(T)));
                Advance<T>(s, i, Gpr.Rsi, left);
                Count(s, i, left);
                break;
            }
            if (!LodsOnce<T, M>(s, i))
                return null;
            Count(s, i, 1);
            left--;
        }
        return chunk == count ? i + 1 : Flow.Again(s, i);
    }

    /// <summary>SCAS.</summary>
    public static Insn* Scas<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if ((i->Prefixes & Repeated) == 0)
            return ScasOnce<T, M>(s, i) ? i + 1 : null;
        ulong count = Repetitions(s, i);
        if (count == 0)
            return i + 1;
        bool whileEqual = (i->Prefixes & InsnPrefixes.Rep) != 0;
        ulong chunk = Reach<T, M>(s, i, Seg.Es, Gpr.Rdi, count);
        for (ulong left = chunk; left > 0;)
        {
            byte* low = Span<T, M>(s, i, Seg.Es, Gpr.Rdi, left, write: false);
            if (low != null)
            {
                T a = Register.Read<T>(s, Gpr.Rax * 8);
                long step = Backward(s) ? -sizeof(T) : sizeof(T);
                byte* at = step < 0 ? low + (left - 1) * (uint)sizeof(T) : low;
                ulong done = 0;
                T b;
                do
                {
                    b = Unsafe.ReadUnaligned<T>(at);
                    at += step;
                    done++;
                }
                while (done < left && a == b == whileEqual);
                Binary.Apply<Sub, T>(s, a, b);
                Advance<T>(s, i, Gpr.Rdi, done);
                Count(s, i, done);
                if (a == b != whileEqual)
                    return i + 1;
                break;
            }
            if (!ScasOnce<T, M>(s, i))
                return null;
            Count(s, i, 1);
            left--;
            if (Flags.Zero(s) != whileEqual)
                return i + 1;
        }
        return chunk == count ? i + 1 : Flow.Again(s, i);
    }

    /// <summary>CMPS.</summary>
    public static Insn* Cmps<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if ((i->Prefixes & Repeated) == 0)
            return CmpsOnce<T, M>(s, i) ? i + 1 : null;
        ulong count = Repetitions(s, i);
        if (count == 0)
            return i + 1;
        bool whileEqual = (i->Prefixes & InsnPrefixes.Rep) != 0;
        ulong chunk = Math.Min(Reach<T, M>(s, i, i->Segment, Gpr.Rsi, count), Reach<T, M>(s, i, Seg.Es, Gpr.Rdi, count));
        for (ulong left = chunk; left > 0;)
        {
            byte* first = Span<T, M>(s, i, i->Segment, Gpr.Rsi, left, write: false);
            byte* second = first == null ? null : Span<T, M>(s, i, Seg.Es, Gpr.Rdi, left, write: false);
            if (second != null)
            {
                long step = Backward(s) ? -sizeof(T) : sizeof(T);
                ulong start = step < 0 ? (left - 1) * (uint)sizeof(T) : 0;
                first += start;
                second += start;
                ulong done = 0;
                T a, b;
                do
                {
                    a = Unsafe.ReadUnaligned<T>(first);
                    b = Unsafe.ReadUnaligned<T>(second);
                    first += step;
                    second += step;
                    done++;
                }
                while (done < left && a == b == whileEqual);
                Binary.Apply<Sub, T>(s, a, b);
                Advance<T>(s, i, Gpr.Rsi, done);
                Advance<T>(s, i, Gpr.Rdi, done);
                Count(s, i, done);
                if (a == b != whileEqual)
                    return i + 1;
                break;
            }
            if (!CmpsOnce<T, M>(s, i))
                return null;
            Count(s, i, 1);
            left--;
            if (Flags.Zero(s) != whileEqual)
                return i + 1;
        }
        return chunk == count ? i + 1 : Flow.Again(s, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool MovsOnce<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.ReadAt<T, M>(s, i, i->Segment, s->Gpr[Gpr.Rsi] & i->AddressMask, out T value)
            || !Operand.WriteAt<T, M>(s, i, Seg.Es, s->Gpr[Gpr.Rdi] & i->AddressMask, value))
            return false;
        Advance<T>(s, i, Gpr.Rsi, 1);
        Advance<T>(s, i, Gpr.Rdi, 1);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool StosOnce<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.WriteAt<T, M>(s, i, Seg.Es, s->Gpr[Gpr.Rdi] & i->AddressMask, Register.Read<T>(s, Gpr.Rax * 8)))
            return false;
        Advance<T>(s, i, Gpr.Rdi, 1);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool LodsOnce<T, M>(CpuState* s, Insn* i) where T : unmanaged where M : struct, IAddressing
    {
        if (!Operand.ReadAt<T, M>(s, i, i->Segment, s->Gpr[Gpr.Rsi] & i->AddressMask, out T value))
            return false;
        Register.Write(s, Gpr.Rax * 8, value);
        Advance<T>(s, i, Gpr.Rsi, 1);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool ScasOnce<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.ReadAt<T, M>(s, i, Seg.Es, s->Gpr[Gpr.Rdi] & i->AddressMask, out T value))
            return false;
        Binary.Apply<Sub, T>(s, Register.Read<T>(s, Gpr.Rax * 8), value);
        Advance<T>(s, i, Gpr.Rdi, 1);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool CmpsOnce<T, M>(CpuState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where M : struct, IAddressing
    {
        if (!Operand.ReadAt<T, M>(s, i, i->Segment, s->Gpr[Gpr.Rsi] & i->AddressMask, out T a)
            || !Operand.ReadAt<T, M>(s, i, Seg.Es, s->Gpr[Gpr.Rdi] & i->AddressMask, out T b))
            return false;
        Binary.Apply<Sub, T>(s, a, b);
        Advance<T>(s, i, Gpr.Rsi, 1);
        Advance<T>(s, i, Gpr.Rdi, 1);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool Backward(CpuState* s) => (s->SystemFlags & Rflags.Df) != 0;

    /// <summary>Moves an index register past elements, in the direction of DF and the address size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Advance<T>(CpuState* s, Insn* i, int register, ulong elements) where T : unmanaged
    {
        ulong bytes = elements * (uint)sizeof(T);
        Set(s, i, register, s->Gpr[register] + (Backward(s) ? 0 - bytes : bytes));
    }

    /// <summary>
    /// What is left to repeat. With a 32-bit address size the upper half of RCX is cleared by that, also where the count is zero or the
    /// first iteration faults: the manual does not say, Intel's processors do it.
    /// </summary>
    private static ulong Repetitions(CpuState* s, Insn* i)
    {
        ulong count = s->Gpr[Gpr.Rcx] & i->AddressMask;
        if (i->AddressMask == uint.MaxValue)
            s->Gpr[Gpr.Rcx] = count;
        return count;
    }

    private static void Count(CpuState* s, Insn* i, ulong done) => Set(s, i, Gpr.Rcx, s->Gpr[Gpr.Rcx] - done);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Set(CpuState* s, Insn* i, int register, ulong value) =>
        s->Gpr[register] = i->AddressMask == 0xFFFF ? (s->Gpr[register] & ~0xFFFFUL) | (ushort)value : value & i->AddressMask;

    /// <summary>
    /// How many elements from an index register on lie in its page and do not wrap around the address size: at least one, which
    /// may then cross. One where single steps are trapped or exit, since each iteration is a step.
    /// </summary>
    private static ulong Reach<T, M>(CpuState* s, Insn* i, int segment, int register, ulong count) where T : unmanaged where M : struct, IAddressing
    {
        if ((s->SystemFlags & Rflags.Tf) != 0 || (s->ProcControls & ProcControls.MonitorTrapFlag) != 0)
            return 1;
        uint size = (uint)sizeof(T);
        ulong offset = s->Gpr[register] & i->AddressMask;
        ulong inPage = Linear<M>(s, segment, offset) & 0xFFF;
        ulong elements;
        if (Backward(s))
            elements = inPage + size > 4096 ? 1 : Math.Min(inPage, offset) / size + 1;
        else
            elements = Math.Min(4096 - inPage, i->AddressMask - offset + (i->AddressMask - offset == ulong.MaxValue ? 0UL : 1)) / size;
        return Math.Min(Math.Max(elements, 1), count);
    }

    /// <summary>The host address of the lowest of <paramref name="elements"/> elements, where all of them can be accessed without the slow path; else null.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Span<T, M>(CpuState* s, Insn* i, int segment, int register, ulong elements, bool write) where T : unmanaged where M : struct, IAddressing
    {
        ulong bytes = elements * (uint)sizeof(T);
        ulong offset = s->Gpr[register] & i->AddressMask;
        if (Backward(s))
            offset -= bytes - (uint)sizeof(T);
        if (!M.IsLong)
        {
            SegmentState* state = CpuState.Segment(s, segment);
            if (offset + bytes > (write ? state->WriteEnd : state->ReadEnd))
                return null;
        }
        ulong linear = Linear<M>(s, segment, offset);
        return write ? Implicit.WriteHost(s, linear, (int)bytes) : Implicit.ReadHost(s, linear, (int)bytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Linear<M>(CpuState* s, int segment, ulong offset) where M : struct, IAddressing
    {
        if (M.IsLong)
            return segment >= Seg.Fs ? offset + CpuState.Segment(s, segment)->Base : offset;
        return (uint)(CpuState.Segment(s, segment)->Base + offset);
    }

    /// <summary>Copies as single moves would: where the destination overlaps the source ahead of the copy, the pattern repeats.</summary>
    private static void Copy<T>(byte* from, byte* to, int elements, bool backward) where T : unmanaged
    {
        long bytes = (long)elements * sizeof(T);
        long distance = to - from;
        if (distance >= bytes || distance <= -bytes || (backward ? distance >= 0 : distance <= 0))
        {
            Buffer.MemoryCopy(from, to, bytes, bytes);
            return;
        }
        long step = backward ? -sizeof(T) : sizeof(T);
        if (backward)
        {
            from += bytes - sizeof(T);
            to += bytes - sizeof(T);
        }
        for (; elements > 0; elements--)
        {
            Unsafe.WriteUnaligned(to, Unsafe.ReadUnaligned<T>(from));
            from += step;
            to += step;
        }
    }

    private static void Fill<T>(byte* to, int elements, T value) where T : unmanaged => new Span<T>(to, elements).Fill(value);
}
