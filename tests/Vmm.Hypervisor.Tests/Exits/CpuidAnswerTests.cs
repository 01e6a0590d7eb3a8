using Iced.Intel;
using Vmm.Hypervisor.Tests.Nested;
using Vmm.Hypervisor.Tracing;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Exits;

/// <summary>CPUID that the processor answers by itself is answered as L0 does.</summary>
public sealed class CpuidAnswerTests
{
    private const uint ApicBase = 0x1B;
    private static readonly uint[] Leaves = [0, 1, 2, 4, 6, 7, 0xB, 0xD, 0x15, 0x20, 0x4000_0000, 0x8000_0000, 0x8000_0001, 0x8000_0002, 0x8000_0008, 0xC000_0000];
    private const int Subleaves = 4, Passes = 8;

    [Fact]
    public void What_the_processor_answers_is_what_an_exit_would_bring()
    {
        using NestedMachine answered = Run(traced: false, out _), exiting = Run(traced: true, out List<ExitTraceRecord> exits);
        int all = Leaves.Length * Subleaves * Passes;
        Assert.Equal(all, exits.Count(record => record.Kind == ExitTraceKind.Exit && record.Reason == (uint)ExitReason.Cpuid));
        for (int k = 0; k < all * 2; k++)
            Assert.True(exiting.Read(NestedMachine.Log + (ulong)k * 8) == answered.Read(NestedMachine.Log + (ulong)k * 8), $"answer {k / 2}");
        Assert.Equal(exiting.Vcpu.InstructionsRetired, answered.Vcpu.InstructionsRetired);
        // What the processor has answered it has retired; what L0 has answered L0 has counted.
        Assert.True(answered.Vcpu.Cpu.InstructionsRetired > exiting.Vcpu.Cpu.InstructionsRetired + (ulong)all / 4);
        // Leaf 1 in the passes: OSXSAVE is on in the third and fourth, the local APIC off from the fifth on.
        Assert.Equal([0, 0, 1, 1, 0, 0, 0, 0], Enumerable.Range(0, Passes).Select(pass => (int)(Answer(answered, pass, 1).Ecx >> 27 & 1)));
        Assert.Equal([1, 1, 1, 1, 0, 0, 0, 0], Enumerable.Range(0, Passes).Select(pass => (int)(Answer(answered, pass, 1).Edx >> 9 & 1)));
    }

    private static (uint Ecx, uint Edx) Answer(NestedMachine machine, int pass, uint leaf)
    {
        ulong at = NestedMachine.Log + (ulong)((pass * Leaves.Length + Array.IndexOf(Leaves, leaf)) * Subleaves * 16);
        ulong high = machine.Read(at + 8);
        return ((uint)high, (uint)(high >> 32));
    }

    private static NestedMachine Run(bool traced, out List<ExitTraceRecord> exits)
    {
        var machine = new NestedMachine();
        var ring = new ExitTraceRing(ExitTraceFilter.Everything, 4096);
        if (traced)
            machine.Machine.StartTrace(ring);
        L1Stop stop = machine.RunL1(Program, 50);
        while (stop == L1Stop.Running)
            stop = machine.Continue(50);
        Assert.Equal(L1Stop.Done, stop);
        var records = new ExitTraceRecord[8192];
        exits = [.. records.AsSpan(0, ring.Read(records))];
        return machine;
    }

    private static void Program(Assembler a)
    {
        a.mov(edi, (int)NestedMachine.Log);
        for (int pass = 0; pass < Passes; pass++)
        {
            if (pass is 2 or 4)
            {
                a.mov(rax, cr4);
                a.xor(eax, (int)Cr4.Osxsave);
                a.mov(cr4, rax);
            }
            if (pass == 4)
            {
                a.mov(ecx, ApicBase);
                a.rdmsr();
                a.and(eax, ~(1 << 11));
                a.wrmsr();
            }
            foreach (uint leaf in Leaves)
            {
                for (int subleaf = 0; subleaf < Subleaves; subleaf++)
                {
                    a.mov(eax, leaf);
                    a.mov(ecx, subleaf);
                    a.cpuid();
                    a.mov(__dword_ptr[rdi], eax);
                    a.mov(__dword_ptr[rdi + 4], ebx);
                    a.mov(__dword_ptr[rdi + 8], ecx);
                    a.mov(__dword_ptr[rdi + 12], edx);
                    a.add(rdi, 16);
                }
            }
        }
        NestedMachine.Report(a, L1Stop.Done);
    }
}
