using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// Interrupts that arrive at random moments while L1 and L2 take turns and inhibits come and go. Each is sent only when it is not
/// pending, so each must be taken exactly once, by L1 or by L2.
/// </summary>
public sealed unsafe class ApicvNestedInterruptTests(ITestOutputHelper output)
{
    private const ulong L1Program = 0x1_4000, L1Handlers = 0x2_8000, OwnHandlers = 0x2_C000, SelfIpis = NestedMachine.Scratch + 0x200;
    private const int ApicBase = unchecked((int)0xFEE0_0000), SelfIpiVector = 0x30, TimerVector = 0x31, L2Vector = 0x61;

    /// <summary>Who takes the interrupts that arrive while L2 runs.</summary>
    public enum Taker
    {
        /// <summary>L1, which acknowledges them itself.</summary>
        L1,

        /// <summary>L1, with "acknowledge interrupt on exit".</summary>
        L1Acknowledged,

        /// <summary>L2, through the local APIC that it shares with L1.</summary>
        L2,

        /// <summary>L1; L2 has a local APIC of its own that the processor virtualizes, and sends itself interrupts.</summary>
        L2HasItsOwn,
    }

    [Theory]
    [InlineData(Taker.L1, ApicvPolicy.Deferred, 1)]
    [InlineData(Taker.L1, ApicvPolicy.Switch, 2)]
    [InlineData(Taker.L1Acknowledged, ApicvPolicy.Deferred, 3)]
    [InlineData(Taker.L1Acknowledged, ApicvPolicy.Switch, 4)]
    [InlineData(Taker.L2, ApicvPolicy.Deferred, 5)]
    [InlineData(Taker.L2, ApicvPolicy.Switch, 6)]
    [InlineData(Taker.L2HasItsOwn, ApicvPolicy.Deferred, 7)]
    [InlineData(Taker.L2HasItsOwn, ApicvPolicy.Switch, 8)]
    public void No_interrupt_is_lost_or_taken_twice(Taker taker, ApicvPolicy policy, int seed) => Exercise(taker, policy, seed, moveEvery: 0);

    [Theory]
    [InlineData(Taker.L1, ApicvPolicy.Deferred, 9)]
    [InlineData(Taker.L1Acknowledged, ApicvPolicy.Switch, 10)]
    [InlineData(Taker.L2, ApicvPolicy.Deferred, 11)]
    [InlineData(Taker.L2HasItsOwn, ApicvPolicy.Deferred, 12)]
    public void No_interrupt_is_lost_or_taken_twice_by_a_machine_that_is_saved_and_restored(Taker taker, ApicvPolicy policy, int seed) =>
        Exercise(taker, policy, seed, moveEvery: 10);

    private void Exercise(Taker taker, ApicvPolicy policy, int seed, int moveEvery)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        using NestedMachine l1 = Start(taker, policy);
        l1.MoveEvery = moveEvery;
        var sent = new int[256];
        int deferred = 0, applied = 0, inL2 = 0;
        l1.ApicvChanged += e =>
        {
            deferred += e.Kind == ApicvEventKind.UpdateDeferred ? 1 : 0;
            applied += e.Kind == ApicvEventKind.UpdateApplied ? 1 : 0;
        };
        bool inhibited = false;
        for (int k = 0; k < 20_000; k++)
        {
            if (random.Next(4) == 0)
                SendSomething(l1, random, sent);
            if (random.Next(8) == 0)
            {
                inhibited = !inhibited;
                if (inhibited)
                    l1.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
                else
                    l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
            }
            Assert.Equal(L1Stop.Running, l1.Continue(random.Next(1, 25)));
            inL2 += l1.Vcpu.IsGuestMode ? 1 : 0;
        }
        l1.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        Assert.Equal(L1Stop.Running, l1.Continue(50_000));
        // Ends where nothing is under way.
        for (int k = 0; k < 1_000 && !IsQuiet(l1); k++)
            Assert.Equal(L1Stop.Running, l1.Continue(1));
        Assert.True(IsQuiet(l1));

