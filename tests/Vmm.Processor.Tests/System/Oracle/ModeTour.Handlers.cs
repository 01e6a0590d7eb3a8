using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>What catches the exceptions and prints them.</summary>
internal sealed partial class ModeTour
{
    private static void EmitStub(Assembler a, uint vector, bool error, uint handler)
    {
        if (!error)
            a.push(-1);
        a.push((int)vector);
        a.jmp(handler);
    }

    /// <summary>Real mode goes without an error code; 16-bit frames have words.</summary>
    private static void EmitHandler(Assembler a, int bits)
    {
        Label print = a.CreateLabel(), put = a.CreateLabel();
        int word = bits / 8;
        if (bits == 64)
            a.mov(rbp, rsp);
        else
        {
            if (bits == 16)
                a.movzx(esp, sp);
            a.mov(ebp, esp);
        }
        a.mov(edi, ss);
        a.mov(eax, bits == 16 ? 0 : Data0);
        a.mov(ds, eax);
        a.mov(es, eax);
        a.cld();
        a.mov(esi, Variables);
        if (bits == 64)
            a.mov(eax, __dword_ptr[rsi + 16]);
        else
            a.mov(eax, __dword_ptr[esi + 16]);
        a.call(print);
        // Vector, error code, CS:RIP, RFLAGS without the arithmetic flags, and in 64-bit mode RSP and SS.
        for (int k = 0; k < (bits == 64 ? 7 : 5); k++)
        {
            if (bits == 64)
                a.mov(rax, __qword_ptr[rbp + k * word]);
            else if (bits == 32)
                a.mov(eax, __dword_ptr[ebp + k * word]);
            else
                a.movzx(eax, __word_ptr[ebp + k * word]);
            if (k == 3)
                a.and(eax, 0xFFFF);
            if (k == 4)
                a.and(eax, 0x3_7700);
            a.call(print);
        }
        if (bits == 64)
            a.mov(rax, rbp);
        else
            a.mov(eax, ebp);
        a.call(print);
        a.movzx(eax, di);
        a.call(print);
        if (bits == 64)
            a.mov(rax, cr2);
        else
            a.mov(eax, cr2);
        a.call(print);
        if (bits == 64)
            a.mov(rax, dr6);
        else
            a.mov(eax, dr6);
        a.and(eax, 0xE00F);
        a.call(print);
        for (int k = 0; bits != 64 && k < 2; k++)
        {
            a.xor(eax, eax);
            a.call(print);
        }
        a.mov(eax, 0xFFFF_0FF0);
        if (bits == 64)
            a.mov(dr6, rax);
        else
            a.mov(dr6, eax);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.mov(eax, bits == 16 ? 0 : Data0);
        a.mov(ss, eax);
        a.mov(esp, bits == 16 ? RealStack : Stack0);
        a.mov(ecx, 1);
        if (bits == 64)
        {
            a.push(2);
            a.popfq();
            a.push(__qword_ptr[rsi + 8]);
            a.push(__qword_ptr[rsi]);
            a.db(0x48, 0xCB);
        }
        else if (bits == 32)
        {
            a.push(2);
            a.popfd();
            a.push(__dword_ptr[esi + 8]);
            a.push(__dword_ptr[esi]);
            a.retf();
        }
        else
        {
            a.push((short)2);
            a.popf();
            a.push(__word_ptr[esi + 8]);
            a.push(__word_ptr[esi]);
            a.retf();
        }
        ReferencePc.EmitPrinter(a, ref print, ref put);
    }

    /// <summary>Notes where the next trial's handler returns to, with ECX = 1; returns with ECX = 0.</summary>
    private static void EmitMark(Assembler a, int bits, ref Label mark)
    {
        a.Label(ref mark);
        a.mov(esi, Variables);
        a.mov(ecx, cs);
        if (bits == 64)
        {
            a.mov(rax, __qword_ptr[rsp]);
            a.mov(__qword_ptr[rsi], rax);
            a.mov(__qword_ptr[rsi + 8], rcx);
        }
        else
        {
            if (bits == 16)
            {
                a.movzx(esp, sp);
                a.movzx(eax, __word_ptr[esp]);
            }
            else
                a.mov(eax, __dword_ptr[esp]);
            a.mov(__dword_ptr[esi], eax);
            a.mov(__dword_ptr[esi + 4], 0);
            a.mov(__dword_ptr[esi + 8], ecx);
            a.mov(__dword_ptr[esi + 12], 0);
        }
        a.xor(ecx, ecx);
        a.ret();
    }

    private void Try(Assembler a, Label mark, Action body) => Try(a, mark, Rules.None, body);

    private void Try(Assembler a, Label mark, Rules rule, Action body)
    {
        if ((omitted & rule) != 0)
            return;
        Label done = a.CreateLabel();
        a.call(mark);
        a.test(ecx, ecx);
        a.jnz(done);
        body();
        a.@int(UserGate);
        a.Label(ref done);
    }

    private static void SetMode(Assembler a, uint mode)
    {
        a.mov(esi, Variables);
        if (a.Bitness == 64)
            a.mov(__dword_ptr[rsi + 16], mode);
        else
            a.mov(__dword_ptr[esi + 16], mode);
    }
}
