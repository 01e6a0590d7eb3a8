using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Memory;

/// <summary>Extended page tables against SDM volume 3, chapter 29: permissions, sizes, misconfigurations, flags, qualifications.</summary>
public sealed unsafe class EptTests
{
    private const ulong Data = EptGuest.Data, Final = 0x180, InWalk = 0x80;

    public static TheoryData<ulong, ulong> PermissionsAndAccesses()
    {
        var data = new TheoryData<ulong, ulong>();
        for (ulong permissions = 0; permissions < 8; permissions++)
        {
            foreach (ulong access in new ulong[] { 1, 2, 4 })
                data.Add(permissions, access);
        }
        return data;
    }

    [Theory]
    [MemberData(nameof(PermissionsAndAccesses))]
    public void PermissionsDecideAndTheGuestGoesOnAfterARepair(ulong permissions, ulong access)
    {
        using var ept = new EptGuest();
        ept.Guest.Assemble(64, a => { a.mov(rdx, 7); a.hlt(); }, Data);
        ept.Permit(Data, permissions);
        ExitReason reason = ept.Run(a =>
        {
            a.mov(rbx, Data);
            if (access == 4)
                a.jmp(rbx);
            else if (access == 2)
                a.mov(__[rbx + 0x100], rax);
            else
                a.mov(rax, __[rbx + 0x100]);
            a.mov(rdx, 7);
            a.hlt();
        });
        bool misconfigured = permissions is 2 or 6;
        if (!misconfigured && (permissions & access) != 0)
        {
            Assert.Equal(ExitReason.Hlt, reason);
            return;
        }
        ulong at = access == 4 ? Data : Data + 0x100;
        Assert.Equal(misconfigured ? ExitReason.EptMisconfiguration : ExitReason.EptViolation, reason);
        Assert.Equal(at, ept.Vmcs[VmcsField.GuestPhysicalAddress]);
        Assert.Equal(misconfigured ? 0 : access | permissions << 3 | Final, ept.Vmcs[VmcsField.ExitQualification]);
        if (!misconfigured)
            Assert.Equal(at, ept.Vmcs[VmcsField.GuestLinearAddress]);
        Assert.Equal(access == 4 ? Data : TestGuest.CodeBase + 10, ept.Vmcs[VmcsField.GuestRip]);
        Assert.Equal(0UL, ept.Vmcs[VmcsField.IdtVectoringInformation]);
        Assert.NotEqual(0UL, ept.Vmcs[VmcsField.GuestRflags] & Rflags.Rf);

        ept.Permit(Data, EptGuest.All);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(7UL, ept.Register(Gpr.Rdx));
        Assert.Equal(0UL, ept.Vmcs[VmcsField.GuestRflags] & Rflags.Rf);
    }

