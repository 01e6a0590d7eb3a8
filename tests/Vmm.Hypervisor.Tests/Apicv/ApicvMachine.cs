using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Model;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Apicv;

/// <summary>
/// A virtual machine whose boot vCPU runs flat 64-bit code with all of 4 GiB mapped. Every vector from 0x20 up has a handler that
/// appends its number to a log, reads RDI as a flag whether to end the interrupt, and does so through the registers in memory or
/// the MSR, as the mode of the local APIC asks.
/// </summary>
internal sealed unsafe class ApicvMachine : IProcessorBus, IEntropySource, IExternalInterruptController, IEndOfInterruptListener, IDisposable
{
    public const ulong Code = 0x1_0000, Log = 0x4_0000, Idt = 0x2000, Handlers = 0x2_0000, Stack = 0x9000;
    public const int ApicBase = unchecked((int)0xFEE0_0000);

    private const ulong Gdt = 0x1000, Tables = 0x4000;

    public ApicvMachine(int vcpus = 1, bool x2 = false, ApicvOptions? options = null, int maxVcpus = 0)
    {
        Machine = new VirtualMachine(new(Memory, this, Bus, Clock, this, new ProcessorModel(Math.Max(vcpus, maxVcpus))) { Vcpus = vcpus, Apicv = options ?? new(), Translation = TestTranslation.Default });
        Machine.Apicv.Changed += Events.Add;
        Bus.ExternalInterrupts = this;
        Bus.EndOfInterruptListener = this;
        Write(Gdt, [0UL, 0x00AF9B000000FFFF, 0x00CF93000000FFFF]);
        Write(Tables, [(Tables + 0x1000) | 7]);
        Write(Tables + 0x1000, [0UL | 0x87, 0x4000_0000 | 0x87, 0x8000_0000 | 0x87, 0xC000_0000 | 0x87]);
        for (uint vector = 0x20; vector < 0x100; vector++)
            WriteHandler(vector, x2);
        if (x2)
            Assert.True(Apic.TrySetBase(Apic.BaseMsr | 0x400));
        EnterLongMode();
    }

    public PhysicalMemory Memory { get; } = new(4 << 20);
    public ApicBus Bus { get; } = new();
    public ManualClock Clock { get; } = new();
    public VirtualMachine Machine { get; }
    public List<ApicvEvent> Events { get; } = [];
    public List<byte> EndsOfInterrupt { get; } = [];
    public Queue<byte> PicVectors { get; } = new();
    public Vcpu Vcpu => Machine.Vcpus[0];
    public LocalApic Apic => Vcpu.Apic;
    public Vmcs Vmcs01 => Vcpu.Vmcs01;
    public SecondaryControls Secondary => (SecondaryControls)Vmcs01.Read32(VmcsField.SecondaryControls);
    public ProcControls Primary => (ProcControls)Vmcs01.Read32(VmcsField.ProcessorBasedControls);

    /// <summary>Whether handlers end their interrupts.</summary>
    public bool EndsInterrupts { set => Vcpu.State->Gpr[Gpr.Rdi] = value ? 1u : 0; }

    public bool InterruptsEnabled { set => Vcpu.Vmcs[VmcsField.GuestRflags] = value ? 0x202u : 2; }

    /// <summary>The vectors that were taken, in order.</summary>
    public int[] Taken => [.. Enumerable.Range(0, (int)Vcpu.State->Gpr[15]).Select(k => (int)Read(Log + ((ulong)k * 8)))];

    public void Load(Action<Assembler> program)
    {
        Assemble(program, Code);
        Vcpu.Vmcs[VmcsField.GuestRip] = Code;
    }

    /// <summary>Runs a program from its start.</summary>
    public VcpuOutcome Run(Action<Assembler> program, long budget = 10_000)
    {
        Load(program);
        return Vcpu.Run(budget);
    }

    public void Send(byte vector, bool level = false) => Assert.True(Bus.Deliver(new(0, false, DeliveryMode.Fixed, vector, level)));

    public ulong Read(ulong address)
    {
        ulong value;
        Assert.True(Memory.TryRead(address, new Span<byte>(&value, 8)));
        return value;
    }

    public byte Acknowledge() => PicVectors.Dequeue();

    public void EndOfInterrupt(byte vector) => EndsOfInterrupt.Add(vector);

    public uint ReadPort(ushort port, int size) => uint.MaxValue;

    public void WritePort(ushort port, int size, uint value)
    {
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

    private void EnterLongMode()
    {
        Vmcs vmcs = Vcpu.Vmcs;
        CpuState* s = Vcpu.State;
        vmcs[VmcsField.GuestCr0] = s->Cr0 = Cr0.Pe | Cr0.Et | Cr0.Ne | Cr0.Pg;
        vmcs[VmcsField.GuestCr3] = s->Cr3 = Tables;
        vmcs[VmcsField.GuestCr4] = s->Cr4 = Cr4.Pae | (vmcs[VmcsField.GuestCr4] & Cr4.Vmxe);
        vmcs[VmcsField.GuestEfer] = s->Efer = Efer.Lme | Efer.Lma;
        vmcs[VmcsField.VmEntryControls] |= (ulong)VmEntryControls.Ia32eModeGuest;
        Vcpu.SetSegment(Seg.Cs, 8, 0, uint.MaxValue, 0xA09B);
        foreach (int segment in (int[])[Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs])
            Vcpu.SetSegment(segment, 16, 0, uint.MaxValue, 0xC093);
        vmcs[VmcsField.GuestGdtrBase] = Gdt;
        vmcs[VmcsField.GuestGdtrLimit] = 23;
        vmcs[VmcsField.GuestIdtrBase] = Idt;
        vmcs[VmcsField.GuestIdtrLimit] = 0xFFF;
        vmcs[VmcsField.GuestRsp] = Stack;
        vmcs[VmcsField.GuestRip] = Code;
        s->Gpr[Gpr.Rdi] = 1;
        Apic.EnterVirtualWireMode();
    }

    private void WriteHandler(uint vector, bool x2)
    {
        ulong at = Handlers + (vector * 64);
        Assemble(a =>
        {
            Label end = a.CreateLabel();
            a.mov(__qword_ptr[r15 * 8 + (int)Log], (int)vector);
            a.inc(r15);
            a.test(edi, edi);
            a.jz(end);
            if (x2)
            {
                a.mov(r12, rax);
                a.mov(r13, rdx);
                a.mov(r14, rcx);
                a.mov(ecx, 0x80B);
                a.xor(eax, eax);
                a.xor(edx, edx);
                a.wrmsr();
                a.mov(rax, r12);
                a.mov(rdx, r13);
                a.mov(rcx, r14);
            }
            else
            {
                a.mov(r12d, ApicBase);
                a.mov(__dword_ptr[r12 + 0xB0], 0);
            }
            a.Label(ref end);
            a.iretq();
        }, at);
        Write(Idt + (vector * 16), [(at & 0xFFFF) | (8UL << 16) | (0x8EUL << 40) | ((at & 0xFFFF_0000) << 32), at >> 32]);
    }

    private void Assemble(Action<Assembler> program, ulong at)
    {
        var assembler = new Assembler(64);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Machine.Package.WriteMemory(at, stream.ToArray());
    }

    private void Write(ulong address, ReadOnlySpan<ulong> values) => Machine.Package.WriteMemory(address, MemoryMarshal.AsBytes(values));
}
