using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Memory;

/// <summary>EPTP switching and virtualization exceptions (SDM volume 3, sections 26.5.6 and 26.5.7).</summary>
public sealed unsafe class EptFunctionTests : IDisposable
{
    private const ulong List = 0x7_0000, Area = 0x7_1000, OtherRoot = 0x60_0000;
    private const ulong Suppress = 1UL << 63;
    private readonly EptGuest _guest = new();

    private TestGuest Guest => _guest.Guest;
    private Vmcs Vmcs => _guest.Vmcs;
    private ulong Rbx => Guest.State->Gpr[Gpr.Rbx];

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Vmfunc_switches_between_hierarchies(bool vpid)
    {
        EnableFunctions();
        if (vpid)
        {
            _guest.Secondary |= SecondaryControls.EnableVpid;
            Vmcs[VmcsField.VirtualProcessorId] = 5;
        }
        Guest.Write(EptGuest.Data, [1UL]);
        Guest.Write(EptGuest.Other, [2UL]);
        void Program(Assembler a)
        {
            a.mov(rbx, __qword_ptr[EptGuest.Data]);
            a.mov(ecx, 1);
            a.vmfunc();
            a.shl(rbx, 8);
            a.or(rbx, __qword_ptr[EptGuest.Data]);
            a.xor(ecx, ecx);
            a.vmfunc();
            a.shl(rbx, 8);
            a.or(rbx, __qword_ptr[EptGuest.Data]);
            a.hlt();
        }
        for (int k = 0; k < 2; k++)
        {
            Assert.Equal(ExitReason.Hlt, _guest.Run(Program));
            Assert.Equal(0x01_02_01ul, Rbx);
            Assert.Equal(EptGuest.Root | 0x1E, Vmcs[VmcsField.EptPointer]);
            Assert.Equal(0ul, Vmcs[VmcsField.EptpIndex]);
        }
    }

