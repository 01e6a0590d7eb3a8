using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>What the guest tries in each mode.</summary>
internal sealed partial class ModeTour
{
    /// <summary>CR0, CR4.PAE, EFER and what LAR and LSL say of CS, as the vector, one each, of a line.</summary>
    private static void EmitState(Assembler a, Label print, Label put)
    {
        if (a.Bitness == 64)
            a.mov(rax, cr0);
        else
            a.mov(eax, cr0);
        a.and(eax, 0x8001_0001);
        a.call(print);
        if (a.Bitness == 64)
            a.mov(rax, cr4);
        else
            a.mov(eax, cr4);
        a.and(eax, 0x20);
        a.call(print);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.and(eax, 0xD01);
        a.call(print);
        if (a.Bitness != 16)
        {
            a.mov(ecx, cs);
            a.lar(eax, ecx);
            a.and(eax, 0xF0_FF00);
            a.call(print);
            a.mov(ecx, cs);
            a.lsl(eax, ecx);
            a.call(print);
        }
        for (int k = a.Bitness == 16 ? 3 : 5; k < Columns; k++)
        {
            a.xor(eax, eax);
            a.call(print);
        }
        a.mov(al, (byte)'\n');
        a.call(put);
    }

    private void EmitCommonTrials(Assembler a, Label mark)
    {
        Try(a, mark, () =>
        {
            a.xor(edx, edx);
            a.mov(eax, 1);
            a.div(ecx);
        });
        Try(a, mark, a.int3);
        Try(a, mark, Rules.Int1, () => a.db(0xF1));
        Try(a, mark, a.ud2);
        Try(a, mark, () => a.db(0xF0, 0x90));
        Try(a, mark, () => a.@int(0x30));
        Try(a, mark, () => a.db(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90));
        // Single step: the instruction after POPF ends with #DB.
        Try(a, mark, () =>
        {
            a.db(0x9C);
            a.db(0x58);
            a.or(eax, 0x100);
            a.db(0x50);
            a.db(0x9D);
            a.nop();
            a.nop();
        });
        if (a.Bitness != 64)
        {
            Try(a, mark, () =>
            {
                a.mov(al, 0x7F);
                a.add(al, 1);
                a.into();
            });
            Try(a, mark, () =>
            {
                a.mov(esi, Variables + 32);
                a.mov(__dword_ptr[esi], 0);
                a.mov(__dword_ptr[esi + 4], 0);
                a.mov(eax, 1);
                a.bound(eax, __qword_ptr[esi]);
            });
        }
        else
            Try(a, mark, () => a.db(0xCE));
        if (a.Bitness == 16)
            return;
        Try(a, mark, () => a.@int(0x50));
        Try(a, mark, () => a.@int(AbsentGate));
        foreach (int selector in (int[])[Absent, 0x7F8, 0x7FC, Task])
        {
            Try(a, mark, () =>
            {
                a.mov(eax, selector);
                a.mov(ds, eax);
            });
            Try(a, mark, () =>
            {
                a.mov(eax, selector);
                a.mov(ss, eax);
            });
        }
        Try(a, mark, () =>
        {
            a.mov(eax, 0x7F8);
            a.ltr(ax);
        });
        Try(a, mark, () =>
        {
            a.mov(eax, Absent);
            a.lldt(ax);
        });
    }

