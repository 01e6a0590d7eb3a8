using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests;

/// <summary>The manual's names of control bits.</summary>
public sealed class VmxControlNamesTests
{
    public static TheoryData<VmcsField, Type> Words() => new()
    {
        { VmcsField.PinBasedControls, typeof(PinControls) },
        { VmcsField.ProcessorBasedControls, typeof(ProcControls) },
        { VmcsField.SecondaryControls, typeof(SecondaryControls) },
        { VmcsField.TertiaryControls, typeof(TertiaryControls) },
        { VmcsField.VmExitControls, typeof(VmExitControls) },
        { VmcsField.VmEntryControls, typeof(VmEntryControls) },
    };

    [Theory]
    [MemberData(nameof(Words))]
    public void Every_control_of_the_engine_has_a_name_of_its_own(VmcsField field, Type controls)
    {
        var names = new HashSet<string>();
        foreach (object control in Enum.GetValues(controls))
            Assert.True(names.Add(Assert.Single(VmxControlNames.Decode(field, Convert.ToUInt64(control)))), $"{control}");
    }

    [Fact]
    public void Bits_come_from_the_lowest_and_reserved_ones_are_left_out()
    {
        Assert.Equal(["External-interrupt exiting", "NMI exiting", "Virtual NMIs"], VmxControlNames.Decode(VmcsField.PinBasedControls, 0x3F));
        Assert.Equal(["#DB", "#PF"], VmxControlNames.Decode(VmcsField.ExceptionBitmap, 1UL << 1 | 1UL << 14 | 1UL << 31));
        Assert.Empty(VmxControlNames.Decode(VmcsField.GuestRip, ulong.MaxValue));
        Assert.Empty(VmxControlNames.Decode(VmcsField.SecondaryControls, 0));
    }
}
