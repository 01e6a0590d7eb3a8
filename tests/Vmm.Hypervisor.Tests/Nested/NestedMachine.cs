using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>How a program of L1 came back to the test.</summary>
internal enum L1Stop
{
    /// <summary>The budget is used up; L2 or L1 goes on with the next call.</summary>
    Running = 0,

    /// <summary>A VMLAUNCH or VMRESUME came to its end in L1: there was no VM exit.</summary>
    NoEntry = 1,

    /// <summary>A VM exit has taken place.</summary>
    Exit = 2,

    /// <summary>An exception handler of L1.</summary>
    Exception = 3,

    /// <summary>The end of a program.</summary>
    Done = 4,

    /// <summary>The virtual machine waits for an interrupt.</summary>
    Waiting = 5,

    /// <summary>The virtual machine is shut down.</summary>
    Shutdown = 6,
}

/// <summary>
/// A virtual machine with one vCPU whose L1 is a small hypervisor that the test directs. Everything about VMX is done by L1's own
/// instructions: it writes the fields that the test has changed with VMWRITE, enters with VMLAUNCH or VMRESUME, and after a VM exit
/// reads every field with VMREAD. L1 and L2 run 64-bit code with all of 4 GiB mapped onto itself, and share their tables.
/// </summary>
internal sealed unsafe partial class NestedMachine : IProcessorBus, IEntropySource, IExternalInterruptController, IDisposable
{
    public const ulong Gdt = 0x1000, Idt = 0x2000, Tss = 0x3000, Tables = 0x4000, Stack = 0x9000, L2Idt = 0xA000, L2Stack = 0xF000, Code = 0x1_0000,
        L2Code = 0x2_0000, Handlers = 0x2_4000, VmxonRegion = 0x3_0000, VmcsRegion = 0x3_1000, OtherRegion = 0x3_2000, MsrBitmap = 0x3_3000, IoBitmapA = 0x3_4000,
        IoBitmapB = 0x3_5000, VirtualApic = 0x3_6000, ApicAccess = 0x3_7000, Ept = 0x3_8000, MsrAreas = 0x3_E000, Scratch = 0x3_F000, Log = 0x8_0000;

    /// <summary>The port at which L1 reports to the test.</summary>
    public const ushort ReportPort = 0xF4;

    private const int Writes = 0x4_0000, Launched = 0x4_0008, Flags = 0x4_0010, Registers = 0x4_0100, WriteTable = 0x5_0000, Reads = 0x4_0018,
        ReadTable = 0x6_0000, ReadResults = 0x6_8000;

    private readonly List<VmcsField> _readable;
    private readonly Dictionary<uint, ulong> _pending = [];
    private readonly Func<VirtualMachine> _build;
    private int _calls;
    private L1Stop _stop;
    private bool _started;

    public NestedMachine(ApicvOptions? options = null, bool earlyCheck = false, Action<VirtualMachine>? prepare = null, Dictionary<uint, ulong>? capabilities = null,
        bool enlightened = false, Tier? tier = null)
    {
        _build = () => new VirtualMachine(new(Memory, this, Bus, Clock, this, new ProcessorModel(1) { EnlightenedVmcs = enlightened }) { Apicv = options ?? new(), VmxCapabilityMsrs = capabilities ?? [], Translation = TestTranslation.Of(tier) })
        {
            NestedEarlyCheck = earlyCheck,
        };
        Machine = _build();
        Machine.Apicv.Changed += Observe;
        Bus.ExternalInterrupts = this;
        prepare?.Invoke(Machine);
        Write(Gdt, [0UL, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067 | Tss << 16, 0, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF]);
        Write(Tables, [(Tables + 0x1000) | 7]);
        Write(Tables + 0x1000, [0x87UL, 0x4000_0087, 0x8000_0087, 0xC000_0087]);
        _readable = [.. VmcsCatalogue.Fields.Where(Capabilities.Supports).Select(f => f.Field)];
        Write(ReadTable, [.. _readable.Select(f => (ulong)f)]);
        Write((ulong)Reads, [(ulong)_readable.Count]);
        Write(VmxonRegion, [Capabilities.RevisionId]);
        Write(VmcsRegion, [Capabilities.RevisionId]);
        Write(OtherRegion, [Capabilities.RevisionId]);
        Write(Scratch, [VmxonRegion, VmcsRegion, OtherRegion]);
        for (uint vector = 0; vector < 32; vector++)
            WriteExceptionHandler(vector);
        EnterLongMode();
        SetDefaults();
    }

