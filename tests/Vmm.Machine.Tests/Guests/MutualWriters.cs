using Iced.Intel;
using Vmm.Hypervisor.Apic;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Guests;

/// <summary>
/// Two processors in 64-bit mode, each of which calls a function again and again and now and then writes another constant into that of the
/// other. The first one ends the run when it has called often enough.
/// </summary>
internal static class MutualWriters
{
    private const int StartPage = 8, Ready = 0x9000;
    private const int SecondEntry = 0x34_0000, FirstFunction = 0x35_0000, SecondFunction = 0x36_0000, Sums = 0x37_0000;

    /// <summary>The program of the first processor, which starts the second.</summary>
    /// <param name="a">32-bit code, as <see cref="GuestProgram"/> enters it.</param>
    /// <param name="calls">Calls of the first processor.</param>
    public static void Program(Assembler a, int calls)
    {
        a.mov(__dword_ptr[Ready], 0);
        // The descriptor of the table that Enter64 makes.
        a.mov(__dword_ptr[Ready + 8], unchecked((int)((LongMode.Descriptors & 0xFFFF) << 16 | 0xF)));
        a.mov(__dword_ptr[Ready + 12], (int)(LongMode.Descriptors >> 16));
        Store(a, StartPage << 12, StartUp());
        Store(a, SecondEntry, Assemble(64, SecondEntry, second => Caller(second, SecondFunction, FirstFunction, 0)));
        Store(a, FirstFunction, Assemble(64, FirstFunction, Function));
        Store(a, SecondFunction, Assemble(64, SecondFunction, Function));
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.CommandHigh, 1 << 24);
        a.WriteApic(ApicRegister.CommandLow, 0x4500);
        Label delay = a.CreateLabel();
        a.mov(ecx, 3000);
        a.Label(ref delay);
        a.dec(ecx);
        a.jnz(delay);
        a.WriteApic(ApicRegister.CommandLow, 0x4600 | StartPage);
        a.Enter64(first =>
        {
            first.mov(__dword_ptr[Ready], 1);
            Caller(first, FirstFunction, SecondFunction, calls);
            first.mov(edx, 0xF4);
            first.mov(eax, 1);
            first.@out(dx, eax);
        });
    }

    // Adds a constant to a sum, in a loop that is hot by itself.
    private static void Function(Assembler a)
    {
        Label again = a.CreateLabel();
        a.mov(eax, 1);
        a.mov(ecx, 8);
        a.Label(ref again);
        a.add(__qword_ptr[rdi], rax);
        a.dec(ecx);
        a.jnz(again);
        a.ret();
    }

    // Calls one function, and after every 48th call changes the constant of the other. For ever where the number is 0.
    private static void Caller(Assembler a, int called, int written, int calls)
    {
        Label loop = a.CreateLabel(), quiet = a.CreateLabel();
        a.mov(edi, Sums + (calls == 0 ? 8 : 0));
        a.mov(r8d, called);
        a.mov(r9d, written);
        a.mov(ebx, calls);
        a.mov(ebp, 48);
        a.Label(ref loop);
        a.call(r8);
        a.dec(ebp);
        a.jnz(quiet);
        a.mov(ebp, 48);
        a.inc(__byte_ptr[r9 + 1]);
        a.Label(ref quiet);
        if (calls == 0)
        {
            a.jmp(loop);
            return;
        }
        a.dec(ebx);
        a.jnz(loop);
    }

    private static byte[] StartUp() => Assemble(16, StartPage << 12, a =>
    {
        Label wait = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.Label(ref wait);
        a.cmp(__dword_ptr[Ready], 0);
        a.je(wait);
        a.lgdt(__[Ready + 8]);
        a.mov(eax, cr4);
        a.or(eax, 0x20);
        a.mov(cr4, eax);
        a.mov(eax, LongMode.Tables);
        a.mov(cr3, eax);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.or(eax, 0x100);
        a.wrmsr();
        a.mov(esp, GuestProgram.Stack - 0x1000);
        a.mov(eax, 0x8000_0011);
        a.mov(cr0, eax);
        // JMP far 8:SecondEntry with a 32-bit offset.
        a.db([0x66, 0xEA, .. BitConverter.GetBytes(SecondEntry), 8, 0]);
    });

    private static byte[] Assemble(int bitness, ulong address, Action<Assembler> program)
    {
        var a = new Assembler(bitness);
        program(a);
        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), address);
        return code.ToArray();
    }

    private static void Store(Assembler a, int address, byte[] bytes)
    {
        byte[] whole = [.. bytes, 0, 0, 0, 0];
        for (int i = 0; i < bytes.Length; i += 4)
            a.mov(__dword_ptr[address + i], BitConverter.ToInt32(whole, i));
    }
}
