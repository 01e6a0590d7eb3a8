using Vmm.Devices.Timers;
using Vmm.Processor.Memory;

namespace Vmm.Devices.Board;

/// <summary>What firmware keeps in CMOS memory: the conventional places of memory sizes, equipment and checksum.</summary>
internal static class CmosContent
{
    internal static void Write(RealTimeClock rtc, ulong memoryBytes, int cpus)
    {
        ulong low = Math.Min(memoryBytes, PhysicalMemory.LowLimit);
        ulong high = memoryBytes - low;
        var memory = new byte[128];

        void Put16(int index, ulong value)
        {
            value = Math.Min(value, 0xFFFF);
            memory[index] = (byte)value;
            memory[index + 1] = (byte)(value >> 8);
        }

        // Equipment: a numeric coprocessor.
        memory[0x14] = 0x02;
        Put16(0x15, 640);
        ulong extended = (low - Math.Min(low, 0x10_0000)) >> 10;
        Put16(0x17, extended);
        Put16(0x30, extended);
        // Above 16 MiB in units of 64 KiB; above 4 GiB likewise, in three bytes.
        Put16(0x34, (low - Math.Min(low, 0x100_0000)) >> 16);
        Put16(0x5B, (high >> 16) & 0xFFFF);
        memory[0x5D] = (byte)(high >> 32);
        memory[0x5F] = (byte)(cpus - 1);

        int sum = 0;
        for (int i = 0x10; i <= 0x2D; i++)
            sum += memory[i];
        memory[0x2E] = (byte)(sum >> 8);
        memory[0x2F] = (byte)sum;
        for (int i = 0x0E; i < memory.Length; i++)
        {
            if (i != RealTimeClock.Century)
                rtc.SetMemory(i, memory[i]);
        }
    }
}