    public PhysicalMemory Memory { get; } = new(16 << 20);
    public ApicBus Bus { get; private set; } = new();
    public ManualClock Clock { get; } = new();
    public VirtualMachine Machine { get; private set; }
    public List<ApicvEvent> Events { get; } = [];
    public List<(ushort Port, uint Value)> PortWrites { get; } = [];
    public Vcpu Vcpu => Machine.Vcpus[0];
    public LocalApic Apic => Vcpu.Apic;
    public VmxCapabilities Capabilities => Machine.NestedCapabilities;

    /// <summary>The secondary controls of vmcs01.</summary>
    public SecondaryControls Secondary01 => (SecondaryControls)Vcpu.Vmcs01.Read32(VmcsField.SecondaryControls);

    /// <summary>The vector of the exception that L1 has taken, for <see cref="L1Stop.Exception"/>.</summary>
    public uint ExceptionVector { get; private set; }

    /// <summary>The error code of that exception, where it has one.</summary>
    public uint ExceptionError => (uint)Read(Registers - 8);

    /// <summary>RFLAGS after a VM entry that did not take place.</summary>
    public ulong EntryFlags => Read(Flags);

    /// <summary>The VM-instruction error as L1 reads it; 0 after VMfailInvalid.</summary>
    public uint InstructionError => (EntryFlags & Rflags.Zf) != 0 ? (uint)this[VmcsField.VmInstructionError] : 0;

    /// <summary>The exit reason, with bit 31 where an entry has failed.</summary>
    public uint FullReason => (uint)this[VmcsField.ExitReason];

    /// <summary>The basic exit reason.</summary>
    public ExitReason Reason => (ExitReason)(ushort)FullReason;

    public ulong Qualification => this[VmcsField.ExitQualification];

    /// <summary>A field: as L1 has read it last, and to be written by L1 before its next entry.</summary>
    public ulong this[VmcsField field]
    {
        get => _pending.TryGetValue((uint)field, out ulong value) ? value : Read(ReadResults + (ulong)(_readable.IndexOf(field) * 8));
        set => _pending[(uint)field] = value;
    }

    public PinControls Pin
    {
        get => (PinControls)this[VmcsField.PinBasedControls];
        set => this[VmcsField.PinBasedControls] = (uint)value;
    }

    public ProcControls Proc
    {
        get => (ProcControls)this[VmcsField.ProcessorBasedControls];
        set => this[VmcsField.ProcessorBasedControls] = (uint)value;
    }

    public SecondaryControls Secondary
    {
        get => (SecondaryControls)this[VmcsField.SecondaryControls];
        set
        {
            this[VmcsField.SecondaryControls] = (uint)value;
            Proc |= ProcControls.ActivateSecondary;
        }
    }

    public VmExitControls Exit
    {
        get => (VmExitControls)this[VmcsField.VmExitControls];
        set => this[VmcsField.VmExitControls] = (uint)value;
    }

    public VmEntryControls Entry
    {
        get => (VmEntryControls)this[VmcsField.VmEntryControls];
        set => this[VmcsField.VmEntryControls] = (uint)value;
    }

    /// <summary>A general-purpose register of L2, but for RSP: as it was at the last exit, and will be at the next entry.</summary>
    public ulong Register(int number) => Read(Registers + (ulong)number * 8);

    public void SetRegister(int number, ulong value) => Write(Registers + (ulong)number * 8, [value]);

    /// <summary>Assembles L2's program, and lets it begin there.</summary>
    public void LoadL2(Action<Assembler> program)
    {
        Assemble(program, L2Code);
        this[VmcsField.GuestRip] = L2Code;
    }

    /// <summary>Lets L1 enter L2 and run until it has to say something.</summary>
    public L1Stop Enter(long budget = 100_000)
    {
        if (!_started)
        {
            _started = true;
            AssembleMonitor();
            Vcpu.Vmcs[VmcsField.GuestRip] = Code;
        }
        Write(WriteTable, [.. _pending.SelectMany(p => new[] { p.Key, p.Value })]);
        Write(Writes, [(ulong)_pending.Count]);
        L1Stop stop = Continue(budget);
        return stop;
    }

