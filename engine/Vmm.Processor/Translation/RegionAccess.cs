using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <summary>What compiled code may want of a slow access.</summary>
internal enum SlowAccessKind
{
    Read,
    Write,
    BeginModify,
    EndModify,
}

/// <summary>
/// The slow accesses of compiled code: as those of the handlers, with the value in <see cref="CpuState.Scratch"/>. False after a
/// fault, which is settled.
/// </summary>
internal static unsafe class RegionAccess
{
    private static readonly nint[] Functions =
    [
        .. All<byte>(), .. All<ushort>(), .. All<uint>(), .. All<ulong>(), .. All<Vector128<byte>>(),
    ];

    /// <summary>The function for an access of 1, 2, 4, 8 or 16 bytes: a <c>delegate*&lt;CpuState*, Insn*, ulong, bool&gt;</c>.</summary>
    public static nint Of(SlowAccessKind kind, int size) => Functions[int.Log2(size) * 4 + (int)kind];

    private static nint[] All<T>() where T : unmanaged
    {
        delegate*<CpuState*, Insn*, ulong, bool> read = &Read<T>, write = &Write<T>, begin = &BeginModify<T>, end = &EndModify<T>;
        return [(nint)read, (nint)write, (nint)begin, (nint)end];
    }

    private static bool Read<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged
    {
        bool done = SlowAccess.Read(s, i, linear, out T value);
        *(T*)s->Scratch = value;
        return done;
    }

    private static bool Write<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged => SlowAccess.Write(s, i, linear, *(T*)s->Scratch);

    private static bool BeginModify<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged
    {
        bool done = SlowAccess.BeginModify(s, i, linear, out T value);
        *(T*)s->Scratch = value;
        return done;
    }

    private static bool EndModify<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged
    {
        SlowAccess.EndModify(s, i, linear, *(T*)s->Scratch);
        return true;
    }
}
