using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Execution;

/// <summary>
/// Repeated string instructions do many iterations at once, and what they leave is what as many single iterations leave: registers, flags,
/// memory, accesses to devices and faults, whatever overlaps, and wherever pages end, are read only, are there twice or not at all. The single
/// ones are those of another processor, which exits behind each iteration (SDM volume 3, section 26.5.2, monitor trap flag).
/// </summary>
public sealed unsafe class StringTests(ITestOutputHelper output)
{
    private const int Guests = 60, Trials = 40, Pages = 8;
    private const ulong Window = 0x20_0000, PageTable = 0xA000, Data = 0x10_0000, Device = 0x1000_0000;

    /// <summary>Opcodes of the forms with bytes; those with more are the next ones.</summary>
    private static readonly (string Name, byte Opcode, bool Compares)[] Instructions =
        [("MOVS", 0xA4, false), ("CMPS", 0xA6, true), ("STOS", 0xAA, false), ("LODS", 0xAC, false), ("SCAS", 0xAE, true)];

    [Theory]
    [Tiers(1, 2)]
    public void Many_iterations_at_once_are_as_many_single_ones(int seed, Tier tier)
    {
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var outcomes = new SortedDictionary<string, int>(StringComparer.Ordinal);
        for (int k = 0; k < Guests; k++)
        {
            ulong[] entries = [.. Enumerable.Range(0, Pages).Select(_ => DrawPage(random))];
            using TestGuest bulk = Create(entries, TestTranslation.Of(tier), single: false), single = Create(entries, null, single: true);
            for (int trial = 0; trial < Trials; trial++)
            {
                int drawn = random.Next();
                string what = Prepare(bulk, new Random(drawn));
                Prepare(single, new Random(drawn));
                ExitReason reason = bulk.Run();
                ExitReason expected;
                do
                    expected = single.Run();
                while (expected == ExitReason.MonitorTrapFlag);
                string differences = Differences(single, bulk);
                Assert.True(reason == expected && differences.Length == 0,
                    $"seed {seed}, guest {k}, trial {trial}, {what}, pages {string.Join(' ', entries.Select(e => $"{e:x}"))}: {expected} and {reason}; {differences}");
                outcomes[$"{reason}"] = outcomes.GetValueOrDefault($"{reason}") + 1;
            }
        }
        output.WriteLine(string.Join(", ", outcomes.Select(o => $"{o.Key} {o.Value}")));
        Assert.True(outcomes["Hlt"] > 500 && outcomes["ExceptionOrNmi"] > 100, "too few came to their end, or to a fault");
    }

    /// <summary>A page-table entry: RAM that other pages may show too, read only, no page, or a device.</summary>
    private static ulong DrawPage(Random random) => random.Next(16) switch
    {
        0 => 0,
        1 => Data | (ulong)random.Next(Pages) << 12 | 0x65,
        2 => Device | 0x67,
        _ => Data | (ulong)random.Next(Pages) << 12 | 0x67,
    };

    private static TestGuest Create(ulong[] entries, Vmm.Processor.Translation.TranslationOptions? translation, bool single)
    {
        var guest = new TestGuest(translation: translation, translate: translation != null);
        guest.Write(TestGuest.PageTables + 0x2000 + (Window >> 21) * 8, [PageTable | 0x67]);
        guest.Write(PageTable, entries);
        guest.EnterLongMode();
        guest.Vmcs[VmcsField.ProcessorBasedControls] = (uint)(ProcControls.HltExiting | (single ? ProcControls.MonitorTrapFlag : 0));
        guest.Vmcs[VmcsField.ExceptionBitmap] = 1 << (int)Vector.Pf;
        ulong device = 0;
        guest.Bus.OnReadMemory = (address, _) => address * 0x0101_0101_0101_0101 + ++device;
        return guest;
    }

