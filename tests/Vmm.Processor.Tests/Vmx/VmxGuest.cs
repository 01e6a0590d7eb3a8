using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;

namespace Vmm.Processor.Tests.VmEntry;

/// <summary>A <see cref="TestGuest"/> on a VMCS that passes every check of VM entry, which the processor makes.</summary>
public sealed unsafe class VmxGuest : IDisposable
{
    /// <param name="tier">What executes it; by default as <c>VMM_TEST_TRANSLATION</c> says.</param>
    public VmxGuest(bool identityMapped = true, ProcessorFeatures? features = null, Tier? tier = null)
    {
        Guest = new TestGuest(features: features, vmcs: new Vmcs { IdentityMapped = identityMapped, EntryChecks = EntryCheckPolicy.Full },
            translation: TestTranslation.Of(tier), translate: tier != Tier.Interpreter);
        Vmcs vmcs = Vmcs;
        vmcs[VmcsField.VmcsLinkPointer] = ulong.MaxValue;
        vmcs[VmcsField.HostCr0] = Cr0.Pe | Cr0.Pg | Cr0.Ne;
        vmcs[VmcsField.HostCr4] = Cr4.Pae | Cr4.Vmxe;
        vmcs[VmcsField.HostCsSelector] = 8;
        vmcs[VmcsField.HostTrSelector] = 24;
        Guest.EnterLongMode();
        Complete();
    }

    public TestGuest Guest { get; }
    public Vmcs Vmcs => Guest.Vmcs;
    public CpuState* State => Guest.State;

    public PinControls Pin
    {
        get => (PinControls)Vmcs.Read32(VmcsField.PinBasedControls);
        set => Vmcs[VmcsField.PinBasedControls] = (uint)value | Guest.Cpu.Environment.Vmx.Required(VmxControlWord.Pin);
    }

    public ProcControls Proc
    {
        get => (ProcControls)Vmcs.Read32(VmcsField.ProcessorBasedControls);
        set => Vmcs[VmcsField.ProcessorBasedControls] = (uint)value | Guest.Cpu.Environment.Vmx.Required(VmxControlWord.Proc);
    }

    public SecondaryControls Secondary
    {
        get => (SecondaryControls)Vmcs.Read32(VmcsField.SecondaryControls);
        set
        {
            Vmcs[VmcsField.SecondaryControls] = (uint)value;
            Proc |= ProcControls.ActivateSecondary;
        }
    }

    public ulong this[VmcsField field] { get => Vmcs[field]; set => Vmcs[field] = value; }

    public ulong Rax { get => State->Gpr[Gpr.Rax]; set => State->Gpr[Gpr.Rax] = value; }
    public ulong Rbx { get => State->Gpr[Gpr.Rbx]; set => State->Gpr[Gpr.Rbx] = value; }

    /// <summary>Leaves 64-bit mode for flat 32-bit protected mode without paging.</summary>
    public VmxGuest InProtectedMode(int cpl = 0)
    {
        Secondary |= SecondaryControls.UnrestrictedGuest;
        Guest.EnterProtectedMode(cpl: cpl);
        Vmcs[VmcsField.GuestEfer] = 0;
        return Complete();
    }

    /// <summary>Leaves 64-bit mode for real mode.</summary>
    public VmxGuest InRealMode()
    {
        Secondary |= SecondaryControls.UnrestrictedGuest;
        Guest.EnterRealMode();
        Vmcs[VmcsField.GuestEfer] = 0;
        return Complete();
    }

    /// <summary>Goes to 64-bit mode at privilege level 3.</summary>
    public VmxGuest InUserMode()
    {
        Guest.EnterLongMode(cpl: 3);
        return Complete();
    }

    /// <summary>The event to inject with the next entry.</summary>
    public void Inject(EventType type, uint vector, uint? error = null, uint length = 0)
    {
        Vmcs[VmcsField.VmEntryInterruptionInformation] = 1u << 31 | (uint)type << 8 | vector | (error is null ? 0 : 1u << 11);
        Vmcs[VmcsField.VmEntryExceptionErrorCode] = error ?? 0;
        Vmcs[VmcsField.VmEntryInstructionLength] = length;
    }

    /// <summary>Runs a program from its start, of the width that the code segment has.</summary>
    public ExitReason Run(Action<Assembler> program, long budget = 100_000)
    {
        uint rights = Vmcs.Read32(VmcsField.GuestCsAccessRights);
        Guest.Assemble((rights & SegmentRights.Long) != 0 ? 64 : (rights & SegmentRights.Big) != 0 ? 32 : 16, program, Vmcs[VmcsField.GuestRip]);
        return Guest.Run(budget);
    }

    /// <summary>Enters again where the guest left.</summary>
    public ExitReason Resume(long budget = 100_000) => Guest.Run(budget);

    /// <summary>Enters again behind the instruction that exited.</summary>
    public ExitReason Skip()
    {
        Vmcs[VmcsField.GuestRip] += Vmcs[VmcsField.VmExitInstructionLength];
        return Resume();
    }

    public void Dispose() => Guest.Dispose();

    private VmxGuest Complete()
    {
        VmxCapabilities hardware = Guest.Cpu.Environment.Vmx;
        Vmcs vmcs = Vmcs;
        vmcs[VmcsField.GuestCr4] |= Cr4.Vmxe;
        vmcs[VmcsField.PinBasedControls] |= hardware.Required(VmxControlWord.Pin);
        ProcControls secondary = vmcs[VmcsField.SecondaryControls] != 0 ? ProcControls.ActivateSecondary : 0;
        vmcs[VmcsField.ProcessorBasedControls] |= hardware.Required(VmxControlWord.Proc) | (ulong)secondary;
        vmcs[VmcsField.VmExitControls] |= hardware.Required(VmxControlWord.Exit) | (ulong)VmExitControls.HostAddressSpaceSize;
        vmcs[VmcsField.VmEntryControls] |= hardware.Required(VmxControlWord.Entry);
        return this;
    }
}
