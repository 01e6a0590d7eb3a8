using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Counting;
using Vmm.Hypervisor.Exits;
using Vmm.Hypervisor.HyperV;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.SystemManagement;
using Vmm.Hypervisor.Tracing;
using Vmm.Processor.Execution;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Vcpus;

/// <summary>
/// One virtual processor: a logical processor, the VMCS on which it runs the guest, a local APIC, and what L0 remembers
/// between exits. All members are for the thread that runs the machine, but for <see cref="RequestExit"/>.
/// </summary>
public sealed unsafe partial class Vcpu : ILocalApicOwner, IDisposable
{
    private int _exitRequested;
    private VcpuRequest _requests;
    private byte _startUpPage;
    private ulong _emulated;

    internal Vcpu(VirtualMachine machine, int index, LogicalProcessor cpu)
    {
        Machine = machine;
        Index = index;
        Cpu = cpu;
        Msrs = new VcpuMsrs(machine.Model);
        AssistPage = new AssistPage(machine.Package);
        Nested = new NestedVmx(this, machine.NestedCapabilities);
        SystemManagement = new SystemManagementMode(this);
        Apicv = new VcpuApicv(this, machine.Apicv);
        Apic = new LocalApic((uint)index, IsBootProcessor, machine.Model.PhysicalAddressBits, this, machine.Clock, machine.ApicBus,
            new ApicPage(cpu.Environment.Memory));
        PowerUp();
    }

    /// <summary>The virtual machine it belongs to.</summary>
    public VirtualMachine Machine { get; }

    /// <summary>Its number, from 0; also its initial APIC ID.</summary>
    public int Index { get; }

    /// <summary>Whether it starts at power-up; the others wait for a start-up message.</summary>
    public bool IsBootProcessor => Index == 0;

    /// <summary>The processor that executes the guest's code.</summary>
    public LogicalProcessor Cpu { get; }

    /// <summary>The registers that a VM exit leaves in the processor.</summary>
    public CpuState* State => Cpu.State;

    /// <summary>The VMCS that runs L1.</summary>
    public Vmcs Vmcs01 { get; } = new() { EntryChecks = EntryCheckPolicy.Configuration, IdentityMapped = true };

    /// <summary>The VMCS of the next entry. Guest state between exits is in here.</summary>
    public Vmcs Vmcs { get; private set; } = null!;

    /// <summary>L1's VMX operation.</summary>
    public NestedVmx Nested { get; }

    /// <summary>The VP assist page of the Hyper-V interface.</summary>
    public AssistPage AssistPage { get; }

    /// <summary>System-management mode.</summary>
    public SystemManagementMode SystemManagement { get; }

    /// <summary>What the processor answers to CPUID of L1 by itself.</summary>
    internal CpuidAnswers CpuidAnswers { get; } = new();

    /// <summary>What has happened on it.</summary>
    public VcpuCounters Counters { get; } = new();

    /// <summary>The local APIC.</summary>
    public LocalApic Apic { get; }

    /// <summary>The model-specific registers that L0 keeps.</summary>
    public VcpuMsrs Msrs { get; }

    /// <summary>What the vCPU is doing.</summary>
    public VcpuActivity Activity { get; internal set; }

    /// <summary>Instructions executed so far: those that the processor retired, and those that L0 emulated.</summary>
    public ulong InstructionsRetired => Cpu.InstructionsRetired + _emulated;

    /// <summary>The same, given what the processor itself has retired.</summary>
    internal ulong TotalRetired(ulong retiredByProcessor) => retiredByProcessor + _emulated;

    /// <inheritdoc/>
    public ulong TscOffset => Vmcs01[VmcsField.TscOffset];

    /// <summary>The guest's time-stamp counter.</summary>
    public ulong Tsc => Machine.TimeStampCounter.Read(Cpu.InstructionsRetired) + TscOffset;

    /// <summary>Whether it would execute, or has something to do before it waits on.</summary>
    public bool IsRunnable => Activity switch
    {
        VcpuActivity.Active => true,
        VcpuActivity.Halted => (_requests & (VcpuRequest.Init | VcpuRequest.Smi)) != 0 || SystemManagement.Wakes || HasWakeEvent,
        VcpuActivity.NestedShutdown => (_requests & (VcpuRequest.Init | VcpuRequest.Smi | VcpuRequest.Nmi)) != 0 || SystemManagement.Wakes || HasWakeEvent,
        VcpuActivity.WaitForSipi => (_requests & (VcpuRequest.Init | VcpuRequest.StartUp)) != 0,
        _ => false,
    };

    /// <summary>Leaves a note to be acted on before the next VM entry.</summary>
    public void Request(VcpuRequest request)
    {
        _requests |= request;
        // Where the vCPU runs right now it must come out; where it does not, this costs nothing but a look.
        if (Machine.Running == this)
            Cpu.RequestAttention();
    }

    /// <summary>Makes a <see cref="Run"/> that is under way, or the next one, come back soon. From any thread.</summary>
    public void RequestExit()
    {
        Volatile.Write(ref _exitRequested, 1);
        Cpu.RequestAttention();
    }

