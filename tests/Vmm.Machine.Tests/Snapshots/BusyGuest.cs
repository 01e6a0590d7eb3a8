using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>
/// A guest that keeps as much of a machine busy as it can: interrupts of the local timer and the interval timer, NMIs in NMIs, halting,
/// interrupt shadows, repeated string instructions, x87 and SSE, time and randomness. All of it goes into a sum, which it prints.
/// </summary>
internal static class BusyGuest
{
    private const uint Sum = GuestProgram.Data, Ticks = GuestProgram.Data + 4, Nmis = GuestProgram.Data + 8, Numbers = GuestProgram.Data + 0x40,
        Source = GuestProgram.Data + 0x4FA0, Target = GuestProgram.Data + 0x6F40;
    private const byte TimerVector = 0x41, PitVector = 0x50, SelfVector = 0x61;

    public static void Program(Assembler a, int rounds)
    {
        a.LoadInterruptTable();
        for (uint word = Sum; word < Sum + 0x80; word += 4)
            a.mov(__dword_ptr[word], 0);
        a.SetGate(TimerVector, () => Handler(a, () => a.@lock.inc(__dword_ptr[Ticks])));
        a.SetGate(SelfVector, () => Handler(a, () => Mix(a, 3)));
        a.SetGate(2, () => NonMaskable(a));
        a.SetGate(PitVector, () => Handler(a, () => Mix(a, 5), () => a.Out(0x20, 0x20)));
        foreach ((ushort port, byte value) in ((ushort, byte)[])[(0x20, 0x11), (0x21, PitVector), (0x21, 4), (0x21, 1), (0x21, 0xFE)])
            a.Out(port, value);
        // Channel 0 every 100 microseconds or so, the local timer every 7.
        a.Out(0x43, 0x34);
        a.Out(0x40, 120);
        a.Out(0x40, 0);
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.LvtLint0, 0x700);
        a.WriteApic(ApicRegister.DivideConfiguration, 0xB);
        a.WriteApic(ApicRegister.LvtTimer, 1 << 17 | TimerVector);
        a.WriteApic(ApicRegister.InitialCount, 7_000);
        // SSE.
        a.mov(eax, cr4);
        a.or(eax, 0x600);
        a.mov(cr4, eax);
        a.fninit();
        a.fldpi();
        a.mov(eax, 0x3F80_0001);
        a.movd(xmm1, eax);
        a.pshufd(xmm1, xmm1, 0);
        a.movaps(xmm2, xmm1);
        a.mov(ebp, rounds);
        Label round = a.CreateLabel();
        a.Label(ref round);
        Round(a);
        PrintSum(a);
        a.dec(ebp);
        a.jnz(round);
        a.cli();
        a.Exit(0x21);
    }

    private static void Round(Assembler a)
    {
        a.sti();
        // An instruction behind STI and one behind MOV SS, with interrupts that wait.
        a.WriteApic(ApicRegister.CommandLow, 0x4_0000 | SelfVector);
        a.cli();
        a.WriteApic(ApicRegister.CommandLow, 0x4_0000 | SelfVector);
        a.sti();
        a.mov(eax, ss);
        a.mov(ss, ax);
        a.mov(ecx, esp);
        a.mov(edi, Source);
        a.mov(ecx, 100);
        a.mov(eax, __dword_ptr[Sum]);
        a.rep.stosd();
        a.mov(esi, Source);
        a.mov(edi, Target);
        a.mov(ecx, 300);
        a.rep.movsb();
        // An NMI to itself, in whose handler there comes another.
        a.WriteApic(ApicRegister.CommandHigh, 0);
        a.WriteApic(ApicRegister.CommandLow, 0x4400);
        // Time, from everywhere.
        a.rdtsc();
        a.add(__dword_ptr[Sum], eax);
        a.Out(0x43, 0);
        a.@in(al, 0x40);
        Mix(a, 7);
        a.@in(al, 0x40);
        Mix(a, 7);
        a.Out(0x70, 0);
        a.@in(al, 0x71);
        Mix(a, 7);
        a.mov(dx, 0x608);
        a.@in(eax, dx);
        Mix(a, 7);
        a.mov(eax, __dword_ptr[0xFEE0_0390]);
        Mix(a, 7);
        a.rdrand(eax);
        Mix(a, 11);
        // x87 and SSE.
        a.fld1();
        a.faddp(st1, st0);
        a.fld(st0);
        a.fsqrt();
        a.fstp(__tword_ptr[Numbers]);
        a.mov(eax, __dword_ptr[Numbers]);
        Mix(a, 13);
        a.mulps(xmm2, xmm1);
        a.movd(eax, xmm2);
        Mix(a, 17);
        // A fault's worth of CR2 and debug registers, without the fault.
        a.mov(eax, __dword_ptr[Sum]);
        a.mov(cr2, eax);
        a.mov(dr0, eax);
        a.mov(eax, __dword_ptr[Ticks]);
        Mix(a, 19);
        a.hlt();
        a.mov(eax, __dword_ptr[Nmis]);
        Mix(a, 23);
    }

    private static void Handler(Assembler a, Action work, Action? end = null)
    {
        a.push(eax);
        a.push(edx);
        work();
        if (end != null)
            end();
        else
            a.WriteApic(ApicRegister.EndOfInterrupt, 0);
        a.pop(edx);
        a.pop(eax);
        a.iretd();
    }

    // Every other one sends one more, which waits for IRET.
    private static void NonMaskable(Assembler a)
    {
        Label done = a.CreateLabel();
        a.inc(__dword_ptr[Nmis]);
        a.test(__dword_ptr[Nmis], 1);
        a.jz(done);
        a.WriteApic(ApicRegister.CommandLow, 0x4400);
        a.nop();
        a.nop();
        a.Label(ref done);
        a.iretd();
    }

    private static void Mix(Assembler a, byte turn)
    {
        a.rol(__dword_ptr[Sum], turn);
        a.xor(__dword_ptr[Sum], eax);
    }

    private static void PrintSum(Assembler a)
    {
        Label digit = a.CreateLabel();
        a.mov(ecx, 4);
        a.mov(ebx, __dword_ptr[Sum]);
        a.Label(ref digit);
        a.mov(eax, ebx);
        a.and(eax, 15);
        a.add(eax, 'a');
        a.mov(dx, 0x3F8);
        a.@out(dx, al);
        a.shr(ebx, 4);
        a.dec(ecx);
        a.jnz(digit);
    }
}
