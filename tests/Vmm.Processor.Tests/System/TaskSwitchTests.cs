using Vmm.Processor.Events;
using Vmm.Processor.Segmentation;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>Task switches: the processor's checks and exit, and the switch itself as L0 performs it (SDM volume 3, chapter 8).</summary>
public sealed unsafe class TaskSwitchTests
{
    private const ulong NewTss = 0xC000, NewTss16 = 0xC100;
    private const byte TssSelector = 10 * 8, GateSelector = 11 * 8, Tss16Selector = 12 * 8;

    private static TestGuest Prepare(Action<Iced.Intel.Assembler> program, Action<Iced.Intel.Assembler> task)
    {
        TestGuest guest = new TestGuest().WithProtectedHandlers();
        // The running task's own descriptor is a 32-bit busy TSS at 0x3000 already.
        guest.SetDescriptor(10, SystemGuest.Descriptor((uint)NewTss, 0x67, 0x89));
        guest.SetDescriptor(11, SystemGuest.Gate(0, TssSelector, 5, 3));
        guest.SetDescriptor(12, SystemGuest.Descriptor((uint)NewTss16, 0x2B, 0x81));
        var image = new uint[26];
        image[0x20 / 4] = 0x1_1000;
        image[0x24 / 4] = 2;
        for (int k = 0; k < 8; k++)
            image[0x28 / 4 + k] = 0x100u + (uint)k;
        image[0x38 / 4] = 0x8800;
        foreach (int k in new[] { 0, 2, 3, 4, 5 })
            image[0x48 / 4 + k] = TestGuest.Data;
        image[0x4C / 4] = TestGuest.Code32;
        guest.Write(NewTss, System.Runtime.InteropServices.MemoryMarshal.AsBytes<uint>(image));
        guest.Assemble(32, program);
        guest.Assemble(32, task, 0x1_1000);
        guest.EnterProtectedMode();
        return guest;
    }

    private static ExitReason RunSwitching(TestGuest guest, out int switches)
    {
        switches = 0;
        while (true)
        {
            ExitReason reason = guest.Run();
            if (reason != ExitReason.TaskSwitch)
                return reason;
            switches++;
            if (TaskSwitch.Perform(guest.Cpu, guest.Vmcs, out GuestEvent? inject) == TaskSwitchResult.TripleFault)
                return ExitReason.TripleFault;
            if (inject is { } e)
            {
                guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = e.Information;
                guest.Vmcs[VmcsField.VmEntryExceptionErrorCode] = e.Error;
            }
        }
    }

    private static void Jump(Iced.Intel.Assembler a, byte selector) => a.db(0xEA, 0, 0, 0, 0, selector, 0);
    private static void Call(Iced.Intel.Assembler a, byte selector) => a.db(0x9A, 0, 0, 0, 0, selector, 0);

