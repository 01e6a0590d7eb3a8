using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Execution;

/// <summary>
/// A guest of random bytes must not be able to harm the process, whatever mode it finds itself in. A million instructions a
/// seed; <c>VMM_SEED</c> replays one.
/// </summary>
public sealed unsafe class RandomBytesTests(ITestOutputHelper output)
{
    public static TheoryData<int> Seeds()
    {
        var data = new TheoryData<int>();
        if (int.TryParse(Environment.GetEnvironmentVariable("VMM_SEED"), out int only))
        {
            data.Add(only);
            return data;
        }
        for (int seed = 1; seed <= 6; seed++)
            data.Add(seed);
        return data;
    }

    [Theory]
    [MemberData(nameof(Seeds))]
    public void RandomBytesRunAMillionInstructions(int seed)
    {
        output.WriteLine($"VMM_SEED={seed}");
        var random = new Random(seed);
        const long Wanted = 1_000_000;
        long exits = 0;
        using var guest = new TestGuest();
        Refill(guest, random, seed);
        while (guest.Cpu.InstructionsRetired < Wanted && exits < 300_000)
        {
            ExitReason reason = guest.Run(400);
            exits++;
            // Play a crude L0: step over what exited, start over after a triple fault or when the guest runs in circles.
            if (reason is ExitReason.TripleFault or ExitReason.BudgetExhausted or ExitReason.TaskSwitch || exits % 64 == 0)
            {
                Refill(guest, random, seed);
                continue;
            }
            guest.Vmcs[VmcsField.GuestRip] += guest.Vmcs[VmcsField.VmExitInstructionLength];
            guest.Vmcs[VmcsField.GuestActivityState] = 0;
        }
        output.WriteLine($"{guest.Cpu.InstructionsRetired} instructions, {exits} exits");
        Assert.True(guest.Cpu.InstructionsRetired > Wanted / 100, "the guest hardly ran");
    }

    private static void Refill(TestGuest guest, Random random, int seed)
    {
        var page = new byte[0x8000];
        random.NextBytes(page);
        guest.Write(TestGuest.CodeBase, page);
        ulong entry = TestGuest.CodeBase + (ulong)random.Next(0x4000);
        switch ((seed + random.Next(4)) % 4)
        {
            case 0:
                guest.EnterLongMode(entry);
                break;
            case 1:
                guest.EnterLongMode(entry, cpl: 3);
                break;
            case 2:
                guest.EnterProtectedMode(entry);
                break;
            default:
                guest.EnterRealMode(entry & 0x7FFF);
                guest.Write(entry & 0x7FFF, page.AsSpan(0, 0x1000));
                break;
        }
        for (int k = 0; k < 16; k++)
            guest.State->Gpr[k] = random.Next(3) == 0 ? (ulong)random.NextInt64() : (ulong)random.Next(0x40_0000);
        // Faults go to handlers that are random bytes too: gates for every vector into the code.
        for (ulong vector = 0; vector < 256; vector++)
        {
            ulong target = TestGuest.CodeBase + (ulong)random.Next(0x4000);
            guest.Write(TestGuest.IdtBase + vector * 16, [(target & 0xFFFF) | 8UL << 16 | 0x8EUL << 40 | (target >> 16 & 0xFFFF) << 48, target >> 32]);
        }
        guest.Vmcs[VmcsField.GuestActivityState] = 0;
        guest.Vmcs[VmcsField.GuestInterruptibility] = 0;
    }
}
