using System.Buffers.Binary;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Testing.Guests;

/// <summary>
/// A Multiboot kernel that is a small hypervisor: L1 prints <c>1</c> on COM1 and enters L2, which prints <c>2</c> and spins until
/// <see cref="Bell"/> is not zero. Then it clears it and executes VMCALL, upon which L1 prints <c>E</c> and resumes it. Any other exit
/// but CPUID ends the run by isa-debug-exit with the exit reason.
/// </summary>
public static class NestedGuest
{
    /// <summary>The guest-physical address, 4 bytes, by which L2 is asked to leave to L1.</summary>
    public const uint Bell = 0x30_0000;

    /// <summary>The VMXON region.</summary>
    public const uint Vmxon = 0x21_0000;

    /// <summary>The VMCS of L2: vmcs12.</summary>
    public const uint Vmcs = 0x21_1000;

    private const uint Load = 0x10_0000, HeaderLength = 32, Code = Load + HeaderLength;
    private const uint Directory = 0x20_0000, Gdt = 0x20_1000, Pointers = 0x20_2000, StackL1 = 0x2F_0000, StackL2 = 0x2E_0000;
    private const uint CodeSelector = 8, DataSelector = 16, TaskSelector = 24;
    private const int DebugExitPort = 0xF4, ComPort = 0x3F8;
    private const int ExitReasonCpuid = 10, ExitReasonVmcall = 18;

