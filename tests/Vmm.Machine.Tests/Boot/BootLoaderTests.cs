using System.Buffers.Binary;
using System.Text;
using Vmm.Machine.Boot;
using Vmm.Processor.Memory;
using Xunit;

namespace Vmm.Machine.Tests.Boot;

public sealed class BootLoaderTests : IDisposable
{
    private readonly PhysicalMemory _memory = new(64 << 20);

    public void Dispose() => _memory.Dispose();

    private byte[] Read(ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Assert.True(_memory.TryRead(address, bytes));
        return bytes;
    }

    private uint Read32(ulong address) => BinaryPrimitives.ReadUInt32LittleEndian(Read(address, 4));

    private ulong Read64(ulong address) => BinaryPrimitives.ReadUInt64LittleEndian(Read(address, 8));

    private string ReadString(ulong address)
    {
        var text = new StringBuilder();
        for (byte b = Read(address, 1)[0]; b != 0; b = Read(++address, 1)[0])
            text.Append((char)b);
        return text.ToString();
    }

    private static BootModule Module(int length, string text = "initrd") => new(nameof(MachineSpec.InitrdPath), KernelImages.Content(length, 9), text);

    private BootImage Load(byte[] kernel, string commandLine = "", params BootModule[] modules) =>
        BootLoader.Load(new BootRequest { Kernel = kernel, KernelName = "k.bin", CommandLine = commandLine, Modules = modules, RsdpAddress = 0xF_0000 }, _memory);

    private InvalidMachineException Refused(byte[] kernel, string commandLine = "", params BootModule[] modules) =>
        Assert.Throws<InvalidMachineException>(() => Load(kernel, commandLine, modules));

    [Fact]
    public void LinuxIsEnteredByThe64BitProtocol()
    {
        byte[] kernel = KernelImages.BzImage();
        Assert.True(_memory.TryWrite(0x100_0000 + 0x1800, new byte[] { 0xFF }));
        BootImage image = Load(kernel, "console=ttyS0 quiet", Module(5000));
        Assert.Equal(KernelFormat.LinuxBzImage, image.Format);
        Assert.Equal(EntryMode.Long64, image.Processor.Mode);
        Assert.Equal(0x100_0200ul, image.Processor.Rip);
        Assert.Equal(kernel[KernelImages.BzSetupBytes..], Read(0x100_0000, 0x1000));
        // What a previous run left in the kernel's room is gone.
        Assert.Equal(0, Read(0x100_1800, 1)[0]);

        ulong parameters = image.Processor.Rsi;
        Assert.Equal("HdrS", Encoding.ASCII.GetString(Read(parameters + 0x202, 4)));
        Assert.Equal(0xFF, Read(parameters + 0x210, 1)[0]);
        Assert.Equal(0xF_0000ul, Read64(parameters + 0x70));
        Assert.Equal("console=ttyS0 quiet", ReadString(Read32(parameters + 0x228)));
        uint initrd = Read32(parameters + 0x218);
        Assert.Equal(5000u, Read32(parameters + 0x21C));
        Assert.Equal(KernelImages.Content(5000, 9), Read(initrd, 5000));
        Assert.Equal((64u << 20) - 8192, initrd);
        Assert.Equal([(initrd, 5000ul)], image.Modules);

        int entries = Read(parameters + 0x1E8, 1)[0];
        ulong usable = 0;
        for (int i = 0; i < entries; i++)
        {
            ulong at = parameters + 0x2D0 + (ulong)i * 20;
            if (Read32(at + 16) == 1)
                usable += Read64(at + 8);
        }
        Assert.Equal((64ul << 20) - 0x10_0000 + 0x9_FC00, usable);
    }

    [Fact]
    public void LongModeIsEnteredWithIdentityMappingAndFlatSegments()
    {
        InitialProcessorState state = Load(KernelImages.BzImage()).Processor;
        Assert.Equal((0x10, 0x18), (state.CodeSelector, state.DataSelector));
        Assert.Equal(0x00AF_9B00_0000_FFFFul, Read64(state.GdtBase + 0x10));
        Assert.Equal(0x00CF_9300_0000_FFFFul, Read64(state.GdtBase + 0x18));
        foreach (ulong address in (ulong[])[0, 0x100_0200, 0x7FFF_FFFF, 0xFEE0_0000, 0xFFFF_FFFF])
        {
            ulong entry = Read64(state.Cr3 + (address >> 39) * 8);
            entry = Read64((entry & ~0xFFFul) + (address >> 30 & 511) * 8);
            entry = Read64((entry & ~0xFFFul) + (address >> 21 & 511) * 8);
            Assert.Equal(0x83ul, entry & 0xFFF);
            Assert.Equal(address & ~0x1F_FFFFul, entry & ~0xFFFul);
        }
    }

