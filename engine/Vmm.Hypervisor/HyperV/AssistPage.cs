using Vmm.Processor.Execution;

namespace Vmm.Hypervisor.HyperV;

/// <summary>
/// The VP assist page of one vCPU (Hypervisor Top-Level Functional Specification, HV_VP_ASSIST_PAGE), as far as it is about VM entries: it lies
/// in the guest's own memory, where the guest writes it at any time.
/// </summary>
public sealed unsafe class AssistPage
{
    private const ulong Enable = 1;
    private const int EnlightenVmEntry = 40, CurrentNestedVmcs = 48, ApicAssistSize = 4;

    private readonly ProcessorPackage _package;

    internal AssistPage(ProcessorPackage package) => _package = package;

    /// <summary>HV_X64_MSR_VP_ASSIST_PAGE: its page, and in bit 0 whether there is one.</summary>
    public ulong Register { get; internal set; }

    /// <summary>The enlightened VMCS that a VM entry uses; null where VM entries are not enlightened.</summary>
    internal ulong? EnlightenedVmcs
    {
        get
        {
            byte* page = (Register & Enable) == 0 ? null : _package.Environment.Memory.Page(Register);
            return page == null || page[EnlightenVmEntry] == 0 ? null : *(ulong*)(page + CurrentNestedVmcs);
        }
    }

    /// <summary>Writes the register. False, with nothing changed, where the page is not in memory. The part of the page that L0 writes is cleared.</summary>
    internal bool TrySet(ulong value)
    {
        if ((value & Enable) != 0 && !_package.WriteMemory(value & ~0xFFFUL, stackalloc byte[ApicAssistSize]))
            return false;
        Register = value;
        return true;
    }
}
