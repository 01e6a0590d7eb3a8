using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>The field catalogue and the capability MSRs (SDM volume 3, appendices A and B).</summary>
public sealed class VmxCapabilityTests
{
    private static readonly VmxCapabilities Hardware = VmxCapabilities.Hardware(EntryCase.AllCr4);

    [Fact]
    public void TheCatalogueHasEveryFieldOnce()
    {
        Assert.Equal(Enum.GetValues<VmcsField>().Order(), VmcsCatalogue.Fields.Select(f => f.Field).Order());
        Assert.Equal(VmcsCatalogue.Fields.Length, VmcsCatalogue.Fields.Select(f => f.Name).Distinct().Count());
    }

    [Fact]
    public void EncodingsDecodeToTheFieldAndOnly64BitFieldsHaveAHighHalf()
    {
        int found = 0;
        for (uint encoding = 0; encoding <= 0x1_FFFF; encoding++)
        {
            if (VmcsCatalogue.Find(encoding, out bool high) is not { } field)
                continue;
            found++;
            Assert.Equal(encoding & ~1u, field.Encoding);
            Assert.Equal((encoding & 1) != 0, high);
            Assert.True(!high || field.Width == VmcsFieldWidth.Bits64);
        }
        Assert.Equal(VmcsCatalogue.Fields.Length + VmcsCatalogue.Fields.Count(f => f.Width == VmcsFieldWidth.Bits64), found);
        Assert.Null(VmcsCatalogue.Find(1UL << 32 | (ulong)VmcsField.GuestRip, out _));
        Assert.Throws<ArgumentOutOfRangeException>(() => VmcsCatalogue.Of((VmcsField)0x2001));
    }

    [Theory]
    [InlineData(VmcsField.GuestCsSelector, VmcsFieldWidth.Bits16, VmcsFieldType.Guest, 1)]
    [InlineData(VmcsField.EptPointer, VmcsFieldWidth.Bits64, VmcsFieldType.Control, 13)]
    [InlineData(VmcsField.ExitReason, VmcsFieldWidth.Bits32, VmcsFieldType.ExitInformation, 1)]
    [InlineData(VmcsField.HostRip, VmcsFieldWidth.Natural, VmcsFieldType.Host, 11)]
    public void WidthTypeAndIndexComeFromTheEncoding(VmcsField field, VmcsFieldWidth width, VmcsFieldType type, int index)
    {
        VmcsFieldEntry entry = VmcsCatalogue.Of(field);
        Assert.Equal((width, type, index, type == VmcsFieldType.ExitInformation), (entry.Width, entry.Type, entry.Index, entry.IsReadOnly));
    }

    [Fact]
    public void FieldsExistWithTheirFeatures()
    {
        Assert.NotNull(VmcsCatalogue.Find((uint)VmcsField.PostedInterruptVector, Hardware, out _));
        VmxCapabilities without = Without(VmxMsr.TruePinBased, (ulong)PinControls.PostedInterrupts << 32);
        Assert.Null(VmcsCatalogue.Find((uint)VmcsField.PostedInterruptVector, without, out _));
        Assert.Null(VmcsCatalogue.Find((uint)VmcsField.HostPerfGlobalCtrl, Hardware, out _));
        Assert.Null(VmcsCatalogue.Find((uint)VmcsField.TertiaryControls, Hardware, out _));
        Assert.NotNull(VmcsCatalogue.Find((uint)VmcsField.EptpListAddress + 1, Hardware, out bool high));
        Assert.True(high);
        // Either of the two controls brings IA32_EFER's field.
        VmxCapabilities save = Without(VmxMsr.TrueEntry, (ulong)VmEntryControls.LoadEfer << 32);
        Assert.NotNull(VmcsCatalogue.Find((uint)VmcsField.GuestEfer, save, out _));
    }

    [Fact]
    public void TheEnumerationIsTheHighestIndex()
    {
        Assert.Equal(0x2032u >> 1 & 0x1FF, Read(Hardware, VmxMsr.VmcsEnum) >> 1);
        // Without the TSC multiplier the highest left is the preemption timer's value or its equals, index 23.
        Assert.Equal(23UL, Read(Without(VmxMsr.ProcBased2, (ulong)SecondaryControls.TscScaling << 32), VmxMsr.VmcsEnum) >> 1);
    }

    [Fact]
    public void AllMsrsButThoseOfAbsentFeaturesExist()
    {
        for (uint msr = VmxMsr.First - 1; msr <= VmxMsr.Last + 1; msr++)
            Assert.Equal(msr is >= VmxMsr.First and <= VmxMsr.VmFunctions, Hardware.TryRead(msr, out _));
        Assert.False(Without(VmxMsr.Basic, 1UL << 55).TryRead(VmxMsr.TrueExit, out _));
    }