    /// <summary>Forgets earlier calls of <see cref="RequestExit"/>: to be called before looking for what they were about.</summary>
    public void ClearExitRequest() => Interlocked.Exchange(ref _exitRequested, 0);

    /// <summary>Executes at most <paramref name="budget"/> instructions of the guest.</summary>
    /// <param name="budget">Instructions, more than 0.</param>
    public VcpuOutcome Run(long budget)
    {
        ulong end = InstructionsRetired + (ulong)budget;
        Machine.Enter(this);
        try
        {
            return RunUntil(end);
        }
        finally
        {
            Machine.Leave(this);
        }
    }

    /// <summary>Translates a linear address by the guest's page tables, with supervisor rights. False where it is not mapped.</summary>
    public bool TryTranslate(ulong linear, out ulong physical) => Cpu.Mmu.TryTranslate(linear, out physical);

    /// <inheritdoc/>
    public void Dispose()
    {
        Apic.Dispose();
        CpuidAnswers.Dispose();
        Vmcs01.Dispose();
        Nested.Dispose();
    }

    private VcpuOutcome RunUntil(ulong end)
    {
        while (true)
        {
            // What asked for attention until here is looked at from here on: a full fence, as the flags are set before it is. Who asks
            // later than this look is heard by the processor.
            if (Volatile.Read(ref State->Attention) != 0)
                Interlocked.Exchange(ref State->Attention, 0);
            if (_exitRequested != 0)
                return VcpuOutcome.ExitRequested;
            while (_requests != VcpuRequest.None)
                ServiceRequests();
            SystemManagement.DeliverPending();
            if (Activity != VcpuActivity.Active && !Wake())
                return Activity == VcpuActivity.Shutdown ? VcpuOutcome.TripleFault : VcpuOutcome.Waiting;
            long left = (long)(end - InstructionsRetired);
            if (left <= 0)
                return VcpuOutcome.BudgetUsed;
            PrepareEntry();
            ExitTracing? tracing = Machine.Tracing;
            tracing?.Entering(this);
            // Who traces wants to see every exit; those of L2 are L1's.
            State->CpuidAnswers = tracing != null || IsGuestMode ? null : CpuidAnswers.Table;
            ExitReason reason = _stepApicAccess && DeliversVirtually ? ApicAccessStep.Enter(this) : Cpu.Enter(Vmcs, left);
            _stepApicAccess = false;
            tracing?.Exited(this, reason);
            if (IsGuestMode)
            {
                Counters.InstructionsOfL2 += Cpu.RetiredByEntry;
                if (NestedVmx.TakeExit(this, reason))
                    continue;
            }
            CompleteExit();
            if (reason == ExitReason.BudgetExhausted)
            {
                if (IsGuestMode)
                    NestedVmx.NoteActivity(this);
                continue;
            }
            Counters.CountExit(reason, IsGuestMode);
            if (ExitDispatcher.Handle(this, reason) == ExitResult.Yield)
                return VcpuOutcome.Yielded;
        }
    }

    private void ServiceRequests()
    {
        VcpuRequest requests = _requests;
        _requests = VcpuRequest.None;
        if ((requests & VcpuRequest.Smi) != 0)
            SystemManagement.Note();
        if ((requests & VcpuRequest.Init) != 0)
            TakeInit();
        if ((requests & VcpuRequest.StartUp) != 0 && Activity == VcpuActivity.WaitForSipi)
            TakeStartUp();
        if ((requests & VcpuRequest.Nmi) != 0)
            NoteNmi();
        if ((requests & VcpuRequest.TlbFlush) != 0)
            Cpu.Mmu.FlushEverything();
        if ((requests & VcpuRequest.ApicvUpdate) != 0)
            Apicv.Service();
    }

    private bool Wake()
    {
        if (Activity is not (VcpuActivity.Halted or VcpuActivity.NestedShutdown))
            return false;
        if (!HasWakeEvent)
        {
            if (IsGuestMode && Nested.Has(PinControls.PreemptionTimer))
                Nested.Timer.WakeAtExpiry();
            return false;
        }
        Activity = VcpuActivity.Active;
        return true;
    }

    void ILocalApicOwner.InterruptPending() => Request(VcpuRequest.Interrupt);

    void ILocalApicOwner.NonMaskableInterrupt() => Request(VcpuRequest.Nmi);

    void ILocalApicOwner.SystemManagementInterrupt() => Request(VcpuRequest.Smi);

    void ILocalApicOwner.Init() => Request(VcpuRequest.Init);

    void ILocalApicOwner.StartUp(byte page)
    {
        // Of several start-up messages before the vCPU looks, the first one counts: the rest would find it started.
        if ((_requests & VcpuRequest.StartUp) != 0)
            return;
        _startUpPage = page;
        Request(VcpuRequest.StartUp);
    }

    void ILocalApicOwner.ModeChanged()
    {
        // Leaf 1 tells whether the local APIC is on.
        CpuidAnswers.Forget();
        Request(VcpuRequest.ApicvUpdate);
    }

    void ILocalApicOwner.TaskPriorityChanged(uint priority) => State->Cr8 = priority >> 4;
}
