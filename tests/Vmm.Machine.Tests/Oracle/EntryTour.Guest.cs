using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>What a line of <see cref="EntryTour"/> is about.</summary>
internal enum EntryLine : ulong
{
    /// <summary>Column 1 is an MSR: whether it exists, its value.</summary>
    Msr = 1,

    /// <summary>EAX of CPUID leaf 80000008H, the width of addresses; 0 in column 1.</summary>
    Width = 2,

    /// <summary>Column 1 is an encoding: whether VMWRITE knows the field.</summary>
    Field = 3,

    /// <summary>Column 1 is a case: VMfailInvalid.</summary>
    FailInvalid = 4,

    /// <summary>Column 1 is a case: VMfailValid, the VM-instruction error.</summary>
    FailValid = 5,

    /// <summary>Column 1 is a case: a VM exit, its reason and qualification.</summary>
    Exit = 6,

    /// <summary>Column 1 is the vector of an exception in the hypervisor, by an error of the guest: RIP. The last line.</summary>
    Exception = 7,
}

/// <content>What the guest executes.</content>
internal sealed partial class EntryTour
{
    private const uint HypervisorCr0 = 0x8000_0031, HypervisorCr4 = 0x2220;

    private readonly Label[] _handlers = new Label[32];
    private Label _exit;

    /// <summary>From flat protected mode to 64-bit mode, the first 16 MiB mapped onto themselves.</summary>
    private static void EmitStart(Assembler a)
    {
        Label page = a.CreateLabel();
        a.cli();
        a.cld();
        a.mov(esp, Stack);
        ReferencePc.EmitStart(a);
        a.mov(edi, Tables);
        a.xor(eax, eax);
        a.mov(ecx, 0x2_0000 / 4);
        a.rep.stosd();
        a.mov(__dword_ptr[Tables], Tables + 0x1003);
        a.mov(__dword_ptr[Tables + 0x1000], Tables + 0x2003);
        // The guest's tables map one page of code, onto itself.
        a.mov(__dword_ptr[GuestTables], GuestTables + 0x1003);
        a.mov(__dword_ptr[GuestTables + 0x1000], GuestTables + 0x2003);
        a.mov(__dword_ptr[GuestTables + 0x2000 + (GuestCode >> 21) * 8], GuestTables + 0x3003);
        a.mov(__dword_ptr[GuestTables + 0x3000 + (GuestCode >> 12 & 511) * 8], GuestCode + 3);
        a.mov(__dword_ptr[EptTables], EptTables + 0x1007);
        a.mov(__dword_ptr[EptTables + 0x1000], EptTables + 0x2007);
        a.xor(ecx, ecx);
        a.Label(ref page);
        a.mov(eax, ecx);
        a.shl(eax, 21);
        a.or(eax, 0x83);
        a.mov(__dword_ptr[ecx * 8 + (Tables + 0x2000)], eax);
        // Write-back, all rights.
        a.or(eax, 0xB7);
        a.mov(__dword_ptr[ecx * 8 + (EptTables + 0x2000)], eax);
        a.inc(ecx);
        a.cmp(ecx, 8);
        a.jb(page);
        // CPUID all over the guest's code.
        a.mov(edi, GuestCode);
        a.mov(eax, 0xA20F_A20F);
        a.mov(ecx, 1024);
        a.rep.stosd();
        a.lgdt(__[Pointers]);
        a.mov(eax, HypervisorCr4 & ~(1u << 13));
        a.mov(cr4, eax);
        a.mov(eax, Tables);
        a.mov(cr3, eax);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.or(eax, 0x100);
        a.wrmsr();
        a.mov(eax, HypervisorCr0);
        a.mov(cr0, eax);
        a.push(Code64);
        a.push(Main);
        a.retf();
    }