    [Fact]
    public void The_pointer_and_its_index_are_in_the_vmcs_afterwards()
    {
        EnableFunctions();
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.mov(ecx, 1);
            a.vmfunc();
            a.hlt();
        }));
        Assert.Equal(OtherRoot | 0x1E, Vmcs[VmcsField.EptPointer]);
        Assert.Equal(1ul, Vmcs[VmcsField.EptpIndex]);
    }

    [Theory]
    [InlineData(0u, 512u)]
    [InlineData(0u, 2u)]
    [InlineData(1u, 0u)]
    [InlineData(63u, 0u)]
    public void Other_functions_and_pointers_exit(uint function, uint index)
    {
        EnableFunctions();
        Assert.Equal(ExitReason.Vmfunc, _guest.Run(a =>
        {
            a.mov(eax, function);
            a.mov(ecx, index);
            a.vmfunc();
        }));
        Assert.Equal(3u, Vmcs.Read32(VmcsField.VmExitInstructionLength));
        Assert.Equal(EptGuest.Root | 0x1E, Vmcs[VmcsField.EptPointer]);
    }

    [Theory]
    [InlineData(true, 64u)]
    [InlineData(false, 0u)]
    public void Without_the_control_or_beyond_63_it_is_undefined(bool enabled, uint function)
    {
        if (enabled)
            EnableFunctions();
        Vmcs[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Ud;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(a =>
        {
            a.mov(eax, function);
            a.vmfunc();
        }));
    }

    [Theory]
    [InlineData(0UL, false, 0x181UL)]
    [InlineData(5UL, true, 0x1AAUL)]
    public void A_convertible_violation_is_an_exception_with_its_particulars_in_memory(ulong permissions, bool write, ulong qualification)
    {
        EnableExceptions();
        _guest.Permit(EptGuest.Data, permissions);
        void Program(Assembler a)
        {
            if (write)
                a.mov(__qword_ptr[EptGuest.Data + 8], rbx);
            else
                a.mov(rbx, __qword_ptr[EptGuest.Data + 8]);
        }
        Vmcs[VmcsField.EptpIndex] = 0x1234;
        Assert.Equal(ExitReason.ExceptionOrNmi, _guest.Run(Program));
        Assert.Equal(1u << 31 | 3 << 8 | Vector.Ve, Vmcs.Read32(VmcsField.VmExitInterruptionInformation));
        Assert.Equal([0xFFFF_FFFF_0000_0030, qualification, EptGuest.Data + 8, EptGuest.Data + 8, 0x1234], Particulars());
        Assert.Equal(TestGuest.CodeBase, Vmcs[VmcsField.GuestRip]);

        // While the second word is not 0, the handler of the first is still at it.
        Assert.Equal(ExitReason.EptViolation, _guest.Run(Program));
        Assert.Equal(qualification, Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void The_guests_handler_gets_it()
    {
        EnableExceptions();
        Vmcs[VmcsField.ExceptionBitmap] = 0;
        const ulong handler = 0x6_0000;
        Guest.Write(TestGuest.IdtBase + Vector.Ve * 16, [(handler & 0xFFFF) | 8UL << 16 | 0x8EUL << 40 | (handler & 0xFFFF_0000) << 32, 0]);
        Guest.Assemble(64, a =>
        {
            a.mov(rbx, __qword_ptr[rsp]);
            a.hlt();
        }, handler);
        _guest.Permit(EptGuest.Data, 0);
        Assert.Equal(ExitReason.Hlt, _guest.Run(a => a.mov(rbx, __qword_ptr[EptGuest.Data])));
        Assert.Equal(TestGuest.CodeBase, Rbx);
    }

    [Fact]
    public void Suppressed_ones_and_those_in_event_delivery_exit()
    {
        EnableExceptions();
        _guest.Map(EptGuest.Data, Suppress);
        Assert.Equal(ExitReason.EptViolation, _guest.Run(a => a.mov(rbx, __qword_ptr[EptGuest.Data])));
        _guest.Map(EptGuest.Data, EptGuest.Data | 1 | EptGuest.WriteBack | Suppress);
        Assert.Equal(ExitReason.EptViolation, _guest.Run(a => a.mov(__qword_ptr[EptGuest.Data], rbx)));
        _guest.Permit(TestGuest.IdtBase, 0);
        Assert.Equal(ExitReason.EptViolation, _guest.Run(a => a.@int(0x40)));
        Assert.Equal([0, 0, 0, 0, 0], Particulars());
        _guest.Secondary &= ~SecondaryControls.EptViolationVe;
        _guest.Permit(EptGuest.Data, 0);
        Assert.Equal(ExitReason.EptViolation, _guest.Run(a => a.mov(rbx, __qword_ptr[EptGuest.Data])));
    }

    public void Dispose() => _guest.Dispose();

    private ulong[] Particulars() => [.. Enumerable.Range(0, 5).Select(k => Guest.Read<ulong>(Area + (ulong)k * 8))];

    private void EnableExceptions()
    {
        _guest.Secondary |= SecondaryControls.EptViolationVe;
        Vmcs[VmcsField.VirtualizationExceptionAddress] = Area;
        Vmcs[VmcsField.ExceptionBitmap] = 1u << (int)Vector.Ve;
    }

    /// <summary>A second hierarchy, entry 1 of the list, in which the data page is another one; entry 2 is not a valid pointer.</summary>
    private void EnableFunctions()
    {
        _guest.Secondary |= SecondaryControls.EnableVmFunctions;
        Vmcs[VmcsField.VmFunctionControls] = 1;
        Vmcs[VmcsField.EptpListAddress] = List;
        Guest.Write(List, [EptGuest.Root | 0x1E, OtherRoot | 0x1E, OtherRoot | 0x1F]);
        Guest.Write(OtherRoot, [OtherRoot + 0x1000 | EptGuest.All]);
        Guest.Write(OtherRoot + 0x1000, [OtherRoot + 0x2000 | EptGuest.All]);
        Guest.Write(OtherRoot + 0x2000, [OtherRoot + 0x3000 | EptGuest.All, 0x20_0000 | EptGuest.All | EptGuest.WriteBack | EptGuest.LargePage]);
        for (ulong page = 0; page < 0x20_0000; page += 0x1000)
        {
            ulong target = page == EptGuest.Data ? EptGuest.Other : page;
            Guest.Write(OtherRoot + 0x3000 + (page >> 12) * 8, [target | EptGuest.All | EptGuest.WriteBack]);
        }
    }
}
