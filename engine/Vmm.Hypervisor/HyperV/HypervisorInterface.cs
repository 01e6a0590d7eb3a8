using Vmm.Hypervisor.SavedState;
using Vmm.Hypervisor.Vcpus;
using Vmm.Processor.Execution;
using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.HyperV;

/// <summary>
/// What there is of the Hyper-V interface for an L1 that is offered the enlightened VMCS (Hypervisor Top-Level Functional Specification): the
/// registers by which a guest names itself and asks for a hypercall page, its index, and the VP assist page. There are no hypercalls.
/// </summary>
public sealed class HypervisorInterface(ProcessorPackage package)
{
    /// <summary>What a hypercall returns: HV_STATUS_INVALID_HYPERCALL_CODE.</summary>
    internal const ulong InvalidHypercallCode = 2;

    /// <summary>The numbers of its registers: those from here to <see cref="LastMsr"/>.</summary>
    internal const uint FirstMsr = 0x4000_0000, LastMsr = 0x4000_00FF;

    private const uint GuestOsId = 0x4000_0000, HypercallPage = 0x4000_0001, VpIndex = 0x4000_0002, VpAssistPage = 0x4000_0073;
    private const ulong Enable = 1 << 0, Locked = 1 << 1;

    // VMCALL; RET.
    private static readonly byte[] HypercallCode = [0x0F, 0x01, 0xC1, 0xC3];

    private ulong _guestOsId;
    private ulong _hypercallPage;

    /// <summary>Whether the guest has named itself: its VMCALLs are hypercalls then.</summary>
    internal bool IsIdentified => _guestOsId != 0;

    /// <summary>Reads a register. False for #GP.</summary>
    internal bool TryRead(Vcpu vcpu, uint msr, out ulong value)
    {
        value = msr switch
        {
            GuestOsId => _guestOsId,
            HypercallPage => _hypercallPage,
            VpIndex => (ulong)vcpu.Index,
            VpAssistPage => vcpu.AssistPage.Register,
            _ => 0,
        };
        return msr is GuestOsId or HypercallPage or VpIndex or VpAssistPage;
    }

    /// <summary>Writes a register. False, with nothing changed, for #GP.</summary>
    internal bool TryWrite(Vcpu vcpu, uint msr, ulong value)
    {
        switch (msr)
        {
            case GuestOsId:
                _guestOsId = value;
                if (value == 0)
                    _hypercallPage &= ~Enable;
                return true;
            case HypercallPage:
                return TrySetHypercallPage(value);
            case VpAssistPage:
                return vcpu.AssistPage.TrySet(value);
            default:
                return false;
        }
    }

    internal void Reset() => _guestOsId = _hypercallPage = 0;

    /// <summary>Its state; null where it is as after power-up.</summary>
    internal HypervisorInterfaceState? Save() =>
        (_guestOsId | _hypercallPage) == 0 ? null : new() { GuestOsId = _guestOsId, HypercallPage = _hypercallPage };

    /// <summary>Takes a saved state. What is in the hypercall page is in memory.</summary>
    /// <exception cref="InvalidStateException">A value is none that it could have.</exception>
    internal void Load(HypervisorInterfaceState? state, bool offered)
    {
        InvalidStateException.ThrowUnless(offered || state == null, "VirtualMachine.HypervisorInterface", "the machine has none.");
        _guestOsId = state?.GuestOsId ?? 0;
        _hypercallPage = state?.HypercallPage ?? 0;
    }

    // Without an identity the page cannot be had, and once it is locked it stays where it is: neither is a fault.
    private bool TrySetHypercallPage(ulong value)
    {
        if (!IsIdentified || (_hypercallPage & Locked) != 0)
            return true;
        if ((value & Enable) != 0 && !package.WriteMemory(value & ~0xFFFUL, HypercallCode))
            return false;
        _hypercallPage = value;
        return true;
    }
}
