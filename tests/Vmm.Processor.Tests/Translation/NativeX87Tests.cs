using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Translation;

/// <summary>x87 in native code as a part of the process: what it owes managed code, and what it keeps of the guest's.</summary>
public sealed unsafe partial class NativeX87Tests
{
    private const ulong Data = 0x20_0000, Device = 0x90_0000;
    private const int Rounds = 1000;

    // Rounding up, to 53 bits, all exceptions masked.
    private const ushort Control = 0x0A7F;

    private static readonly TranslationOptions Immediate = TestTranslation.Of(Tier.NativeCode)!;

    /// <summary>The host's x87 unit is as the runtime has it wherever managed code runs: behind exits, and in accesses in the middle of a run, which then goes on.</summary>
    [NativeFact]
    public void ManagedCodeFindsTheHostsControlWordAndAnEmptyStack()
    {
        using TestGuest interpreted = Run(null, []), compiled = Run(Immediate, []);
        Assert.True(compiled.Translated!.Value.NativeTraces > 0);
        Assert.Equal(interpreted.Read<ulong>(Data + 16), compiled.Read<ulong>(Data + 16));
        var seen = new HashSet<(ushort, ushort)>();
        using TestGuest observed = Run(Immediate, seen);
        Assert.Equal((0x037F, 0xFFFF), Assert.Single(seen));
        Assert.Equal(interpreted.Read<ulong>(Data + 16), observed.Read<ulong>(Data + 16));
        // A thousand roundings up.
        Assert.NotEqual(BitConverter.DoubleToUInt64Bits(Rounds * 0.1), compiled.Read<ulong>(Data + 16));
    }

    /// <summary>
    /// What an access in the middle finds is what the interpreter has then, in a loop that keeps x87 registers in the host's: before the loop's first x87
    /// instruction, between two, and again behind an access.
    /// </summary>
    [NativeFact]
    public void WhatIsKeptAroundALoopIsAtHomeWheneverManagedCodeRuns()
    {
        List<string> interpreted = Observe(null), compiled = Observe(Immediate);
        Assert.Equal(3 * 64, interpreted.Count);
        // At each of the three places some of the last roundings went up, some did not.
        Assert.Equal(6, interpreted.Select((each, k) => (k % 3, each[0])).Distinct().Count());
        Assert.Equal(interpreted, compiled);
    }

    private static List<string> Observe(TranslationOptions? options)
    {
        var seen = new List<string>();
        using var guest = new TestGuest(translation: options, translate: options != null);
        guest.Write(Data, [BitConverter.DoubleToUInt64Bits(0.1), BitConverter.DoubleToUInt64Bits(1.0 / 3)]);
        guest.Bus.OnReadMemory = (_, _) =>
        {
            CpuState* s = guest.State;
            string registers = string.Join(' ', Enumerable.Range(0, 16).Select(k => s->Fpu[k].ToString("x")));
            // C1 first.
            seen.Add($"{s->Fsw >> 9 & 1} {s->Fsw:x} {s->Ftw:x} {s->FpuTop} {s->Fip:x} {s->Fdp:x} {s->Fcs:x} {s->Fds:x} {registers}");
            return 0;
        };
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            a.fninit();
            a.fld1();
            a.mov(ecx, 64);
            a.Label(ref loop);
            a.mov(eax, __dword_ptr[Device]);
            a.fld(__qword_ptr[Data]);
            a.fmul(__qword_ptr[Data + 8]);
            a.fmul(st1, st0);
            a.mov(edx, __dword_ptr[Device]);
            a.mov(edx, __dword_ptr[Device]);
            a.fmulp(st1, st0);
            a.sub(ecx, 1);
            a.jne(loop);
            a.hlt();
        });
        guest.EnterLongMode();
        Assert.Equal(ExitReason.Hlt, guest.Run(100_000));
        return seen;
    }

    private static TestGuest Run(TranslationOptions? options, HashSet<(ushort, ushort)> seen)
    {
        var guest = new TestGuest(translation: options, translate: options != null);
        guest.Write(Data, [BitConverter.DoubleToUInt64Bits(0.1)]);
        guest.Write(Data + 8, [(ulong)Control]);
        guest.Bus.OnReadMemory = (_, _) =>
        {
            seen.Add(HostEnvironment());
            return 0;
        };
        guest.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            a.fninit();
            a.fldcw(__word_ptr[Data + 8]);
            a.fldz();
            a.mov(ecx, Rounds);
            a.Label(ref loop);
            a.fld(__qword_ptr[Data]);
            a.mov(eax, __dword_ptr[Device]);
            a.faddp(st1, st0);
            a.add(rbx, rax);
            a.dec(ecx);
            a.jne(loop);
            a.fstp(__qword_ptr[Data + 16]);
            a.hlt();
        });
        guest.EnterLongMode();
        Assert.Equal(ExitReason.Hlt, guest.Run(20 * Rounds));
        if (seen.Count != 0)
            seen.Add(HostEnvironment());
        return guest;
    }

    /// <summary>The host's control and tag words (SDM volume 1, figure 8-9).</summary>
    private static (ushort Control, ushort Tags) HostEnvironment()
    {
        ushort* environment = stackalloc ushort[32];
        Assert.Equal(0, GetEnvironment(environment));
        return (environment[0], environment[4]);
    }

    [LibraryImport("libm.so.6", EntryPoint = "fegetenv")]
    private static partial int GetEnvironment(ushort* environment);
}