    /// <summary>What happens to APICv, also after a <see cref="Move"/>.</summary>
    public event Action<ApicvEvent>? ApicvChanged;

    /// <summary>After so many calls of <see cref="Continue"/> the state moves to another virtual machine; 0 for never.</summary>
    public int MoveEvery { get; set; }

    /// <summary>Saves the state, and loads it into a new virtual machine on the same memory, whose own pages are elsewhere.</summary>
    public void Move()
    {
        VirtualMachineState state = Machine.Save();
        VirtualMachine old = Machine;
        ulong spoiler = Memory.AllocatePrivatePage();
        Bus = new ApicBus { ExternalInterrupts = this };
        Machine = _build();
        Machine.Load(state);
        Machine.Apicv.Changed += Observe;
        old.Dispose();
        Memory.FreePrivatePage(spoiler);
    }

    /// <summary>Lets L2, or L1, go on.</summary>
    public L1Stop Continue(long budget = 100_000)
    {
        if (MoveEvery > 0 && ++_calls % MoveEvery == 0)
            Move();
        _stop = L1Stop.Running;
        Vcpu.ClearExitRequest();
        VcpuOutcome outcome = Vcpu.Run(budget);
        if (_stop is L1Stop.NoEntry or L1Stop.Exit)
            _pending.Clear();
        return outcome switch
        {
            VcpuOutcome.TripleFault => L1Stop.Shutdown,
            VcpuOutcome.Waiting => L1Stop.Waiting,
            _ => _stop,
        };
    }

    /// <summary>Loads L2, enters it, and demands an exit for a reason.</summary>
    public void ExpectExit(ExitReason reason, Action<Assembler> program)
    {
        LoadL2(program);
        ExpectExit(reason);
    }

    /// <summary>Enters L2 and demands an exit for a reason.</summary>
    public void ExpectExit(ExitReason reason)
    {
        L1Stop stop = Enter();
        Assert.True(stop == L1Stop.Exit, $"{stop}, error {this[VmcsField.VmInstructionError]}, exception {ExceptionVector}");
        Assert.Equal((reason, (uint)reason), (Reason, FullReason));
    }

    /// <summary>Enters L2 behind the instruction that has exited.</summary>
    public void Skip() => this[VmcsField.GuestRip] += this[VmcsField.VmExitInstructionLength];

    /// <summary>Runs a program of L1 alone, from its beginning until it reports.</summary>
    public L1Stop RunL1(Action<Assembler> program, long budget = 100_000)
    {
        Assemble(program, Code);
        Vcpu.Vmcs[VmcsField.GuestRip] = Code;
        return Continue(budget);
    }

    public void Send(byte vector) => Assert.True(Bus.Deliver(new(0, false, DeliveryMode.Fixed, vector, false)));

    public void SendNmi() => Assert.True(Bus.Deliver(new(0, false, DeliveryMode.Nmi, 0, false)));

    public ulong Read(ulong address)
    {
        ulong value;
        Assert.True(Memory.TryRead(address, new Span<byte>(&value, 8)));
        return value;
    }

    public void Write(ulong address, ReadOnlySpan<ulong> values) => Machine.Package.WriteMemory(address, MemoryMarshal.AsBytes(values));

    public void WriteBytes(ulong address, ReadOnlySpan<byte> bytes) => Machine.Package.WriteMemory(address, bytes);

    public void Assemble(Action<Assembler> program, ulong at)
    {
        var assembler = new Assembler(64);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Machine.Package.WriteMemory(at, stream.ToArray());
    }

    public byte Acknowledge() => 0xFF;

    public uint ReadPort(ushort port, int size) => 0x5A5A_5A5A;

    public void WritePort(ushort port, int size, uint value)
    {
        if (port != ReportPort)
        {
            PortWrites.Add((port, value));
            return;
        }
        _stop = (L1Stop)(value & 0xFF);
        ExceptionVector = value >> 8;
        Vcpu.RequestExit();
    }

    public ulong ReadMemory(ulong address, int size) => ulong.MaxValue;

    public void WriteMemory(ulong address, int size, ulong value)
    {
    }

    public ulong Next() => 4;

    public void Dispose()
    {
        Machine.Dispose();
        Memory.Dispose();
    }

    private void Observe(ApicvEvent change)
    {
        Events.Add(change);
        ApicvChanged?.Invoke(change);
    }
}
