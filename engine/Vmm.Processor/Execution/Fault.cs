namespace Vmm.Processor.Execution;

/// <summary>Ends a handler with an exception. Each method returns null, so that a handler can return its result.</summary>
public static unsafe class Fault
{
    /// <summary>Raises an exception with an error code at this instruction.</summary>
    public static Insn* Raise(CpuState* s, Insn* i, uint vector, uint error)
    {
        Record(s, vector, error);
        return At(s, i);
    }

    /// <summary>Raises an exception without an error code at this instruction.</summary>
    public static Insn* Raise(CpuState* s, Insn* i, uint vector)
    {
        Record(s, vector);
        return At(s, i);
    }

    /// <summary>Settles a fault that is recorded already: the state is as before this instruction, which has not retired.</summary>
    public static Insn* At(CpuState* s, Insn* i)
    {
        s->Rip = Insn.Rip(s, i);
        s->FaultLength = i->Length;
        s->Budget -= i->Count - 1;
        s->Stop = StopReason.Fault;
        return null;
    }

    /// <summary>Notes an exception with an error code, for code that knows no instruction; returns false.</summary>
    public static bool Record(CpuState* s, uint vector, uint error)
    {
        s->FaultVector = vector;
        s->FaultError = error;
        s->FaultHasError = true;
        return false;
    }

    /// <summary>Notes an exception without an error code; returns false.</summary>
    public static bool Record(CpuState* s, uint vector)
    {
        s->FaultVector = vector;
        s->FaultError = 0;
        s->FaultHasError = false;
        return false;
    }

    /// <summary>Notes a page fault; returns false.</summary>
    public static bool RecordPageFault(CpuState* s, ulong linear, uint error)
    {
        s->FaultAddress = linear;
        return Record(s, Vector.Pf, error);
    }
}