    /// <summary>The kernel file.</summary>
    public static byte[] Image()
    {
        var a = new Assembler(32);
        SetUpMemory(a);
        Print(a, '1');
        EnterVmx(a);
        WriteControls(a);
        WriteState(a);
        WriteAddress(a, 0x681E, EmitL2);
        WriteAddress(a, 0x6C16, EmitExitHandler);
        a.vmlaunch();
        // Only a VMfail comes here.
        End(a, 0x70);
        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), Code);
        byte[] file = new byte[HeaderLength + code.Length];
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), Load, Load, 0, 0, Code];
        for (int i = 0; i < header.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(i * 4), header[i]);
        code.ToArray().CopyTo(file, (int)HeaderLength);
        return file;
    }

    // Identity-mapped 4 MiB pages and flat segments: VMX operation wants paging.
    private static void SetUpMemory(Assembler a)
    {
        a.mov(esp, StackL1);
        Label pages = a.CreateLabel();
        a.xor(ecx, ecx);
        a.Label(ref pages);
        a.mov(eax, ecx);
        a.shl(eax, 22);
        a.or(eax, 0x83);
        a.mov(__dword_ptr[ecx * 4 + (int)Directory], eax);
        a.inc(ecx);
        a.cmp(ecx, 1024);
        a.jb(pages);
        uint[] gdt = [0, 0, 0x0000_FFFF, 0x00CF_9B00, 0x0000_FFFF, 0x00CF_9300, 0x0000_0067, 0x0000_8B00];
        for (int i = 0; i < gdt.Length; i++)
            Store(a, Gdt + (uint)i * 4, gdt[i]);
        Store(a, Pointers, 0x001F_0000);
        Store(a, Pointers + 4, Gdt);
        a.lgdt(__[(int)Pointers + 2]);
        // CS is loaded by a far return to behind the call.
        Label far = a.CreateLabel(), flat = a.CreateLabel();
        a.push((int)CodeSelector);
        a.call(far);
        a.jmp(flat);
        a.Label(ref far);
        a.retf();
        a.Label(ref flat);
        a.mov(eax, (int)DataSelector);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(ss, ax);
        a.mov(fs, ax);
        a.mov(gs, ax);
        a.mov(eax, (int)Directory);
        a.mov(cr3, eax);
        // PSE and VMXE.
        a.mov(eax, 0x2010);
        a.mov(cr4, eax);
        // PE, ET, NE and PG.
        a.mov(eax, unchecked((int)0x8000_0031));
        a.mov(cr0, eax);
    }

    private static void EnterVmx(Assembler a)
    {
        a.mov(ecx, 0x480);
        a.rdmsr();
        a.mov(__dword_ptr[(int)Vmxon], eax);
        a.mov(__dword_ptr[(int)Vmcs], eax);
        Store(a, Pointers + 8, Vmxon);
        Store(a, Pointers + 12, 0);
        Store(a, Pointers + 16, Vmcs);
        Store(a, Pointers + 20, 0);
        a.vmxon(__qword_ptr[(int)Pointers + 8]);
        a.vmclear(__qword_ptr[(int)Pointers + 16]);
        a.vmptrld(__qword_ptr[(int)Pointers + 16]);
    }

    // What the capability MSRs require, and nothing more but exits at HLT.
    private static void WriteControls(Assembler a)
    {
        foreach ((int field, int msr, int wanted) in new[] { (0x4000, 0x481, 0), (0x4002, 0x482, 1 << 7), (0x400C, 0x483, 0), (0x4012, 0x484, 0) })
        {
            a.mov(ecx, msr);
            a.rdmsr();
            a.or(eax, wanted);
            a.and(eax, edx);
            a.mov(ecx, field);
            a.vmwrite(ecx, eax);
        }
    }

    private static void WriteState(Assembler a)
    {
        Write(a, 0x2800, uint.MaxValue);
        Write(a, 0x2801, uint.MaxValue);
        // Selectors, limits and access rights of ES to GS; CS is the second.
        for (int i = 0; i < 6; i++)
        {
            Write(a, 0x800 + i * 2, i == 1 ? CodeSelector : DataSelector);
            Write(a, 0xC00 + i * 2, i == 1 ? CodeSelector : DataSelector);
            Write(a, 0x4800 + i * 2, uint.MaxValue);
            Write(a, 0x4814 + i * 2, i == 1 ? 0xC09Bu : 0xC093u);
        }
        Write(a, 0x80E, TaskSelector);
        Write(a, 0xC0C, TaskSelector);
        Write(a, 0x480E, 0x67);
        Write(a, 0x4820, 0x1_0000);
        Write(a, 0x4822, 0x8B);
        Write(a, 0x4810, 0x1F);
        foreach (int field in new[] { 0x6816, 0x6C0C })
            Write(a, field, Gdt);
        foreach ((int guest, int host, AssemblerRegisterCR register) in new[] { (0x6800, 0x6C00, cr0), (0x6802, 0x6C02, cr3), (0x6804, 0x6C04, cr4) })
        {
            a.mov(eax, register);
            a.mov(ecx, guest);
            a.vmwrite(ecx, eax);
            a.mov(ecx, host);
            a.vmwrite(ecx, eax);
        }
        Write(a, 0x681A, 0x400);
        Write(a, 0x6820, 2);
        Write(a, 0x681C, StackL2);
        Write(a, 0x6C14, StackL1);
    }

    // Code in place, jumped over, and its address into a field: the call that jumps over it pushes the address.
    private static void WriteAddress(Assembler a, int field, Action<Assembler> code)
    {
        Label over = a.CreateLabel();
        a.call(over);
        code(a);
        a.Label(ref over);
        a.pop(eax);
        a.mov(ecx, field);
        a.vmwrite(ecx, eax);
    }

    private static void EmitExitHandler(Assembler a)
    {
        Label skip = a.CreateLabel(), other = a.CreateLabel(), call = a.CreateLabel();
        a.pushad();
        a.mov(ecx, 0x4402);
        a.vmread(eax, ecx);
        a.cmp(eax, ExitReasonVmcall);
        a.je(call);
        a.cmp(eax, ExitReasonCpuid);
        a.jne(other);
        a.Label(ref skip);
        a.mov(ecx, 0x440C);
        a.vmread(ebx, ecx);
        a.mov(ecx, 0x681E);
        a.vmread(eax, ecx);
        a.add(eax, ebx);
        a.vmwrite(ecx, eax);
        a.popad();
        a.vmresume();
        End(a, 0x71);
        a.Label(ref call);
        Print(a, 'E');
        a.jmp(skip);
        a.Label(ref other);
        a.mov(dx, DebugExitPort);
        a.@out(dx, eax);
    }

    private static void EmitL2(Assembler a)
    {
        Label spin = a.CreateLabel();
        Print(a, '2');
        a.Label(ref spin);
        a.cmp(__dword_ptr[(int)Bell], 0);
        a.je(spin);
        a.mov(__dword_ptr[(int)Bell], 0);
        a.vmcall();
        a.jmp(spin);
    }

    private static void Write(Assembler a, int field, uint value)
    {
        a.mov(ecx, field);
        a.mov(eax, value);
        a.vmwrite(ecx, eax);
    }

    private static void Store(Assembler a, uint address, uint value) => a.mov(__dword_ptr[(int)address], value);

    private static void Print(Assembler a, char character)
    {
        a.mov(dx, ComPort);
        a.mov(al, (sbyte)character);
        a.@out(dx, al);
    }

    private static void End(Assembler a, int value)
    {
        a.mov(eax, value);
        a.mov(dx, DebugExitPort);
        a.@out(dx, eax);
    }
}
