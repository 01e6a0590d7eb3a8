using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using Xunit.Abstractions;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>
/// What a processor holds from its last exit need not come from the VMCS again: a processor that is made to load everything with each
/// entry, by a write that changes nothing in the end, must not be told from one that is not.
/// </summary>
public sealed unsafe class HeldStateTests(ITestOutputHelper output)
{
    private const ulong OtherTables = 0x1_8000, Descriptor = 0x8000;

    private static readonly VmcsField[] Written =
    [
        VmcsField.GuestRflags, VmcsField.GuestFsBase, VmcsField.GuestGsBase, VmcsField.GuestCr3, VmcsField.GuestCr4, VmcsField.GuestEfer,
        VmcsField.GuestDr7, VmcsField.GuestSysenterEsp, VmcsField.GuestGdtrLimit, VmcsField.GuestIdtrLimit, VmcsField.GuestDsLimit,
        VmcsField.GuestEsSelector, VmcsField.GuestInterruptibility, VmcsField.ExceptionBitmap, VmcsField.TscOffset, VmcsField.VirtualProcessorId,
        VmcsField.ProcessorBasedControls, VmcsField.VmExitControls,
    ];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void AnEntryLoadsWhatHasChanged(int seed)
    {
        output.WriteLine($"seed {seed}");
        using VmxGuest holding = Prepare(), loading = Prepare();
        using Vmcs holdingOther = Copy(holding.Vmcs), loadingOther = Copy(loading.Vmcs);
        var random = new Random(seed);
        for (int exit = 0; exit < 3_000; exit++)
        {
            // Between two entries L0 writes none, one or several fields, or runs the same processor on another VMCS.
            for (int writes = random.Next(3); writes > 0; writes--)
            {
                (VmcsField field, int choice) = (Written[random.Next(Written.Length)], random.Next());
                Change(holding.Vmcs, field, choice);
                Change(loading.Vmcs, field, choice);
            }
            bool elsewhere = random.Next(8) == 0, taken = random.Next(16) == 0;
            long budget = random.Next(1, 40);
            foreach ((VmxGuest guest, Vmcs other) in new[] { (holding, holdingOther), (loading, loadingOther) })
            {
                if (elsewhere)
                    guest.Guest.Cpu.Enter(other, 7);
                if (taken)
                    guest.Guest.Cpu.TakeGuestState(other);
            }
            ulong root = loading[VmcsField.GuestCr3];
            loading[VmcsField.GuestCr3] = ~root;
            loading[VmcsField.GuestCr3] = root;

            ExitReason reason = holding.Guest.Run(budget);
            Assert.Equal(loading.Guest.Run(budget), reason);
            Compare(loading, holding, exit);
            if (reason == ExitReason.Cpuid)
            {
                holding[VmcsField.GuestRip] += 2;
                loading[VmcsField.GuestRip] += 2;
            }
            else
            {
                Assert.Equal(ExitReason.BudgetExhausted, reason);
            }
        }
        Assert.True(holding.Guest.Cpu.InstructionsRetired > 10_000);
    }

    private static VmxGuest Prepare()
    {
        var guest = new VmxGuest();
        TestGuest memory = guest.Guest;
        memory.Write(OtherTables, [memory.Read<ulong>(TestGuest.PageTables)]);
        memory.Write(Descriptor, [TestGuest.GdtBase << 16 | 0x7F, TestGuest.GdtBase >> 48]);
        memory.Assemble(64, a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.add(rbx, 1);
            a.mov(ecx, ebx);
            a.and(ecx, 0x10);
            a.or(ecx, 8);
            a.cpuid();
            a.mov(eax, TestGuest.Data);
            a.mov(ds, ax);
            a.mov(fs, ax);
            a.mov(rsi, __qword_ptr.fs[0x8100]);
            a.xor(rdi, rsi);
            a.pushfq();
            a.xor(__qword_ptr[rsp], (int)(Rflags.Ac | Rflags.Cf | Rflags.Df));
            a.popfq();
            a.mov(rdx, cr3);
            a.xor(rdx, (int)(TestGuest.PageTables ^ OtherTables));
            a.mov(cr3, rdx);
            a.lgdt(__[Descriptor]);
            a.swapgs();
            a.sti();
            a.add(rbp, rbx);
            a.cli();
            a.jmp(loop);
        });
        guest.Vmcs.EntryChecks = EntryCheckPolicy.None;
        return guest;
    }

    private static Vmcs Copy(Vmcs vmcs)
    {
        var copy = new Vmcs { IdentityMapped = true, EntryChecks = EntryCheckPolicy.None };
        copy.CopyFrom(vmcs);
        return copy;
    }

    private static void Change(Vmcs vmcs, VmcsField field, int choice) => vmcs[field] = field switch
    {
        VmcsField.GuestRflags => vmcs[field] ^ ((choice & 1) != 0 ? Rflags.Ac : Rflags.Zf),
        VmcsField.GuestCr3 => (choice & 1) != 0 ? TestGuest.PageTables : OtherTables,
        VmcsField.GuestCr4 => vmcs[field] ^ ((choice & 1) != 0 ? Cr4.Pge : Cr4.De),
        VmcsField.GuestEfer => vmcs[field] ^ Efer.Sce,
        // No breakpoint but one that the program does not reach.
        VmcsField.GuestDr7 => (choice & 1) != 0 ? 0x402UL : 0x400,
        VmcsField.GuestGdtrLimit or VmcsField.GuestIdtrLimit => (choice & 1) != 0 ? 0x7FFUL : 0x7F,
        VmcsField.GuestDsLimit => 0xFFFF_FFFF,
        VmcsField.GuestEsSelector => (ulong)(choice & 0xFFFF),
        VmcsField.GuestInterruptibility => (ulong)(choice & 1),
        VmcsField.ExceptionBitmap => (ulong)(choice & 1),
        VmcsField.VirtualProcessorId => (ulong)(choice & 3),
        VmcsField.ProcessorBasedControls => vmcs[field] ^ (ulong)ProcControls.TscOffsetting,
        VmcsField.VmExitControls => vmcs[field] ^ (ulong)VmExitControls.SaveEfer,
        _ => (ulong)(choice & 0xF_FFF0),
    };

    private static void Compare(VmxGuest expected, VmxGuest actual, int exit)
    {
        foreach (VmcsField field in Enum.GetValues<VmcsField>())
            Assert.True(expected[field] == actual[field], $"exit {exit}, {field}: {expected[field]:x}, held {actual[field]:x}");
        for (int k = 0; k < 16; k++)
            Assert.True(expected.State->Gpr[k] == actual.State->Gpr[k], $"exit {exit}, register {k}: {expected.State->Gpr[k]:x}, held {actual.State->Gpr[k]:x}");
        Assert.Equal(expected.Guest.Cpu.InstructionsRetired, actual.Guest.Cpu.InstructionsRetired);
        Assert.True(expected.State->Cpl == actual.State->Cpl && expected.State->CodeSize == actual.State->CodeSize && expected.State->Efer == actual.State->Efer);
    }
}
