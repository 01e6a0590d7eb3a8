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

    /// <summary>Reads with supervisor rights whatever the privilege level: descriptor tables, task-state segments (SDM volume 3, section 4.6.1, implicit supervisor-mode accesses).</summary>
    public bool ReadSystem(ulong linear, byte* destination, int size) => throw new InvalidOperationException();

    /// <summary>Writes with supervisor rights whatever the privilege level.</summary>
    public bool WriteSystem(ulong linear, byte* source, int size) => throw new InvalidOperationException();

    /// <summary>Reads with the rights of another privilege level: stacks of gates and returns.</summary>
    public bool ReadAs(int cpl, ulong linear, byte* destination, int size) => throw new InvalidOperationException();

    /// <summary>Writes with the rights of another privilege level.</summary>
    public bool WriteAs(int cpl, ulong linear, byte* source, int size) => throw new InvalidOperationException();

    /// <summary>Checks, as a write with the rights of a privilege level would, without writing: so that several writes can be made that all succeed.</summary>
    public bool ProbeWriteAs(int cpl, ulong linear, int size) => throw new InvalidOperationException();

    /// <summary>INVLPG: forgets what is cached for one page.</summary>
    public void InvalidatePage(ulong linear) => throw new InvalidOperationException();

    /// <summary>Forgets everything of the current address space, global pages too where asked (MOV to CR3, CR4.PGE changes).</summary>
    public void Flush(bool global) => throw new InvalidOperationException();

    /// <summary>INVPCID and MOV to CR3 with PCIDs: forgets everything of one PCID except global pages.</summary>
    public void FlushPcid(uint pcid) => throw new InvalidOperationException();

    /// <summary>
    /// Loads and checks the four PDPTEs when PAE paging is in use after a write of CR0, CR3 or CR4 (SDM volume 3, section 4.4.1).
    /// Returns false, recording #GP(0), where a reserved bit is set in a present one; nothing is then changed.
    /// </summary>
    public bool LoadPdptes(ulong cr3) => throw new InvalidOperationException();
}