        Assert.True(inL2 > 2_000 && (deferred > 500 || policy == ApicvPolicy.Switch) && applied > 300, $"{inL2} {deferred} {applied}");
        var taken = new int[256];
        for (ulong k = 0; k < l1.Vcpu.State->Gpr[15]; k++)
            taken[l1.Read(NestedMachine.Log + k * 8)]++;
        sent[SelfIpiVector] += (int)l1.Read(SelfIpis);
        Assert.Equal(sent, taken);
        Assert.True(sent[SelfIpiVector] > 500 && sent[TimerVector] > 500);
        if (taker == Taker.L2HasItsOwn)
        {
            ulong ownSent = l1.Read(SelfIpis + 8), ownTaken = l1.Read(SelfIpis + 16);
            Assert.True(ownSent > 500 && ownSent - ownTaken <= 1, $"{ownSent} sent, {ownTaken} taken");
        }
    }

    private static bool IsQuiet(NestedMachine l1) => l1.Vcpu.IsGuestMode
        && l1.Apic.Page.Highest(ApicRegister.InService) < 0 && l1.Apic.Page.Highest(ApicRegister.Request) < 0;

    private static void SendSomething(NestedMachine l1, Random random, int[] sent)
    {
        int vector = random.Next(3) == 0 ? TimerVector : random.Next(0x40, 0x100);
        if (l1.Apic.Page.Test(ApicRegister.Request, (byte)vector))
            return;
        sent[vector]++;
        if (vector != TimerVector)
        {
            l1.Send((byte)vector);
            return;
        }
        l1.Apic.WriteMemory(0x320, 4, TimerVector);
        l1.Apic.WriteMemory(0x3E0, 4, 0xB);
        l1.Apic.WriteMemory(0x380, 4, 100);
        l1.Clock.Advance(100);
        Assert.True(l1.Apic.Page.Test(ApicRegister.Request, TimerVector));
    }

    private static NestedMachine Start(Taker taker, ApicvPolicy policy)
    {
        var l1 = new NestedMachine(new(Policy: policy));
        for (uint vector = 0x20; vector < 0x100; vector++)
        {
            ulong at = L1Handlers + (vector - 0x20) * 64;
            uint number = vector;
            l1.Assemble(a =>
            {
                Take(a, (int)number);
                a.iretq();
            }, at);
            l1.SetGate(NestedMachine.Idt, vector, at);
        }
        if (taker == Taker.L2)
        {
            l1[VmcsField.GuestIdtrBase] = NestedMachine.Idt;
        }
        else
        {
            l1.Pin |= PinControls.ExternalInterruptExiting;
            if (taker != Taker.L1)
                l1.Exit |= VmExitControls.AcknowledgeInterrupt;
        }
        if (taker == Taker.L2HasItsOwn)
        {
            l1.Secondary = SecondaryControls.VirtualizeX2Apic | SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery;
            l1.Proc |= ProcControls.TprShadow | ProcControls.UseMsrBitmaps;
            l1[VmcsField.VirtualApicAddress] = NestedMachine.VirtualApic;
            l1[VmcsField.MsrBitmaps] = NestedMachine.MsrBitmap;
            l1.Assemble(OwnHandler, OwnHandlers);
            l1.SetGate(NestedMachine.L2Idt, L2Vector, OwnHandlers);
        }
        l1.Assemble(L1Turn, L1Program);
        l1[VmcsField.HostRip] = L1Program;
        l1.LoadL2(a => L2Turn(a, taker == Taker.L2HasItsOwn));
        Assert.Equal(L1Stop.Running, l1.Enter(2_000));
        return l1;
    }

    /// <summary>Notes a vector and ends its interrupt; r15 counts, in L1 and in L2.</summary>
    private static void Take(Assembler a, int vector)
    {
        a.mov(__qword_ptr[r15 * 8 + (int)NestedMachine.Log], vector);
        a.inc(r15);
        a.mov(r12d, ApicBase);
        a.mov(__dword_ptr[r12 + 0xB0], 0);
    }

    /// <summary>After a VM exit: L1 takes the interrupt, sends itself one, opens a window for all that waits, and enters L2 again.</summary>
    private static void L1Turn(Assembler a)
    {
        Label instruction = a.CreateLabel(), strange = a.CreateLabel(), window = a.CreateLabel(), enter = a.CreateLabel();
        a.push(rax);
        a.push(rcx);
        a.push(rdx);
        a.mov(eax, (int)VmcsField.ExitReason);
        a.vmread(rcx, rax);
        a.cmp(ecx, (int)ExitReason.ExternalInterrupt);
        a.jne(instruction);
        a.mov(eax, (int)VmcsField.VmExitInterruptionInformation);
        a.vmread(rdx, rax);
        a.test(edx, edx);
        a.jns(window);
        a.movzx(edx, dl);
        a.mov(__qword_ptr[r15 * 8 + (int)NestedMachine.Log], rdx);
        a.inc(r15);
        a.mov(r12d, ApicBase);
        a.mov(__dword_ptr[r12 + 0xB0], 0);
        a.jmp(enter);
        a.Label(ref instruction);
        a.cmp(ecx, (int)ExitReason.Cpuid);
        a.jne(strange);
        a.mov(eax, (int)VmcsField.GuestRip);
        a.vmread(rcx, rax);
        a.add(rcx, 2);
        a.vmwrite(rax, rcx);
        a.mov(r12d, ApicBase);
        a.mov(__dword_ptr[r12 + 0x300], 0x4_0000 | SelfIpiVector);
        a.inc(__qword_ptr[SelfIpis]);
        a.Label(ref window);
        a.sti();
        a.nop();
        a.nop();
        a.cli();
        a.Label(ref enter);
        a.pop(rdx);
        a.pop(rcx);
        a.pop(rax);
        a.vmresume();
        NestedMachine.Report(a, L1Stop.NoEntry);
        a.Label(ref strange);
        NestedMachine.Report(a, L1Stop.Exit);
    }

    /// <summary>L2 bars interrupts and lets them in, in turns, and now and then leaves to L1 by CPUID.</summary>
    private static void L2Turn(Assembler a, bool hasItsOwn)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        if (hasItsOwn)
        {
            a.inc(__qword_ptr[SelfIpis + 8]);
            a.mov(ecx, 0x83F);
            a.mov(eax, L2Vector);
            a.xor(edx, edx);
            a.wrmsr();
        }
        for (int k = 0; k < 3; k++)
        {
            a.sti();
            a.nop();
            a.nop();
            a.inc(ebx);
            a.nop();
            a.cli();
            a.nop();
            a.nop();
        }
        a.cpuid();
        a.jmp(again);
    }

    private static void OwnHandler(Assembler a)
    {
        a.inc(__qword_ptr[SelfIpis + 16]);
        a.mov(ecx, 0x80B);
        a.xor(eax, eax);
        a.xor(edx, edx);
        a.wrmsr();
        a.iretq();
    }
}
