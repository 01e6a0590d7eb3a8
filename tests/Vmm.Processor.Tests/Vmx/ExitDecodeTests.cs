using Vmm.Processor.Vmx;
using Xunit;

namespace Vmm.Processor.Tests;

/// <summary>VM-exit information in words, against the tables of the manual.</summary>
public sealed class ExitDecodeTests
{
    [Theory]
    [InlineData(0u, "Exception or non-maskable interrupt (NMI)")]
    [InlineData(10u, "CPUID")]
    [InlineData(31u, "RDMSR")]
    [InlineData(0x8000_0021u, "VM-entry failure due to invalid guest state")]
    [InlineData(48u, "EPT violation")]
    [InlineData(56u, "APIC write")]
    [InlineData(64u, "XRSTORS")]
    [InlineData(68u, "TPAUSE")]
    [InlineData(75u, "Instruction timeout")]
    [InlineData(35u, "Reserved 35")]
    [InlineData(9999u, "Reserved 9999")]
    public void Reasons_have_the_manuals_names(uint reason, string name) => Assert.Equal(name, ExitDecode.Reason(reason));

    [Theory]
    [InlineData(ExitReason.ControlRegister, 0x303UL, "MOV CR3, RBX")]
    [InlineData(ExitReason.ControlRegister, 0x810UL, "MOV R8, CR0")]
    [InlineData(ExitReason.ControlRegister, 0x20UL, "CLTS")]
    [InlineData(ExitReason.MovDr, 0x17UL, "MOV RAX, DR7")]
    [InlineData(ExitReason.IoInstruction, 0x3F8_0000UL, "OUT port 0x3f8, 1 bytes")]
    [InlineData(ExitReason.IoInstruction, 0x60_003BUL, "REP INS port 0x60, 4 bytes")]
    [InlineData(ExitReason.EptViolation, 0x182UL, "write, page not present, of the translated address")]
    [InlineData(ExitReason.EptViolation, 0xAAUL, "write, page r-x, of a paging structure")]
    [InlineData(ExitReason.ApicAccess, 0x1300UL, "write at offset 0x300")]
    [InlineData(ExitReason.Cpuid, 5UL, "")]
    public void Qualifications_say_what_the_tables_say(ExitReason reason, ulong qualification, string words) =>
        Assert.Equal(words, ExitDecode.Qualification((uint)reason, qualification));

    [Theory]
    [InlineData(0x8000_0B0Eu, "#PF, error code")]
    [InlineData(0x8000_0202u, "NMI")]
    [InlineData(0x8000_0020u, "external interrupt 0x20")]
    [InlineData(0x8000_0700u, "pending MTF exit")]
    [InlineData(0x0000_0B0Eu, "")]
    public void Interruptions_are_named(uint information, string words) => Assert.Equal(words, ExitDecode.Interruption(information));

    [Fact]
    public void No_value_is_too_strange_to_be_told()
    {
        var random = new Random(1);
        for (int i = 0; i < 100_000; i++)
        {
            uint reason = (uint)random.Next(0, 80);
            Assert.NotNull(ExitDecode.Qualification(reason, (ulong)random.NextInt64(long.MinValue, long.MaxValue)));
            Assert.NotNull(ExitDecode.Interruption((uint)random.NextInt64(0, 1L << 32)));
        }
    }
}
