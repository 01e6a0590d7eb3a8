using System.Text;
using Vmm.Hypervisor.Model;
using Vmm.Processor.State;

namespace Vmm.Hypervisor.Tests.Model;

public sealed class CpuidModelTests
{
    private static readonly ProcessorModel Model = new(4);

    private static CpuidResult Query(uint leaf, uint subleaf = 0, CpuidContext? context = null) =>
        CpuidModel.Query(Model, context ?? new CpuidContext(2, true, 0, 1, 0), leaf, subleaf);

    private static string Text(params uint[] words) => Encoding.ASCII.GetString([.. words.SelectMany(BitConverter.GetBytes)]).TrimEnd('\0');

    [Fact]
    public void Vendor_brand_and_hypervisor_have_their_names()
    {
        CpuidResult vendor = Query(0);
        Assert.Equal("GenuineIntel", Text(vendor.Ebx, vendor.Edx, vendor.Ecx));
        IEnumerable<uint> brand = Enumerable.Range(0, 3).Select(i => Query(0x8000_0002 + (uint)i)).SelectMany(r => new[] { r.Eax, r.Ebx, r.Ecx, r.Edx });
        Assert.Equal("Vmm virtual processor", Text([.. brand]));
        Assert.NotEqual(0u, Query(1).Ecx & 1u << 31);
        CpuidResult hypervisor = Query(0x4000_0000);
        Assert.Equal("VmmVmmVmmVmm", Text(hypervisor.Ebx, hypervisor.Ecx, hypervisor.Edx));
        Assert.Equal(0x4000_0000u, hypervisor.Eax);
    }

    [Fact]
    public void X86_64_v2_is_advertised_in_full()
    {
        CpuidResult one = Query(1);
        // CMOV, CX8, FPU, FXSR, MMX, SCE below, SSE, SSE2; CX16, POPCNT, SSE3, SSSE3, SSE4.1, SSE4.2.
        foreach (int bit in (int[])[0, 8, 15, 23, 24, 25, 26])
            Assert.NotEqual(0u, one.Edx & 1u << bit);
        foreach (int bit in (int[])[0, 5, 9, 13, 19, 20, 23])
            Assert.NotEqual(0u, one.Ecx & 1u << bit);
        CpuidResult extended = Query(0x8000_0001);
        Assert.NotEqual(0u, extended.Ecx & 1);
        foreach (int bit in (int[])[11, 20, 26, 27, 29])
            Assert.NotEqual(0u, extended.Edx & 1u << bit);
    }

    [Fact]
    public void What_does_not_work_is_not_advertised()
    {
        CpuidResult one = Query(1);
        // DTES64, MONITOR, SMX, EIST, TM2, FMA, PDCM, AVX, F16C.
        foreach (int bit in (int[])[2, 3, 6, 7, 8, 12, 15, 28, 29])
            Assert.Equal(0u, one.Ecx & 1u << bit);
        CpuidResult seven = Query(7);
        // SGX, BMI1, HLE, AVX2, BMI2, RTM, AVX-512F, ADX, SHA.
        foreach (int bit in (int[])[2, 3, 4, 5, 8, 11, 16, 19, 29])
            Assert.Equal(0u, seven.Ebx & 1u << bit);
        Assert.Equal(default, Query(7, 1));
        Assert.Equal(default, Query(0x0A));
    }

    [Fact]
    public void Control_bits_follow_the_vcpu()
    {
        Assert.NotEqual(0u, Query(1).Edx & 1 << 9);
        Assert.Equal(0u, Query(1, 0, new CpuidContext(0, false, 0, 1, 0)).Edx & 1 << 9);
        Assert.Equal(0u, Query(1).Ecx & 1 << 27);
        Assert.NotEqual(0u, Query(1, 0, new CpuidContext(0, true, Cr4.Osxsave, 1, 0)).Ecx & 1 << 27);
        Assert.Equal(2u, Query(1).Ebx >> 24);
        Assert.Equal(2u, Query(0x0B, 1).Edx);
    }

    [Fact]
    public void Topology_is_one_package_of_cores()
    {
        CpuidResult threads = Query(0x0B, 0);
        CpuidResult cores = Query(0x0B, 1);
        Assert.Equal((0u, 1u, 0x100u), (threads.Eax, threads.Ebx, threads.Ecx));
        Assert.Equal((2u, 4u, 0x201u), (cores.Eax, cores.Ebx, cores.Ecx));
        Assert.Equal(0u, Query(0x0B, 2).Ebx);
        Assert.Equal(4u, Query(1).Ebx >> 16 & 0xFF);
        Assert.Equal(3u, Query(4).Eax >> 26);
        Assert.Equal(0u, Query(4, 4).Eax & 0x1F);
    }

    [Fact]
    public void The_counter_frequency_can_be_computed()
    {
        CpuidResult tsc = Query(0x15);
        Assert.Equal(ProcessorModel.TscFrequency, (ulong)tsc.Ecx * tsc.Ebx / tsc.Eax);
        Assert.Equal(1000u, Query(0x16).Eax);
        Assert.NotEqual(0u, Query(0x8000_0007).Edx & 1 << 8);
    }

    [Theory]
    [InlineData(0x17u)]
    [InlineData(0x3FFF_FFFFu)]
    [InlineData(0x4000_0001u)]
    [InlineData(0x8000_0009u)]
    [InlineData(0xFFFF_FFFFu)]
    public void Leaves_beyond_the_last_answer_as_the_last_basic_one(uint leaf) => Assert.Equal(Query(0x16), Query(leaf));

    [Fact]
    public void Addresses_have_46_physical_and_57_linear_bits() => Assert.Equal(46u | 57 << 8, Query(0x8000_0008).Eax);
}