    private void EmitTrials32(Assembler a, Label mark)
    {
        EmitCommonTrials(a, mark);
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.mov(eax, Small);
            a.mov(ds, eax);
            a.mov(eax, 0xFFD);
            a.mov(eax, __dword_ptr[eax]);
        });
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.mov(eax, Small);
            a.mov(ss, eax);
            a.mov(esp, 0x800);
            a.mov(ebp, 0xFFD);
            a.mov(eax, __dword_ptr[ebp]);
        });
        Try(a, mark, Rules.SegmentLimits, () =>
        {
            a.xor(eax, eax);
            a.mov(ds, eax);
            a.mov(eax, __dword_ptr[eax]);
        });
    }

    private void EmitPageTrials32(Assembler a, Label mark)
    {
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage + 8);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage - 2);
            a.mov(eax, __dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, ReadOnlyPage + 4);
            a.inc(__dword_ptr[esi]);
        });
        Try(a, mark, () =>
        {
            a.mov(esi, AbsentPage + 3);
            a.jmp(esi);
        });
    }

    private static void Far(Assembler a, uint offset, ushort selector) =>
        a.db(0xEA, (byte)offset, (byte)(offset >> 8), (byte)(offset >> 16), (byte)(offset >> 24), (byte)selector, (byte)(selector >> 8));

    private static void SetEfer(Assembler a, uint value)
    {
        a.mov(ecx, 0xC000_0080);
        a.xor(edx, edx);
        a.mov(eax, value);
        a.wrmsr();
    }

    private void EmitTrials64(Assembler a, Label mark)
    {
        EmitCommonTrials(a, mark);
        foreach (int misalignment in (int[])[1, 8, 15])
            Try(a, mark, () =>
            {
                a.sub(rsp, misalignment);
                a.@int(0x32);
            });
        foreach (uint page in (uint[])[AbsentPage + 8, AbsentPage - 2])
            Try(a, mark, () =>
            {
                a.mov(esi, page);
                a.mov(eax, __dword_ptr[rsi]);
            });
        Try(a, mark, () =>
        {
            a.mov(esi, ReadOnlyPage + 4);
            a.inc(__dword_ptr[rsi]);
        });
        foreach (uint page in (uint[])[AbsentPage + 3, NoExecutePage + 5])
            Try(a, mark, () =>
            {
                a.mov(esi, page);
                a.jmp(rsi);
            });
        foreach (ulong address in (ulong[])[0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF, 0x7FFF_FFFF_FFFD])
        {
            Try(a, mark, Rules.CanonicalAddresses, () =>
            {
                a.mov(rsi, address);
                a.mov(eax, __dword_ptr[rsi]);
            });
            Try(a, mark, Rules.CanonicalAddresses, () =>
            {
                a.mov(rbp, address);
                a.mov(eax, __dword_ptr[rbp]);
            });
        }
        Try(a, mark, Rules.CanonicalAddresses, () =>
        {
            a.mov(rsi, 0x8000_0000_0000);
            a.jmp(rsi);
        });
        Try(a, mark, Rules.ModeChanges, () =>
        {
            a.mov(rax, cr4);
            a.and(rax, ~0x20);
            a.mov(cr4, rax);
        });
        Try(a, mark, Rules.ModeChanges, () =>
        {
            a.mov(rax, cr0);
            a.and(eax, 0x7FFF_FFFF);
            a.mov(cr0, rax);
        });
        Try(a, mark, Rules.ReservedBits, () =>
        {
            a.mov(eax, 0x10);
            a.mov(cr8, rax);
        });
        Try(a, mark, Rules.CanonicalAddresses, () =>
        {
            a.mov(ecx, 0xC000_0082);
            // Canonical neither with 48 nor with 57 bits, which the processor may go by.
            a.mov(edx, 0x8000_0000);
            a.wrmsr();
        });
        foreach (int selector in (int[])[0, Data0, Absent, 0x7F8, Code64User])
        {
            Try(a, mark, () =>
            {
                a.push(selector);
                a.push((int)Origin);
                a.db(0x48, 0xCB);
            });
            Try(a, mark, () =>
            {
                a.push(Data0);
                a.push((int)Stack0);
                a.push(2);
                a.push(selector);
                a.push((int)Origin);
                a.iretq();
            });
        }
    }

    private void EmitUserTrials(Assembler a, Label mark)
    {
        void User(ushort selector, Action body, Rules rule = Rules.None) => Try(a, mark, rule, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rax, __[user]);
            a.push(Data3);
            a.push((int)Stack3 - 3);
            a.push(0x602);
            a.push(selector);
            a.push(rax);
            a.iretq();
            a.Label(ref user);
            body();
        });
        foreach (ushort selector in (ushort[])[Code64User, Code32User])
        {
            // The change of level has left DS null, which 64-bit code does not mind.
            Rules data = selector == Code32User ? Rules.SegmentLimits : Rules.None;
            User(selector, () => a.@int(UserGate));
            User(selector, a.int3);
            User(selector, () => a.@int(0x33));
            User(selector, a.hlt);
            User(selector, a.cli);
            User(selector, a.ud2);
            User(selector, () =>
            {
                a.xor(ecx, ecx);
                a.div(ecx);
            });
            User(selector, () =>
            {
                a.mov(esi, SupervisorPage + 6);
                a.mov(eax, __dword_ptr[rsi]);
            }, data);
            User(selector, () =>
            {
                a.mov(esi, ReadOnlyPage + 6);
                a.add(__dword_ptr[rsi], eax);
            }, data);
        }
        User(Code64User, a.syscall);
        Try(a, mark, Rules.ReservedBits, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rcx, __[user]);
            a.mov(r11d, 0x3_0602);
            a.sysretq();
            a.Label(ref user);
        });
        Try(a, mark, () =>
        {
            Label user = a.CreateLabel();
            a.lea(rcx, __[user]);
            a.mov(r11d, 0x0002);
            a.sysret();
            a.Label(ref user);
        });
    }
}
