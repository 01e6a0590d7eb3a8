namespace Vmm.Hypervisor.Model;

/// <summary>
/// CPUID from 40000000H on for a guest that is offered the enlightened VMCS: the interface "Hv#1" (Hypervisor Top-Level Functional
/// Specification, feature and interface discovery), with what <see cref="HyperV.HypervisorInterface"/> has.
/// </summary>
internal static class HypervisorLeaves
{
    /// <summary>The last leaf.</summary>
    public const uint Last = 0x4000_000A;

    private const uint Signature = 0x3123_7648;

    // Of the registers, the VP assist page, hypercall and VP index ones; no feature beyond.
    private const uint Registers = 1 << 4 | 1 << 5 | 1 << 6;
    private const uint RecommendsEnlightenedVmcs = 1 << 14, NeverNotifySpinning = uint.MaxValue;

    // The lowest and the highest version of the enlightened VMCS.
    private const uint EnlightenedVmcsVersions = 1 | 1 << 8;

    public static CpuidResult Query(ProcessorModel model, uint leaf) => leaf switch
    {
        0x4000_0000 => Vendor(),
        0x4000_0001 => new(Signature, 0, 0, 0),
        0x4000_0003 => new(Registers, 0, 0, 0),
        0x4000_0004 => new(model.Vmx ? RecommendsEnlightenedVmcs : 0, NeverNotifySpinning, 0, 0),
        0x4000_0005 => new((uint)model.Processors, (uint)model.Processors, 0, 0),
        Last => new(model.Vmx ? EnlightenedVmcsVersions : 0, 0, 0, 0),
        _ => default,
    };

    // Guests know the interface by its name, whoever provides it.
    private static CpuidResult Vendor()
    {
        ReadOnlySpan<byte> name = "Microsoft Hv"u8;
        return new(Last, BitConverter.ToUInt32(name), BitConverter.ToUInt32(name[4..]), BitConverter.ToUInt32(name[8..]));
    }
}
