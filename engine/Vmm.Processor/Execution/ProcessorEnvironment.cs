using Vmm.Processor.Instructions.System;
using Vmm.Processor.Memory;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using Vmm.Processor.Vmx.Checks;

namespace Vmm.Processor.Execution;

/// <summary>Where RDTSC gets its value.</summary>
public interface ITimeStampCounter
{
    /// <summary>The host-side time-stamp counter, before TSC offset and scaling.</summary>
    /// <param name="instructionsRetired">What this logical processor has retired, exact to the instruction.</param>
    ulong Read(ulong instructionsRetired);
}

/// <summary>Where RDRAND and RDSEED get their bits.</summary>
public interface IEntropySource
{
    /// <summary>64 random bits.</summary>
    ulong Next();
}

/// <summary>What the instruction set and the control registers offer. CPUID itself is L0's to answer; the two must agree.</summary>
public sealed record ProcessorFeatures
{
    /// <summary>MAXPHYADDR.</summary>
    public int PhysicalAddressBits { get; init; } = 46;

    /// <summary>The bits of CR4 that may be set.</summary>
    public ulong Cr4Allowed { get; init; } = Cr4.Vme | Cr4.Pvi | Cr4.Tsd | Cr4.De | Cr4.Pse | Cr4.Pae | Cr4.Mce | Cr4.Pge | Cr4.Pce | Cr4.Osfxsr
        | Cr4.Osxmmexcpt | Cr4.Umip | Cr4.La57 | Cr4.Fsgsbase | Cr4.Pcide | Cr4.Osxsave | Cr4.Smep | Cr4.Smap;

    /// <summary>The bits of IA32_EFER that may be set.</summary>
    public ulong EferAllowed { get; init; } = Efer.Sce | Efer.Lme | Efer.Lma | Efer.Nxe;

    /// <summary>The VMCS revision identifier.</summary>
    public uint VmcsRevision { get; init; } = 1;

    /// <summary>The bits of XCR0 that may be set; bit 0 must.</summary>
    public ulong Xcr0Allowed { get; init; } = 3;

    /// <summary>The bits of IA32_XSS that may be set.</summary>
    public ulong XssAllowed { get; init; }

    /// <summary>Whether BMI1 and BMI2 (with LZCNT and TZCNT) are offered; without, their encodings mean what they meant before.</summary>
    public bool Bmi { get; init; }
}

/// <summary>What surrounds a logical processor.</summary>
/// <param name="Memory">RAM, at host-physical addresses.</param>
/// <param name="Bus">Ports and memory-mapped registers.</param>
/// <param name="TimeStampCounter">RDTSC.</param>
/// <param name="Entropy">RDRAND and RDSEED.</param>
/// <param name="Features">What is offered.</param>
public sealed record ProcessorEnvironment(PhysicalMemory Memory, IProcessorBus Bus, ITimeStampCounter TimeStampCounter, IEntropySource Entropy, ProcessorFeatures Features)
{
    /// <summary>The VMX capability MSRs of this hardware.</summary>
    public VmxCapabilities Vmx { get; } = VmxCapabilities.Hardware(Features.Cr4Allowed).WithRevision(Features.VmcsRevision);

    /// <summary>How hot code is compiled; null where everything is interpreted.</summary>
    public TranslationOptions? Translation { get; init; }

    /// <summary>What else VM entry checks against.</summary>
    public EntryLimits EntryLimits { get; } = new(Features.PhysicalAddressBits, Features.EferAllowed)
    {
        StructureAddressBits = PhysicalMemory.AddressBits,
        DebugCtlAllowed = ModelSpecificRegisters.DebugCtlDefined,
    };

    /// <summary>Physical memory as VM entry reads it.</summary>
    public IEntryMemory EntryMemory { get; } = new EntryMemory(Memory);
}
