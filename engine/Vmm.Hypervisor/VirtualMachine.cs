using System.Collections.ObjectModel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.HyperV;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Nested;
using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Time;
using Vmm.Hypervisor.Tracing;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.SavedState;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor;

/// <summary>What L0 needs from around it to run a virtual machine.</summary>
/// <param name="Memory">The guest's RAM.</param>
/// <param name="Board">The devices, at their ports and physical addresses.</param>
/// <param name="ApicBus">The bus of the local APICs, with no APIC on it yet: devices send their interrupts there.</param>
/// <param name="Clock">The machine's time, for the local APICs' timers.</param>
/// <param name="Entropy">For RDRAND and RDSEED.</param>
/// <param name="Model">The processors that the guest sees.</param>
public sealed record VirtualMachineEnvironment(PhysicalMemory Memory, IProcessorBus Board, ApicBus ApicBus, IMachineClock Clock, IEntropySource Entropy, ProcessorModel Model)
{
    /// <summary>vCPUs at power-up, at least 1 and at most <see cref="ProcessorModel.Processors"/>, which is what they are unless this is set.</summary>
    public int Vcpus { get; init; } = Model.Processors;

    /// <summary>How APIC virtualization by the processor is used.</summary>
    public ApicvOptions Apicv { get; init; } = new();

    /// <summary>How hot code is compiled; null where everything is interpreted.</summary>
    public TranslationOptions? Translation { get; init; }

    /// <summary>VMX capability MSRs, by number, of which L1 sees another value than the processor's: one that offers less.</summary>
    public IReadOnlyDictionary<uint, ulong> VmxCapabilityMsrs { get; init; } = ReadOnlyDictionary<uint, ulong>.Empty;
}

/// <summary>
/// L0's side of one virtual machine: its vCPUs, with what they share. One thread runs them in turn; a vCPU that runs reaches
/// ports and memory-mapped registers through here, its own local APIC before the devices. vCPUs can be added as long as the
/// processor model has room for them, and none is ever taken away.
/// </summary>
public sealed class VirtualMachine : IProcessorBus, ITimeStampCounter, IDisposable
{
    private readonly IProcessorBus _board;
    private readonly ProcessorPackage _package;
    private readonly X2ApicBitmap _x2ApicBitmap;
    private readonly VmcsShadowing _vmcsShadowing;
    private volatile Vcpu[] _vcpus = [];
    private ulong _progressBase;

    /// <summary>Creates the vCPUs, as after power-up.</summary>
    /// <exception cref="ArgumentException">A capability MSR offers more than the processor has.</exception>
    public VirtualMachine(VirtualMachineEnvironment environment)
    {
        Model = environment.Model;
        Clock = environment.Clock;
        ApicBus = environment.ApicBus;
        _board = environment.Board;
        NestedCapabilities = Model.RestrictVmx(environment.VmxCapabilityMsrs, out string? refusal) ?? throw new ArgumentException(refusal, nameof(environment));
        _package = new ProcessorPackage(new ProcessorEnvironment(environment.Memory, this, this, environment.Entropy, Model.Features) { Translation = environment.Translation });
        HyperV = new HypervisorInterface(_package);
        _x2ApicBitmap = new X2ApicBitmap(environment.Memory);
        _vmcsShadowing = new VmcsShadowing(environment.Memory, _package.Environment.Vmx, NestedCapabilities);
        Apicv = new ApicvInhibits(this, environment.Apicv);
        while (_vcpus.Length < environment.Vcpus)
            CreateVcpu();
    }

    /// <summary>The processors that the guest sees.</summary>
    public ProcessorModel Model { get; }

    /// <summary>
    /// Whether a vmcs02 that the hardware refuses is always reported as L0's fault, and never blamed on L1: what KVM calls the nested
    /// early check. Without it, <see cref="ApicvPolicy.UnsafeImmediate"/> blames L1.
    /// </summary>
    public bool NestedEarlyCheck { get; init; }

    /// <summary>The VMX capability MSRs that L1 sees.</summary>
    public VmxCapabilities NestedCapabilities { get; }

    /// <summary>The Hyper-V interface, which a guest sees where its processor has <see cref="ProcessorModel.EnlightenedVmcs"/>.</summary>
    public HypervisorInterface HyperV { get; }

    /// <summary>The machine's time.</summary>
    public IMachineClock Clock { get; }

    /// <summary>The processors' shared part: decoded code and its invalidation.</summary>
    public ProcessorPackage Package => _package;

    /// <summary>The local APICs' bus.</summary>
    public ApicBus ApicBus { get; }

    /// <summary>What keeps APIC virtualization by the processor from being used.</summary>
    public ApicvInhibits Apicv { get; }

    /// <summary>Those who trace exits, or null where nobody does.</summary>
    internal ExitTracing? Tracing { get; private set; }

    /// <summary>The host-physical address of the MSR bitmaps for APICv in x2APIC mode.</summary>
    internal ulong X2ApicBitmap => _x2ApicBitmap.Address;

    /// <summary>What lets L1 read and write its current VMCS without an exit.</summary>
    internal VmcsShadowing VmcsShadowing => _vmcsShadowing;

    /// <summary>The vCPUs, by their numbers. What was once returned does not change: one that is added later is in a list of its own.</summary>
    public IReadOnlyList<Vcpu> Vcpus => _vcpus;

