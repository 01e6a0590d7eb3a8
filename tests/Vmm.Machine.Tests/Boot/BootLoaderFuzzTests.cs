using System.Buffers.Binary;
using Vmm.Machine.Boot;
using Vmm.Processor.Memory;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Machine.Tests.Boot;

/// <summary>Good kernels with random damage: each loads or is refused by name. The seeds are printed.</summary>
public sealed class BootLoaderFuzzTests(ITestOutputHelper output)
{
    private const int Rounds = 4000;

    public static TheoryData<string, int> Cases
    {
        get
        {
            var data = new TheoryData<string, int>();
            foreach (string format in (string[])["bzImage", "pvh", "multiboot32", "multiboot64", "flat", "noise"])
            {
                for (int seed = 1; seed <= 2; seed++)
                    data.Add(format, seed);
            }
            return data;
        }
    }

    private static byte[] Make(string format) => format switch
    {
        "bzImage" => KernelImages.BzImage(),
        "pvh" => KernelImages.Pvh(),
        "multiboot32" => KernelImages.MultibootElf(false),
        "multiboot64" => KernelImages.MultibootElf(true),
        "flat" => KernelImages.MultibootFlat(),
        _ => new byte[4096],
    };

    /// <summary>The bytes of a format that mean something: most of the damage goes there.</summary>
    private static (int Start, int Length) Headers(string format) => format switch
    {
        "bzImage" => (0x1E8, 0x90),
        "pvh" => (0, 0xC0),
        "multiboot32" => (0, 0x80),
        "multiboot64" => (0, 0xA0),
        "flat" => (0x40, 0x20),
        _ => (0, 4096),
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void DamagedKernelsLoadOrAreRefused(string format, int seed)
    {
        output.WriteLine($"{format}, seed {seed}");
        var random = new Random(seed * 31 + format.Length);
        using var memory = new PhysicalMemory(24 << 20);
        int loaded = 0;
        int refused = 0;
        for (int round = 0; round < Rounds; round++)
        {
            byte[] kernel = Make(format);
            (int start, int length) = Headers(format);
            for (int i = random.Next(4); i >= 0; i--)
                Damage(kernel, start, length, random);
            if (random.Next(10) == 0)
                kernel = kernel[..random.Next(kernel.Length + 1)];
            BootModule[] modules = random.Next(3) == 0 ? [new(nameof(MachineSpec.InitrdPath), new byte[random.Next(10_000)], "m")] : [];
            try
            {
                BootImage image = BootLoader.Load(new BootRequest { Kernel = kernel, CommandLine = "x", Modules = modules }, memory);
                Assert.True(memory.IsRam(image.KernelAddress, 1));
                Assert.True(memory.IsRam(image.Processor.GdtBase, 32u));
                loaded++;
            }
            catch (InvalidMachineException refusal)
            {
                Assert.NotEmpty(refusal.Message);
                refused++;
            }
        }
        output.WriteLine($"{loaded} loaded, {refused} refused");
        Assert.True(refused > Rounds / 20);
        Assert.True(loaded > Rounds / 50 || format == "noise");
    }

    private static void Damage(byte[] kernel, int start, int length, Random random)
    {
        int at = random.Next(20) == 0 ? random.Next(kernel.Length) : start + random.Next(length);
        switch (random.Next(5))
        {
            case 0:
                kernel[at] = (byte)random.Next(256);
                break;
            case 1:
                kernel[at] ^= (byte)(1 << random.Next(8));
                break;
            case 2 when at + 4 <= kernel.Length:
                uint[] edges = [0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x10_0000, 0xA_0000, 0xFFFF_F000];
                BinaryPrimitives.WriteUInt32LittleEndian(kernel.AsSpan(at), edges[random.Next(edges.Length)]);
                break;
            case 3 when at + 8 <= kernel.Length:
                BinaryPrimitives.WriteUInt64LittleEndian(kernel.AsSpan(at), ulong.MaxValue - (ulong)random.Next(0x2000));
                break;
            case 4 when at + 8 <= kernel.Length:
                BinaryPrimitives.WriteInt64LittleEndian(kernel.AsSpan(at), random.NextInt64());
                break;
        }
    }
}
