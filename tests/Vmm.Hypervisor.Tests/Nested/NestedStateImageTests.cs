using System.Buffers.Binary;
using Vmm.Hypervisor.Nested;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>The binary form of nested state, byte by byte as Linux documents it.</summary>
public sealed class NestedStateImageTests
{
    private const int Region = 4096;

    [Fact]
    public void Every_field_is_where_linux_has_it()
    {
        byte[] bytes = Full();
        Assert.True(NestedStateImage.TryParse(bytes, out NestedStateImage? image, out _));
        Assert.Equal((0x1000UL, 0x2000UL, true, true, 0x1122334455667788UL), (image.VmxonPointer, image.CurrentPointer, image.IsGuestMode, image.IsRunPending, image.PreemptionTimerDeadline));
        Assert.Equal((Region, Region), (image.Vmcs12.Length, image.Shadow.Length));
        Assert.Equal(0xAB, image.Vmcs12.Span[4095]);
        Assert.Equal(0xCD, image.Shadow.Span[4095]);
        Assert.Equal(bytes, image.ToArray());
    }

    [Fact]
    public void A_processor_outside_vmx_operation_has_the_header_alone()
    {
        byte[] bytes = new NestedStateImage().ToArray();
        Assert.Equal(128, bytes.Length);
        Assert.Equal(128U, BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(4)));
        Assert.All(bytes[8..24], value => Assert.Equal(0xFF, value));
        Assert.True(NestedStateImage.TryParse(bytes, out NestedStateImage? image, out _));
        Assert.Equal((NestedVmx.NoPointer, NestedVmx.NoPointer), (image.VmxonPointer, image.CurrentPointer));
    }

    [Theory]
    [InlineData("size", 4, 127)]
    [InlineData("format", 2, 1)]
    [InlineData("enlightened", 0, 7)]
    [InlineData("flags", 0, 0x0B)]
    [InlineData("pending", 0, 2)]
    [InlineData("SMM flags", 24, 4)]
    [InlineData("SMI", 24, 1)]
    [InlineData("SMI", 24, 2)]
    [InlineData("VMX flags", 28, 2)]
    [InlineData("VMXON pointer", 8, 1)]
    [InlineData("current-VMCS pointer", 16, 8)]
    [InlineData("VMXON region", 17, 0x10)]
    [InlineData("revision of vmcs12", 128, 0xD1)]
    [InlineData("revision of vmcs12", 131, 0x91)]
    [InlineData("revision of the shadow", 128 + Region + 3, 0x11)]
    public void One_wrong_byte_is_refused_and_named(string what, int offset, byte value)
    {
        byte[] bytes = Full();
        bytes[offset] = value;
        Assert.False(NestedStateImage.TryParse(bytes, out NestedStateImage? image, out string? error));
        Assert.Null(image);
        Assert.Contains(what, error, StringComparison.Ordinal);
    }

    [Fact]
    public void Images_that_contradict_themselves_are_refused()
    {
        byte[] region = Full()[128..(128 + Region)];
        Refused(new NestedStateImage { CurrentPointer = 0x2000, Vmcs12 = region });
        Refused(new NestedStateImage { VmxonPointer = 0x1000, IsGuestMode = true });
        Refused(new NestedStateImage { IsGuestMode = true });
        Refused(new NestedStateImage { VmxonPointer = 0x1000, CurrentPointer = 0x2000 });
        Refused(new NestedStateImage { VmxonPointer = 0x1000, Vmcs12 = region });

        static void Refused(NestedStateImage image) => Assert.False(NestedStateImage.TryParse(image.ToArray(), out _, out _));
    }

    [Fact]
    public void Random_bytes_of_every_length_are_refused_or_come_back_as_they_were()
    {
        var random = new Random(3);
        byte[] good = Full();
        for (int i = 0; i < 20_000; i++)
        {
            byte[] bytes = good[..random.Next(good.Length + 1)];
            if (random.Next(2) == 0)
                bytes = (byte[])good.Clone();
            for (int n = random.Next(4); n > 0 && bytes.Length > 0; n--)
                bytes[random.Next(Math.Min(bytes.Length, 160))] = (byte)random.Next(256);
            if (NestedStateImage.TryParse(bytes, out NestedStateImage? image, out string? error))
                Assert.Equal(bytes.Length, image.ToArray().Length);
            else
                Assert.NotEmpty(error);
        }
    }

    private static byte[] Full()
    {
        byte[] bytes = new byte[128 + 2 * Region];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, 3);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), (uint)bytes.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(8), 0x1000);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(16), 0x2000);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(28), 1);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(32), 0x1122334455667788);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(128), 0x11E57ED0);
        bytes[128 + Region - 1] = 0xAB;
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(128 + Region), 0x11E57ED0 | 1u << 31);
        bytes[^1] = 0xCD;
        return bytes;
    }
}
