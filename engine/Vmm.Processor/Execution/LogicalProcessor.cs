using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vmm.Processor.Memory;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.VirtualApic;

namespace Vmm.Processor.Execution;

/// <summary>One logical processor: its registers, its translation caches and the loop that executes traces.</summary>
public sealed unsafe partial class LogicalProcessor : IDisposable
{
    /// <summary>In <see cref="CpuState.Attention"/>: leave the guest.</summary>
    public const int AttentionExit = 1;

    /// <summary>In <see cref="CpuState.Attention"/>: something has come up inside the processor for the next instruction boundary.</summary>
    public const int AttentionBoundary = 2;

    private readonly GCHandle _self;
    private bool _entered;
    private bool _disposed;

    // The VMCS whose guest-state area the registers have, unless Vmcs.Holder says otherwise, and its configuration then.
    private Vmcs? _held;
    private uint _heldConfiguration;

    internal LogicalProcessor(ProcessorPackage package)
    {
        Package = package;
        State = (CpuState*)NativeMemory.AlignedAlloc((nuint)sizeof(CpuState), 64);
        *State = default;
        _self = GCHandle.Alloc(this, GCHandleType.Weak);
        State->Self = GCHandle.ToIntPtr(_self);
        State->Native.Enter = package.Code.Translator?.EnterNative ?? 0;
        State->JumpCache = (JumpCacheEntry*)NativeMemory.AllocZeroed(JumpCache.Entries, (nuint)sizeof(JumpCacheEntry));
        State->SystemFlags = Rflags.Fixed1;
        State->Mxcsr = 0x1F80;
        State->Fcw = 0x40;
        State->Xcr0 = 1;
        State->CodeSize = 16;
        Flags.Write(State, 0);
        Mmu = new Mmu(this);
        VirtualApic = new ApicVirtualization(this);
        ModeChanged();
    }

    /// <summary>The registers.</summary>
    public CpuState* State { get; private set; }

    /// <summary>Translation of linear addresses and the accesses that go through it.</summary>
    public Mmu Mmu { get; }

    /// <summary>The virtual APIC of the guest that runs.</summary>
    internal ApicVirtualization VirtualApic { get; }

    /// <summary>What it has done.</summary>
    public ProcessorCounters Counters { get; } = new();

    /// <summary>The processors with which this one shares memory and decoded code.</summary>
    public ProcessorPackage Package { get; }

    /// <summary>What surrounds this processor.</summary>
    public ProcessorEnvironment Environment => Package.Environment;

    /// <summary>The VMCS on whose behalf guest code runs, while it does.</summary>
    public Vmcs? Vmcs { get; private set; }

    /// <summary>
    /// The VMREAD and the VMWRITE bitmap of the VMCS that runs, with VMCS shadowing (SDM volume 3, section 25.6.15). Null where the address
    /// leads nowhere, which is as if every bit were set.
    /// </summary>
    internal byte* VmreadBitmap { get; private set; }

    /// <inheritdoc cref="VmreadBitmap"/>
    internal byte* VmwriteBitmap { get; private set; }