    /// <summary>An instruction, registers and memory at random.</summary>
    private static string Prepare(TestGuest guest, Random random)
    {
        byte[] data = new byte[Pages << 12];
        // Few different bytes, so that comparisons go on for a while.
        if (random.Next(2) == 0)
            random.NextBytes(data);
        else
            data.AsSpan().Fill((byte)random.Next(256));
        data[random.Next(data.Length)] ^= 1;
        guest.Write(Data, data);
        (string name, byte opcode, bool compares) = Instructions[random.Next(Instructions.Length)];
        int size = 1 << random.Next(4);
        bool backward = random.Next(3) == 0, narrow = random.Next(4) == 0;
        // Prefixes of the address size, of repetition, of the operand size and REX.W; the opcode; HLT.
        byte[] code = [.. narrow ? (byte[])[0x67] : [], random.Next(2) == 0 && compares ? (byte)0xF2 : (byte)0xF3,
            .. size == 2 ? (byte[])[0x66] : size == 8 ? [0x48] : [], size == 1 ? opcode : (byte)(opcode + 1), 0xF4];
        guest.Write(TestGuest.CodeBase, code);
        ulong source = DrawAddress(random), destination = random.Next(2) == 0 ? DrawAddress(random) : source + (ulong)random.Next(-40, 41);
        ulong high = narrow ? (ulong)random.Next() << 32 : 0;
        guest.State->Gpr[Gpr.Rsi] = source | high;
        guest.State->Gpr[Gpr.Rdi] = destination | high;
        guest.State->Gpr[Gpr.Rcx] = (uint)random.Next(random.Next(2) == 0 ? 20 : 9000 / size) | high;
        guest.State->Gpr[Gpr.Rax] = random.Next(2) == 0 ? (ulong)random.NextInt64() : data[7] * 0x0101_0101_0101_0101UL;
        guest.State->Cr2 = 0;
        guest.Vmcs[VmcsField.GuestRip] = TestGuest.CodeBase;
        guest.Vmcs[VmcsField.GuestRflags] = Rflags.Fixed1 | (ulong)random.NextInt64() & Rflags.Arithmetic | (backward ? Rflags.Df : 0);
        guest.Vmcs[VmcsField.GuestActivityState] = 0;
        return $"{name} of {size} bytes, RSI {source:x}, RDI {destination:x}, RCX {guest.State->Gpr[Gpr.Rcx]:x}{(backward ? ", backward" : "")}{(narrow ? ", 32-bit addresses" : "")}";
    }

    /// <summary>Within the pages, most often near the end of one.</summary>
    private static ulong DrawAddress(Random random) => Window + (ulong)(random.Next(3) == 0
        ? random.Next(Pages << 12)
        : Math.Clamp((random.Next(1, Pages) << 12) + random.Next(-70, 70), 0, (Pages << 12) - 8));

    private static string Differences(TestGuest single, TestGuest bulk)
    {
        var found = new List<string>();
        for (int k = 0; k < 16; k++)
            Check($"GPR {k}", single.State->Gpr[k], bulk.State->Gpr[k]);
        Check("CR2", single.State->Cr2, bulk.State->Cr2);
        foreach (VmcsField field in (VmcsField[])[VmcsField.GuestRip, VmcsField.GuestRflags, VmcsField.ExitQualification, VmcsField.VmExitInterruptionInformation, VmcsField.VmExitInterruptionErrorCode])
            Check(field.ToString(), single.Vmcs[field], bulk.Vmcs[field]);
        for (ulong at = Data; at < Data + (Pages << 12); at += 8)
            Check($"memory at {at:x}", single.Read<ulong>(at), bulk.Read<ulong>(at));
        if (!single.Bus.MemoryWrites.SequenceEqual(bulk.Bus.MemoryWrites))
            found.Add("writes to the device");
        return string.Join("; ", found.Take(12));

        void Check(string name, ulong mine, ulong theirs)
        {
            if (mine != theirs)
                found.Add($"{name}: {mine:x} and {theirs:x}");
        }
    }
}
