using System.Runtime.CompilerServices;
using Vmm.Hypervisor.Apicv;

namespace Vmm.Hypervisor.Vcpus;

/// <content>APIC virtualization by the processor.</content>
public sealed unsafe partial class Vcpu
{
    private bool _stepApicAccess;

    /// <summary>APICv on this vCPU.</summary>
    public VcpuApicv Apicv { get; }

    /// <summary>Whether L2 runs: <see cref="Vmcs"/> is vmcs02 then.</summary>
    public bool IsGuestMode { get; internal set; }

    /// <summary>Whether a request waits for the next entry.</summary>
    internal bool IsRequested(VcpuRequest request) => (_requests & request) != 0;

    /// <summary>The instruction that has met an APIC-access exit is to execute with the page out of the way.</summary>
    internal void StepApicAccess() => _stepApicAccess = true;

    /// <summary>That instruction is not the next one: it will meet the exit again.</summary>
    internal void DropApicAccessStep() => _stepApicAccess = false;

    /// <summary>Whether the processor delivers the local APIC's interrupts to the guest that runs.</summary>
    private bool DeliversVirtually
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Apicv.IsActive && !IsGuestMode;
    }

    /// <summary>Whether there is a maskable interrupt that L0 must inject.</summary>
    private bool HasInterruptToInject
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => DeliversVirtually ? Apic.HasExternalInterrupt : Apic.HasInterrupt;
    }
}