    [Fact]
    public void JumpExitsWithSelectorAndSource()
    {
        using TestGuest guest = Prepare(a => Jump(a, TssSelector), a => a.hlt());
        Assert.Equal(ExitReason.TaskSwitch, guest.Run());
        Assert.Equal(TssSelector | 2UL << 30, guest.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(7UL, guest.Vmcs[VmcsField.VmExitInstructionLength]);
        Assert.Equal(TestGuest.CodeBase, guest.Vmcs[VmcsField.GuestRip]);
    }

    [Fact]
    public void JumpLoadsTheNewTaskAndSavesTheOld()
    {
        using TestGuest guest = Prepare(a =>
        {
            a.mov(esi, 0x5151);
            Jump(a, TssSelector);
        }, a =>
        {
            a.mov(ebp, cr0);
            a.hlt();
        });
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out int switches));
        Assert.Equal(1, switches);
        Assert.Equal(0x100UL, guest.Rax());
        Assert.Equal(0x8800UL, guest.State->Gpr[Gpr.Rsp]);
        Assert.NotEqual(0UL, guest.State->Gpr[Gpr.Rbp] & Cr0.Ts);
        Assert.Equal(0UL, guest.State->SystemFlags & Rflags.Nt);
        Assert.Equal((uint)TestGuest.CodeBase + 12, guest.Read<uint>(TestGuest.TssBase + 0x20));
        Assert.Equal(0x5151u, guest.Read<uint>(TestGuest.TssBase + 0x40));
        Assert.Equal(TestGuest.Code32, guest.Read<ushort>(TestGuest.TssBase + 0x4C));
        // Busy bits: the new one is set, the old one clear; no link back.
        Assert.Equal(0x8B, guest.Read<byte>(TestGuest.GdtBase + TssSelector + 5));
        Assert.Equal(0x89, guest.Read<byte>(TestGuest.GdtBase + TestGuest.Tss + 5));
        Assert.Equal(0u, guest.Read<uint>(NewTss));
    }

    [Fact]
    public void CallNestsAndIretReturns()
    {
        using TestGuest guest = Prepare(a =>
        {
            a.mov(esi, 0x5151);
            Call(a, GateSelector);
            a.mov(edi, 0x6161);
            a.hlt();
        }, a =>
        {
            a.pushfd();
            a.pop(__dword_ptr[0x9900]);
            a.mov(esi, 1);
            a.iretd();
        });
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out int switches));
        Assert.Equal(2, switches);
        Assert.NotEqual(0u, guest.Read<uint>(0x9900) & (uint)Rflags.Nt);
        Assert.Equal(0x5151UL, guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(0x6161UL, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(TestGuest.Tss, guest.Read<ushort>(NewTss));
        Assert.Equal(0x89, guest.Read<byte>(TestGuest.GdtBase + TssSelector + 5));
        Assert.Equal(0x8B, guest.Read<byte>(TestGuest.GdtBase + TestGuest.Tss + 5));
        Assert.Equal(0u, guest.Read<uint>(NewTss + 0x24) & (uint)Rflags.Nt);
    }

    [Fact]
    public void ExceptionThroughATaskGatePushesItsErrorCodeOnTheNewStack()
    {
        using TestGuest guest = Prepare(a =>
        {
            a.mov(eax, 0x1238);
            a.mov(fs, eax);
        }, a =>
        {
            a.pop(ecx);
            a.hlt();
        });
        guest.SetGate32(Vector.Gp, 0, TssSelector, 5, 0);
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out _));
        Assert.Equal(0x1238UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal((uint)TestGuest.CodeBase + 5, guest.Read<uint>(TestGuest.TssBase + 0x20));
        Assert.NotEqual(0u, guest.Read<uint>(TestGuest.TssBase + 0x24) & (uint)Rflags.Rf);
        Assert.NotEqual(0UL, guest.State->SystemFlags & Rflags.Nt);
    }

    [Fact]
    public void SoftwareInterruptThroughATaskGateResumesAfterTheInstruction()
    {
        using TestGuest guest = Prepare(a =>
        {
            a.@int(0x80);
            a.mov(edi, 0x6161);
            a.hlt();
        }, a => a.iretd());
        guest.SetGate32(0x80, 0, TssSelector, 5, 3);
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out int switches));
        Assert.Equal(2, switches);
        Assert.Equal(0x6161UL, guest.State->Gpr[Gpr.Rdi]);
    }

    [Theory]
    [InlineData(0x8Bu, 0x67u, 13)]
    [InlineData(0x09u, 0x67u, 11)]
    [InlineData(0x89u, 0x66u, 10)]
    [InlineData(0x82u, 0x67u, 13)]
    public void NewTaskIsCheckedBeforeTheExit(uint rights, uint limit, uint vector)
    {
        using TestGuest guest = Prepare(a => Jump(a, TssSelector), a => a.hlt());
        guest.SetDescriptor(10, SystemGuest.Descriptor((uint)NewTss, limit, rights));
        guest.ExpectVector(vector);
        Assert.Equal((uint)TssSelector, guest.Stack32(0));
        Assert.Equal((uint)TestGuest.CodeBase, guest.Stack32(1));
    }

    [Theory]
    [InlineData(0x4C, TestGuest.Data, 10)]
    [InlineData(0x50, TestGuest.Code32, 10)]
    [InlineData(0x54, 0x1238, 10)]
    [InlineData(0x60, TestGuest.Data, 10)]
    public void BadSelectorsFaultInTheNewTask(int offset, ushort selector, uint vector)
    {
        using TestGuest guest = Prepare(a => Jump(a, TssSelector), a => a.hlt());
        guest.Write(NewTss + (ulong)offset, [(byte)selector, (byte)(selector >> 8)]);
        // The handler is a task of its own, so that a good stack is there whatever the new task lacks: here the first one again.
        guest.SetDescriptor(12, SystemGuest.Descriptor((uint)NewTss16, 0x67, 0x89));
        var handler = new byte[0x68];
        guest.Memory.TryRead(NewTss, handler);
        guest.Write(NewTss16, handler);
        guest.Write(NewTss16 + 0x20, [0x0001_2000UL | 2UL << 32]);
        guest.Write(NewTss16 + 0x48, [TestGuest.Data | (ulong)TestGuest.Code32 << 32, TestGuest.Data | (ulong)TestGuest.Data << 32, TestGuest.Data | (ulong)TestGuest.Data << 32, 0UL]);
        guest.Assemble(32, a =>
        {
            a.pop(ecx);
            a.hlt();
        }, 0x1_2000);
        guest.SetGate32(vector, 0, Tss16Selector, 5, 0);
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out int switches));
        Assert.Equal(2, switches);
        Assert.Equal(selector & 0xFFFCUL, guest.State->Gpr[Gpr.Rcx] & 0xFFFC);
        Assert.Equal(TssSelector, guest.Read<byte>(NewTss16));
    }

    [Fact]
    public void SixteenBitTaskRoundTrip()
    {
        using TestGuest guest = Prepare(a =>
        {
            Call(a, Tss16Selector);
            a.mov(edi, 0x6161);
            a.hlt();
        }, a => a.hlt());
        guest.SetDescriptor(13, SystemGuest.Descriptor(0, 0xFFFF, 0x9B));
        guest.SetDescriptor(14, SystemGuest.Descriptor(0, 0xFFFF, 0x93));
        ushort[] image = new ushort[22];
        image[0x0E / 2] = 0x7000;
        image[0x10 / 2] = 2;
        image[0x12 / 2] = 0xABCD;
        image[0x1A / 2] = 0x6000;
        image[0x22 / 2] = 14 * 8;
        image[0x24 / 2] = 13 * 8;
        image[0x26 / 2] = 14 * 8;
        image[0x28 / 2] = 14 * 8;
        guest.Write(NewTss16, System.Runtime.InteropServices.MemoryMarshal.AsBytes<ushort>(image));
        guest.Assemble(16, a =>
        {
            a.mov(__word_ptr[0x6800], ax);
            a.iret();
        }, 0x7000);
        guest.Vmcs[VmcsField.GuestGdtrLimit] = 0x7F;
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out int switches));
        Assert.Equal(2, switches);
        Assert.Equal(0xABCD, guest.Read<ushort>(0x6800));
        Assert.Equal(0x6161UL, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(0x7000 + 4, guest.Read<ushort>(NewTss16 + 0x0E));
    }

    [Fact]
    public void TrapBitRaisesADebugExceptionInTheNewTask()
    {
        using TestGuest guest = Prepare(a => Jump(a, TssSelector), a => a.hlt());
        guest.Write(NewTss + 0x64, [(byte)1]);
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out _));
        Assert.Equal(0xE001UL, guest.Rbx());
        Assert.NotEqual(0UL, guest.State->Dr6 & (1 << 15));
        Assert.Equal(0x1_1000u, guest.Stack32(0));
    }

    [Fact]
    public void TaskInVirtual8086Mode()
    {
        using TestGuest guest = Prepare(a => Jump(a, TssSelector), a => a.hlt());
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Write(NewTss + 4, [SystemGuest.InnerStack | (ulong)TestGuest.Data << 32]);
        guest.Write(NewTss + 0x20, [0UL | (2 | Rflags.Vm | Rflags.Iopl) << 32]);
        guest.Write(NewTss + 0x48, [0x1111UL | 0x3000UL << 32, 0x4000UL | 0x2222UL << 32, 0x3333UL | 0x4444UL << 32]);
        guest.Write(0x3_0000, [(byte)0xCD, (byte)0x80]);
        Assert.Equal(ExitReason.Hlt, RunSwitching(guest, out _));
        Assert.Equal(0xE080UL, guest.Rbx());
        Assert.Equal(2u, guest.Stack32(0));
        Assert.Equal(0x3000u, guest.Stack32(1));
        Assert.Equal(0x4000u, guest.Stack32(4));
        Assert.Equal(0x1111u, guest.Stack32(5));
        Assert.Equal(0x2222u, guest.Stack32(6));
    }

    [Fact]
    public void TasksDoNotExistInLongMode()
    {
        using TestGuest guest = new TestGuest().WithLongHandlers();
        guest.Assemble(64, a =>
        {
            a.pushfq();
            a.or(__qword_ptr[rsp], 1 << 14);
            a.popfq();
            a.iretq();
        });
        guest.EnterLongMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0UL, guest.Stack64(0));
    }
}
