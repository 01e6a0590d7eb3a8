using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Model;
using Vmm.Machine.Migration;
using Vmm.Machine.Scheduling;
using Vmm.Machine.Snapshots;
using Vmm.Processor.Translation;

namespace Vmm.Machine;

/// <summary>Whether a machine's clock follows the host's or the guest's own instructions.</summary>
public enum ClockMode
{
    /// <summary>Guest time follows the injected <see cref="TimeProvider"/>.</summary>
    RealTime,

    /// <summary>Guest time is a function of instructions executed: the run is a pure function of spec and inputs.</summary>
    Virtual,
}

/// <summary>A disk or another file-backed device.</summary>
/// <param name="Path">The backing file, raw.</param>
/// <param name="ReadOnly">Whether writes are refused.</param>
public sealed record DiskSpec(string Path, bool ReadOnly);

/// <summary>What executes a guest's code. What the guest does is the same, to the instruction.</summary>
public enum ExecutionEngine
{
    /// <summary>The interpreter, with a compiler for hot code.</summary>
    Auto,

    /// <summary>The interpreter alone.</summary>
    Interpreter,

    /// <summary>
    /// As <see cref="Auto"/>, checked: a second machine only interprets, and again and again everything that both hold is compared. At the
    /// first difference the machine ends as failed, with a report. Under the virtual clock and with disks that are read only; takes the time
    /// of both, and twice the memory.
    /// </summary>
    Lockstep,
}

/// <summary>Everything a machine is made from. Immutable; validated by <see cref="IMachineFactory.Create"/>.</summary>
public sealed record MachineSpec
{
    private readonly int? _maxCpus;

    /// <summary>RAM in bytes, a multiple of 4096, from 1 MiB to 64 GiB.</summary>
    public required ulong MemoryBytes { get; init; }

    /// <summary>Virtual processors at creation, 1 to 16.</summary>
    public int Cpus { get; init; } = 1;

    /// <summary>
    /// Virtual processors that there may come to be by <see cref="IMachine.AddVcpu"/>, from <see cref="Cpus"/>, which is what stands for
    /// it until it is set, to 16.
    /// </summary>
    public int MaxCpus
    {
        get => _maxCpus ?? Cpus;
        init => _maxCpus = value;
    }

    /// <summary>The kernel file: bzImage, ELF with a PVH note, or Multiboot 1; recognised by content.</summary>
    public required string KernelPath { get; init; }

    /// <summary>The initial RAM disk, or for Multiboot the first module.</summary>
    public string? InitrdPath { get; init; }

    /// <summary>Further Multiboot modules, each a path with its command line.</summary>
    public IReadOnlyList<(string Path, string CommandLine)> Modules { get; init; } = [];

    /// <summary>The kernel's command line.</summary>
    public string CommandLine { get; init; } = "";

    /// <summary>virtio-blk disks, in order.</summary>
    public IReadOnlyList<DiskSpec> Disks { get; init; } = [];

    /// <summary>Real time or virtual.</summary>
    public ClockMode Clock { get; init; } = ClockMode.RealTime;

    /// <summary>Seeds RDRAND, RDSEED and virtio-rng under the virtual clock.</summary>
    public ulong Seed { get; init; } = 1;

    /// <summary>What executes the guest's code.</summary>
    public ExecutionEngine Engine { get; init; } = ExecutionEngine.Interpreter;

    /// <summary>What it is to have of the host's processors, beside other machines, when it starts.</summary>
    public ProcessorShare Share { get; init; } = new();

    /// <summary>How the processors virtualize the guest's local APICs: what inhibits it for good, and what changes do while L2 runs.</summary>
    public ApicvOptions Apicv { get; init; } = new();

    /// <summary>Whether a vmcs02 that the hardware refuses is always L0's fault, and never blamed on L1.</summary>
    public bool NestedEarlyCheck { get; init; }

    /// <summary>VMX capability MSRs, by number, of which the guest sees another value than the processor's: one that offers less.</summary>
    public IReadOnlyDictionary<uint, ulong> VmxCapabilityMsrs { get; init; } = System.Collections.ObjectModel.ReadOnlyDictionary<uint, ulong>.Empty;