    /// <summary>The vCPU that executes now, or null between slices.</summary>
    public Vcpu? Running { get; private set; }

    /// <summary>The counter that RDTSC reads before the vCPU's offset: nanoseconds of the machine's clock.</summary>
    public ITimeStampCounter TimeStampCounter => this;

    /// <summary>
    /// Instructions that the running vCPU has executed since it was entered: what the virtual clock adds to the time of the
    /// entry. 0 where none runs.
    /// </summary>
    public ulong Progress => Running is { } vcpu ? vcpu.InstructionsRetired - _progressBase : 0;

    /// <summary>
    /// Adds a vCPU, as after power-up: it waits for INIT and start-up messages. On the thread that runs the machine, between two
    /// instructions.
    /// </summary>
    /// <exception cref="InvalidOperationException">The processor model has no room for another.</exception>
    public Vcpu AddVcpu()
    {
        if (_vcpus.Length >= Model.Processors)
            throw new InvalidOperationException($"The machine has all of the {Model.Processors} vCPUs that it can have.");
        return CreateVcpu();
    }

    /// <summary>Begins to write what happens between guest and hypervisors to a ring. Between two instructions.</summary>
    public void StartTrace(ExitTraceRing ring)
    {
        if (Tracing == null)
        {
            foreach (Vcpu vcpu in _vcpus)
                vcpu.ContinuedLevel = vcpu.IsGuestMode ? (byte)2 : (byte)1;
        }
        Tracing = ExitTracing.With(Tracing, ring);
    }

    /// <summary>Ends what <see cref="StartTrace"/> began; no effect where it has ended. Between two instructions.</summary>
    public void StopTrace(ExitTraceRing ring) => Tracing = ExitTracing.Without(Tracing, ring);

    /// <inheritdoc/>
    public ulong ReadMemory(ulong address, int size)
    {
        LocalApic? apic = Running?.Apic;
        return apic is { Mode: ApicMode.XApic } && address - apic.BaseAddress < 4096
            ? apic.ReadMemory((uint)(address & 0xFFF), size)
            : _board.ReadMemory(address, size);
    }

    /// <inheritdoc/>
    public void WriteMemory(ulong address, int size, ulong value)
    {
        LocalApic? apic = Running?.Apic;
        if (apic is { Mode: ApicMode.XApic } && address - apic.BaseAddress < 4096)
            apic.WriteMemory((uint)(address & 0xFFF), size, value);
        else
            _board.WriteMemory(address, size, value);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) => _board.ReadPort(port, size);

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value) => _board.WritePort(port, size, value);

    /// <inheritdoc/>
    public ulong Read(ulong instructionsRetired) => Clock is IInstructionClock exact && Running is { } vcpu
        ? exact.At(vcpu.TotalRetired(instructionsRetired) - _progressBase)
        : Clock.Nanoseconds;

    /// <summary>Everything that L0 holds. While no vCPU executes.</summary>
    public VirtualMachineState Save() => new()
    {
        ApicvInhibits = Apicv.Reasons,
        ApicvGeneration = Apicv.Generation,
        LastLowestPriority = ApicBus.LastLowestPriority,
        HyperV = HyperV.Save(),
        Vcpus = [.. _vcpus.Select(vcpu => vcpu.Save())],
    };

    /// <summary>Takes a saved state instead of that after power-up. RAM must be that of the machine that was saved, and the clock at its time.</summary>
    /// <exception cref="InvalidStateException">A value is none that this machine could have; it must not run then.</exception>
    public void Load(VirtualMachineState state)
    {
        // Those that had been added are there again.
        InvalidStateException.ThrowUnlessWhole(state.Vcpus, Math.Clamp(state.Vcpus?.Length ?? 0, _vcpus.Length, Model.Processors), "VirtualMachine.Vcpus");
        while (_vcpus.Length < state.Vcpus!.Length)
            CreateVcpu();
        ApicBus.LastLowestPriority = state.LastLowestPriority;
        HyperV.Load(state.HyperV, Model.EnlightenedVmcs);
        Apicv.Load(state.ApicvInhibits, state.ApicvGeneration);
        for (int k = 0; k < _vcpus.Length; k++)
            _vcpus[k].Load(state.Vcpus[k]);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Vcpu vcpu in _vcpus)
            vcpu.Dispose();
        _x2ApicBitmap.Dispose();
        _vmcsShadowing.Dispose();
        _package.Dispose();
    }

    // A change of the inhibits asks those vCPUs that are in the list. The one that is being created is not in it yet, though its local
    // APIC is on the bus already and may itself bring a change about: so it comes with its update pending, whatever happened meanwhile.
    private Vcpu CreateVcpu()
    {
        var vcpu = new Vcpu(this, _vcpus.Length, _package.CreateProcessor());
        _vcpus = [.. _vcpus, vcpu];
        return vcpu;
    }

    internal void Enter(Vcpu vcpu)
    {
        _progressBase = vcpu.InstructionsRetired;
        Running = vcpu;
    }

    internal void Leave(Vcpu vcpu)
    {
        if (Running == vcpu)
            Running = null;
    }
}

/// <summary>A clock that knows the time at any instruction of the running slice.</summary>
public interface IInstructionClock
{
    /// <summary>Nanoseconds when the running vCPU has executed <paramref name="progress"/> instructions since it was entered.</summary>
    ulong At(ulong progress);
}
