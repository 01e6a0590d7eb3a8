using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <summary>
/// The slow accesses of compiled code: as those of the handlers, with the value in <see cref="CpuState.Scratch"/>. False after a
/// fault, which is settled.
/// </summary>
internal static unsafe class RegionAccess
{
    public static bool Read<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged
    {
        bool done = SlowAccess.Read(s, i, linear, out T value);
        *(T*)s->Scratch = value;
        return done;
    }

    public static bool Write<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged => SlowAccess.Write(s, i, linear, *(T*)s->Scratch);

    public static bool BeginModify<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged
    {
        bool done = SlowAccess.BeginModify(s, i, linear, out T value);
        *(T*)s->Scratch = value;
        return done;
    }

    public static void EndModify<T>(CpuState* s, Insn* i, ulong linear) where T : unmanaged => SlowAccess.EndModify(s, i, linear, *(T*)s->Scratch);
}
