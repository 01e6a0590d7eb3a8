namespace Vmm.Processor.Execution;

/// <summary>
/// What one processor has done since it was made. Plain fields that the thread on which it runs adds to; another thread may read them,
/// each as it was a moment ago. They belong to nothing that is saved.
/// </summary>
public sealed class ProcessorCounters
{
    /// <summary>Walks of the page tables, because no TLB had the translation.</summary>
    public ulong PageWalks;

    /// <summary>VMREADs that were answered without an exit (SDM volume 3, section 26.5.5: VMCS shadowing).</summary>
    public ulong Vmreads;

    /// <summary>VMWRITEs that were answered without an exit.</summary>
    public ulong Vmwrites;

    /// <summary>Virtual interrupts that were delivered without an exit (section 30.2.2).</summary>
    public ulong VirtualInterrupts;
}