    /// <summary>
    /// Whether the guest sees the Hyper-V interface with the enlightened VMCS, version 1; it is not offered then what that has no fields for.
    /// </summary>
    public bool EnlightenedVmcs { get; init; }

    /// <summary>What is wrong with <see cref="VmxCapabilityMsrs"/>, in a sentence; null where nothing is.</summary>
    public static string? RefusalOf(IReadOnlyDictionary<uint, ulong> vmxCapabilityMsrs)
    {
        new ProcessorModel(1).RestrictVmx(vmxCapabilityMsrs, out string? refusal);
        return refusal;
    }
}

/// <summary>What a machine is doing.</summary>
public enum MachineRunState
{
    /// <summary>Created and loaded, has not executed an instruction.</summary>
    Created,

    /// <summary>Its vCPUs execute, or wait in HLT.</summary>
    Running,

    /// <summary>Held between two instructions.</summary>
    Paused,

    /// <summary>Will not execute again; see <see cref="IMachine.End"/>.</summary>
    Ended,
}

/// <summary>Why a machine ended.</summary>
public enum MachineEndReason
{
    /// <summary>The guest entered ACPI S5.</summary>
    PowerOff,

    /// <summary>The guest wrote to isa-debug-exit; <see cref="MachineEnd.ExitCode"/> is <c>(value &lt;&lt; 1) | 1</c>.</summary>
    DebugExit,

    /// <summary>A vCPU shut down after a triple fault.</summary>
    TripleFault,

    /// <summary><see cref="IMachine.Stop"/> was called.</summary>
    Stopped,

    /// <summary>The engine itself failed; <see cref="MachineEnd.Detail"/> says how.</summary>
    Failed,
}

/// <summary>How a machine ended.</summary>
/// <param name="Reason">Why.</param>
/// <param name="ExitCode">What `vmmctl run` exits with: the debug-exit code, 0 after power-off, 126 after a triple fault.</param>
/// <param name="Detail">For people: one line, empty where the reason says it all.</param>
/// <param name="Report">For people: what lockstep found, in lines; empty for every other end.</param>
public sealed record MachineEnd(MachineEndReason Reason, int ExitCode, string Detail = "", string Report = "");

/// <summary>In which address space <see cref="IMachine.ReadMemory"/> and <see cref="IMachine.WriteMemory"/> work.</summary>
public enum MemoryAddressing
{
    /// <summary>Guest-physical.</summary>
    Physical,

    /// <summary>Through the current page tables of a vCPU, with supervisor rights.</summary>
    Virtual,
}

/// <summary>A segment register with its hidden part.</summary>
public sealed record SegmentRegister(string Name, ushort Selector, ulong Base, uint Limit, uint AccessRights);

/// <summary>A vCPU's registers at an instruction boundary.</summary>
public sealed record VcpuRegisters
{
    /// <summary>The vCPU.</summary>
    public required int Vcpu { get; init; }
    /// <summary>RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: the manual's encoding order.</summary>
    public required IReadOnlyList<ulong> GeneralPurpose { get; init; }
    /// <summary>RIP.</summary>
    public required ulong Rip { get; init; }
    /// <summary>RFLAGS.</summary>
    public required ulong Rflags { get; init; }
    /// <summary>CR0, CR2, CR3, CR4, CR8 by name.</summary>
    public required IReadOnlyDictionary<string, ulong> Control { get; init; }
    /// <summary>DR0 to DR3, DR6, DR7 by name.</summary>
    public required IReadOnlyDictionary<string, ulong> Debug { get; init; }
    /// <summary>EFER, FS_BASE, GS_BASE, KERNEL_GS_BASE, STAR, LSTAR and so on, by name.</summary>
    public required IReadOnlyDictionary<string, ulong> Msrs { get; init; }
    /// <summary>ES, CS, SS, DS, FS, GS, LDTR, TR, then GDTR and IDTR (base and limit only).</summary>
    public required IReadOnlyList<SegmentRegister> Segments { get; init; }
    /// <summary>XMM0 to XMM15, low then high half of each.</summary>
    public required IReadOnlyList<(ulong Low, ulong High)> Xmm { get; init; }
    /// <summary>Whether the vCPU waits in HLT or for a start-up message: "active", "hlt", "wait-for-sipi", "shutdown".</summary>
    public required string Activity { get; init; }
    /// <summary>Instructions that this vCPU has retired.</summary>
    public required ulong InstructionsRetired { get; init; }
}

