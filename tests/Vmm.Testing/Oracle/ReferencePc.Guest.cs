using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Testing.Oracle;

/// <summary>What every bare guest has in it: its way to print, and its end.</summary>
public static partial class ReferencePc
{
    /// <summary>Sets COM1 to eight data bits and masks the 8259s. Clobbers AL and EDX.</summary>
    public static void EmitStart(Assembler a)
    {
        a.mov(edx, 0x3FB);
        a.mov(al, 3);
        a.@out(dx, al);
        a.mov(al, 0xFF);
        a.@out(0x21, al);
        a.@out(0xA1, al);
    }

    /// <summary>
    /// Two routines: <paramref name="print"/> prints RAX (outside 64-bit code EAX) in hexadecimal without leading zeros, and a
    /// blank; <paramref name="put"/> prints the character in AL. Both clobber RAX, RBX, RCX and RDX.
    /// </summary>
    public static void EmitPrinter(Assembler a, ref Label print, ref Label put)
    {
        Label digit = a.CreateLabel(), skip = a.CreateLabel(), emit = a.CreateLabel(), wait = a.CreateLabel();
        bool wide = a.Bitness == 64;
        void Shifted()
        {
            if (wide)
            {
                a.mov(rax, rbx);
                a.shr(rax, cl);
            }
            else
            {
                a.mov(eax, ebx);
                a.shr(eax, cl);
            }
        }
        a.Label(ref print);
        if (wide)
            a.mov(rbx, rax);
        else
            a.mov(ebx, eax);
        a.mov(ecx, wide ? 64 : 32);
        a.Label(ref skip);
        a.sub(ecx, 4);
        a.jz(digit);
        Shifted();
        a.test(eax, eax);
        a.jz(skip);
        a.Label(ref digit);
        Shifted();
        a.and(eax, 15);
        a.cmp(al, 10);
        a.jb(emit);
        a.add(al, 'a' - '0' - 10);
        a.Label(ref emit);
        a.add(al, (byte)'0');
        a.call(put);
        a.sub(ecx, 4);
        a.jns(digit);
        a.mov(al, (byte)' ');
        a.Label(ref put);
        a.mov(ah, al);
        a.mov(edx, 0x3FD);
        a.Label(ref wait);
        a.@in(al, dx);
        a.test(al, 0x20);
        a.jz(wait);
        a.mov(al, ah);
        a.mov(edx, 0x3F8);
        a.@out(dx, al);
        a.ret();
    }

    /// <summary>Ends the machine, by QEMU's isa-debug-exit (which ours has too), Bochs's shutdown port, or HLT.</summary>
    public static void EmitEnd(Assembler a, Label put)
    {
        Label drain = a.CreateLabel();
        // A slow UART may lose what is still in it when the machine ends.
        a.mov(esi, 64);
        a.Label(ref drain);
        a.mov(al, (byte)'\n');
        a.call(put);
        a.dec(esi);
        a.jnz(drain);
        a.xor(eax, eax);
        a.@out(0xF4, al);
        a.mov(edx, 0x8900);
        foreach (char c in "Shutdown")
        {
            a.mov(al, (byte)c);
            a.@out(dx, al);
        }
        a.hlt();
    }
}