    private void EmitMain(Assembler a)
    {
        Label ready = a.CreateLabel(), next = a.CreateLabel(), finish = a.CreateLabel(), write = a.CreateLabel(), written = a.CreateLabel(),
            change = a.CreateLabel(), skip = a.CreateLabel(), enter = a.CreateLabel(), valid = a.CreateLabel(), ended = a.CreateLabel(),
            locked = a.CreateLabel(), fatal = a.CreateLabel(), region = a.CreateLabel();
        _exit = a.CreateLabel();
        EmitSegments(a);
        a.mov(ecx, 0x3A);
        a.rdmsr();
        a.test(al, 1);
        a.jnz(locked);
        a.or(eax, 5);
        a.wrmsr();
        a.Label(ref locked);
        a.mov(eax, HypervisorCr4);
        a.mov(cr4, rax);
        EmitCapabilities(a);
        EmitMemory(a);
        a.mov(rax, VmxonRegion);
        a.mov(__qword_ptr[(ulong)Region], rax);
        a.vmxon(__qword_ptr[(ulong)Region]);
        a.jbe(fatal);
        a.mov(rax, CurrentVmcs);
        a.mov(__qword_ptr[(ulong)Region], rax);
        a.vmclear(__qword_ptr[(ulong)Region]);
        a.vmptrld(__qword_ptr[(ulong)Region]);
        a.jbe(fatal);
        EmitFields(a);
        a.mov(rax, (ulong)_casesAt);
        a.mov(__qword_ptr[(ulong)NextChange], rax);
        a.jmp(next);
        a.Label(ref fatal);
        a.ud2();

        a.Label(ref ended);
        a.call(_line);
        a.inc(__dword_ptr[(ulong)Number]);
        a.Label(ref next);
        a.mov(rsi, __qword_ptr[(ulong)NextChange]);
        a.cmp(__dword_ptr[rsi], -1);
        a.je(finish);
        a.vmclear(__qword_ptr[(ulong)Region]);
        a.vmptrld(__qword_ptr[(ulong)Region]);
        a.mov(edi, Data);
        a.Label(ref write);
        a.mov(edx, __dword_ptr[rdi]);
        a.cmp(edx, -1);
        a.je(written);
        // A field that does not exist stays so.
        a.vmwrite(rdx, __qword_ptr[rdi + 8]);
        a.add(edi, FieldSize);
        a.jmp(write);
        a.Label(ref written);
        a.mov(ecx, __dword_ptr[rsi]);
        a.add(rsi, 8);
        a.Label(ref change);
        a.dec(ecx);
        a.js(enter);
        a.mov(edx, __dword_ptr[rsi]);
        a.vmread(rax, rdx);
        a.jbe(skip);
        a.and(rax, __qword_ptr[rsi + 8]);
        a.xor(rax, __qword_ptr[rsi + 16]);
        a.vmwrite(rdx, rax);
        a.Label(ref skip);
        a.add(rsi, ChangeSize);
        a.jmp(change);
        a.Label(ref enter);
        a.mov(__qword_ptr[(ulong)NextChange], rsi);
        a.vmlaunch();
        a.mov(r8d, __dword_ptr[(ulong)Number]);
        a.mov(r9d, (int)EntryLine.FailValid);
        a.jnc(valid);
        a.mov(r9d, (int)EntryLine.FailInvalid);
        a.Label(ref valid);
        a.mov(edx, 0x4400);
        a.vmread(r10, rdx);
        a.xor(r11d, r11d);
        a.jmp(ended);

        // Whatever the host-state area had, on with this guest's own.
        a.Label(ref _exit);
        a.mov(eax, HypervisorCr4);
        a.mov(cr4, rax);
        a.mov(eax, HypervisorCr0);
        a.mov(cr0, rax);
        a.mov(eax, Tables);
        a.mov(cr3, rax);
        a.mov(ecx, 0xC000_0080);
        a.mov(eax, 0x500);
        a.xor(edx, edx);
        a.wrmsr();
        EmitSegments(a);
        a.mov(r8d, __dword_ptr[(ulong)Number]);
        a.mov(r9d, (int)EntryLine.Exit);
        a.mov(edx, 0x4402);
        a.vmread(r10, rdx);
        a.mov(edx, 0x6400);
        a.vmread(r11, rdx);
        a.jmp(ended);

        a.Label(ref finish);
        ReferencePc.EmitEnd(a, _put);
        EmitHandlers(a, finish);

        // The four columns are R8 to R11.
        a.Label(ref _line);
        foreach (AssemblerRegister64 column in (AssemblerRegister64[])[r8, r9, r10, r11])
        {
            a.mov(rax, column);
            a.call(_print);
        }
        a.mov(al, (byte)'\n');
        a.call(_put);
        a.ret();
        ReferencePc.EmitPrinter(a, ref _print, ref _put);
    }