    [Fact]
    public void LinuxWithoutA64BitEntryIsEnteredIn32Bit()
    {
        BootImage image = Load(KernelImages.BzImage(has64BitEntry: false));
        Assert.Equal(EntryMode.Protected32, image.Processor.Mode);
        Assert.Equal(0x100_0000ul, image.Processor.Rip);
        Assert.Equal(0x00CF_9B00_0000_FFFFul, Read64(image.Processor.GdtBase + 0x10));
    }

    public static TheoryData<string, int, byte[], string> BadBzImages => new()
    {
        { "old protocol", 0x206, [0x05, 0x02], "2.05" },
        { "zImage", 0x211, [0x00], "zImage" },
        { "no code", 0x1F1, [0xFF], "truncated" },
        { "alignment of zero", 0x230, [0, 0, 0, 0], "alignment" },
        { "alignment of three", 0x230, [3, 0, 0, 0], "alignment" },
        { "address zero", 0x258, [0, 0, 0, 0, 0, 0, 0, 0], "address" },
        { "address beyond", 0x258, [0, 0, 0, 0, 0, 0, 0, 0x80], "address" },
        { "address in the hole", 0x258, [0, 0, 0, 0xF0, 0, 0, 0, 0], "RAM" },
        { "endless room", 0x260, [0xFF, 0xFF, 0xFF, 0xFF], "RAM" },
        { "much room", 0x260, [0, 0, 0, 0x10], "needs at least 272 MiB" },
    };

    [Theory]
    [MemberData(nameof(BadBzImages))]
    public void BadBzImagesAreRefused(string why, int offset, byte[] patch, string expected)
    {
        byte[] kernel = KernelImages.BzImage();
        patch.CopyTo(kernel, offset);
        InvalidMachineException refusal = Refused(kernel);
        Assert.True(refusal.Message.Contains(expected, StringComparison.Ordinal), $"{why}: {refusal.Message}");
        Assert.Contains(refusal.Field, new[] { nameof(MachineSpec.KernelPath), nameof(MachineSpec.MemoryBytes) });
    }

    [Fact]
    public void LinuxLimitsAreToldByField()
    {
        Assert.Equal(nameof(MachineSpec.CommandLine), Refused(KernelImages.BzImage(), new string('x', 2048)).Field);
        Load(KernelImages.BzImage(), new string('x', 2047));
        Assert.Equal(nameof(MachineSpec.CommandLine), Refused(KernelImages.BzImage(), "a\0b").Field);
        Assert.Equal(nameof(MachineSpec.InitrdPath), Refused(KernelImages.BzImage(), "", Module(50 << 20)).Field);
        Assert.Equal(nameof(MachineSpec.InitrdPath), Refused(KernelImages.BzImage(), "", Module(1), Module(1)).Field);
        using var small = new PhysicalMemory(16 << 20);
        InvalidMachineException refusal = Assert.Throws<InvalidMachineException>(() => BootLoader.Load(new BootRequest { Kernel = KernelImages.BzImage() }, small));
        Assert.Equal(nameof(MachineSpec.MemoryBytes), refusal.Field);
        using var tiny = new PhysicalMemory(4096);
        refusal = Assert.Throws<InvalidMachineException>(() => BootLoader.Load(new BootRequest { Kernel = KernelImages.BzImage() }, tiny));
        Assert.Equal(nameof(MachineSpec.MemoryBytes), refusal.Field);
    }

