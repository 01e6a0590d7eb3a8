using Vmm.Processor.Execution;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <summary>The ways out of compiled code: each does what the handler of the instruction would do. TraceRip and Budget are up to date.</summary>
internal static unsafe class RegionExits
{
    /// <summary>A direct branch out of the region.</summary>
    public static Insn* Direct(CpuState* s, Insn* i, ulong rip) => Flow.CheckTarget<Long>(s, rip) ? Flow.ToDirect(s, i, rip) : Fault.At(s, i);

    /// <summary>An indirect branch, a return or the end of a trace.</summary>
    public static Insn* Indirect(CpuState* s, Insn* i, ulong rip) => Flow.CheckTarget<Long>(s, rip) ? Flow.To(s, i, rip) : Fault.At(s, i);

    /// <summary>A branch within the region that must not be followed there: the budget ends soon, or something waits. It has been counted.</summary>
    public static Insn* Stop(CpuState* s, Insn* target, ulong rip)
    {
        s->TraceRip = rip;
        if (s->Budget >= Trace.Of(target)->Length && s->Attention == 0)
            return target;
        s->Rip = rip;
        s->Stop = StopReason.Dispatch;
        return null;
    }
}
