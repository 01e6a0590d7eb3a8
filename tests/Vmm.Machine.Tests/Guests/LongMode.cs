using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Guests;

/// <summary>From the 32-bit protected mode of <see cref="GuestProgram"/> to 64-bit mode.</summary>
internal static class LongMode
{
    /// <summary>The page tables, which are what CR3 has.</summary>
    public const uint Tables = 0x31_0000;

    /// <summary>The descriptor table: a 64-bit code segment with selector 8.</summary>
    public const uint Descriptors = Tables + 0x3000;

    /// <summary>
    /// Enters 64-bit mode, with the first GiB mapped to itself in pages of 2 MiB, and executes a program there. It may be anywhere: branches
    /// and addresses relative to RIP only.
    /// </summary>
    public static void Enter64(this Assembler a, Action<Assembler> program)
    {
        var wide = new Assembler(64);
        program(wide);
        using var code = new MemoryStream();
        wide.Assemble(new StreamCodeWriter(code), 0);

        Label fill = a.CreateLabel(), over = a.CreateLabel();
        a.mov(__dword_ptr[Tables], Tables + 0x1000 | 3);
        a.mov(__dword_ptr[Tables + 4], 0);
        a.mov(__dword_ptr[Tables + 0x1000], Tables + 0x2000 | 3);
        a.mov(__dword_ptr[Tables + 0x1004], 0);
        a.mov(edi, Tables + 0x2000);
        a.mov(eax, 0x83);
        a.mov(ecx, 512);
        a.Label(ref fill);
        a.mov(__dword_ptr[edi], eax);
        a.mov(__dword_ptr[edi + 4], 0);
        a.add(eax, 0x20_0000);
        a.add(edi, 8);
        a.dec(ecx);
        a.jnz(fill);
        a.mov(__dword_ptr[Descriptors + 8], 0x0000_FFFF);
        a.mov(__dword_ptr[Descriptors + 12], 0x00AF_9B00);
        a.push(Descriptors);
        a.push(0x000F_0000);
        a.lgdt(__[esp + 2]);
        a.mov(eax, Tables);
        a.mov(cr3, eax);
        a.mov(eax, cr4);
        a.or(eax, 0x20);
        a.mov(cr4, eax);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.or(eax, 0x100);
        a.wrmsr();
        a.mov(eax, cr0);
        a.or(eax, 1 << 31);
        a.mov(cr0, eax);
        a.mov(esp, GuestProgram.Stack);
        // The call leaves the code's address on the stack.
        a.call(over);
        a.db(code.ToArray());
        a.Label(ref over);
        a.pop(eax);
        a.push(8);
        a.push(eax);
        a.retf();
    }
}
