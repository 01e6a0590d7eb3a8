using System.Numerics;
using System.Text;
using Vmm.Processor.State;

namespace Vmm.Hypervisor.Model;

/// <summary>What CPUID returns.</summary>
public readonly record struct CpuidResult(uint Eax, uint Ebx, uint Ecx, uint Edx);

/// <summary>The state of a vCPU that shows in CPUID.</summary>
/// <param name="ApicId">Its initial APIC ID.</param>
/// <param name="ApicEnabled">Whether IA32_APIC_BASE has the local APIC switched on.</param>
/// <param name="Cr4">CR4.</param>
/// <param name="Xcr0">XCR0.</param>
/// <param name="Xss">IA32_XSS.</param>
public readonly record struct CpuidContext(uint ApicId, bool ApicEnabled, ulong Cr4, ulong Xcr0, ulong Xss);

/// <summary>The answers to CPUID (SDM volume 2, CPUID): exactly what works is advertised.</summary>
public static class CpuidModel
{
    private const uint MaxBasic = 0x16;
    private const uint MaxExtended = 0x8000_0008;
    private const uint MaxHypervisor = 0x4000_0000;
    private const uint LegacyXsaveSize = 576;

    /// <summary>Answers one leaf. A leaf beyond the last basic one answers as the last basic one does, as on Intel's processors.</summary>
    public static CpuidResult Query(ProcessorModel model, in CpuidContext context, uint leaf, uint subleaf)
    {
        if (model.EnlightenedVmcs && leaf is >= MaxHypervisor and <= HypervisorLeaves.Last)
            return HypervisorLeaves.Query(model, leaf);
        if (leaf > MaxBasic && leaf is not (MaxHypervisor or (>= 0x8000_0000 and <= MaxExtended)))
            leaf = MaxBasic;
        return leaf switch
        {
            0x00 => Vendor(MaxBasic, "GenuineIntel"),
            0x01 => Features1(model, context),
            // Descriptor 0xFF: cache sizes are in leaf 4; 0xF0: 64-byte prefetch.
            0x02 => new(0x00FF_F001, 0, 0, 0),
            0x04 => Cache(model, subleaf),
            // ARAT: the APIC timer runs in every power state.
            0x06 => new(1 << 2, 0, 0, 0),
            0x07 => Features7(model, subleaf),
            0x0B => Topology(model, context, subleaf),
            0x0D => ExtendedState(model, context, subleaf),
            0x15 => new(1, 1, ProcessorModel.TscFrequency, 0),
            0x16 => new(ProcessorModel.TscFrequency / 1_000_000, ProcessorModel.TscFrequency / 1_000_000, 100, 0),
            0x4000_0000 => Hypervisor(),
            0x8000_0000 => new(MaxExtended, 0, 0, 0),
            // LAHF; SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
            0x8000_0001 => new(0, 0, 1 << 0, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29),
            >= 0x8000_0002 and <= 0x8000_0004 => Brand(leaf - 0x8000_0002),
            // L2: 256 KiB, 8 ways, lines of 64 bytes.
            0x8000_0006 => new(0, 0, 256 << 16 | 6 << 12 | 64, 0),
            // The time-stamp counter runs at a constant rate.
            0x8000_0007 => new(0, 0, 0, 1 << 8),
            0x8000_0008 => new((uint)model.PhysicalAddressBits | (Offers(model, Cr4.La57) ? 57u : 48u) << 8, 0, 0, 0),
            _ => default,
        };
    }

    private static bool Offers(ProcessorModel model, ulong cr4) => (model.Features.Cr4Allowed & cr4) == cr4;

    private static uint Bit(bool set, int bit) => set ? 1u << bit : 0;

    private static CpuidResult Vendor(uint max, string vendor)
    {
        Span<byte> name = stackalloc byte[12];
        Encoding.ASCII.GetBytes(vendor, name);
        return new(max, BitConverter.ToUInt32(name), BitConverter.ToUInt32(name[8..]), BitConverter.ToUInt32(name[4..]));
    }

    private static CpuidResult Hypervisor()
    {
        CpuidResult vendor = Vendor(MaxHypervisor, "VmmVmmVmmVmm");
        return vendor with { Ecx = vendor.Edx, Edx = vendor.Ecx };
    }

