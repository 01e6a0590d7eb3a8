using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Translation.Native;

/// <summary>
/// Runs native code. It is entered without a transition that the garbage collector could see, so it calls nothing: whatever it needs of
/// managed code it returns for, and is entered again. How long it runs is bounded, because a collection waits for it.
/// </summary>
internal static unsafe class NativeExecution
{
    /// <summary>Instructions of a guest between two returns at most: some tens of microseconds.</summary>
    private const long LongestSlice = 1 << 16;

    /// <summary>Instructions at most that native code executes between two looks at the slice; so many of the budget are not in it.</summary>
    public const int LongestPath = 128;

    /// <summary>How many instructions the interpreter executes in the time that entering native code and leaving it takes.</summary>
    private const int BreakEven = 6;

    /// <summary>Instructions from which on nobody asks whether it was worth entering native code for them.</summary>
    private const int LongStay = 64;

    /// <summary>How far a trace's gain may fall before the interpreter no longer enters its code, and how far it may rise.</summary>
    private const int LeastGain = -4096, MostGain = 4096;

    /// <summary>The handler of a trace's first instruction that has native code. Taken once: two pointers to the same function need not be equal.</summary>
    public static readonly Handler Handler = &Run;

    private static Insn* Run(CpuState* s, Insn* i)
    {
        Trace* trace = Trace.Of(i);
        // Too little of the budget is left for a region: the interpreter executes up to its end.
        if (s->Budget < trace->NativePath)
            return trace->FirstHandler(s, i);
        nint enter = s->Native.Enter;
        nint code = trace->Native;
        long budget = s->Budget;
        int entries = 0;
        while (true)
        {
            // Whatever waits for attention because of this code was brought about by what it returned for; other threads can wait for a slice.
            long slice = s->Attention != 0 ? -1 : Math.Min(s->Budget, LongestSlice) - LongestPath;
            s->Native.Slice = slice;
            entries++;
            var exit = ((delegate* unmanaged[SuppressGCTransition]<CpuState*, nint, Insn*, NativeExit>)enter)(s, code, i);
            s->Budget -= slice - s->Native.Slice;
            var insn = (Insn*)s->Native.Insn;
            switch (exit)
            {
                case NativeExit.Access:
                    if (((delegate*<CpuState*, Insn*, ulong, bool>)s->Native.Function)(s, insn, s->Native.Argument))
                        break;
                    SettleFlags(s);
                    NoteGain(trace, budget - s->Budget + insn->Count - 1, entries);
                    return null;
                case NativeExit.Handler:
                    SettleFlags(s);
                    Insn* next = ((Handler)s->Native.Function)(s, insn);
                    if (next != insn + 1)
                    {
                        NoteGain(trace, budget - s->Budget + (next == null ? insn->Count : 0), entries);
                        return next;
                    }
                    break;
                case NativeExit.Settle:
                    SettleFlags(s);
                    break;
                default:
                    SettleFlags(s);
                    // With those of the last trace, which are not counted yet.
                    NoteGain(trace, budget - s->Budget + insn->Count - 1, entries);
                    return Leave(s, exit, insn);
            }
            code = s->Native.Resume;
        }
    }

    private static Insn* Leave(CpuState* s, NativeExit exit, Insn* insn)
    {
        switch (exit)
        {
            case NativeExit.Leave:
                return insn;
            case NativeExit.First:
                return Trace.Of(insn)->FirstHandler(s, insn);
            case NativeExit.Direct:
                return RegionExits.Direct(s, insn, s->TraceRip + insn->Immediate);
            case NativeExit.Indirect:
                return RegionExits.Indirect(s, insn, s->Native.Argument);
            case NativeExit.Stop:
                return RegionExits.Stop(s, insn, s->TraceRip);
            default:
                LogicalProcessor.Of(s).Package.Code.Translator!.Heated(Trace.Of(insn));
                return insn;
        }
    }

    /// <summary>
    /// A trace that leads straight back to what is interpreted is better interpreted too, where the interpreter comes to it. Other native code goes on to
    /// its code as before.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void NoteGain(Trace* trace, long instructions, int entries)
    {
        int gain = trace->NativeGain + (instructions > LongStay ? LongStay : (int)instructions - entries * BreakEven);
        trace->NativeGain = Math.Min(gain, MostGain);
        if (gain < LeastGain)
            Translator.Dismiss(trace);
    }

    private static void SettleFlags(CpuState* s)
    {
        if (s->FlagKind == 0)
            return;
        LazyFlags.Settle(s, (int)s->FlagKind, s->FlagA, s->FlagB, s->FlagC);
        s->FlagKind = 0;
    }
}
