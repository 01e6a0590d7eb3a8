using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Apicv;

/// <summary>What the guest sees of its local APIC with APICv, without it, and while it comes and goes.</summary>
public sealed unsafe class ApicvInterruptTests
{
    private const int Base = ApicvMachine.ApicBase;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Interrupts_ends_of_interrupt_and_priorities_need_no_exit(bool x2)
    {
        using var machine = new ApicvMachine(x2: x2);
        machine.Run(a => a.nop(), 1);
        machine.Send(0x31);
        machine.Send(0x45);
        machine.Load(a =>
        {
            a.mov(ecx, 9);
            a.mov(cr8, rcx);
            a.sti();
            a.xor(ecx, ecx);
            a.mov(cr8, rcx);
            a.nop();
            a.hlt();
        });
        machine.Vmcs01[VmcsField.GuestInterruptStatus] = 0x45;
        Assert.Equal(ExitReason.Hlt, machine.Vcpu.Cpu.Enter(machine.Vmcs01, 100));
        Assert.Equal([0x45, 0x31], machine.Taken);
        Assert.Equal(-1, machine.Apic.Page.Highest(ApicRegister.InService));
        Assert.Equal(-1, machine.Apic.Page.Highest(ApicRegister.Request));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Only_the_end_of_a_level_triggered_interrupt_comes_to_the_io_apics(bool x2)
    {
        using var machine = new ApicvMachine(x2: x2) { InterruptsEnabled = true };
        machine.Load(a => a.hlt());
        foreach ((byte vector, bool level) in new (byte, bool)[] { (0x45, true), (0x46, false), (0x45, true), (0x45, false), (0x45, true) })
        {
            machine.Send(vector, level);
            Assert.Equal(VcpuOutcome.Waiting, machine.Vcpu.Run(100));
            machine.Vcpu.Vmcs[VmcsField.GuestRip] = ApicvMachine.Code;
        }
        Assert.Equal([0x45, 0x46, 0x45, 0x45, 0x45], machine.Taken);
        Assert.Equal([0x45, 0x45, 0x45], machine.EndsOfInterrupt);
    }

    [Fact]
    public void The_pair_of_8259s_interrupts_too()
    {
        using var machine = new ApicvMachine() { InterruptsEnabled = true };
        machine.Load(a => a.jmp(ApicvMachine.Code));
        machine.Vcpu.Run(3);
        machine.PicVectors.Enqueue(0x68);
        machine.EndsInterrupts = false;
        machine.Bus.SetExternalInterrupt(true);
        machine.Vcpu.Run(1);
        machine.Bus.SetExternalInterrupt(false);
        machine.Send(0x45);
        machine.Vcpu.Run(20);
        Assert.Equal([0x68, 0x45], machine.Taken);
        Assert.Equal(0x45, machine.Apic.Page.Highest(ApicRegister.InService));
    }

    [Fact]
    public void Registers_read_the_same_with_and_without()
    {
        using var with = new ApicvMachine();
        using var without = new ApicvMachine(options: new(ApicvInhibit.Disable));
        for (int offset = 0x20; offset < 0x400; offset += 16)
        {
            // The end-of-interrupt register is write-only, which the page does not know; the current count moves.
            if (offset == 0xB0)
                continue;
            ulong[] values = new ulong[2];
            foreach ((ApicvMachine machine, int k) in new[] { (with, 0), (without, 1) })
            {
                machine.Vcpu.State->Gpr[Gpr.Rcx] = 0xDEAD;
                machine.Run(a =>
                {
                    a.mov(ebx, Base);
                    a.mov(__dword_ptr[rbx + 0x80], 0x35);
                    a.mov(__dword_ptr[rbx + 0xD0], 0x0800_0000);
                    a.mov(__dword_ptr[rbx + 0x320], 0x0002_00E1);
                    a.mov(__dword_ptr[rbx + 0x3E0], 0xB);
                    a.mov(__dword_ptr[rbx + 0x380], 100_000);
                    a.mov(ecx, __dword_ptr[rbx + offset]);
                    a.nop();
                }, 8);
                values[k] = machine.Vcpu.State->Gpr[Gpr.Rcx];
            }
            Assert.True(values[0] == values[1] && values[0] != 0xDEAD, $"{offset:x}: {values[0]:x} with, {values[1]:x} without");
        }
        Assert.True(with.Vcpu.Apicv.IsActive);
        Assert.False(without.Vcpu.Apicv.IsActive);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_access_that_is_not_virtualized_reaches_the_registers(bool wide)
    {
        using var machine = new ApicvMachine();
        machine.Run(a =>
        {
            a.mov(ebx, Base);
            a.mov(__dword_ptr[rbx + 0x3E0], 0xB);
            a.mov(__dword_ptr[rbx + 0x380], 1000);
            a.nop();
        }, 4);
        machine.Clock.Advance(400);
        machine.Run(a =>
        {
            if (wide)
                a.mov(rcx, __qword_ptr[rbx + 0x390]);
            else
                a.mov(ecx, __dword_ptr[rbx + 0x390]);
            a.mov(edx, 7);
            a.nop();
        }, 2);
        Assert.Equal(600ul, machine.Vcpu.State->Gpr[Gpr.Rcx]);
        Assert.Equal(7ul, machine.Vcpu.State->Gpr[Gpr.Rdx]);
        Assert.True(machine.Secondary.HasFlag(SecondaryControls.VirtualizeApicAccesses));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void The_timer_interrupts_as_often_with_and_without(bool x2)
    {
        int[] counts = [.. new[] { ApicvInhibit.None, ApicvInhibit.Disable }.Select(fixedReasons =>
        {
            using var machine = new ApicvMachine(x2: x2, options: new(fixedReasons)) { InterruptsEnabled = true };
            if (x2)
            {
                machine.Apic.TryWriteMsr(0x832, 0x2_0055);
                machine.Apic.TryWriteMsr(0x838, 50_000);
            }
            else
            {
                machine.Apic.WriteMemory(0x320, 4, 0x2_0055);
                machine.Apic.WriteMemory(0x380, 4, 50_000);
            }
            machine.Load(a =>
            {
                a.hlt();
                a.jmp(ApicvMachine.Code);
            });
            for (int k = 0; k < 100; k++)
            {
                machine.Clock.Advance(25_000);
                machine.Vcpu.Run(100);
            }
            return machine.Taken.Length;
        })];
        Assert.Equal(25, counts[0]);
        Assert.Equal(counts[0], counts[1]);
    }

    [Fact]
    public void The_task_priority_survives_each_change()
    {
        using var machine = new ApicvMachine();
        machine.Load(a =>
        {
            a.mov(ecx, 5);
            a.mov(cr8, rcx);
            a.mov(rdx, cr8);
            a.mov(ecx, 7);
            a.mov(cr8, rcx);
            a.mov(rsi, cr8);
            a.nop();
        });
        machine.Vcpu.Run(2);
        machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(3);
        machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(1);
        Assert.Equal((5ul, 7ul), (machine.Vcpu.State->Gpr[Gpr.Rdx], machine.Vcpu.State->Gpr[Gpr.Rsi]));
        Assert.Equal(0x70u, machine.Apic.TaskPriority);
    }

    /// <summary>
    /// Vectors are sent at random moments to a guest that now and then bars interrupts or raises its priority, while inhibits come and
    /// go. Each is sent only when it is not pending, so each must be taken exactly once; and each level-triggered one must be ended.
    /// </summary>
    [Theory]
    [InlineData(false, 1)]
    [InlineData(true, 2)]
    [InlineData(false, 3)]
    [InlineData(true, 4)]
    public void No_interrupt_is_lost_or_taken_twice_while_inhibits_come_and_go(bool x2, int seed)
    {
        using var machine = new ApicvMachine(x2: x2) { InterruptsEnabled = true };
        var random = new Random(seed);
        machine.Load(Restless);
        var sent = new int[256];
        var levels = new int[256];
        bool inhibited = false;
        int applied = 0;
        machine.Machine.Apicv.Changed += e => applied += e.Kind == ApicvEventKind.UpdateApplied ? 1 : 0;
        for (int k = 0; k < 20_000; k++)
        {
            if (random.Next(3) == 0)
            {
                var vector = (byte)random.Next(0x20, 0x100);
                bool level = (vector & 1) != 0;
                if (!machine.Apic.Page.Test(ApicRegister.Request, vector) && (!level || !machine.Apic.Page.Test(ApicRegister.InService, vector)))
                {
                    machine.Send(vector, level);
                    sent[vector]++;
                    levels[vector] += level ? 1 : 0;
                }
            }
            if (random.Next(8) == 0)
            {
                inhibited = !inhibited;
                if (inhibited)
                    machine.Machine.Apicv.Set(ApicvInhibit.BlockIrq);
                else
                    machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
            }
            machine.Vcpu.Run(random.Next(1, 12));
            if (machine.Vcpu.State->Gpr[15] > 20_000)
                Collect(machine, sent);
        }
        Assert.True(applied > 1000);
        machine.Machine.Apicv.Clear(ApicvInhibit.BlockIrq);
        machine.Vcpu.Run(20_000);
        Collect(machine, sent);
        Assert.All(sent, count => Assert.Equal(0, count));
        for (int vector = 0; vector < 256; vector++)
            Assert.Equal(levels[vector], machine.EndsOfInterrupt.Count(v => v == vector));
        Assert.Equal(-1, machine.Apic.Page.Highest(ApicRegister.InService));
    }

    private static void Restless(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.nop();
        a.cli();
        a.nop();
        a.nop();
        a.sti();
        a.mov(ecx, 11);
        a.mov(cr8, rcx);
        a.nop();
        a.xor(ecx, ecx);
        a.mov(cr8, rcx);
        a.jmp(again);
    }

    private static void Collect(ApicvMachine machine, int[] sent)
    {
        foreach (int vector in machine.Taken)
            sent[vector]--;
        machine.Vcpu.State->Gpr[15] = 0;
    }
}