/// <summary>Guest output on a console port. Called on the machine's thread: must not block and must not throw.</summary>
public delegate void ConsoleOutput(ReadOnlySpan<byte> bytes);

/// <summary>
/// One virtual machine in this process. Every member may be called from any thread; calls that change the guest take effect
/// between two instructions and, under the virtual clock, are stamped into the event log.
/// </summary>
public interface IMachine : IMachineVirtualization, IMachineSource, IDisposable
{
    /// <summary>What the machine is doing.</summary>
    MachineRunState RunState { get; }

    /// <summary>How it ended, or null while it has not.</summary>
    MachineEnd? End { get; }

    /// <summary>Completes when the machine has ended. Never faults.</summary>
    Task<MachineEnd> Completion { get; }

    /// <summary>Bytes that the guest sends to COM1 (and to the 0xE9 debug console where that is enabled). Subscribe before <see cref="Start"/>.</summary>
    event ConsoleOutput? ConsoleOutput;

    /// <summary>Raised, on any thread, after the guest reset itself or was reset.</summary>
    event Action? GuestReset;

    /// <summary>Raised, on any thread, when some of the guest's code could not be compiled. It is interpreted; the guest notices nothing.</summary>
    event Action<Exception>? CompilationFailed;

    /// <summary>Begins to execute. Legal once, in <see cref="MachineRunState.Created"/>.</summary>
    /// <exception cref="InvalidOperationException">The machine is in another state.</exception>
    void Start();

    /// <summary>Holds the vCPUs between two instructions; returns when they stand. No effect where they already stand.</summary>
    void Pause();

    /// <summary>Lets held vCPUs go on. No effect where they already run.</summary>
    void Resume();

    /// <summary>Resets the machine as the reset line does, loading the kernel again. Works in every state but <see cref="MachineRunState.Ended"/>.</summary>
    void Reset();

    /// <summary>Presses the ACPI power button. The guest decides what follows.</summary>
    void PressPowerButton();

    /// <summary>Delivers a non-maskable interrupt to a vCPU.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    void InjectNmi(int vcpu);

    /// <summary>
    /// Adds a vCPU, which waits for the guest to start it; the guest is told by ACPI. The vCPU stays over resets, and in snapshots.
    /// Works in every state but <see cref="MachineRunState.Ended"/>.
    /// </summary>
    /// <returns>Its number: how many there were.</returns>
    /// <exception cref="InvalidOperationException">The machine has <see cref="MachineSpec.MaxCpus"/> vCPUs, or has ended.</exception>
    int AddVcpu();

    /// <summary>vCPUs that there are. Only ever grows.</summary>
    int VcpuCount { get; }

    /// <summary>Ends the machine at once, as pulling the plug does; returns when no vCPU executes any more.</summary>
    void Stop();

    /// <summary>Queues input for COM1. Returns how many bytes were taken; the rest did not fit and may be offered again.</summary>
    int WriteConsole(ReadOnlySpan<byte> bytes);

    /// <summary>Raised, on any thread, when a <see cref="WriteConsole"/> that fell short may be tried again.</summary>
    event Action? ConsoleInputDrained;

    /// <summary>Copies guest memory out, at an instruction boundary. Returns false, with nothing meaningful copied, where any byte is not mapped RAM.</summary>
    bool ReadMemory(MemoryAddressing addressing, int vcpu, ulong address, Span<byte> destination);

    /// <summary>Copies into guest memory, at an instruction boundary. Returns false, and changes nothing, where any byte is not mapped RAM.</summary>
    bool WriteMemory(MemoryAddressing addressing, int vcpu, ulong address, ReadOnlySpan<byte> source);

