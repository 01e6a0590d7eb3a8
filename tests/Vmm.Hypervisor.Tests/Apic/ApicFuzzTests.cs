using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Tests.Apic;

/// <summary>Nothing that a guest does to its local APIC throws, hangs, or breaks what always holds.</summary>
public sealed class ApicFuzzTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_accesses_keep_the_invariants(int seed)
    {
        var random = new Random(seed);
        using ApicBench bench = new(3);
        for (int step = 0; step < 50_000; step++)
        {
            LocalApic apic = bench.Apics[random.Next(3)];
            // Values with few bits set reach more than random ones do.
            ulong value = random.Next(3) switch
            {
                0 => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
                1 => 1UL << random.Next(64),
                _ => (uint)random.Next(0x20000),
            };
            uint register = (uint)random.Next(64) << 4;
            switch (random.Next(12))
            {
                case 0:
                    apic.ReadMemory((uint)random.Next(4096), 1 << random.Next(4));
                    break;
                case 1:
                    apic.WriteMemory((uint)random.Next(4096), 1 << random.Next(4), value);
                    break;
                case 2 or 3:
                    apic.WriteMemory(register, 4, value);
                    break;
                case 4:
                    apic.TryReadMsr(0x800 + (register >> 4), out _);
                    break;
                case 5:
                    apic.TryWriteMsr(0x800 + (register >> 4), value);
                    break;
                case 6:
                    bench.Bus.Deliver(new((uint)value, random.Next(2) == 0, (DeliveryMode)random.Next(8), (byte)random.Next(256), random.Next(2) == 0));
                    break;
                case 7:
                    apic.AcknowledgeInterrupt();
                    break;
                case 8:
                    apic.EndOfInterrupt();
                    break;
                case 9:
                    bench.Clock.Advance((ulong)random.Next(100_000));
                    break;
                case 10 when random.Next(20) == 0:
                    apic.TrySetBase(LocalApic.DefaultBase | (value & 0xC00));
                    break;
                default:
                    apic.TscDeadline = bench.Clock.Nanoseconds + (value & 0xFFFFF);
                    break;
            }
            int deliverable = apic.DeliverableVector;
            Assert.True(deliverable is -1 or (>= 16 and <= 255), $"seed {seed}, step {step}");
            if (deliverable >= 0)
                Assert.True((deliverable & 0xF0) > (apic.ProcessorPriority & 0xF0), $"seed {seed}, step {step}");
            Assert.True(apic.Page.Highest(ApicRegister.Request) is -1 or >= 16, $"seed {seed}, step {step}");
            if (!apic.IsSoftwareEnabled)
            {
                for (uint lvt = ApicRegister.LvtTimer; lvt <= ApicRegister.LvtError; lvt += 16)
                    Assert.True((apic.Page[lvt] & 1 << 16) != 0, $"seed {seed}, step {step}: entry {lvt:x} of a disabled APIC");
            }
        }
    }
}
