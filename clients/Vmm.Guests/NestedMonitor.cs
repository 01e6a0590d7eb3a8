using System.Buffers.Binary;
using System.Text;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Guests;

/// <summary>
/// A virtual-machine monitor for Linux's <c>/dev/kvm</c> as a static program, assembled here so that no compiler is needed: its guest
/// prints <see cref="Greeting"/> through a port, and then executes until the program is interrupted. Structures and numbers are those of
/// Linux's <c>include/uapi/linux/kvm.h</c> and of its x86-64 system calls.
/// </summary>
public static class NestedMonitor
{
    /// <summary>What the guest prints, before a line's end.</summary>
    public const string Greeting = "Hello from L2, a guest of Debian's kvm-intel, which is a guest of Vmm.";

    private const ulong CodeAddress = 0x40_0000, DataAddress = 0x50_0000;
    private const int HeaderBytes = 64 + 2 * 56;

    // In the data segment, which begins as zeros: the guest's memory, and what is passed to the kernel.
    private const int GuestBytes = 0x1_0000, GuestCode = 0x1000, TextAt = 64;
    private const int Memory = (int)DataAddress, Region = Memory + GuestBytes, SpecialRegisters = Region + 0x100, Registers = SpecialRegisters + 0x200, DataBytes = GuestBytes + 0x1000;

    private const int Write = 1, Open = 2, Mmap = 9, Ioctl = 16, Exit = 60;
    private const int ReadWriteCloseOnExec = 0x8_0002;
    private const int CreateVm = 0xAE01, GetVcpuMmapSize = 0xAE04, CreateVcpu = 0xAE41, SetUserMemoryRegion = 0x4020_AE46, Run = 0xAE80,
        SetRegisters = 0x4090_AE82, GetSpecialRegisters = unchecked((int)0x8138_AE83), SetSpecialRegisters = 0x4138_AE84;
    private const int ExitReason = 8, ExitIo = 2, IoCount = 36, IoDataOffset = 40;

    /// <summary>The program, an ELF64 executable.</summary>
    public static byte[] Program()
    {
        var a = new Assembler(64);
        Label path = a.CreateLabel(), guest = a.CreateLabel(), run = a.CreateLabel(), fail = a.CreateLabel();
        byte[] guestCode = Guest();

        a.lea(rdi, __[path]);
        a.mov(esi, ReadWriteCloseOnExec);
        Call(a, Open, fail);
        a.mov(r12, rax);
        Control(a, r12, CreateVm, 0, fail);
        a.mov(r13, rax);

        a.lea(rsi, __[guest]);
        a.mov(edi, Memory + GuestCode);
        a.mov(ecx, guestCode.Length);
        a.rep.movsb();
        a.mov(__dword_ptr[Region + 16], GuestBytes);
        a.mov(__dword_ptr[Region + 24], Memory);
        Control(a, r13, SetUserMemoryRegion, Region, fail);
        Control(a, r13, CreateVcpu, 0, fail);
        a.mov(r14, rax);
        Control(a, r12, GetVcpuMmapSize, 0, fail);

        // The vCPU's shared page, readable and writable.
        a.xor(edi, edi);
        a.mov(rsi, rax);
        a.mov(edx, 3);
        a.mov(r10d, 1);
        a.mov(r8, r14);
        a.xor(r9d, r9d);
        Call(a, Mmap, fail);
        a.mov(r15, rax);

        // CS with base and selector 0, as the other segments have after reset.
        Control(a, r14, GetSpecialRegisters, SpecialRegisters, fail);
        a.mov(__qword_ptr[SpecialRegisters], 0);
        a.mov(__word_ptr[SpecialRegisters + 12], 0);
        Control(a, r14, SetSpecialRegisters, SpecialRegisters, fail);
        a.mov(__dword_ptr[Registers + 6 * 8], 0x8000);
        a.mov(__dword_ptr[Registers + 16 * 8], GuestCode);
        a.mov(__dword_ptr[Registers + 17 * 8], 2);
        Control(a, r14, SetRegisters, Registers, fail);

        a.Label(ref run);
        Control(a, r14, Run, 0, fail);
        a.cmp(__dword_ptr[r15 + ExitReason], ExitIo);
        a.jne(fail);
        a.mov(edi, 1);
        a.mov(rsi, __qword_ptr[r15 + IoDataOffset]);
        a.add(rsi, r15);
        a.mov(edx, __dword_ptr[r15 + IoCount]);
        Call(a, Write, fail);
        a.jmp(run);

        a.Label(ref fail);
        a.mov(edi, 1);
        a.mov(eax, Exit);
        a.syscall();
        a.Label(ref path);
        a.db(Encoding.ASCII.GetBytes("/dev/kvm\0"));
        a.Label(ref guest);
        a.db(guestCode);

        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), CodeAddress + HeaderBytes);
        return Executable(code.ToArray());
    }

    // Real mode, from GuestCode on.
    private static byte[] Guest()
    {
        var a = new Assembler(16);
        Label next = a.CreateLabel(), spin = a.CreateLabel();
        a.mov(si, 0);
        a.Label(ref next);
        a.mov(al, __byte_ptr[si + (GuestCode + TextAt)]);
        a.test(al, al);
        a.jz(spin);
        a.@out(0x10, al);
        a.inc(si);
        a.jmp(next);
        a.Label(ref spin);
        a.inc(cx);
        a.jmp(spin);
        using var code = new MemoryStream();
        a.Assemble(new StreamCodeWriter(code), GuestCode);
        byte[] guest = new byte[TextAt + Greeting.Length + 2];
        code.ToArray().CopyTo(guest, 0);
        Encoding.ASCII.GetBytes(Greeting + "\n").CopyTo(guest, TextAt);
        return guest;
    }

    private static void Control(Assembler a, AssemblerRegister64 file, int request, int argument, Label fail)
    {
        a.mov(rdi, file);
        a.mov(esi, request);
        a.mov(edx, argument);
        Call(a, Ioctl, fail);
    }

    private static void Call(Assembler a, int number, Label fail)
    {
        a.mov(eax, number);
        a.syscall();
        a.test(rax, rax);
        a.js(fail);
    }

    /// <summary>One segment with headers and code, one of zeros (System V ABI, chapters 4 and 5).</summary>
    private static byte[] Executable(byte[] code)
    {
        byte[] file = new byte[HeaderBytes + code.Length];
        Span<byte> header = file;
        new byte[] { 0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1 }.CopyTo(header);
        BinaryPrimitives.WriteUInt16LittleEndian(header[16..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header[18..], 62);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], CodeAddress + HeaderBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(header[52..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(header[54..], 56);
        BinaryPrimitives.WriteUInt16LittleEndian(header[56..], 2);
        Segment(header[64..], rights: 4 | 1, CodeAddress, file.Length, file.Length);
        Segment(header[120..], rights: 4 | 2, DataAddress, 0, DataBytes);
        code.CopyTo(file, HeaderBytes);
        return file;
    }

    private static void Segment(Span<byte> header, uint rights, ulong address, int fileBytes, int memoryBytes)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(header, 1);
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], rights);
        BinaryPrimitives.WriteUInt64LittleEndian(header[16..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], (ulong)fileBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], (ulong)memoryBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], 0x1000);
    }
}