    [Theory]
    [InlineData(4)]
    [InlineData(8)]
    public void PvhIsEnteredWithItsStartInfo(int noteSize)
    {
        byte[] kernel = KernelImages.Elf(true, 0x10_0000, KernelImages.PvhNote(0x10_0010, noteSize), new KernelImages.Segment(0x10_0000, 0, KernelImages.Content(0x300), 0x1000));
        BootImage image = Load(kernel, "hello world", Module(777, "first"), Module(5, ""));
        Assert.Equal(KernelFormat.Pvh, image.Format);
        Assert.Equal(EntryMode.Protected32, image.Processor.Mode);
        Assert.Equal(0x10_0010ul, image.Processor.Rip);
        Assert.Equal(KernelImages.Content(0x300), Read(0x10_0000, 0x300));
        ulong info = image.Processor.Rbx;
        Assert.Equal(0x336E_C578u, Read32(info));
        Assert.Equal(1u, Read32(info + 4));
        Assert.Equal(2u, Read32(info + 12));
        ulong modules = Read64(info + 16);
        Assert.Equal(777ul, Read64(modules + 8));
        Assert.Equal(KernelImages.Content(777, 9), Read(Read64(modules), 777));
        Assert.Equal("first", ReadString(Read64(modules + 16)));
        Assert.Equal(0ul, Read64(modules + 32 + 16));
        Assert.Equal("hello world", ReadString(Read64(info + 24)));
        Assert.Equal(0xF_0000ul, Read64(info + 32));
        ulong map = Read64(info + 40);
        Assert.Equal(0ul, Read64(map));
        Assert.Equal(MemoryMap.ConventionalEnd, Read64(map + 8));
        Assert.Equal(1u, Read32(map + 16));
        Assert.Equal((uint)MemoryMap.Build(_memory.LowSize, 0).Count, Read32(info + 48));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MultibootElfIsLoadedByPhysicalAddress(bool is64)
    {
        BootImage image = Load(KernelImages.MultibootElf(is64), "-x 1", Module(100, "mod arg"));
        Assert.Equal(KernelFormat.Multiboot, image.Format);
        Assert.Equal(EntryMode.Protected32, image.Processor.Mode);
        Assert.Equal(0x10_0020ul, image.Processor.Rip);
        Assert.Equal(0x2BAD_B002ul, image.Processor.Rax);
        ulong info = image.Processor.Rbx;
        Assert.Equal(0x24Du, Read32(info));
        Assert.Equal(639u, Read32(info + 4));
        Assert.Equal(63u * 1024, Read32(info + 8));
        Assert.Equal("k.bin -x 1", ReadString(Read32(info + 16)));
        Assert.Equal(1u, Read32(info + 20));
        ulong module = Read32(info + 24);
        Assert.Equal(0u, Read32(module) & 0xFFF);
        Assert.Equal(100u, Read32(module + 4) - Read32(module));
        Assert.Equal(KernelImages.Content(100, 9), Read(Read32(module), 100));
        Assert.Equal("mod arg", ReadString(Read32(module + 8)));
        Assert.True(Read32(module) >= 0x10_4000);
        Assert.Equal("vmm", ReadString(Read32(info + 64)));
        ulong at = Read32(info + 48);
        ulong end = at + Read32(info + 44);
        ulong highest = 0;
        for (; at < end; at += Read32(at) + 4)
        {
            if (Read32(at + 20) == 1)
                highest = Math.Max(highest, Read64(at + 4) + Read64(at + 12));
        }
        Assert.Equal(64ul << 20, highest);
    }

    [Fact]
    public void MultibootFlatBinariesAreLoadedByTheirHeader()
    {
        byte[] kernel = KernelImages.MultibootFlat();
        BootImage image = Load(kernel);
        Assert.Equal(0x10_0044ul, image.Processor.Rip);
        Assert.Equal(0x10_0000ul, image.KernelAddress);
        Assert.Equal(0x1_0000ul, image.KernelLength);
        Assert.Equal(kernel[0x20..], Read(0x10_0000, kernel.Length - 0x20));
        Assert.Equal("k.bin", ReadString(image.CommandLineAddress));
    }

    [Fact]
    public void BadMultibootKernelsAreRefused()
    {
        Assert.Contains("features", Refused(KernelImages.MultibootElf(false, 3 | 0x100)).Message, StringComparison.Ordinal);
        Assert.Contains("truncated", Refused(KernelImages.MultibootFlat(loadEnd: 0x20_0000)).Message, StringComparison.Ordinal);
        Assert.Contains("before it begins", Refused(KernelImages.MultibootFlat(loadEnd: 1)).Message, StringComparison.Ordinal);
        Assert.Contains("entry point", Refused(KernelImages.MultibootFlat(entry: 0x20_0000)).Message, StringComparison.Ordinal);
        Assert.Contains("RAM", Refused(KernelImages.MultibootFlat(bssEnd: uint.MaxValue)).Message, StringComparison.Ordinal);
        Assert.Contains("ELF", Refused(KernelImages.MultibootContent(3, 0x100)).Message, StringComparison.Ordinal);
        Assert.Contains("cut off", Refused(KernelImages.MultibootContent(1 << 16, 0x20)[..16]).Message, StringComparison.Ordinal);
        Assert.Contains("empty", Refused(KernelImages.MultibootElf(false), "", Module(0)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x9_F000ul, "overlaps")]
    [InlineData(0xE_8000ul, "overlaps")]
    [InlineData(0xA_0000ul, "RAM")]
    [InlineData(0x400_0000ul, "RAM")]
    [InlineData(0xFFFF_FFFF_FFFF_F800ul, "wrap")]
    public void SegmentsMustLieInFreeRam(ulong address, string expected)
    {
        byte[] kernel = KernelImages.Elf(true, address, KernelImages.PvhNote(address & 0xFFFF_FFFF), new KernelImages.Segment(address, address, KernelImages.Content(0x100), 0x1000));
        InvalidMachineException refusal = Refused(kernel);
        Assert.Equal(nameof(MachineSpec.KernelPath), refusal.Field);
        Assert.True(refusal.Message.Contains(expected, StringComparison.Ordinal) || refusal.Message.Contains("entry", StringComparison.Ordinal), refusal.Message);
    }

    [Fact]
    public void OverlappingSegmentsAreRefused()
    {
        byte[] kernel = KernelImages.Elf(true, 0, KernelImages.PvhNote(0x10_0000),
            new KernelImages.Segment(0x10_0000, 0, KernelImages.Content(0x100), 0x2000), new KernelImages.Segment(0x10_1000, 0, KernelImages.Content(0x100), 0x100));
        Assert.Contains("overlaps", Refused(kernel).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TablesAvoidAKernelInLowMemory()
    {
        byte[] kernel = KernelImages.Elf(true, 0x1000, KernelImages.PvhNote(0x1000), new KernelImages.Segment(0x1000, 0, KernelImages.Content(0x8_0000), 0x8_0000));
        BootImage image = Load(kernel, "text");
        Assert.Equal(KernelImages.Content(0x8_0000), Read(0x1000, 0x8_0000));
        Assert.Equal("text", ReadString(image.CommandLineAddress));
    }

    [Fact]
    public void MemoryAbove4GibIsInTheMap()
    {
        IReadOnlyList<MemoryRegion> map = MemoryMap.Build(PhysicalMemory.LowLimit, 5UL << 30);
        Assert.Equal(new MemoryRegion(1UL << 32, 5UL << 30, MemoryRegionType.Usable), map[^1]);
        Assert.Equal(PhysicalMemory.LowLimit, map.Where(r => r.Type == MemoryRegionType.Usable && r.Base < 1UL << 32).Max(r => r.End));
        for (int i = 1; i < map.Count; i++)
            Assert.True(map[i - 1].End <= map[i].Base);
    }

    [Fact]
    public void WhatIsNoKernelIsRefused()
    {
        Assert.Contains("empty", Refused([]).Message, StringComparison.Ordinal);
        Assert.Contains("not a Linux bzImage", Refused(KernelImages.Content(10_000)).Message, StringComparison.Ordinal);
        Assert.Contains("PVH", Refused(KernelImages.Elf(true, 0x10_0000, null, new KernelImages.Segment(0x10_0000, 0, KernelImages.Content(64), 64))).Message, StringComparison.Ordinal);
        byte[] arm = KernelImages.Pvh();
        arm[18] = 183;
        Assert.Contains("183", Refused(arm).Message, StringComparison.Ordinal);
        byte[] bigEndian = KernelImages.Pvh();
        bigEndian[5] = 2;
        Assert.Contains("little-endian", Refused(bigEndian).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryTruncationIsRefusedOrLoads()
    {
        foreach (byte[] kernel in (byte[][])[KernelImages.BzImage(codeLength: 0x300), KernelImages.Pvh(), KernelImages.MultibootElf(true), KernelImages.MultibootElf(false), KernelImages.MultibootFlat()])
        {
            for (int length = 0; length < kernel.Length; length += 1 + length / 200)
            {
                try
                {
                    Load(kernel[..length]);
                }
                catch (InvalidMachineException refusal)
                {
                    Assert.NotEmpty(refusal.Message);
                    Assert.Equal(nameof(MachineSpec.KernelPath), refusal.Field);
                }
            }
        }
    }

    [Fact]
    public void MissingFilesAreToldByField()
    {
        var spec = new MachineSpec { MemoryBytes = 64 << 20, KernelPath = "/nonexistent/kernel" };
        Assert.Equal(nameof(MachineSpec.KernelPath), Assert.Throws<InvalidMachineException>(() => BootLoader.Read(spec)).Field);
        string directory = Path.GetTempPath();
        Assert.Equal(nameof(MachineSpec.KernelPath), Assert.Throws<InvalidMachineException>(() => BootLoader.Read(spec with { KernelPath = directory })).Field);
        string file = typeof(BootLoaderTests).Assembly.Location;
        Assert.Equal(nameof(MachineSpec.InitrdPath), Assert.Throws<InvalidMachineException>(() => BootLoader.Read(spec with { KernelPath = file, InitrdPath = "/nonexistent/initrd" })).Field);
        Assert.Equal(nameof(MachineSpec.Modules), Assert.Throws<InvalidMachineException>(() => BootLoader.Read(spec with { KernelPath = file, Modules = [("/nonexistent/module", "")] })).Field);
        BootRequest request = BootLoader.Read(spec with { KernelPath = file, InitrdPath = file, Modules = [(file, "with text")] });
        // The guest learns file names, and nothing of where the host keeps them.
        string name = Path.GetFileName(file);
        Assert.Equal([name, $"{name} with text"], request.Modules.Select(m => m.CommandLine));
        Assert.Equal(name, request.KernelName);
    }
}