    [Fact]
    public void PermissionsOfAllLevelsCombine()
    {
        using var ept = new EptGuest();
        ept.Guest.Write(EptGuest.Directory, [EptGuest.Table | 5]);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(__[0x8_0000], eax); a.hlt(); }));
        // The first that needs a write is the guest's accessed flag or the data itself: all entries of the guest are marked already.
        Assert.Equal(2UL | 5 << 3 | Final, ept.Vmcs[VmcsField.ExitQualification]);
    }

    [Theory]
    [InlineData(EptGuest.Root, EptGuest.Pointers)]
    [InlineData(EptGuest.Pointers, EptGuest.Directory)]
    [InlineData(EptGuest.Directory, EptGuest.Table)]
    public void AnAbsentTableAllowsNothing(ulong place, ulong next)
    {
        using var ept = new EptGuest();
        ept.Guest.Write(place, [next]);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => a.hlt()));
        // The fetch's walk begins at the guest's CR3.
        Assert.Equal(1 | InWalk, ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(TestGuest.PageTables, ept.Vmcs[VmcsField.GuestPhysicalAddress]);
        Assert.Equal(TestGuest.CodeBase, ept.Vmcs[VmcsField.GuestLinearAddress]);
    }

    [Fact]
    public void PagesOf2MiBAnd1GiBTranslate()
    {
        using var ept = new EptGuest();
        ept.Guest.Write(EptGuest.Data + 0x10, [0x1234UL]);
        ept.Guest.Write(0x48_0018, [0x5678UL]);
        // Guest-physical 6 MiB to host-physical 4 MiB; guest-physical 1 GiB to host-physical 0.
        ept.Guest.Write(EptGuest.Directory + 24, [0x40_0000 | EptGuest.All | EptGuest.WriteBack | EptGuest.LargePage]);
        ept.Guest.Write(EptGuest.Pointers + 8, [EptGuest.All | EptGuest.WriteBack | EptGuest.LargePage]);
        ept.Guest.Write(TestGuest.PageTables + 0x1008, [0x4000_00E7]);
        Assert.Equal(0x5678UL, ept.Load(0x68_0018));
        Assert.Equal(0x1234UL, ept.Load(0x4000_0000 + EptGuest.Data + 0x10));
    }

    [Theory]
    [InlineData(EptGuest.Table + 0x400, Data | 7 | 2 << 3)]
    [InlineData(EptGuest.Table + 0x400, Data | 7 | 3 << 3)]
    [InlineData(EptGuest.Table + 0x400, Data | 7 | 7 << 3)]
    [InlineData(EptGuest.Table + 0x400, Data | 7 | 6 << 3 | 1UL << 46)]
    [InlineData(EptGuest.Table + 0x400, Data | 7 | 6 << 3 | 1UL << 51)]
    [InlineData(EptGuest.Table + 0x400, Data | 2 | 6 << 3)]
    [InlineData(EptGuest.Root, EptGuest.Pointers | 7 | 1 << 7)]
    [InlineData(EptGuest.Root, EptGuest.Pointers | 7 | 1 << 3)]
    [InlineData(EptGuest.Root, EptGuest.Pointers | 2)]
    [InlineData(EptGuest.Root, 0x3000_0000_0007UL)]
    [InlineData(EptGuest.Pointers, EptGuest.Directory | 7 | 1 << 6)]
    [InlineData(EptGuest.Pointers, 0x20_0000 | 7 | 6 << 3 | 1 << 7)]
    [InlineData(EptGuest.Directory, EptGuest.Table | 7 | 1 << 5)]
    [InlineData(EptGuest.Directory, 0x1000 | 7 | 6 << 3 | 1 << 7)]
    [InlineData(EptGuest.Directory, 7 | 5 << 3 | 1 << 7 | 1UL << 50)]
    public void MisconfigurationsAreNoViolations(ulong place, ulong entry)
    {
        using var ept = new EptGuest();
        ept.Guest.Write(place, [entry]);
        Assert.Equal(ExitReason.EptMisconfiguration, ept.Run(a => { a.mov(rbx, Data); a.mov(rax, __[rbx]); a.hlt(); }));
        Assert.Equal(0UL, ept.Vmcs[VmcsField.ExitQualification]);
    }

    [Theory]
    [InlineData(0x1EUL, true)]
    [InlineData(0x5EUL, true)]
    [InlineData(0x18UL, true)]
    [InlineData(0x1FUL, false)]
    [InlineData(0x16UL, false)]
    [InlineData(0x9EUL, false)]
    [InlineData(0x4000_0000_001EUL, false)]
    public void EptPointersAreChecked(ulong pointer, bool valid) => Assert.Equal(valid, EptPointer.IsValid(pointer, 46));

    [Fact]
    public void AccessedAndDirtyFlagsAreKeptOnlyWhereAsked()
    {
        using var ept = new EptGuest();
        Assert.Equal(ExitReason.Hlt, ept.Run(a => { a.mov(rbx, Data); a.mov(__[rbx], rbx); a.hlt(); }));
        Assert.Equal(Data | 0x37, ept.Guest.Read<ulong>(EptGuest.EntryOf(Data)));

        ept.Vmcs[VmcsField.EptPointer] |= EptPointer.AccessedDirty;
        Assert.Equal(Data, ept.Load(Data));
        Assert.Equal(Data | 0x37 | EptGuest.Accessed, ept.Guest.Read<ulong>(EptGuest.EntryOf(Data)));
        Assert.Equal(EptGuest.Table | 7 | EptGuest.Accessed, ept.Guest.Read<ulong>(EptGuest.Directory));
        Assert.Equal(EptGuest.Directory | 7 | EptGuest.Accessed, ept.Guest.Read<ulong>(EptGuest.Pointers));
        Assert.Equal(EptGuest.Pointers | 7 | EptGuest.Accessed, ept.Guest.Read<ulong>(EptGuest.Root));
        // The guest's own tables count as written.
        Assert.Equal(EptGuest.Accessed | EptGuest.Dirty, ept.Guest.Read<ulong>(EptGuest.EntryOf(TestGuest.PageTables)) & 0x300);

        // A page that has been read must not be written behind the dirty flag's back.
        Assert.Equal(ExitReason.Hlt, ept.Run(a => { a.mov(rbx, Data); a.mov(rax, __[rbx]); a.mov(__[rbx], rax); a.hlt(); }));
        Assert.Equal(Data | 0x37 | EptGuest.Accessed | EptGuest.Dirty, ept.Guest.Read<ulong>(EptGuest.EntryOf(Data)));
    }

    [Theory]
    [InlineData(0UL, false, false, 1 | InWalk)]
    [InlineData(0UL, true, false, 3 | InWalk)]
    [InlineData(1UL, false, true, 3 | 1 << 3 | InWalk)]
    [InlineData(5UL, true, false, 3 | 5 << 3 | InWalk)]
    [InlineData(4UL, false, false, 1 | 4 << 3 | InWalk)]
    public void AccessesToGuestTablesAreOfTheWalk(ulong permissions, bool dirtyFlags, bool unmarked, ulong qualification)
    {
        using var ept = new EptGuest();
        const ulong directory = TestGuest.PageTables + 0x2000;
        if (dirtyFlags)
            ept.Vmcs[VmcsField.EptPointer] |= EptPointer.AccessedDirty;
        if (unmarked)
            ept.Guest.Write(directory, [0x87]);
        ept.Permit(directory, permissions);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => a.hlt()));
        Assert.Equal(qualification, ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(directory, ept.Vmcs[VmcsField.GuestPhysicalAddress]);
        Assert.Equal(TestGuest.CodeBase, ept.Vmcs[VmcsField.GuestLinearAddress]);
        ept.Permit(directory, 3);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
    }

    [Fact]
    public void TheGuestsOwnFaultComesFirst()
    {
        using var ept = new EptGuest();
        ept.Permit(Data, 0);
        ept.Guest.Write(TestGuest.PageTables + 0x2000 + 8, [0UL]);
        ept.Vmcs[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Pf;
        ept.Vmcs[VmcsField.GuestRsp] = Data + 0x1000;
        Assert.Equal(ExitReason.ExceptionOrNmi, ept.Run(a => { a.push(__qword_ptr[0x20_0000]); a.hlt(); }));
        Assert.Equal(0x20_0000UL, ept.Vmcs[VmcsField.ExitQualification]);
    }

    [Theory]
    [InlineData(false, 0x004UL, true)]
    [InlineData(false, 0x400UL, false)]
    [InlineData(true, 0x004UL, false)]
    [InlineData(true, 0x400UL, true)]
    public void ModeBasedExecuteGoesByTheMappingsOwner(bool userPage, ulong permission, bool allowed)
    {
        using var ept = new EptGuest();
        ept.EnableModeBasedExecute();
        // The first 2 MiB stay the supervisor's; linear 4 MiB is the same memory.
        ept.Guest.Write(TestGuest.PageTables + 0x2000, [0xE3]);
        ept.Guest.Write(TestGuest.PageTables + 0x2010, [userPage ? 0xE7UL : 0xE3]);
        ept.Guest.Assemble(64, a => a.hlt(), Data);
        ept.Permit(Data, 1 | permission);
        ExitReason reason = ept.Run(a => { a.mov(rbx, 0x40_0000 + Data); a.jmp(rbx); });
        Assert.Equal(allowed ? ExitReason.Hlt : ExitReason.EptViolation, reason);
        if (!allowed)
            Assert.Equal(4 | 1 << 3 | (permission == 4 ? 1UL << 5 : 1UL << 6) | Final, ept.Vmcs[VmcsField.ExitQualification]);
    }

    [Fact]
    public void AnAccessAcrossPagesChangesNothingWhereTheSecondIsMissing()
    {
        using var ept = new EptGuest();
        ept.Permit(Data + 0x1000, 1);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(rbx, Data + 0xFFC); a.mov(rax, -1); a.mov(__[rbx], rax); a.hlt(); }));
        Assert.Equal(Data + 0x1000, ept.Vmcs[VmcsField.GuestLinearAddress]);
        Assert.Equal(0UL, ept.Guest.Read<ulong>(Data + 0xFFC));
        ept.Permit(Data + 0x1000, 3);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(ulong.MaxValue, ept.Guest.Read<ulong>(Data + 0xFFC));
    }

    [Fact]
    public void AnInstructionAcrossPagesIsFetchedFromBoth()
    {
        using var ept = new EptGuest();
        ept.Permit(Data + 0x1000, 3);
        ept.Guest.Assemble(64, a => { a.mov(rax, 0x1122_3344_5566_7788); a.hlt(); }, Data + 0xFFA);
        Assert.Equal(ExitReason.EptViolation, ept.Run(a => { a.mov(rbx, Data + 0xFFA); a.jmp(rbx); }));
        Assert.Equal(4UL | 3 << 3 | Final, ept.Vmcs[VmcsField.ExitQualification]);
        Assert.Equal(Data + 0x1000, ept.Vmcs[VmcsField.GuestPhysicalAddress]);
        Assert.Equal(Data + 0xFFA, ept.Vmcs[VmcsField.GuestRip]);
        ept.Permit(Data + 0x1000, 4);
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(0x1122_3344_5566_7788UL, ept.Register(Gpr.Rax));
    }

    [Fact]
    public void PageModificationsAreLoggedUntilTheLogIsFull()
    {
        using var ept = new EptGuest();
        ept.Vmcs[VmcsField.EptPointer] |= EptPointer.AccessedDirty;
        ept.Load(Data);
        ept.Secondary |= SecondaryControls.EnablePml;
        ept.Vmcs[VmcsField.PmlAddress] = 0x21_0000;
        ept.Vmcs[VmcsField.PmlIndex] = 0;
        Assert.Equal(ExitReason.PmlFull, ept.Run(a =>
        {
            a.mov(rbx, Data);
            a.mov(__[rbx + 8], rbx);
            a.mov(__[rbx + 0x1008], rbx);
            a.hlt();
        }));
        Assert.Equal(Data, ept.Guest.Read<ulong>(0x21_0000));
        Assert.Equal(0xFFFFUL, ept.Vmcs[VmcsField.PmlIndex]);
        Assert.Equal(Data, ept.Guest.Read<ulong>(Data + 8));
        Assert.Equal(0UL, ept.Guest.Read<ulong>(Data + 0x1008));
        Assert.Equal(0UL, ept.Guest.Read<ulong>(EptGuest.EntryOf(Data + 0x1000)) & 0x300);
        ept.Vmcs[VmcsField.PmlIndex] = 511;
        Assert.Equal(ExitReason.Hlt, ept.Guest.Run());
        Assert.Equal(Data + 0x1000, ept.Guest.Read<ulong>(0x21_0000 + 511 * 8));
        Assert.Equal(510UL, ept.Vmcs[VmcsField.PmlIndex]);
    }
}
