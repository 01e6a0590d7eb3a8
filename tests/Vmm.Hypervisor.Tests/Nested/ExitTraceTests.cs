using Vmm.Hypervisor.Tracing;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>What a trace tells of a guest that is a hypervisor.</summary>
public sealed class ExitTraceTests : IDisposable
{
    private readonly NestedMachine _m = new();

    public void Dispose() => _m.Dispose();

    private ExitTraceRing Trace(ExitTraceFilter? filter = null, int capacity = 1024)
    {
        var ring = new ExitTraceRing(filter ?? ExitTraceFilter.Everything, capacity);
        _m.Machine.StartTrace(ring);
        return ring;
    }

    private static List<ExitTraceRecord> Read(ExitTraceRing ring)
    {
        var records = new ExitTraceRecord[4096];
        return [.. records.AsSpan(0, ring.Read(records))];
    }

    private static string Text(ExitTraceRecord record) =>
        $"L{record.Level} {record.Kind} {record.Owner} {(record.Reason == ExitTraceRecord.NoReason ? "-" : ((ExitReason)(ushort)record.Reason).ToString())}";

    [Fact]
    public void Exits_entries_and_reflections_come_in_their_order_with_level_and_owner()
    {
        _m.LoadL2(a =>
        {
            a.mov(ecx, 0x10);
            a.rdmsr();
            a.cpuid();
        });
        // The budget's end between is nothing that a guest would notice.
        ExitTraceRing ring = Trace();
        _m.Enter(1);
        L1Stop stop = _m.Continue(7);
        while (stop == L1Stop.Running)
            stop = _m.Continue(7);
        Assert.Equal(L1Stop.Exit, stop);
        List<ExitTraceRecord> all = Read(ring);
        int launch = all.FindIndex(record => record is { Reason: (uint)ExitReason.Vmlaunch });
        Assert.Equal(
            ["L1 Exit L0 Vmlaunch", "L2 Entry L1 -", "L2 Exit L1 Rdmsr", "L2 Reflection L1 Rdmsr", "L1 Entry L0 -"],
            all.Skip(launch).Take(5).Select(Text));
        ExitTraceRecord exit = all[launch + 2];
        Assert.Equal(NestedMachine.L2Code + 5, exit.Rip);
        Assert.Equal(exit with { Kind = ExitTraceKind.Reflection }, all[launch + 3]);
        Assert.All(all, record => Assert.Equal(0UL, record.LostBefore));
        Assert.Equal(all.Select(record => record.Instructions).Order(), all.Select(record => record.Instructions));
    }

    [Fact]
    public void An_exit_of_L2_that_L0_keeps_is_not_reflected()
    {
        // L2 shares L1's local APIC, so that L0 intercepts CR8 although L1 does not.
        _m.LoadL2(a =>
        {
            a.mov(rax, cr8);
            a.cpuid();
        });
        ExitTraceRing ring = Trace(ExitTraceFilter.Everything with { Levels = 1 << 2 });
        Assert.Equal(L1Stop.Exit, _m.Enter());
        Assert.Equal(
            ["L2 Entry L1 -", "L2 Exit L0 ControlRegister", "L2 Entry L0 -", "L2 Exit L1 Cpuid", "L2 Reflection L1 Cpuid"],
            Read(ring).Select(Text));
    }

    [Fact]
    public void What_L0_makes_of_an_interrupt_is_a_reflection_without_an_exit()
    {
        _m.Pin |= PinControls.ExternalInterruptExiting;
        _m.Exit |= VmExitControls.AcknowledgeInterrupt;
        _m.LoadL2(a =>
        {
            var spin = a.CreateLabel();
            a.Label(ref spin);
            a.jmp(spin);
        });
        _m.Enter(1000);
        ExitTraceRing ring = Trace();
        _m.Continue(1000);
        Assert.Empty(Read(ring));
        _m.Send(0x45);
        Assert.Equal(L1Stop.Exit, _m.Continue());
        List<ExitTraceRecord> all = Read(ring);
        Assert.Equal(["L2 Reflection L1 ExternalInterrupt", "L1 Entry L0 -"], all.Take(2).Select(Text));
        Assert.Equal((0x8000_0045U, NestedMachine.L2Code), (all[0].Interruption, all[0].Rip));
    }

