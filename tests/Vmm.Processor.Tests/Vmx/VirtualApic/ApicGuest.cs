using Iced.Intel;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Tests.VirtualApic;

/// <summary>
/// A 64-bit guest with a virtual-APIC page in private memory and an APIC-access page at <see cref="AccessPage"/>. Every vector of
/// the IDT from 0x20 up has a handler that stores its number at <see cref="Log"/> + 8 times the count in R15, counts, and returns.
/// </summary>
public sealed unsafe class ApicGuest : IDisposable
{
    public const ulong AccessPage = 0x20_0000, Log = 0x8000, Handlers = 0x2_0000;

    public ApicGuest(ProcControls primary = ProcControls.TprShadow, SecondaryControls secondary = 0)
    {
        Page = Guest.Memory.AllocatePrivatePage();
        Guest.EnterLongMode();
        Vmcs[VmcsField.ProcessorBasedControls] = (uint)(ProcControls.HltExiting | ProcControls.ActivateSecondary | primary);
        Vmcs[VmcsField.SecondaryControls] = (uint)secondary;
        Vmcs[VmcsField.PinBasedControls] = (uint)PinControls.ExternalInterruptExiting;
        Vmcs[VmcsField.VirtualApicAddress] = Page;
        Vmcs[VmcsField.ApicAccessAddress] = AccessPage;
        Span<ulong> gate = stackalloc ulong[2];
        for (uint vector = 0x20; vector < 0x100; vector++)
        {
            ulong at = Handlers + (vector * 32);
            uint number = vector;
            Guest.Assemble(64, a =>
            {
                a.mov(AssemblerRegisters.__qword_ptr[AssemblerRegisters.r15 * 8 + (int)Log], (int)number);
                a.inc(AssemblerRegisters.r15);
                a.iretq();
            }, at);
            gate[0] = (at & 0xFFFF) | ((ulong)TestGuest.Code64 << 16) | (0x8EUL << 40) | ((at & 0xFFFF_0000) << 32);
            gate[1] = at >> 32;
            Guest.Write(TestGuest.IdtBase + (vector * 16), gate);
        }
    }

    public TestGuest Guest { get; } = new();

    public Vmcs Vmcs => Guest.Vmcs;

    /// <summary>The host-physical address of the virtual-APIC page.</summary>
    public ulong Page { get; }

    public bool InterruptsEnabled
    {
        set => Vmcs[VmcsField.GuestRflags] = value ? 0x202u : 2;
    }

    public uint Requesting => (uint)Vmcs[VmcsField.GuestInterruptStatus] & 0xFF;

    public uint Servicing => (uint)Vmcs[VmcsField.GuestInterruptStatus] >> 8;

    /// <summary>The vectors whose handlers ran, in order.</summary>
    public int[] Taken => [.. Enumerable.Range(0, (int)Guest.State->Gpr[15]).Select(k => (int)Guest.Read<ulong>(Log + ((ulong)k * 8)))];

    /// <summary>A register of the virtual-APIC page.</summary>
    public uint this[uint offset]
    {
        get => *(uint*)(Guest.Memory.HostPage(Page) + offset);
        set => *(uint*)(Guest.Memory.HostPage(Page) + offset) = value;
    }

    /// <summary>Requests a virtual interrupt as a hypervisor does: VIRR and RVI.</summary>
    public void Request(uint vector)
    {
        this[0x200 + (vector >> 5 << 4)] |= 1u << (int)(vector & 31);
        Vmcs[VmcsField.GuestInterruptStatus] = (Vmcs[VmcsField.GuestInterruptStatus] & 0xFF00) | Math.Max(Requesting, vector);
    }

    public bool Test(uint register, uint vector) => (this[register + (vector >> 5 << 4)] >> (int)(vector & 31) & 1) != 0;

    /// <summary>Assembles at RIP and runs.</summary>
    public ExitReason Run(Action<Assembler> program, long budget = 10_000)
    {
        Guest.Assemble(64, program, Vmcs[VmcsField.GuestRip]);
        return Guest.Run(budget);
    }

    public ExitReason Resume(long budget = 10_000) => Guest.Run(budget);

    /// <summary>Goes on behind the instruction that exited.</summary>
    public ExitReason Skip()
    {
        Vmcs[VmcsField.GuestRip] += Vmcs[VmcsField.VmExitInstructionLength];
        return Resume();
    }

    public void Dispose() => Guest.Dispose();
}
