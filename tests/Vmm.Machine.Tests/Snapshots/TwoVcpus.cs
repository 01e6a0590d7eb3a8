using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Machine.Tests.Guests;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Snapshots;

/// <summary>
/// A guest with two processors that count in one word, and print at some of its values. The second one is started late, in real mode,
/// and halts in the end; the first one ends the run.
/// </summary>
internal static class TwoVcpus
{
    private const int StartPage = 8, Counter = 0x9000, Last = 60_000;

    public static void Program(Assembler a)
    {
        a.LoadInterruptTable();
        a.mov(__dword_ptr[Counter], 0);
        byte[] code = StartUp();
        for (int i = 0; i + 4 <= code.Length; i += 4)
            a.mov(__dword_ptr[(StartPage << 12) + i], BitConverter.ToInt32(code, i));
        a.WriteApic(ApicRegister.SpuriousVector, 0x1FF);
        a.WriteApic(ApicRegister.CommandHigh, 1 << 24);
        a.WriteApic(ApicRegister.CommandLow, 0x4500);
        a.mov(ecx, 3000);
        Label delay = a.CreateLabel(), loop = a.CreateLabel(), quiet = a.CreateLabel();
        a.Label(ref delay);
        a.dec(ecx);
        a.jnz(delay);
        a.WriteApic(ApicRegister.CommandLow, 0x4600 | StartPage);
        a.Label(ref loop);
        a.mov(eax, 1);
        a.@lock.xadd(__dword_ptr[Counter], eax);
        a.mov(ebx, eax);
        a.and(eax, 0xFFF);
        a.jnz(quiet);
        a.Print('B');
        a.pause();
        a.Label(ref quiet);
        a.cmp(ebx, Last);
        a.jb(loop);
        a.Exit(0x22);
    }

    private static byte[] StartUp()
    {
        var a = new Assembler(16);
        Label loop = a.CreateLabel(), quiet = a.CreateLabel(), end = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.Label(ref loop);
        a.mov(eax, 1);
        a.@lock.xadd(__dword_ptr[Counter], eax);
        a.mov(ebx, eax);
        a.and(eax, 0x7FF);
        a.jnz(quiet);
        a.Print('a');
        a.Label(ref quiet);
        a.cmp(ebx, Last - 20_000);
        a.jb(loop);
        a.Label(ref end);
        a.cli();
        a.hlt();
        a.jmp(end);
        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), StartPage << 12);
        return [.. code.ToArray(), 0, 0, 0, 0];
    }
}