    /// <summary>Instructions retired so far. Exact outside <see cref="Enter"/> and while a device is being accessed.</summary>
    public ulong InstructionsRetired
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => State->RetiredBase + (ulong)(State->BudgetGranted - State->Budget + State->Position);
    }

    /// <summary>Instructions that the last <see cref="Enter"/> has retired.</summary>
    public ulong RetiredByEntry => InstructionsRetired - State->RetiredBase;

    /// <summary>
    /// VM entry on <paramref name="vmcs"/>, guest execution, VM exit: returns when the guest has exited, with guest state and
    /// exit information in the VMCS.
    /// </summary>
    /// <param name="vmcs">The VMCS.</param>
    /// <returns>
    /// The basic exit reason. <see cref="ExitReason.VmFailValid"/> where controls or host state violate a rule: there was no entry and
    /// no exit. For an entry that fails later (<see cref="ExitReason.InvalidGuestState"/>, <see cref="ExitReason.MsrLoading"/>) the
    /// exit-reason field has bit 31 and the guest-state area is as it was. <see cref="ExitReason.VmxAbort"/> where the exit itself failed.
    /// </returns>
    /// <param name="budget">Instructions to retire at most; the entry ends with <see cref="ExitReason.BudgetExhausted"/> after exactly as many.</param>
    public ExitReason Enter(Vmcs vmcs, long budget)
    {
        CpuState* s = State;
        s->RetiredBase = InstructionsRetired;
        s->BudgetGranted = budget;
        s->Budget = budget;
        Vmcs = vmcs;
        if (!VmEntry.Check(this, vmcs, out ExitReason failure))
            return failure;
        LoadGuestState(vmcs);
        if (vmcs.Read32(VmcsField.VmEntryMsrLoadCount) != 0)
        {
            uint failed = MsrAreas.Enter(this, vmcs);
            if (failed != 0)
            {
                _held = null;
                return VmEntry.Fail(vmcs, ExitReason.MsrLoading, failed);
            }
        }
        BeginBoundaries(vmcs);
        _entered = true;
        if (GuestState.InjectEvent(this, vmcs))
            Run();
        _entered = false;
        GuestState.Save(this, vmcs);
        if ((vmcs.Read32(VmcsField.VmExitMsrStoreCount) | vmcs.Read32(VmcsField.VmExitMsrLoadCount)) != 0)
        {
            if (vmcs.Read32(VmcsField.VmExitMsrLoadCount) != 0)
                _held = null;
            if (!MsrAreas.Leave(this, vmcs))
                return ExitReason.VmxAbort;
        }
        return (ExitReason)(vmcs.Read32(VmcsField.ExitReason) & 0xFFFF);
    }

    /// <summary>
    /// The notification that interrupts were posted for a guest arrives (SDM volume 3, section 30.6): between entries, or, from a device
    /// that the running guest accesses, for the VMCS on which it runs. Changes nothing where the VMCS does not process them.
    /// </summary>
    public void ProcessPostedInterrupts(Vmcs vmcs)
    {
        if ((vmcs.Read32(VmcsField.PinBasedControls) & (uint)PinControls.PostedInterrupts) != 0)
            VirtualApic.ProcessPostedInterrupts(vmcs, running: _entered && vmcs == Vmcs);
    }

    /// <summary>
    /// Gives the registers the values of a VMCS's guest-state area, without entering: so that L0 can execute WRMSR and the like in the
    /// guest's stead after it has changed that area.
    /// </summary>
    public void TakeGuestState(Vmcs vmcs)
    {
        Vmcs = vmcs;
        GuestState.Load(this, vmcs);
        ModeChanged();
        _held = null;
    }

    /// <summary>The next entry takes all of the guest-state area from the VMCS, and chooses the address space.</summary>
    internal void ForgetGuestState() => _held = null;

    // As in hardware, what the processor has from its last exit need not come from the VMCS again (SDM volume 3, section 25.1).
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void LoadGuestState(Vmcs vmcs)
    {
        if (_held == vmcs && vmcs.Holder == this && _heldConfiguration == vmcs.ConfigurationVersion
            && ((vmcs[VmcsField.GuestRflags] ^ State->SystemFlags) & (Rflags.Vm | Rflags.Ac)) == 0)
        {
            GuestState.Resume(this, vmcs);
            return;
        }
        GuestState.Load(this, vmcs);
        ModeChanged();
        if ((State->SecondaryControls & SecondaryControls.VmcsShadowing) != 0)
        {
            VmreadBitmap = Environment.Memory.HostPage(vmcs[VmcsField.VmreadBitmap]);
            VmwriteBitmap = Environment.Memory.HostPage(vmcs[VmcsField.VmwriteBitmap]);
        }
        _held = GuestState.StaysHeld(this, vmcs) ? vmcs : null;
        _heldConfiguration = vmcs.ConfigurationVersion;
        vmcs.Holder = this;
    }

    /// <summary>Whether the page-directory-pointer-table entries at a CR3 are such that PAE paging could use them; loads them if so.</summary>
    public bool AcceptsPdptes(ulong cr3) => Mmu.LoadPdptes(cr3);

    /// <summary>
    /// Asks the processor to exit with <see cref="ExitReason.BudgetExhausted"/> at the next opportunity, as an external interrupt
    /// for L0 would. From any thread.
    /// </summary>
    public void RequestAttention() => Volatile.Write(ref State->Attention, AttentionExit);

    /// <summary>Instructions retired so far, exact between instructions and, given the running instruction, inside a trace.</summary>
    public static ulong Retired(CpuState* s, Insn* i) => s->RetiredBase + (ulong)(s->BudgetGranted - s->Budget) + (ulong)(i->Count - 1);

    /// <summary>The processor that owns a register file.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static LogicalProcessor Of(CpuState* s) => Unsafe.As<LogicalProcessor>(GCHandle.FromIntPtr(s->Self).Target!);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        Mmu.Dispose();
        VirtualApic.Dispose();
        NativeMemory.Free(State->JumpCache);
        NativeMemory.AlignedFree(State);
        State = null;
        _self.Free();
    }
}
