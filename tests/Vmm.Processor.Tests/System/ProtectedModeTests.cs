using Vmm.Processor.State;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions;

/// <summary>Segmentation and privilege in 32-bit protected mode (SDM volume 3, chapters 3, 5 and 6).</summary>
public sealed unsafe class ProtectedModeTests
{
    private const int FreeIndex = 10;
    private const byte Free = FreeIndex * 8;

    [Fact]
    public void InterruptFromUserCodeSwitchesStacksAndIretComesBack()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, 0x1_1000, TestGuest.Code32, 14, 3);
        guest.SetGate32(0x81, SystemGuest.Handlers + 0x81 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.@int(0x80);
            a.mov(ecx, cs);
            a.@int(0x81);
        });
        guest.Assemble(32, a =>
        {
            a.mov(edx, cs);
            a.mov(esi, ss);
            a.mov(edi, esp);
            a.iretd();
        }, 0x1_1000);
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(0x81);
        Assert.Equal(TestGuest.Code32, (ushort)guest.State->Gpr[Gpr.Rdx]);
        Assert.Equal(TestGuest.Data, (ushort)guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(SystemGuest.InnerStack - 20, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(TestGuest.UserCode32, (ushort)guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(TestGuest.StackTop, guest.Stack32(3));
        Assert.Equal(TestGuest.UserData, guest.Stack32(4));
    }

    [Theory]
    // limit 0xFFF bytes: the last byte is inside, a dword across the end is not
    [InlineData(0xC092u & ~0x8000u, 0xFFFu, 0xFFCu, -1)]
    [InlineData(0xC092u & ~0x8000u, 0xFFFu, 0xFFDu, 13)]
    // expand-down with limit 0xFFF: valid from 0x1000 up
    [InlineData(0x4096u, 0xFFFu, 0x1000u, -1)]
    [InlineData(0x4096u, 0xFFFu, 0xFFFu, 13)]
    // read-only
    [InlineData(0x4090u, 0xFFFFu, 0x10u, 13)]
    // granular: 1 page more
    [InlineData(0xC092u, 1u, 0x1FFCu, -1)]
    [InlineData(0xC092u, 1u, 0x1FFDu, 13)]
    public void DataSegmentsAreChecked(uint rights, uint limit, uint offset, int vector)
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetDescriptor(FreeIndex, SystemGuest.Descriptor(0x3_0000, limit, rights));
        guest.Assemble(32, a =>
        {
            a.mov(eax, Free);
            a.mov(es, eax);
            a.mov(__dword_ptr.es[offset], eax);
            a.hlt();
        });
        guest.EnterProtectedMode();
        if (vector < 0)
        {
            guest.ExpectHalt();
            Assert.Equal((uint)Free, guest.Read<uint>(0x3_0000 + offset));
            Assert.Equal(1UL, guest.Read<ulong>(TestGuest.GdtBase + Free) >> 40 & 1);
        }
        else
        {
            guest.ExpectVector((uint)vector);
            Assert.Equal(0u, guest.Stack32(0));
        }
    }

    [Theory]
    // DS: data DPL 0 at CPL 3 is #GP, not present #NP, system descriptor #GP, execute-only code #GP, conforming readable code good
    [InlineData(3, 0x4092u, 0, Seg.Ds, 13, Free)]
    [InlineData(0, 0x4012u, 0, Seg.Ds, 11, Free)]
    [InlineData(0, 0x0082u, 0, Seg.Ds, 13, Free)]
    [InlineData(0, 0x4098u, 0, Seg.Ds, 13, Free)]
    [InlineData(3, 0x409Eu, 0, Seg.Ds, -1, 0)]
    // RPL counts
    [InlineData(0, 0x4092u, 3, Seg.Ds, 13, Free)]
    [InlineData(0, 0x40F2u, 3, Seg.Ds, -1, 0)]
    // SS: not present is #SS, RPL or DPL other than CPL #GP, read-only #GP
    [InlineData(0, 0x4012u, 0, Seg.Ss, 12, Free)]
    [InlineData(0, 0x4092u, 3, Seg.Ss, 13, Free)]
    [InlineData(0, 0x40F2u, 0, Seg.Ss, 13, Free)]
    [InlineData(0, 0x4090u, 0, Seg.Ss, 13, Free)]
    [InlineData(3, 0x40F2u, 3, Seg.Ss, -1, 0)]
    public void SegmentLoadsAreChecked(int cpl, uint rights, int rpl, int segment, int vector, uint error)
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetDescriptor(FreeIndex, SystemGuest.Descriptor(0, 0xFFFFF, rights | 0x8000));
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.mov(eax, Free | (uint)rpl);
            if (segment == Seg.Ds)
                a.mov(ds, eax);
            else
                a.mov(ss, eax);
            a.nop();
            a.@int(0x80);
        });
        guest.EnterProtectedMode(cpl: cpl);
        guest.ExpectVector(vector < 0 ? 0x80 : (uint)vector);
        if (vector >= 0)
        {
            Assert.Equal(error, guest.Stack32(0));
            Assert.Equal(TestGuest.CodeBase + 5, guest.Stack32(1));
        }
        else
        {
            // The inner stack replaced SS; the frame has it.
            uint stored = segment == Seg.Ds ? guest.State->Ds.Selector : guest.Stack32(4);
            Assert.Equal(Free | (uint)rpl, stored);
        }
    }

    [Fact]
    public void SelectorBeyondTheTableIsGeneralProtection()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a =>
        {
            a.mov(eax, 0x1238);
            a.mov(fs, eax);
        });
        guest.EnterProtectedMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0x1238u, guest.Stack32(0));
    }

    [Fact]
    public void NullDataSegmentFaultsOnUse()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a =>
        {
            a.xor(eax, eax);
            a.mov(fs, eax);
            a.nop();
            a.mov(eax, __dword_ptr.fs[0]);
        });
        guest.EnterProtectedMode();
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(TestGuest.CodeBase + 5, guest.Stack32(1));
    }

    [Fact]
    public void CallGateCopiesParametersAndReturnReleasesThem()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetDescriptor(FreeIndex, SystemGuest.Gate(0x1_1000, TestGuest.Code32, 12, 3) | 2UL << 32);
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.push(0x11111111);
            a.push(0x22222222);
            a.db(0x9A, 0, 0, 0, 0, Free | 3, 0);
            a.mov(esi, esp);
            a.mov(edi, ds);
            a.@int(0x80);
        });
        guest.Assemble(32, a =>
        {
            a.mov(ecx, __dword_ptr[esp + 8]);
            a.mov(edx, __dword_ptr[esp + 12]);
            a.mov(ebp, __dword_ptr[esp + 16]);
            a.mov(eax, cs);
            a.push(TestGuest.Data);
            a.pop(ds);
            a.retf(8);
        }, 0x1_1000);
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(0x22222222UL, guest.State->Gpr[Gpr.Rcx]);
        Assert.Equal(0x11111111UL, guest.State->Gpr[Gpr.Rdx]);
        Assert.Equal(TestGuest.StackTop - 8, guest.State->Gpr[Gpr.Rbp]);
        Assert.Equal((ulong)TestGuest.Code32, guest.Rax());
        Assert.Equal(TestGuest.StackTop, guest.State->Gpr[Gpr.Rsi]);
        // DS held a level-0 segment, which a return to level 3 takes away.
        Assert.Equal(0UL, guest.State->Gpr[Gpr.Rdi]);
    }

    [Theory]
    [InlineData(0, true, 13, Free)]
    [InlineData(3, false, 11, Free)]
    public void CallGatesAreChecked(int dpl, bool present, uint vector, uint error)
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetDescriptor(FreeIndex, SystemGuest.Gate(0x1_1000, TestGuest.Code32, 12, dpl, present));
        guest.Assemble(32, a => a.db(0x9A, 0, 0, 0, 0, Free, 0));
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(vector);
        Assert.Equal(error, guest.Stack32(0));
    }

    [Fact]
    public void JumpToMorePrivilegedCodeIsRefused()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a => a.db(0xEA, 0, 0, 1, 0, (byte)TestGuest.Code32, 0));
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(Vector.Gp);
        Assert.Equal((uint)TestGuest.Code32, guest.Stack32(0));
    }

    [Fact]
    public void JumpToConformingCodeKeepsTheLevel()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.SetDescriptor(FreeIndex, SystemGuest.Descriptor(0, 0xFFFFF, 0xC09E));
        guest.Assemble(32, a => a.db(0xEA, 0, 0x10, 1, 0, Free, 0));
        guest.Assemble(32, a => a.@int(0x80), 0x1_1000);
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(Free | 3u, guest.Stack32(1));
    }

    [Fact]
    public void ReturnToAnInnerLevelIsRefused()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a =>
        {
            a.push(TestGuest.Code32);
            a.push(0x1_1000);
            a.retf();
        });
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(Vector.Gp);
        Assert.Equal((uint)TestGuest.Code32, guest.Stack32(0));
    }

    [Fact]
    public void StackFaultOnTheInnerStackNamesItsSelector()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        // A stack of 16 bytes cannot take the five words of the frame; the double fault is not taken: #SS is delivered on the same stack and fails too.
        guest.SetDescriptor(FreeIndex, SystemGuest.Descriptor(0x3_0000, 0xF, 0x4092));
        guest.Write(TestGuest.TssBase + 4, [0x10UL | (ulong)Free << 32]);
        guest.Assemble(32, a => a.ud2());
        guest.EnterProtectedMode(cpl: 3);
        guest.Vmcs[Vmx.VmcsField.ExceptionBitmap] = 1 << (int)Vector.Ss;
        Assert.Equal(Vmx.ExitReason.ExceptionOrNmi, guest.Run());
        Assert.Equal(Free + 1UL, guest.Vmcs[Vmx.VmcsField.VmExitInterruptionErrorCode]);
        Assert.Equal(3, guest.State->Cpl);
    }

    [Fact]
    public void BadStackInTheTaskStateSegmentIsInvalidTss()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Write(TestGuest.TssBase + 4, [0x8000UL | (ulong)TestGuest.Code32 << 32]);
        guest.Assemble(32, a => a.ud2());
        guest.EnterProtectedMode(cpl: 3);
        guest.Vmcs[Vmx.VmcsField.ExceptionBitmap] = 1 << (int)Vector.Ts;
        Assert.Equal(Vmx.ExitReason.ExceptionOrNmi, guest.Run());
        Assert.Equal(TestGuest.Code32 + 1UL, guest.Vmcs[Vmx.VmcsField.VmExitInterruptionErrorCode]);
    }

    [Fact]
    public void DescriptorQueriesAnswerByPrivilege()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetDescriptor(FreeIndex, SystemGuest.Descriptor(0, 0x1234, 0x40F2));
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.mov(ebp, Free);
            a.mov(ecx, TestGuest.Data);
            a.lsl(eax, ebp);
            a.setz(dl);
            a.lar(edi, ebp);
            a.verw(bp);
            a.setz(dh);
            a.mov(esi, 0x77);
            a.lsl(esi, ecx);
            a.setz(cl);
            a.@int(0x80);
        });
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(0x1234UL, guest.Rax());
        Assert.Equal(0x40_F200UL, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(0x0101UL, guest.State->Gpr[Gpr.Rdx] & 0xFFFF);
        Assert.Equal(0x77UL, guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(0UL, guest.State->Gpr[Gpr.Rcx] & 0xFF);
    }

    [Fact]
    public void PopfInUserCodeLeavesInterruptFlagAndIopl()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.push(0x3202);
            a.popfd();
            a.@int(0x80);
        });
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(0x80);
        Assert.Equal(2u, guest.Stack32(2));
    }

    [Theory]
    [InlineData(0xFA)]
    [InlineData(0xFB)]
    [InlineData(0xF4)]
    public void PrivilegedOpcodesFaultInUserCode(byte opcode)
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.Assemble(32, a => a.db(opcode));
        guest.EnterProtectedMode(cpl: 3);
        guest.ExpectVector(Vector.Gp);
        Assert.Equal(0u, guest.Stack32(0));
    }

    [Theory]
    [InlineData(0x60, true)]
    [InlineData(0x61, false)]
    [InlineData(0x67, false)]
    public void IoPermissionBitmapDecides(int port, bool allowed)
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.@out((byte)port, al);
            a.@int(0x80);
        });
        guest.EnterProtectedMode(cpl: 3);
        guest.SetSegment(Seg.Tr, TestGuest.Tss, TestGuest.TssBase, 0x68 + 16, 0x8B);
        // The map begins at 0x68; only port 0x60 is open.
        guest.Write(TestGuest.TssBase + 0x64, [(byte)0, (byte)0, (byte)0x68, (byte)0]);
        guest.Write(TestGuest.TssBase + 0x68 + 12, [(byte)0xFE, (byte)0xFF, (byte)0xFF]);
        guest.ExpectVector(allowed ? 0x80 : Vector.Gp);
        Assert.Equal(allowed ? 1 : 0, guest.Bus.PortWrites.Count);
    }

    [Fact]
    public void SysenterAndSysexit()
    {
        using TestGuest guest = new TestGuest().WithProtectedHandlers();
        guest.SetGate32(0x80, SystemGuest.Handlers + 0x80 * 16, TestGuest.Code32, 14, 3);
        guest.Assemble(32, a =>
        {
            a.mov(ecx, esp);
            a.mov(edx, (uint)TestGuest.CodeBase + 9);
            a.sysenter();
            a.@int(0x80);
        });
        guest.Assemble(32, a =>
        {
            a.mov(esi, cs);
            a.mov(edi, esp);
            a.sysexit();
        }, 0x1_1000);
        guest.EnterProtectedMode(cpl: 3);
        guest.Vmcs[Vmx.VmcsField.GuestSysenterCs] = 0x18;
        guest.Vmcs[Vmx.VmcsField.GuestSysenterEsp] = 0x8800;
        guest.Vmcs[Vmx.VmcsField.GuestSysenterEip] = 0x1_1000;
        guest.ExpectVector(0x80);
        Assert.Equal(0x18UL, guest.State->Gpr[Gpr.Rsi]);
        Assert.Equal(0x8800UL, guest.State->Gpr[Gpr.Rdi]);
        Assert.Equal(0x18u + 16 + 3, guest.Stack32(1));
        Assert.Equal(0x18u + 24 + 3, guest.Stack32(4));
        Assert.Equal((uint)TestGuest.StackTop, guest.Stack32(3));
    }
}