    private static void EmitSegments(Assembler a)
    {
        a.lgdt(__[(ulong)Pointers]);
        a.lidt(__[(ulong)Pointers + 16]);
        a.mov(eax, Data32);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss])
            a.mov(segment, eax);
        a.mov(esp, Stack);
    }

    /// <summary>A line for each VMX capability MSR, and one for the width of addresses.</summary>
    private void EmitCapabilities(Assembler a)
    {
        Label msr = a.CreateLabel();
        a.mov(r12d, 0x480);
        a.Label(ref msr);
        a.mov(ecx, r12d);
        a.xor(eax, eax);
        a.xor(edx, edx);
        a.mov(__dword_ptr[(ulong)Faulted], 0);
        a.rdmsr();
        a.shl(rdx, 32);
        a.or(rax, rdx);
        a.mov(r8, r12);
        a.mov(r9d, (int)EntryLine.Msr);
        a.mov(r10d, 1);
        a.sub(r10d, __dword_ptr[(ulong)Faulted]);
        a.mov(r11, rax);
        a.call(_line);
        a.inc(r12d);
        a.cmp(r12d, 0x494);
        a.jb(msr);
        a.mov(eax, unchecked((int)0x8000_0008));
        a.cpuid();
        a.xor(r8d, r8d);
        a.mov(r9d, (int)EntryLine.Width);
        a.mov(r10d, eax);
        a.xor(r11d, r11d);
        a.call(_line);
    }

    /// <summary>Memory as the cases want it, and the VMCS revision identifier where there is to be one.</summary>
    private static void EmitMemory(Assembler a)
    {
        foreach ((uint address, ulong value) in Contents)
        {
            a.mov(rax, value);
            a.mov(__qword_ptr[(ulong)address], rax);
        }
        a.mov(ecx, 0x480);
        a.rdmsr();
        a.btr(eax, 31);
        foreach (uint at in (uint[])[VmxonRegion, CurrentVmcs, OtherVmcs])
            a.mov(__dword_ptr[(ulong)at], eax);
        a.bts(eax, 31);
        a.mov(__dword_ptr[(ulong)ShadowVmcs], eax);
    }

    /// <summary>Brings the controls of the table of fields to what is allowed, and prints a line for each field.</summary>
    private void EmitFields(Assembler a)
    {
        Label field = a.CreateLabel(), plain = a.CreateLabel(), end = a.CreateLabel();
        a.mov(r12d, Data);
        a.Label(ref field);
        a.cmp(__dword_ptr[r12], -1);
        a.je(end);
        a.mov(ecx, __dword_ptr[r12 + 4]);
        a.test(ecx, ecx);
        a.jz(plain);
        a.rdmsr();
        a.or(__dword_ptr[r12 + 8], eax);
        a.and(__dword_ptr[r12 + 8], edx);
        a.Label(ref plain);
        a.mov(r8d, __dword_ptr[r12]);
        a.mov(r9d, (int)EntryLine.Field);
        a.xor(r10d, r10d);
        a.xor(r11d, r11d);
        a.vmwrite(r8, __qword_ptr[r12 + 8]);
        a.seta(r10b);
        a.call(_line);
        a.add(r12d, FieldSize);
        a.jmp(field);
        a.Label(ref end);
        a.nop();
    }

    /// <summary>An RDMSR of what does not exist is noted; anything else is the end, and says where.</summary>
    private void EmitHandlers(Assembler a, Label finish)
    {
        Label fatal = a.CreateLabel();
        for (int vector = 0; vector < 32; vector++)
        {
            Label handler = a.CreateLabel(), other = a.CreateLabel();
            a.Label(ref handler);
            _handlers[vector] = handler;
            if (vector is not (8 or (>= 10 and <= 14) or 17))
                a.push(-1);
            if (vector == 13)
            {
                a.push(rax);
                a.mov(rax, __qword_ptr[rsp + 16]);
                a.cmp(__word_ptr[rax], 0x320F);
                a.jne(other);
                a.mov(__dword_ptr[(ulong)Faulted], 1);
                a.add(__qword_ptr[rsp + 16], 2);
                a.pop(rax);
                a.add(rsp, 8);
                a.iretq();
                a.Label(ref other);
                a.pop(rax);
            }
            a.mov(r8d, vector);
            a.jmp(fatal);
        }
        a.Label(ref fatal);
        a.mov(r9d, (int)EntryLine.Exception);
        a.mov(r10, __qword_ptr[rsp + 8]);
        a.mov(r11, __qword_ptr[rsp]);
        a.call(_line);
        a.jmp(finish);
    }
}
