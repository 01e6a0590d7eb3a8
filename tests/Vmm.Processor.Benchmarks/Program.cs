using System.Diagnostics;
using Iced.Intel;
using Vmm.Processor.Tests;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

// Million guest instructions per second of small kernels, each run several times in turn; the best of each is printed, and all
// are shown as ratios to the first, so that a run says something on a noisy machine. Arguments name the kernels to run; none, all.
(string Name, Action<Assembler> Body)[] kernels =
[
    ("alu", a => { a.add(rax, rbx); a.xor(rdx, rax); a.lea(rsi, __[rsi + rax * 2 + 5]); a.sub(rdi, rdx); a.shr(rbx, 1); a.or(rbx, rax); }),
    ("memory", a => { a.mov(rax, __[r8 + rdx]); a.add(rax, rcx); a.mov(__[r8 + rdx], rax); a.add(rdx, 8); a.and(rdx, 0xFFF8); }),
    ("tlb miss", a => { a.imul(rdx, rdx, 1103515245); a.add(rdx, 12345); a.mov(rsi, rdx); a.and(esi, 0x3FFFFF8); a.add(rax, __[r8 + rsi]); }),
    ("branches", a =>
    {
        Label even = a.CreateLabel();
        Label next = a.CreateLabel();
        a.test(cl, 1);
        a.je(even);
        a.add(rax, 3);
        a.jmp(next);
        a.Label(ref even);
        a.xor(rax, 5);
        a.Label(ref next);
        a.nop();
    }),
    ("stack", a => { a.push(rax); a.push(rbx); a.pop(rdx); a.pop(rsi); }),
    ("sse float", a => { a.movsd(xmm0, __[r8]); a.mulsd(xmm0, xmm1); a.addsd(xmm2, xmm0); a.mulps(xmm3, xmm4); a.addps(xmm5, xmm3); a.movsd(__[r8 + 8], xmm2); }),
    ("sse exact", a => { a.cvtsi2sd(xmm0, ecx); a.addsd(xmm1, xmm0); a.cvttsd2si(eax, xmm0); a.ucomisd(xmm0, xmm1); a.subsd(xmm1, xmm0); }),
    ("sse int", a => { a.movdqu(xmm0, __[r8]); a.paddd(xmm1, xmm0); a.pxor(xmm2, xmm1); a.pshufd(xmm3, xmm2, 0x1B); a.pcmpeqb(xmm3, xmm0); a.movdqa(__[r8 + 16], xmm3); }),
    ("x87", a => { a.fld(__qword_ptr[r8]); a.fmul(st0, st0); a.fadd(st0, st1); a.fstp(st1); }),
    ("x87 call", a =>
    {
        Label product = a.CreateLabel(), over = a.CreateLabel();
        a.call(product);
        a.jmp(over);
        a.Label(ref product);
        a.fld(__qword_ptr[r8]);
        a.fmul(__qword_ptr[r8 + 8]);
        a.fstp(__qword_ptr[r8 + 16]);
        a.ret();
        a.Label(ref over);
        a.nop();
    }),
    ("muldiv", a => { a.mov(rax, rcx); a.mul(rbx); a.mov(rsi, 12345); a.xor(edx, edx); a.div(rsi); }),
];

// --translate: as a virtual machine does it; --native: native code only.
TranslationOptions? translation = args.Contains("--translate") ? new TranslationOptions() : args.Contains("--native") ? new TranslationOptions { NativeRegionThreshold = 0, NativeHotThreshold = 0 } : null;
args = [.. args.Where(each => !each.StartsWith("--", StringComparison.Ordinal))];
bool Wanted(string name) => args.Length == 0 || args.Contains(name);
kernels = [.. kernels.Where(kernel => Wanted(kernel.Name))];
const long Instructions = 60_000_000;
var best = new double[kernels.Length];
for (int round = 0; round < 4; round++)
{
    for (int k = 0; k < kernels.Length; k++)
    {
        using var guest = new TestGuest(128 << 20, translation: translation);
        guest.Assemble(64, a =>
        {
            a.mov(r8d, 0x100000);
            a.mov(rax, 0x3FF3_3333_3333_3333);
            a.mov(__[r8], rax);
            a.movsd(xmm1, __[r8]);
            a.movapd(xmm2, xmm1);
            a.mov(__dword_ptr[r8 + 64], 0x3F80_0001);
            a.movss(xmm4, __[r8 + 64]);
            a.shufps(xmm4, xmm4, 0);
            a.movaps(xmm3, xmm4);
            a.fninit();
            a.fldz();
            a.mov(ecx, int.MaxValue);
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            kernels[k].Body(a);
            a.dec(rcx);
            a.jne(loop);
            a.hlt();
        });
        guest.EnterLongMode();
        long start = Stopwatch.GetTimestamp();
        guest.Run(Instructions);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        best[k] = Math.Max(best[k], guest.Cpu.InstructionsRetired / seconds / 1e6);
        if (round == 0 && guest.Translated is { } done)
            Console.WriteLine($"{kernels[k].Name}: {done}");
    }
}
for (int k = 0; k < kernels.Length; k++)
    Console.WriteLine($"{kernels[k].Name,-10} {best[k],8:F0} MIPS  {best[k] / best[0],6:F2}");

if (!Wanted("exit+entry"))
    return;
// A VM exit and the entry after it, with an L0 that does nothing but step over CPUID.
const int Exits = 2_000_000;
double fastest = double.MaxValue;
for (int round = 0; round < 4; round++)
{
    using var guest = new TestGuest();
    guest.Assemble(64, a =>
    {
        Label loop = a.CreateLabel();
        a.Label(ref loop);
        a.cpuid();
        a.jmp(loop);
    });
    guest.EnterLongMode();
    long start = Stopwatch.GetTimestamp();
    for (int k = 0; k < Exits; k++)
    {
        guest.Run(long.MaxValue);
        guest.Vmcs[VmcsField.GuestRip] += guest.Vmcs[VmcsField.VmExitInstructionLength];
    }
    fastest = Math.Min(fastest, Stopwatch.GetElapsedTime(start).TotalSeconds / Exits * 1e9);
}
Console.WriteLine($"exit+entry {fastest,8:F0} ns");
