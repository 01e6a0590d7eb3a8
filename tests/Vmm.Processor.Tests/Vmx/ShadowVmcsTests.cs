using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmcsShadowing;

/// <summary>VMREAD and VMWRITE in non-root operation with VMCS shadowing (SDM volume 3, section 26.1.3 and chapter 31).</summary>
public sealed unsafe class ShadowVmcsTests : IDisposable
{
    private const ulong ReadBitmap = 0x30_0000, WriteBitmap = 0x30_1000;
    private readonly TestGuest _guest = new();
    private readonly Vmcs _shadow = new();

    public ShadowVmcsTests()
    {
        _guest.EnterLongMode();
        _guest.Vmcs[VmcsField.ProcessorBasedControls] |= (ulong)ProcControls.ActivateSecondary;
        _guest.Vmcs[VmcsField.SecondaryControls] = (ulong)SecondaryControls.VmcsShadowing;
        _guest.Vmcs[VmcsField.VmreadBitmap] = ReadBitmap;
        _guest.Vmcs[VmcsField.VmwriteBitmap] = WriteBitmap;
        _guest.Vmcs.Shadow = _shadow;
    }

    private ulong Rflags => _guest.Vmcs[VmcsField.GuestRflags] & 0x8D5;

    [Fact]
    public void Fields_are_read_from_and_written_to_the_shadow()
    {
        _shadow[VmcsField.GuestRip] = 0x1122_3344_5566_7788;
        _shadow[VmcsField.TscOffset] = 0xAABB_CCDD_0011_2233;
        Assert.Equal(ExitReason.Hlt, Run(a =>
        {
            a.mov(ecx, (int)VmcsField.GuestRip);
            a.vmread(rbx, rcx);
            a.mov(ecx, (int)VmcsField.TscOffset | 1);
            a.vmread(__qword_ptr[0x8000], rcx);
            a.mov(ecx, (int)VmcsField.GuestRsp);
            a.vmwrite(rcx, rbx);
            a.mov(ecx, (int)VmcsField.GuestEsSelector);
            a.vmwrite(rcx, __qword_ptr[0x8000]);
            a.hlt();
        }));
        Assert.Equal(0x1122_3344_5566_7788ul, _guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(0xAABB_CCDDul, _guest.Read<ulong>(0x8000));
        Assert.Equal(0x1122_3344_5566_7788ul, _shadow[VmcsField.GuestRsp]);
        Assert.Equal(0xCCDDul, _shadow[VmcsField.GuestEsSelector]);
        Assert.Equal(0ul, Rflags);
    }

    [Fact]
    public void A_set_bit_in_the_bitmap_exits()
    {
        Forbid(ReadBitmap, VmcsField.GuestRip);
        Forbid(WriteBitmap, VmcsField.GuestRsp);
        Assert.Equal(ExitReason.Vmread, Run(a =>
        {
            a.mov(ecx, (int)VmcsField.GuestRip);
            a.vmread(rbx, rcx);
        }));
        Assert.Equal(ExitReason.Vmwrite, Run(a =>
        {
            a.mov(ecx, (int)VmcsField.GuestRip);
            a.vmwrite(rcx, rbx);
            a.mov(ecx, (int)VmcsField.GuestRsp);
            a.vmwrite(rcx, rbx);
        }));
    }

    [Theory]
    [InlineData(0x8000UL)]
    [InlineData(0x1_0000_681EUL)]
    public void An_encoding_without_a_bit_exits(ulong encoding)
    {
        Assert.Equal(ExitReason.Vmread, Run(a =>
        {
            a.mov(rcx, encoding);
            a.vmread(rbx, rcx);
        }));
    }

    [Theory]
    [InlineData(0x0C7EUL)]
    [InlineData(0x681FUL)]
    [InlineData(0x0001UL)]
    public void An_unknown_field_fails_with_a_number(ulong encoding)
    {
        Assert.Equal(ExitReason.Hlt, Run(a =>
        {
            a.mov(rcx, encoding);
            a.mov(ebx, 5);
            a.vmread(rbx, rcx);
            a.hlt();
        }));
        Assert.Equal(0x40ul, Rflags);
        Assert.Equal(5ul, _guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(12u, _guest.Vmcs.Read32(VmcsField.VmInstructionError));
    }

    [Fact]
    public void Without_a_shadow_it_fails_without_a_number()
    {
        _guest.Vmcs.Shadow = null;
        Assert.Equal(ExitReason.Hlt, Run(a =>
        {
            a.mov(ecx, (int)VmcsField.GuestRip);
            a.vmwrite(rcx, rbx);
            a.hlt();
        }));
        Assert.Equal(1ul, Rflags);
        Assert.Equal(0u, _guest.Vmcs.Read32(VmcsField.VmInstructionError));
    }

    [Fact]
    public void Privilege_is_checked_after_the_bitmap()
    {
        _guest.EnterLongMode(cpl: 3);
        _guest.Vmcs[VmcsField.ProcessorBasedControls] |= (ulong)ProcControls.ActivateSecondary;
        _guest.Vmcs[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Gp;
        void Program(Assembler a)
        {
            a.mov(ecx, (int)VmcsField.GuestRip);
            a.vmread(rbx, rcx);
        }
        Assert.Equal(ExitReason.ExceptionOrNmi, Run(Program));
        Forbid(ReadBitmap, VmcsField.GuestRip);
        Assert.Equal(ExitReason.Vmread, Run(Program));
    }

    public void Dispose()
    {
        _guest.Dispose();
        _shadow.Dispose();
    }

    private void Forbid(ulong bitmap, VmcsField field) =>
        _guest.Write(bitmap + ((uint)field >> 3), [(byte)(1 << ((int)field & 7))]);

    private ExitReason Run(Action<Assembler> program)
    {
        _guest.Assemble(64, program);
        _guest.Vmcs[VmcsField.GuestRip] = TestGuest.CodeBase;
        return _guest.Run();
    }
}