    [Fact]
    public void Entries_that_fail_say_by_what()
    {
        _m.LoadL2(a => a.hlt());
        ulong selector = _m[VmcsField.HostCsSelector];
        _m[VmcsField.HostCsSelector] = 0;
        ExitTraceRing ring = Trace(ExitTraceFilter.Everything with { Kinds = 1 << (int)ExitTraceKind.EntryFailure });
        Assert.Equal(L1Stop.NoEntry, _m.Enter());
        ExitTraceRecord failed = Assert.Single(Read(ring));
        Assert.Equal((ExitTraceRecord.NoReason, 8U, (byte)2), (failed.Reason, failed.InstructionError, failed.Level));

        _m[VmcsField.HostCsSelector] = selector;
        _m[VmcsField.GuestRflags] = 0;
        Assert.Equal(L1Stop.Exit, _m.Enter());
        failed = Assert.Single(Read(ring));
        Assert.Equal((0x8000_0021U, 0U), (failed.Reason, failed.InstructionError));
    }

    [Fact]
    public void Each_trace_has_its_own_filter_and_ends_by_itself()
    {
        _m.LoadL2(a =>
        {
            a.cpuid();
            a.vmcall();
        });
        ExitTraceRing cpuid = Trace(ExitTraceFilter.Everything with { Reasons = UInt128.One << (int)ExitReason.Cpuid, WithoutReason = false, Levels = 1 << 2 }), all = Trace();
        ExitTraceRing otherVcpu = Trace(ExitTraceFilter.Everything with { Vcpus = 2 });
        Assert.Equal(L1Stop.Exit, _m.Enter());
        Assert.Equal(["L2 Exit L1 Cpuid", "L2 Reflection L1 Cpuid"], Read(cpuid).Select(Text));
        Assert.True(Read(all).Count > 5);
        Assert.Empty(Read(otherVcpu));
        _m.Machine.StopTrace(all);
        _m.Machine.StopTrace(cpuid);
        _m.Skip();
        Assert.Equal(L1Stop.Exit, _m.Enter());
        Assert.Empty(Read(cpuid));
        Assert.Empty(Read(all));
        _m.Machine.StopTrace(otherVcpu);
    }

    [Fact]
    public void What_finds_no_room_is_counted_and_told_by_the_next_record()
    {
        ExitTraceRing ring = Trace(capacity: 4);
        ExitTraceRing whole = Trace(capacity: 100_000);
        _m.LoadL2(a => a.cpuid());
        Assert.Equal(L1Stop.Exit, _m.Enter());
        List<ExitTraceRecord> all = Read(whole), first = Read(ring);
        Assert.Equal(all.Take(4), first);
        ulong lost = (ulong)all.Count - 4;
        Assert.Equal(lost, ring.LostAtEnd);
        Assert.Equal(L1Stop.Exit, _m.Enter());
        ExitTraceRecord next = Read(ring)[0];
        Assert.Equal(Read(whole)[0] with { LostBefore = lost }, next);
    }

    [Fact]
    public void A_slow_reader_on_another_thread_gets_every_record_or_hears_of_it()
    {
        var ring = new ExitTraceRing(ExitTraceFilter.Everything, 64);
        const ulong Records = 200_000;
        var writer = new Thread(() =>
        {
            for (ulong n = 0; n < Records; n++)
                ring.Write(new ExitTraceRecord { Level = 1, Instructions = n });
        });
        writer.Start();
        ulong expected = 0;
        var records = new ExitTraceRecord[7];
        while (true)
        {
            bool last = writer.Join(0);
            int count = ring.Read(records);
            foreach (ExitTraceRecord record in records.AsSpan(0, count))
            {
                Assert.Equal(expected + record.LostBefore, record.Instructions);
                expected = record.Instructions + 1;
            }
            if (last && count == 0)
                break;
        }
        Assert.Equal(Records, expected + ring.LostAtEnd);
    }
}
