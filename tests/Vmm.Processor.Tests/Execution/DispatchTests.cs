using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Execution;

/// <summary><see cref="DispatchTests"/> with the interpreter.</summary>
public sealed class InterpretedDispatchTests() : DispatchTests(null);

/// <summary><see cref="DispatchTests"/> with every trace compiled before its first execution.</summary>
public sealed class CompiledDispatchTests() : DispatchTests(new TranslationOptions { NativeThreshold = 0, Threshold = 1, Synchronous = true, EmittedPerHandler = 0 });

/// <summary><see cref="DispatchTests"/> with traces compiled once there is more than one to a region.</summary>
public sealed class RegionDispatchTests() : DispatchTests(new TranslationOptions { NativeThreshold = 0, Threshold = 2, Synchronous = true, EmittedPerHandler = 0 });

/// <summary><see cref="DispatchTests"/> with native code for every trace.</summary>
public sealed class NativeDispatchTests() : DispatchTests(new TranslationOptions { NativeThreshold = 1, NativeRegionThreshold = 0, NativeHotThreshold = 0, EmittedPerHandler = 0 });

/// <summary><see cref="DispatchTests"/> with native code for every trace, and for regions once there is more than one trace to them.</summary>
public sealed class NativeRegionDispatchTests() : DispatchTests(new TranslationOptions { NativeThreshold = 1, NativeRegionThreshold = 1, EmittedPerHandler = 0, EmittedPerHandlerInRegion = 0 });

/// <summary>The loop around the instructions: budgets, stale code, page crossings.</summary>
public abstract unsafe class DispatchTests(TranslationOptions? translation)
{
    /// <summary>However the budget is cut, the guest goes through the same states.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    [InlineData(33)]
    [InlineData(1000)]
    public void ABudgetEndsAfterExactlyAsManyInstructions(long slice)
    {
        using var whole = Loop();
        using var cut = Loop();
        Assert.Equal(ExitReason.BudgetExhausted, whole.Run(5000));
        Assert.Equal(5000UL, whole.Cpu.InstructionsRetired);
        for (long done = 0; done < 5000; done += slice)
            Assert.Equal(ExitReason.BudgetExhausted, cut.Run(Math.Min(slice, 5000 - done)));
        Assert.Equal(5000UL, cut.Cpu.InstructionsRetired);
        for (int k = 0; k < 16; k++)
            Assert.Equal(whole.State->Gpr[k], cut.State->Gpr[k]);
        Assert.Equal(whole.State->Rip, cut.State->Rip);
        Assert.Equal(Flags.ReadAll(whole.State), Flags.ReadAll(cut.State));
    }

    [Fact]
    public void AStoreIntoTheNextInstructionTakesEffectAtOnce()
    {
        using var guest = new TestGuest(translation: translation, translate: translation != null);
        guest.Assemble(64, a =>
        {
            Label patched = a.CreateLabel();
            Label loop = a.CreateLabel();
            a.mov(ecx, 3);
            a.Label(ref loop);
            a.lea(rdi, __[patched]);
            a.add(__byte_ptr[rdi + 1], 1);
            a.Label(ref patched);
            a.mov(eax, 0x10);
            a.add(rbx, rax);
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        guest.EnterLongMode();
        Assert.Equal(ExitReason.BudgetExhausted, guest.Run(3 + 5 * 3));
        // 0x11 + 0x12 + 0x13: each round executes what it has just written.
        Assert.Equal(0x36UL, guest.State->Gpr[Gpr.Rbx]);
    }

    [Fact]
    public void AnInstructionMayCrossPagesAndBothHalvesAreWatched()
    {
        using var guest = new TestGuest(translation: translation, translate: translation != null);
        ulong at = TestGuest.CodeBase + 0xFFE;
        // mov eax, imm32 has its immediate in the second page but for one byte; then jmp -7.
        guest.Write(at, [0xB8, 0x01, 0x02, 0x03, 0x04, 0xEB, 0xF9]);
        guest.EnterLongMode(at);
        guest.Run(2);
        Assert.Equal(0x04030201UL, guest.State->Gpr[Gpr.Rax]);
        guest.Write(at + 4, [0x44]);
        guest.Run(2);
        Assert.Equal(0x44030201UL, guest.State->Gpr[Gpr.Rax]);
        guest.Write(at + 1, [0x11]);
        guest.Run(2);
        Assert.Equal(0x44030211UL, guest.State->Gpr[Gpr.Rax]);
    }

    [Fact]
    public void AttentionEndsAnEntry()
    {
        using var guest = Loop();
        guest.Cpu.RequestAttention();
        Assert.Equal(ExitReason.BudgetExhausted, guest.Run(1_000_000));
        Assert.True(guest.Cpu.InstructionsRetired < 1_000_000);
    }

    /// <summary>A device that a store reaches may raise an interrupt: it must be seen before the next instruction, each time.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AStoreToADeviceThatAsksForAttentionIsTheLastInstruction(bool modify)
    {
        using var guest = new TestGuest(translation: translation, translate: translation != null);
        guest.Bus.OnWriteMemory = guest.Cpu.RequestAttention;
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(rbx);
            if (modify)
                a.add(__dword_ptr[0x2000_0000], 1);
            else
                a.mov(__dword_ptr[0x2000_0000], eax);
            a.inc(rcx);
            a.nop();
            a.jmp(loop);
        });
        guest.EnterLongMode();
        for (ulong round = 1; round <= 5; round++)
        {
            Assert.Equal(ExitReason.BudgetExhausted, guest.Run());
            Assert.Equal(round, guest.State->Gpr[Gpr.Rbx]);
            Assert.Equal(round - 1, guest.State->Gpr[Gpr.Rcx]);
            Assert.Equal(2 + (round - 1) * 5, guest.Cpu.InstructionsRetired);
        }
    }

    private TestGuest Loop()
    {
        var guest = new TestGuest(translation: translation, translate: translation != null);
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            Label skip = a.CreateLabel();
            a.mov(ecx, 100000);
            a.Label(ref loop);
            a.add(rax, rcx);
            a.push(rax);
            a.imul(rdx, rax, 77);
            a.test(al, 4);
            a.je(skip);
            a.xor(rbx, rdx);
            a.Label(ref skip);
            a.pop(rsi);
            a.dec(ecx);
            a.jne(loop);
            a.hlt();
        });
        guest.EnterLongMode();
        return guest;
    }
}