    [Fact]
    public void TheDefault1ClassesAreTheManuals()
    {
        Assert.Equal(0x16u, (uint)Read(Hardware, VmxMsr.PinBased));
        Assert.Equal(0x0401_E172u, (uint)Read(Hardware, VmxMsr.ProcBased));
        Assert.Equal(0x0400_6172u, (uint)Read(Hardware, VmxMsr.TrueProcBased));
        Assert.Equal(0x0003_6DFFu, (uint)Read(Hardware, VmxMsr.Exit));
        Assert.Equal(0x0003_6DFBu, (uint)Read(Hardware, VmxMsr.TrueExit));
        Assert.Equal(0x11FFu, (uint)Read(Hardware, VmxMsr.Entry));
        Assert.Equal(0x11FBu, (uint)Read(Hardware, VmxMsr.TrueEntry));
    }

    [Fact]
    public void ASavedSetRestoresExactly()
    {
        VmxCapabilities saved = Without(VmxMsr.ProcBased2, (ulong)(SecondaryControls.EnablePml | SecondaryControls.TscScaling) << 32);
        Dictionary<uint, ulong> values = [];
        for (uint msr = VmxMsr.First; msr <= VmxMsr.Last; msr++)
        {
            if (saved.TryRead(msr, out ulong value))
                values[msr] = value;
        }
        VmxCapabilities restored = Assert.IsType<VmxCapabilities>(Hardware.Restrict(values, out string? refusal));
        Assert.Null(refusal);
        Assert.All(values, v => Assert.Equal(v.Value, Read(restored, v.Key)));
        // The other way round it would add features.
        values[VmxMsr.ProcBased2] = Read(Hardware, VmxMsr.ProcBased2);
        Assert.Null(saved.Restrict(values, out refusal));
        Assert.Contains("48b", refusal, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x47FU, 0UL)]
    [InlineData(0x494U, 0UL)]
    [InlineData(VmxMsr.Basic, 1UL)]
    [InlineData(VmxMsr.Basic, 1UL << 60)]
    [InlineData(VmxMsr.TruePinBased, 1UL << 41)]
    [InlineData(VmxMsr.TruePinBased, 1UL << 1)]
    [InlineData(VmxMsr.ProcBased, 1UL << 1)]
    [InlineData(VmxMsr.TrueProcBased, 1UL << 33)]
    [InlineData(VmxMsr.Exit, 1UL << 63)]
    [InlineData(VmxMsr.TrueEntry, 1UL << 52)]
    [InlineData(VmxMsr.Misc, 1UL)]
    [InlineData(VmxMsr.Misc, 1UL << 14)]
    [InlineData(VmxMsr.Misc, 1UL << 20)]
    [InlineData(VmxMsr.Misc, 1UL << 25)]
    [InlineData(VmxMsr.Misc, 1UL << 40)]
    [InlineData(VmxMsr.Cr0Fixed0, 1UL)]
    [InlineData(VmxMsr.Cr0Fixed1, 1UL << 32)]
    [InlineData(VmxMsr.Cr4Fixed0, 1UL)]
    [InlineData(VmxMsr.Cr4Fixed1, Cr4.Vmxe)]
    [InlineData(VmxMsr.Cr4Fixed1, Cr4.Smxe)]
    [InlineData(VmxMsr.VmcsEnum, 1UL << 9)]
    [InlineData(VmxMsr.ProcBased2, 1UL << 47)]
    [InlineData(VmxMsr.EptVpid, 1UL << 7)]
    [InlineData(VmxMsr.VmFunctions, 2UL)]
    [InlineData(VmxMsr.ProcBased3, 1UL)]
    [InlineData(VmxMsr.Exit2, 1UL)]
    public void MoreThanIsSupportedIsRefused(uint msr, ulong change)
    {
        Hardware.TryRead(msr, out ulong value);
        Assert.Null(Hardware.Restrict(new Dictionary<uint, ulong> { [msr] = value ^ change }, out string? refusal));
        Assert.NotEmpty(refusal!);
    }

    [Fact]
    public void AControlMsrAndItsTrueCounterpartFollowEachOther()
    {
        VmxCapabilities without = Without(VmxMsr.TrueProcBased, (ulong)ProcControls.PauseExiting << 32);
        Assert.Equal(Read(Hardware, VmxMsr.ProcBased) & ~((ulong)ProcControls.PauseExiting << 32), Read(without, VmxMsr.ProcBased));
        without = Without(VmxMsr.ProcBased, (ulong)ProcControls.PauseExiting << 32);
        Assert.Equal(Read(Hardware, VmxMsr.TrueProcBased) & ~((ulong)ProcControls.PauseExiting << 32), Read(without, VmxMsr.TrueProcBased));
        Assert.Null(Hardware.Restrict(new Dictionary<uint, ulong>
        {
            [VmxMsr.Exit] = Read(Hardware, VmxMsr.Exit),
            [VmxMsr.TrueExit] = Read(Hardware, VmxMsr.TrueExit) & ~((ulong)VmExitControls.SavePat << 32),
        }, out string? refusal));
        Assert.Contains("disagree", refusal, StringComparison.Ordinal);
    }

    private static VmxCapabilities Without(uint msr, ulong bits)
    {
        VmxCapabilities? set = Hardware.Restrict(new Dictionary<uint, ulong> { [msr] = Read(Hardware, msr) & ~bits }, out string? refusal);
        Assert.Null(refusal);
        return set!;
    }

    private static ulong Read(VmxCapabilities set, uint msr)
    {
        Assert.True(set.TryRead(msr, out ulong value));
        return value;
    }
}
