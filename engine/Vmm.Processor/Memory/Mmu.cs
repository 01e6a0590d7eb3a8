namespace Vmm.Processor.Memory;

/// <summary>
/// Linear memory as the current program sees it. Accesses may cross pages; on false the fault is recorded in the state
/// (<see cref="Execution.Fault.Record(CpuState*, uint, uint)"/>) and nothing was changed.
/// </summary>
public sealed unsafe class Mmu
{
    /// <summary>Reads with the rights of the current privilege level.</summary>
    public bool Read(ulong linear, byte* destination, int size) => throw new InvalidOperationException();

    /// <summary>Writes with the rights of the current privilege level.</summary>
    public bool Write(ulong linear, byte* source, int size) => throw new InvalidOperationException();

    /// <summary>Reads what is about to be written: checks and faults as a write.</summary>
    public bool ReadForWrite(ulong linear, byte* destination, int size) => throw new InvalidOperationException();
}
