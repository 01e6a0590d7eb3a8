using System.Globalization;
using System.Text;
using Vmm.Guests;
using Vmm.Testing;
using Xunit;

namespace Vmm.Cli.Tests;

/// <summary>Debian's guests and the archives that they boot from.</summary>
public sealed class GuestTests
{
    [Fact]
    public void Archive_is_the_newc_format_and_always_the_same()
    {
        var first = Write();
        Assert.Equal(first, Write());
        Assert.Equal(0, first.Length % 512);
        Assert.Equal(
            ["a 40755 0 ", "a/b 40755 0 ", "a/b/file 100755 5 hello", "link 120777 8 a/b/file", "console 20600 0 5:1", "TRAILER!!! 0 0 "],
            Entries(first));

        static byte[] Write()
        {
            using var stream = new MemoryStream();
            using (var archive = new CpioWriter(stream))
            {
                archive.AddFile("a/b/file", "hello"u8, executable: true);
                archive.AddDirectory("a/b");
                archive.AddSymbolicLink("link", "a/b/file");
                archive.AddCharacterDevice("console", 5, 1);
            }

            return stream.ToArray();
        }
    }

    [Theory]
    [InlineData("/absolute")]
    [InlineData("folder/")]
    [InlineData("")]
    public void Archive_refuses_paths_that_are_not_relative(string path)
    {
        using var archive = new CpioWriter(new MemoryStream());
        Assert.Throws<ArgumentException>(() => archive.AddFile(path, []));
    }

    [Fact]
    public void Archive_refuses_a_second_file_of_the_same_path()
    {
        using var archive = new CpioWriter(new MemoryStream());
        archive.AddFile("file", []);
        Assert.Throws<ArgumentException>(() => archive.AddFile("file", []));
    }

    [RequiresLinuxGuestFact]
    public async Task Modules_come_after_what_they_depend_on()
    {
        var kernel = await DebianGuests.Default.GetKernelAsync(null, CancellationToken.None);
        var names = KernelModules.Load(kernel.ModulesPath, ["virtio-blk", "kvm_intel"]).Select(module => module.Name).ToList();
        Assert.Contains("virtio_ring", names);
        Assert.True(names.IndexOf("virtio_ring") < names.IndexOf("virtio_blk"));
        Assert.True(names.IndexOf("kvm") < names.IndexOf("kvm_intel"));
        Assert.Throws<GuestUnavailableException>(() => KernelModules.Load(kernel.ModulesPath, ["no_such_module"]));
    }

    [Fact]
    public void The_nested_monitor_is_the_same_every_time_and_an_executable_whose_segments_fit()
    {
        byte[] program = NestedMonitor.Program();
        Assert.Equal(program, NestedMonitor.Program());
        Assert.Equal([0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1], program[..7]);
        // The first segment is the whole file, from which execution begins.
        Assert.Equal((ulong)program.Length, BitConverter.ToUInt64(program, 64 + 32));
        ulong entry = BitConverter.ToUInt64(program, 24), start = BitConverter.ToUInt64(program, 64 + 16);
        Assert.InRange(entry, start, start + (ulong)program.Length - 1);
        Assert.Contains(NestedMonitor.Greeting, Encoding.ASCII.GetString(program), StringComparison.Ordinal);
    }

    private static List<string> Entries(byte[] archive)
    {
        var entries = new List<string>();
        for (var at = 0; ;)
        {
            Assert.Equal("070701", Encoding.ASCII.GetString(archive, at, 6));
            int Field(int index) => int.Parse(Encoding.ASCII.GetString(archive, at + 6 + (index * 8), 8), NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            var (mode, size, nameSize) = (Field(1), Field(6), Field(11));
            var name = Encoding.ASCII.GetString(archive, at + 110, nameSize - 1);
            var content = (at + 110 + nameSize + 3) & ~3;
            var text = Field(9) != 0 ? $"{Field(9)}:{Field(10)}" : Encoding.ASCII.GetString(archive, content, size);
            entries.Add($"{name} {Convert.ToString(mode, 8)} {size} {text}");
            if (name == "TRAILER!!!")
                return entries;
            at = (content + size + 3) & ~3;
        }
    }
}
