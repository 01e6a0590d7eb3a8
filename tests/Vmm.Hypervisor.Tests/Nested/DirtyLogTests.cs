using System.Runtime.InteropServices;
using Iced.Intel;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>The log of written pages while L1 and L2 run, against the contents of memory themselves.</summary>
public sealed unsafe class DirtyLogTests
{
    // L2 stores at random in one range and reads at random in another; nobody writes that nor what is behind it.
    private const ulong Stored = 0x40_0000, Loaded = 0x62_0000, Tables = 0xA0_0000, RangeSize = 0x20_0000, PmlLog = 0x7_0000;

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, true)]
    public void Every_page_that_changes_is_in_the_log_and_none_that_nobody_touches(int seed, bool virtualizeApic)
    {
        using var l1 = new NestedMachine();
        var random = new Random(seed);
        UseEpt(l1);
        if (virtualizeApic)
            UseVirtualApic(l1);
        // VM exit stores an MSR, which the program changes.
        l1.Write(NestedMachine.MsrAreas, [0x175, 0]);
        l1[VmcsField.VmExitMsrStoreAddress] = NestedMachine.MsrAreas;
        l1[VmcsField.VmExitMsrStoreCount] = 1;
        l1.Proc |= ProcControls.UseMsrBitmaps;
        l1[VmcsField.MsrBitmaps] = NestedMachine.MsrBitmap;
        l1.LoadL2(a => Wander(a, virtualizeApic));
        l1.Machine.Package.StartDirtyLog();
        var watch = new DirtyWatch(l1);
        Assert.Equal(L1Stop.Running, l1.Enter(500));
        int inL2 = 0, exits = 0;
        for (int k = 0; k < 150; k++)
        {
            inL2 += l1.Vcpu.IsGuestMode ? 1 : 0;
            watch.Check();
            switch (l1.Continue(random.Next(1, 2_000)))
            {
                case L1Stop.Running:
                    break;
                case L1Stop.Exit:
                    exits++;
                    Assert.True(l1.Reason is ExitReason.Cpuid or ExitReason.PmlFull, $"{l1.Reason}");
                    if (l1.Reason == ExitReason.Cpuid)
                        l1.Skip();
                    l1[VmcsField.PmlIndex] = 511;
                    Assert.Equal(L1Stop.Running, l1.Enter(random.Next(1, 50)));
                    break;
                default:
                    Assert.Fail("L1 has ended.");
                    break;
            }
            // A flush of vmcs12 to memory.
            if (random.Next(16) == 0)
                l1.Vcpu.Nested.WriteRegion(NestedMachine.OtherRegion, MemoryMarshal.AsBytes<ulong>([(ulong)random.NextInt64()]));
            // Devices, loaders of snapshots, clients.
            if (random.Next(8) == 0)
                l1.Write(0xC0_0000 + (ulong)random.Next(512) * 4096, [(ulong)random.NextInt64() | 1]);
        }
        Assert.True(inL2 > 40 && exits > 10 && watch.Changed > 1_000, $"{inL2} {exits} {watch.Changed}");
    }

    /// <summary>What the processor writes for itself: flags of both kinds of tables, the log of modified pages.</summary>
    [Fact]
    public void Flags_of_page_tables_and_the_log_of_modified_pages_are_written_pages_too()
    {
        using var l1 = new NestedMachine();
        UseEpt(l1);
        l1.ExpectExit(ExitReason.Hlt, a => a.hlt());
        l1.Machine.Package.StartDirtyLog();
        // Tables of L2's own, not used so far.
        const ulong tables = 0x10_0000;
        l1.Write(tables, [(tables + 0x1000) | 7]);
        l1.Write(tables + 0x1000, [(tables + 0x2000) | 7]);
        l1.Write(tables + 0x2000, [(tables + 0x3000) | 7, 0x20_0087, 0x40_0087]);
        l1.Write(tables + 0x3000, [.. Enumerable.Range(0, 512).Select(k => (ulong)k << 12 | 7)]);
        l1[VmcsField.GuestCr3] = tables;
        l1.LoadL2(a =>
        {
            a.mov(__dword_ptr[Stored], 1);
            a.hlt();
        });
        l1.Machine.Package.TakeDirtyPages();
        l1.ExpectExit(ExitReason.Hlt);
        ulong[] dirty = l1.Machine.Package.TakeDirtyPages();
        ulong[] expected = [tables, tables + 0x1000, tables + 0x2000, tables + 0x3000, Stored, PmlLog, NestedMachine.Ept + 0x2000, NestedMachine.Ept + 0x3000];
        Assert.All(expected, page => Assert.True(IsSet(dirty, page), $"{page:x}"));
        Assert.False(IsSet(dirty, Stored + 0x1000) || IsSet(dirty, NestedMachine.L2Code) || IsSet(dirty, NestedMachine.Gdt));
    }

    /// <summary>A processor that has the page in its translation cache notes the write that follows the taking, too.</summary>
    [Fact]
    public void A_page_that_is_written_again_after_the_log_was_taken_is_in_the_next()
    {
        using var l1 = new NestedMachine();
        l1.Machine.Package.StartDirtyLog();
        l1.LoadL2(a =>
        {
            a.mov(rdi, Stored);
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.inc(__qword_ptr[rdi]);
            a.jmp(again);
        });
        Assert.Equal(L1Stop.Running, l1.Enter(5_000));
        for (int k = 0; k < 5; k++)
        {
            Assert.True(IsSet(l1.Machine.Package.TakeDirtyPages(), Stored));
            Assert.DoesNotContain(l1.Machine.Package.TakeDirtyPages(), word => word != 0);
            ulong before = l1.Read(Stored);
            Assert.Equal(L1Stop.Running, l1.Continue(2));
            Assert.Equal(before + 1, l1.Read(Stored));
        }
        l1.Machine.Package.StopDirtyLog();
        Assert.Throws<InvalidOperationException>(() => l1.Machine.Package.TakeDirtyPages());
        Assert.Equal(L1Stop.Running, l1.Continue(100));
    }

    [Fact]
    public void Pages_are_counted_without_the_hole_for_devices()
    {
        using var memory = new PhysicalMemory(PhysicalMemory.LowLimit + 0x10_0000);
        Assert.Equal(PhysicalMemory.HighBase + 0x5000, memory.PageAddress(memory.PageIndex(PhysicalMemory.HighBase + 0x5000)));
        Assert.Equal((int)(PhysicalMemory.LowLimit >> 12), memory.PageIndex(PhysicalMemory.HighBase));
        Assert.Equal(0x7000ul, memory.PageAddress(7));
    }

    private static bool IsSet(ulong[] dirty, ulong address) => (dirty[address >> 18] >> (int)(address >> 12 & 63) & 1) != 0;

    /// <summary>The first 16 MiB onto themselves, in small pages, with accessed and dirty flags and page-modification logging.</summary>
    private static void UseEpt(NestedMachine l1)
    {
        l1.Secondary = SecondaryControls.EnableEpt | SecondaryControls.EnablePml;
        l1[VmcsField.EptPointer] = NestedMachine.Ept | EptPointer.AccessedDirty | 3 << 3 | 6;
        l1.Write(NestedMachine.Ept, [(NestedMachine.Ept + 0x1000) | 7]);
        l1.Write(NestedMachine.Ept + 0x1000, [(NestedMachine.Ept + 0x2000) | 7]);
        l1.Write(NestedMachine.Ept + 0x3000, [.. Enumerable.Range(0, 512).Select(k => (ulong)k << 12 | 6 << 3 | 7)]);
        l1.Write(NestedMachine.Ept + 0x2000, [(NestedMachine.Ept + 0x3000) | 7, .. Enumerable.Range(1, 7).Select(k => (Tables + (ulong)k * 0x1000) | 7)]);
        for (ulong k = 1; k < 8; k++)
            l1.Write(Tables + k * 0x1000, [.. Enumerable.Range(0, 512).Select(n => (k * 512 + (ulong)n) << 12 | 6 << 3 | 7)]);
        l1[VmcsField.PmlAddress] = PmlLog;
        l1[VmcsField.PmlIndex] = 511;
    }

    private static void UseVirtualApic(NestedMachine l1)
    {
        l1.Proc |= ProcControls.TprShadow;
        l1.Secondary |= SecondaryControls.VirtualInterruptDelivery | SecondaryControls.ApicRegisterVirtualization;
        l1.Pin |= PinControls.ExternalInterruptExiting;
        l1[VmcsField.VirtualApicAddress] = NestedMachine.VirtualApic;
    }

    private static void Wander(Assembler a, bool virtualizeApic)
    {
        Label again = a.CreateLabel();
        a.mov(r8d, 12345);
        a.xor(r9d, r9d);
        a.Label(ref again);
        a.imul(r8d, r8d, 1_103_515_245);
        a.add(r8d, 12345);
        a.mov(eax, r8d);
        a.shr(eax, 8);
        a.and(eax, (int)RangeSize - 8);
        a.@lock.inc(__qword_ptr[rax + (int)Stored]);
        a.mov(rcx, __qword_ptr[rax + (int)Loaded]);
        // A store that goes across two pages now and then, and a string.
        a.and(eax, 0x1F_F000);
        a.add(__qword_ptr[rax + (int)Stored - 4 + 0x1000], 0x101);
        a.mov(edi, (int)Stored);
        a.add(edi, eax);
        a.mov(ecx, 5);
        a.mov(eax, r8d);
        a.rep.stosd();
        if (virtualizeApic)
        {
            a.mov(eax, r8d);
            a.shr(eax, 20);
            a.and(eax, 15);
            a.mov(cr8, rax);
        }
        a.inc(r9d);
        a.test(r9d, 127);
        a.jnz(again);
        a.mov(ecx, 0x175);
        a.mov(eax, r9d);
        a.xor(edx, edx);
        a.wrmsr();
        a.cpuid();
        a.jmp(again);
    }

    /// <summary>Compares what has changed in memory with what the log says.</summary>
    private sealed class DirtyWatch(NestedMachine l1)
    {
        private byte[] _before = Copy(l1);

        public int Changed { get; private set; }

        public void Check()
        {
            byte[] now = Copy(l1);
            ulong[] dirty = l1.Machine.Package.TakeDirtyPages();
            for (ulong page = 0; page < l1.Memory.Size; page += 4096)
            {
                bool differs = l1.Memory.Page(page) != null && !now.AsSpan((int)page, 4096).SequenceEqual(_before.AsSpan((int)page, 4096));
                Assert.True(!differs || IsSet(dirty, page), $"Page {page:x} has changed and is not in the log.");
                Changed += differs ? 1 : 0;
                if (page is >= Loaded and < Tables)
                    Assert.False(IsSet(dirty, page), $"Page {page:x} is in the log, and nobody has written it.");
            }
            _before = now;
        }

        private static byte[] Copy(NestedMachine l1)
        {
            byte[] copy = new byte[l1.Memory.Size];
            for (ulong page = 0; page < l1.Memory.Size; page += 4096)
                l1.Memory.TryRead(page, copy.AsSpan((int)page, 4096));
            return copy;
        }
    }
}