    /// <summary>The registers of a vCPU at an instruction boundary.</summary>
    VcpuRegisters GetRegisters(int vcpu);

    /// <summary>
    /// Writes a snapshot, from which <see cref="IMachineFactory.Restore"/> makes machines that go on from here. The guest stands between two
    /// instructions meanwhile, and its clock with it; then it goes on as before.
    /// </summary>
    /// <param name="directory">An existing, empty directory. Where the call fails, what is in there is no snapshot.</param>
    /// <exception cref="InvalidOperationException">The machine is neither running nor paused, or the call comes from one of its own callbacks.</exception>
    /// <exception cref="IOException">The files could not be written, or the directory is not empty.</exception>
    SnapshotInfo SaveSnapshot(string directory);

    /// <summary>What the machine has of the host's processors. Another one counts at once; the guest's results do not depend on it under the virtual clock.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is refused, see <see cref="ProcessorShare.Refusal"/>.</exception>
    ProcessorShare Share { get; set; }

    /// <summary>What the compiler has done; null where the engine has none. Cheap; may lag a running machine a little.</summary>
    TranslationStatistics? Translation { get; }

    /// <summary>What the vCPUs have done. From any thread, also when the machine has ended; may lag a running machine a little.</summary>
    MachineCounters Counters { get; }

    /// <summary>
    /// Bytes of guest memory that the host has in memory, what machines share of a snapshot included. Goes through all page tables of the host's for
    /// it. Not to be called when the machine may be disposed of meanwhile.
    /// </summary>
    ulong CountResidentMemory();

    /// <summary>Instructions retired by all vCPUs together. Cheap; may lag a running machine by a scheduling slice.</summary>
    ulong InstructionsRetired { get; }
}

/// <summary>A spec or boot file that cannot make a machine. The message is for the user and names the field.</summary>
/// <param name="field">The spec field at fault, as in <see cref="MachineSpec"/>.</param>
/// <param name="message">What is wrong with it.</param>
public sealed class InvalidMachineException(string field, string message) : Exception(message)
{
    /// <summary>The spec field at fault.</summary>
    public string Field { get; } = field;
}

/// <summary>Makes machines.</summary>
public interface IMachineFactory
{
    /// <summary>Builds a machine and loads its kernel.</summary>
    /// <exception cref="InvalidMachineException">The spec or one of its files is not acceptable; nothing was kept.</exception>
    IMachine Create(MachineSpec spec, TimeProvider time);

    /// <summary>
    /// Builds a machine from a snapshot, paused: <see cref="IMachine.Resume"/> lets it go on exactly where it was saved. Its memory is the
    /// snapshot's, copied on write, so that the file must stay unchanged while the machine lives.
    /// </summary>
    /// <param name="spec">The spec of the machine that was saved; what the snapshot contradicts is refused. Kernel and disks may be elsewhere.</param>
    /// <param name="directory">Where <see cref="IMachine.SaveSnapshot"/> wrote it. Need not be trusted.</param>
    /// <param name="time">The host's time.</param>
    /// <exception cref="InvalidSnapshotException">The snapshot cannot be restored; nothing was kept.</exception>
    /// <exception cref="InvalidMachineException">The spec or one of its files is not acceptable; nothing was kept.</exception>
    IMachine Restore(MachineSpec spec, string directory, TimeProvider time);

    /// <summary>
    /// Reserves memory for a machine that comes from another process. What the source is told of a disk is the caller's to bring: the files
    /// of the spec are opened when the machine is made.
    /// </summary>
    /// <param name="spec">The spec of the machine that comes. Kernel and disks may be elsewhere than they are for its source.</param>
    /// <param name="time">The host's time.</param>
    /// <exception cref="InvalidMachineException">The spec is not acceptable, is of a machine in lockstep, or the host has no such memory.</exception>
    IMachineReceiver Receive(MachineSpec spec, TimeProvider time);

    /// <summary>What its machines have to execute on, as it is.</summary>
    ExecutionLoad Load { get; }
}
