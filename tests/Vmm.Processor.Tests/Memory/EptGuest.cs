using Iced.Intel;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Tests.Memory;

/// <summary>
/// A <see cref="TestGuest"/> in 64-bit mode behind EPT: the first 2 MiB of guest-physical memory are identity-mapped in 4 KiB
/// pages, the next 2 MiB in one large page that also holds the EPT tables.
/// </summary>
public sealed class EptGuest : IDisposable
{
    public const ulong Root = 0x20_0000, Pointers = 0x20_1000, Directory = 0x20_2000, Table = 0x20_3000;

    /// <summary>An identity-mapped page for data, and one that no test maps by itself.</summary>
    public const ulong Data = 0x8_0000, Other = 0x9_0000;

    public const ulong WriteBack = 6 << 3, All = 7, LargePage = 1 << 7, Accessed = 1 << 8, Dirty = 1 << 9;

    public EptGuest()
    {
        Guest = new TestGuest(8 << 20);
        Guest.EnterLongMode();
        Guest.Write(Root, [Pointers | All]);
        Guest.Write(Pointers, [Directory | All]);
        Guest.Write(Directory, [Table | All, 0x20_0000 | All | WriteBack | LargePage]);
        for (ulong page = 0; page < 0x20_0000; page += 0x1000)
            Guest.Write(EntryOf(page), [page | All | WriteBack]);
        Guest.Vmcs[VmcsField.EptPointer] = Root | 0x1E;
        Guest.Vmcs[VmcsField.ProcessorBasedControls] |= (ulong)ProcControls.ActivateSecondary;
        Secondary = SecondaryControls.EnableEpt;
    }

    public TestGuest Guest { get; }

    public Vmcs Vmcs => Guest.Vmcs;

    public SecondaryControls Secondary
    {
        get => (SecondaryControls)Vmcs.Read32(VmcsField.SecondaryControls);
        set => Vmcs[VmcsField.SecondaryControls] = (ulong)value;
    }

    /// <summary>Where the EPT entry of a guest-physical page below 2 MiB lies.</summary>
    public static ulong EntryOf(ulong page) => Table + (page >> 12) * 8;

    /// <summary>Gives a guest-physical page below 2 MiB an EPT entry.</summary>
    public void Map(ulong page, ulong entry) => Guest.Write(EntryOf(page), [entry]);

    /// <summary>Gives an identity-mapped page other permissions.</summary>
    public void Permit(ulong page, ulong permissions) => Map(page, page | permissions | WriteBack);

    /// <summary>Has a linear page below 2 MiB lead to another guest-physical one, through a page table in place of the large page; says nothing to the processor.</summary>
    public void MapLinear(ulong page, ulong target)
    {
        const ulong directory = TestGuest.PageTables + 0x2000, table = 0x1F_F000, accessedAndDirty = 0x60;
        if (Guest.Read<ulong>(directory) >> 12 != table >> 12)
        {
            for (ulong each = 0; each < 0x20_0000; each += 0x1000)
                Guest.Write(table + (each >> 12) * 8, [each | All | accessedAndDirty]);
            Guest.Write(directory, [table | All | accessedAndDirty]);
        }
        Guest.Write(table + (page >> 12) * 8, [target | All | accessedAndDirty]);
    }

    /// <summary>Turns mode-based execute control on, with the upper levels allowing everything.</summary>
    public void EnableModeBasedExecute()
    {
        Secondary |= SecondaryControls.ModeBasedExecute;
        foreach (ulong entry in new[] { Root, Pointers, Directory })
            Guest.Write(entry, [Guest.Read<ulong>(entry) | 0x400]);
    }

    /// <summary>Leaves 64-bit mode for protected mode without paging.</summary>
    public void EnterProtectedMode()
    {
        Guest.EnterProtectedMode();
        Vmcs[VmcsField.GuestEfer] = 0;
        Vmcs[VmcsField.ProcessorBasedControls] |= (ulong)ProcControls.ActivateSecondary;
    }

    /// <summary>Runs a program from its start.</summary>
    public ExitReason Run(Action<Assembler> program)
    {
        Guest.Assemble(64, program);
        Vmcs[VmcsField.GuestRip] = TestGuest.CodeBase;
        return Guest.Run();
    }

    /// <summary>What the guest reads at a linear address.</summary>
    public ulong Load(ulong linear)
    {
        Xunit.Assert.Equal(ExitReason.Hlt, Run(a =>
        {
            a.mov(AssemblerRegisters.rbx, linear);
            a.mov(AssemblerRegisters.rax, AssemblerRegisters.__[AssemblerRegisters.rbx]);
            a.hlt();
        }));
        return Register(0);
    }

    public unsafe ulong Register(int number) => Guest.State->Gpr[number];

    public void Dispose() => Guest.Dispose();
}
