using Iced.Intel;
using Vmm.Machine.Tests.Guests;
using Vmm.Machine.Tests.Snapshots;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests;

/// <summary>A copy of a machine's memory that keeps up with it by the log of written pages alone.</summary>
public sealed class DirtyLogTests
{
    private const uint Page = 4096, Command = 0x24_0000, Targets = 0x25_0000, Marks = 0x28_0000;

    [Fact]
    public void A_copy_that_follows_the_log_while_the_guest_runs_is_its_memory_in_the_end()
    {
        using var bench = new MachineBench(Program);
        Machine machine = bench.Machine;
        machine.StartDirtyLog();
        byte[] copy = new byte[4 << 20];
        Refresh(machine, copy, page => true);
        machine.Start();
        int rounds = 0, taken = 0;
        while (machine.End is null)
        {
            taken += Follow(machine, copy);
            machine.WriteMemory(MemoryAddressing.Physical, 0, Marks + Page * 4u, (byte[])[(byte)++rounds]);
        }
        Assert.Equal(3, machine.End.ExitCode);
        taken += Follow(machine, copy);
        byte[] memory = new byte[copy.Length];
        Refresh(machine, memory, page => true);
        for (int page = 0; page < memory.Length; page += (int)Page)
            Assert.True(memory.AsSpan(page, (int)Page).SequenceEqual(copy.AsSpan(page, (int)Page)), $"Page {page:x} differs.");
        Assert.True(taken > 20, $"{taken}");
        Assert.NotEqual(0, BitConverter.ToInt32(memory, (int)Marks));
    }

    [Fact]
    public void A_reset_logs_what_it_loads_and_no_more()
    {
        using var bench = new MachineBench(a => a.Exit(1));
        bench.Machine.StartDirtyLog();
        bench.Machine.Reset();
        ulong[] dirty = bench.Machine.TakeDirtyPages();
        Assert.True(IsSet(dirty, GuestProgram.CodeAddress / Page));
        Assert.False(IsSet(dirty, GuestProgram.Data / Page));
        bench.Machine.StopDirtyLog();
        Assert.Throws<InvalidOperationException>(bench.Machine.TakeDirtyPages);
    }

    /// <summary>Without the log nothing is different, and with it the guest does the same, instruction for instruction.</summary>
    [Fact]
    public void The_guest_does_not_notice()
    {
        using var bench = new SnapshotBench(a => BusyGuest.Program(a, rounds: 8));
        RunOutcome straight = bench.Run();
        var console = new System.Text.StringBuilder();
        using Machine machine = bench.RunTo(1_000, console);
        machine.StartDirtyLog();
        for (ulong at = 2_000; at < straight.Instructions; at += straight.Instructions / 13)
        {
            bench.ResumeTo(machine, at);
            machine.TakeDirtyPages();
        }
        machine.Resume();
        Assert.Equal(straight, bench.Outcome(machine, console));
    }

    private static bool IsSet(ulong[] dirty, ulong page) => (dirty[page / 64] >> (int)(page % 64) & 1) != 0;

    private static int Follow(Machine machine, byte[] copy)
    {
        ulong[] dirty = machine.TakeDirtyPages();
        return Refresh(machine, copy, page => IsSet(dirty, page));
    }

    private static int Refresh(Machine machine, byte[] copy, Func<uint, bool> wanted)
    {
        int count = 0;
        for (uint page = 0; page < copy.Length / Page; page++)
        {
            if (wanted(page) && machine.ReadMemory(MemoryAddressing.Physical, 0, page * Page, copy.AsSpan((int)(page * Page), (int)Page)))
                count++;
        }
        return count;
    }

    // Marks pages, and has the firmware-configuration device write over others by DMA: its signature, and zeros behind it.
    private static void Program(Assembler a)
    {
        Label again = a.CreateLabel(), answered = a.CreateLabel();
        a.mov(ebp, 1);
        a.Label(ref again);
        a.mov(eax, ebp);
        a.imul(eax, eax, 1_103_515_245);
        a.shr(eax, 20);
        a.and(eax, 31);
        a.shl(eax, 12);
        a.mov(__dword_ptr[eax + Targets], ebp);
        a.mov(__dword_ptr[eax + Targets + 0x10], ebp);
        a.mov(__dword_ptr[Marks], ebp);
        // Select item 0 and read 32 bytes; big-endian.
        a.add(eax, (int)Targets);
        a.bswap(eax);
        a.mov(__dword_ptr[Command], 0x0A00_0000);
        a.mov(__dword_ptr[Command + 4], 32 << 24);
        a.mov(__dword_ptr[Command + 8], 0);
        a.mov(__dword_ptr[Command + 12], eax);
        a.mov(eax, Command);
        a.bswap(eax);
        a.mov(dx, 0x518);
        a.@out(dx, eax);
        a.cmp(__dword_ptr[Command], 0);
        a.je(answered);
        a.Exit(0x33);
        a.Label(ref answered);
        a.inc(ebp);
        a.cmp(ebp, 40_000);
        a.jb(again);
        a.Exit(1);
    }
}
