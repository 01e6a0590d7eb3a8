using Iced.Intel;
using Vmm.Processor.Decoding;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Translation.Native;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Translation;

/// <summary>Native code as a part of the process: what it owes the garbage collector, its memory and its limits.</summary>
public sealed unsafe class NativeCodeTests
{
    private static readonly TranslationOptions Immediate = TestTranslation.Of(Tier.NativeCode)!;

    /// <summary>A loop that never leaves native code for anything of its own does not hold up a collection.</summary>
    [NativeFact]
    public void ACollectionDoesNotWaitForALoopToEnd()
    {
        using var guest = new TestGuest(translation: Immediate);
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(rax);
            a.jmp(loop);
        });
        guest.EnterLongMode();
        ExitReason reason = default;
        var thread = new Thread(() => reason = guest.Run(long.MaxValue));
        thread.Start();
        try
        {
            while (Volatile.Read(ref guest.State->Gpr[Gpr.Rax]) < 1_000_000)
                Thread.Yield();
            ulong before = Volatile.Read(ref guest.State->Gpr[Gpr.Rax]);
            for (int k = 0; k < 20; k++)
                GC.Collect();
            while (Volatile.Read(ref guest.State->Gpr[Gpr.Rax]) == before)
                Thread.Yield();
        }
        finally
        {
            guest.Cpu.RequestAttention();
            thread.Join();
        }
        Assert.NotEqual(ExitReason.TripleFault, reason);
        Assert.Equal(1, guest.Translated!.Value.NativeTraces);
    }

    /// <summary>Where there is no more room, native code is forgotten and generated again, and the guest does not notice.</summary>
    [NativeFact]
    public void CodeThatDoesNotFitIsForgottenAndGeneratedAgain()
    {
        const int Blocks = 3000;
        using var guest = new TestGuest(translation: Immediate with { NativeCodeLimit = 1 << 20 });
        guest.Assemble(64, a =>
        {
            a.mov(ecx, 3);
            Label again = a.CreateLabel();
            a.Label(ref again);
            for (int k = 0; k < Blocks; k++)
            {
                Label next = a.CreateLabel();
                a.add(rax, k);
                a.mov(__[0x20_0000], rax);
                a.xor(rbx, __[0x20_0000]);
                a.jmp(next);
                a.Label(ref next);
            }
            a.dec(ecx);
            a.jne(again);
            a.hlt();
        });
        guest.EnterLongMode();
        guest.State->Gpr[Gpr.Rax] = guest.State->Gpr[Gpr.Rbx] = 0;
        Assert.Equal(ExitReason.Hlt, guest.Run(1_000_000));
        (ulong sum, ulong mixed) = (0, 0);
        for (int k = 0; k < 3 * Blocks; k++)
        {
            sum += (ulong)(k % Blocks);
            mixed ^= sum;
        }
        Assert.Equal(sum, guest.State->Gpr[Gpr.Rax]);
        Assert.Equal(mixed, guest.State->Gpr[Gpr.Rbx]);
        TranslationStatistics done = guest.Translated!.Value;
        Assert.True(done.NativeTraces > Blocks + 100, $"Nothing was generated again: {done}");
        Assert.InRange(done.NativeSize, 1, 1 << 20);
        Assert.Equal(0, done.Failed);
    }

    /// <summary>
    /// A trace whose native code leads straight back to interpreted code, over and over, is interpreted where the interpreter comes to it; one that has more to
    /// do is not.
    /// </summary>
    [NativeTheory]
    [InlineData(0, true)]
    [InlineData(20, false)]
    public void WhatLeadsStraightBackToTheInterpreterIsInterpreted(int more, bool dismissed)
    {
        const ulong Tail = TestGuest.CodeBase + 0x100;
        const int Rounds = 20_000;
        using var guest = new TestGuest(translation: Immediate with { EmittedPerHandler = 2 });
        // Not worthwhile: handlers alone.
        guest.Assemble(64, a =>
        {
            a.sgdt(__[0x20_0000]);
            a.sidt(__[0x20_0010]);
            a.jmp(Tail);
        });
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            for (int k = 0; k < more; k++)
                a.inc(rax);
            a.dec(rcx);
            a.jne(TestGuest.CodeBase);
            a.mov(edx, 100);
            a.Label(ref loop);
            a.dec(edx);
            a.jne(loop);
            a.hlt();
        }, Tail);
        guest.EnterLongMode();
        guest.State->Gpr[Gpr.Rax] = 0;
        guest.State->Gpr[Gpr.Rcx] = Rounds;
        Assert.Equal(ExitReason.Hlt, guest.Run(1_000_000));
        Assert.Equal((ulong)(more * Rounds), guest.State->Gpr[Gpr.Rax]);
        Trace* trace = TraceAt(guest, Tail);
        Assert.True(trace->Native != 0);
        Assert.Equal(dismissed, (nint)Trace.First(trace)->Handler == (nint)trace->FirstHandler);
        Assert.Equal(!dismissed, (nint)Trace.First(trace)->Handler == (nint)NativeExecution.Handler);
    }

    /// <summary>
    /// Such a trace is counted all the same: where it is part of a loop that calls handlers, the JIT gets that in the end. What never stays in its region is not
    /// given to the JIT.
    /// </summary>
    [NativeTheory]
    [InlineData(0x100, true)]
    [InlineData(0x1000, false)]
    public void ALoopThatCallsHandlersIsTheJitsIfItIsInOnePage(ulong distance, bool compiled)
    {
        const ulong Rounds = 20_000;
        const ulong head = TestGuest.CodeBase;
        using var guest = new TestGuest(
            translation: Immediate with { NativeRegionThreshold = 50, NativeHotThreshold = 3000, EmittedPerHandler = 2, EmittedPerHandlerInRegion = 8 });
        guest.Assemble(64, a =>
        {
            a.sgdt(__[0x20_0000]);
            a.jmp(head + distance);
        });
        guest.Assemble(64, a =>
        {
            a.inc(rax);
            a.dec(rcx);
            a.jne(head);
            a.hlt();
        }, head + distance);
        guest.EnterLongMode();
        guest.State->Gpr[Gpr.Rax] = 0;
        guest.State->Gpr[Gpr.Rcx] = Rounds;
        Assert.Equal(ExitReason.Hlt, guest.Run(1_000_000));
        Assert.Equal(Rounds, guest.State->Gpr[Gpr.Rax]);
        TranslationStatistics done = guest.Cpu.Package.Translation!.Value;
        Assert.Equal(compiled, done.Installed > done.NativeTraces);
        Trace* trace = TraceAt(guest, head + distance);
        Assert.Equal(!compiled, (nint)Trace.First(trace)->Handler == (nint)trace->FirstHandler);
    }

    private static Trace* TraceAt(TestGuest guest, ulong physical)
    {
        for (int mode = 0; mode < 256; mode++)
        {
            Trace* trace = guest.Cpu.Package.Code.FindDecoded(physical, (TraceMode)mode);
            if (trace != null)
                return trace;
        }
        throw new InvalidOperationException($"No trace begins at {physical:x}.");
    }
}

/// <summary>Several tests that need a host with native code.</summary>
public sealed class NativeTheoryAttribute : TheoryAttribute
{
    public NativeTheoryAttribute()
    {
        if (!NativeCodeSpace.IsSupported)
            Skip = "There is no generator of native code for this host.";
    }
}

/// <summary>A test that needs a host with native code.</summary>
public sealed class NativeFactAttribute : FactAttribute
{
    public NativeFactAttribute()
    {
        if (!NativeCodeSpace.IsSupported)
            Skip = "There is no generator of native code for this host.";
    }
}