    private static CpuidResult Features1(ProcessorModel model, in CpuidContext context)
    {
        uint count = BitOperations.RoundUpToPowerOf2((uint)model.Processors);
        uint ebx = 8u << 8 | count << 16 | context.ApicId << 24;
        uint ecx = 1u << 0 // SSE3
            | 1 << 1 // PCLMULQDQ
            | Bit(model.Vmx, 5)
            | 1 << 9 // SSSE3
            | 1 << 13 // CMPXCHG16B
            | 1 << 19 // SSE4.1
            | 1 << 20 // SSE4.2
            | 1 << 21 // x2APIC
            | 1 << 22 // MOVBE
            | 1 << 23 // POPCNT
            | 1 << 24 // TSC deadline
            | 1 << 25 // AES
            | 1 << 30 // RDRAND
            | 1u << 31 // a hypervisor is present
            | Bit(Offers(model, Cr4.Pcide), 17)
            | Bit(Offers(model, Cr4.Osxsave), 26)
            | Bit((context.Cr4 & Cr4.Osxsave) != 0, 27);
        uint edx = 1u << 0 // x87
            | 1 << 1 // VME
            | 1 << 2 // DE
            | 1 << 3 // PSE
            | 1 << 4 // TSC
            | 1 << 5 // MSR
            | 1 << 6 // PAE
            | 1 << 7 // MCE
            | 1 << 8 // CMPXCHG8B
            | 1 << 11 // SYSENTER
            | 1 << 12 // MTRR
            | 1 << 13 // PGE
            | 1 << 14 // MCA
            | 1 << 15 // CMOV
            | 1 << 16 // PAT
            | 1 << 17 // PSE-36
            | 1 << 19 // CLFLUSH
            | 1 << 23 // MMX
            | 1 << 24 // FXSAVE
            | 1 << 25 // SSE
            | 1 << 26 // SSE2
            | 1 << 27 // self snoop
            | Bit(context.ApicEnabled, 9)
            | Bit(model.Processors > 1, 28);
        return new(model.Signature, ebx, ecx, edx);
    }

    private static CpuidResult Features7(ProcessorModel model, uint subleaf)
    {
        if (subleaf != 0)
            return default;
        uint ebx = 1u << 1 // IA32_TSC_ADJUST
            | 1 << 9 // fast string operations
            | 1 << 10 // INVPCID
            | 1 << 18 // RDSEED
            | Bit(Offers(model, Cr4.Fsgsbase), 0)
            | Bit(Offers(model, Cr4.Smep), 7)
            | Bit(Offers(model, Cr4.Smap), 20)
            | Bit(model.Features.Bmi, 3) | Bit(model.Features.Bmi, 8);
        uint ecx = Bit(Offers(model, Cr4.Umip), 2) | Bit(Offers(model, Cr4.La57), 16);
        // IA32_ARCH_CAPABILITIES.
        return new(0, ebx, ecx, 1 << 29);
    }

    private static CpuidResult Cache(ProcessorModel model, uint subleaf)
    {
        uint cores = BitOperations.RoundUpToPowerOf2((uint)model.Processors) - 1;
        // Type, level, self-initialising; sharing; ways, partitions, line; sets.
        CpuidResult Describe(uint type, uint level, uint sharing, uint ways, uint sets) =>
            new(type | level << 5 | 1 << 8 | sharing << 14 | cores << 26, (ways - 1) << 22 | 63, sets - 1, 0);
        return subleaf switch
        {
            0 => Describe(1, 1, 0, 8, 64),
            1 => Describe(2, 1, 0, 8, 64),
            2 => Describe(3, 2, 0, 8, 512),
            3 => Describe(3, 3, cores, 16, 8192),
            _ => default,
        };
    }

    private static CpuidResult Topology(ProcessorModel model, in CpuidContext context, uint subleaf)
    {
        uint count = (uint)model.Processors;
        uint shift = (uint)BitOperations.Log2(BitOperations.RoundUpToPowerOf2(count));
        return subleaf switch
        {
            0 => new(0, 1, 1 << 8 | 0, context.ApicId),
            1 => new(shift, count, 2 << 8 | 1, context.ApicId),
            _ => new(0, 0, subleaf & 0xFF, context.ApicId),
        };
    }

    private static CpuidResult ExtendedState(ProcessorModel model, in CpuidContext context, uint subleaf)
    {
        if (!Offers(model, Cr4.Osxsave))
            return default;
        ulong offered = model.Features.Xcr0Allowed;
        return subleaf switch
        {
            0 => new((uint)offered, LegacyXsaveSize, LegacyXsaveSize, (uint)(offered >> 32)),
            // XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES.
            1 => new(0xF, LegacyXsaveSize, (uint)model.Features.XssAllowed, (uint)(model.Features.XssAllowed >> 32)),
            _ => default,
        };
    }

    private static CpuidResult Brand(uint part)
    {
        Span<byte> name = stackalloc byte[48];
        name.Clear();
        Encoding.ASCII.GetBytes(ProcessorModel.Name, name);
        name = name.Slice((int)part * 16, 16);
        return new(BitConverter.ToUInt32(name), BitConverter.ToUInt32(name[4..]), BitConverter.ToUInt32(name[8..]), BitConverter.ToUInt32(name[12..]));
    }
}
