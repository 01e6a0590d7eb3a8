using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.Memory;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VirtualApic;

/// <summary>The APIC-access page behind EPT: host-physical addresses count (SDM volume 3, sections 30.4.1 and 30.4.6.1).</summary>
public sealed unsafe class ApicAccessEptTests : IDisposable
{
    private const ulong AccessPage = 0x50_0000;
    private readonly EptGuest _guest = new();
    private readonly ulong _page;

    public ApicAccessEptTests()
    {
        _page = _guest.Guest.Memory.AllocatePrivatePage();
        _guest.Vmcs[VmcsField.ProcessorBasedControls] |= (ulong)ProcControls.TprShadow;
        _guest.Secondary |= SecondaryControls.VirtualizeApicAccesses;
        _guest.Vmcs[VmcsField.VirtualApicAddress] = _page;
        _guest.Vmcs[VmcsField.ApicAccessAddress] = AccessPage;
    }

    [Fact]
    public void A_page_that_ept_maps_to_it_is_virtualized()
    {
        _guest.Map(EptGuest.Data, AccessPage | EptGuest.All | EptGuest.WriteBack);
        *(uint*)(_guest.Guest.Memory.HostPage(_page) + 0x80) = 0x70;
        Assert.Equal(ExitReason.Hlt, _guest.Run(a =>
        {
            a.mov(ebx, __dword_ptr[EptGuest.Data + 0x80]);
            a.mov(edx, __dword_ptr[EptGuest.Data + 0x80]);
            a.hlt();
        }));
        Assert.Equal(0x70ul, _guest.Guest.State->Gpr[Gpr.Rbx]);
        Assert.Equal(0x70ul, _guest.Guest.State->Gpr[Gpr.Rdx]);
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(2UL)]
    public void Ept_is_asked_first(ulong permissions)
    {
        _guest.Map(EptGuest.Data, AccessPage | permissions | EptGuest.WriteBack);
        ExitReason reason = _guest.Run(a => a.mov(ebx, __dword_ptr[EptGuest.Data + 0x80]));
        Assert.Equal(permissions == 0 ? ExitReason.EptViolation : ExitReason.EptMisconfiguration, reason);
    }

    [Fact]
    public void Paging_structures_in_it_are_accesses_to_a_guest_physical_address()
    {
        _guest.Map(TestGuest.PageTables + 0x1000, AccessPage | EptGuest.All | EptGuest.WriteBack);
        Assert.Equal(ExitReason.ApicAccess, _guest.Run(a => a.hlt()));
        Assert.Equal(15ul << 12, _guest.Vmcs[VmcsField.ExitQualification]);
    }

    public void Dispose() => _guest.Dispose();
}
