using System.Runtime.CompilerServices;
using Vmm.Hypervisor.Time;

namespace Vmm.Hypervisor.Apic;

/// <summary>How far a local APIC is switched on, by IA32_APIC_BASE (SDM volume 3, section 12.12.1).</summary>
public enum ApicMode
{
    /// <summary>Hardware-disabled: as if the processor had none.</summary>
    Disabled,

    /// <summary>Registers in memory, 8-bit IDs.</summary>
    XApic,

    /// <summary>Registers in MSRs, 32-bit IDs.</summary>
    X2Apic,
}

/// <summary>
/// One local APIC (SDM volume 3, chapter 12), in software: what the guest sees when no part of it is virtualized by the
/// processor. This part accepts and ranks interrupts; the registers' reading and writing is in the other part.
/// </summary>
public sealed unsafe partial class LocalApic : IDisposable
{
    private const uint LvtMasked = 1 << 16;
    private const uint SoftwareEnabled = 1 << 8;
    private const uint SuppressEoiBroadcast = 1 << 12;
    private const uint ErrorSendIllegalVector = 1 << 5, ErrorReceiveIllegalVector = 1 << 6, ErrorIllegalRegister = 1 << 7;

    /// <summary>Where the registers are after reset.</summary>
    public const ulong DefaultBase = 0xFEE0_0000;

    private readonly ILocalApicOwner _owner;
    private readonly ApicBus _bus;
    private readonly ApicTimer _timer;
    private readonly bool _bootProcessor;
    private readonly ulong _baseReserved;
    private uint _pendingErrors;
    private bool _lint0, _lint1;
    private bool _externalInterruptMessage;

    /// <summary>Creates a local APIC as after power-up and puts it on the bus.</summary>
    /// <param name="id">Its initial APIC ID.</param>
    /// <param name="bootProcessor">Whether it belongs to the boot processor.</param>
    /// <param name="physicalAddressBits">MAXPHYADDR, for the checks of IA32_APIC_BASE.</param>
    /// <param name="owner">The vCPU.</param>
    /// <param name="clock">For its timer.</param>
    /// <param name="bus">Where it sends.</param>
    /// <param name="page">Its registers, which it disposes of; null for a page of its own that is nowhere in host-physical memory.</param>
    public LocalApic(uint id, bool bootProcessor, int physicalAddressBits, ILocalApicOwner owner, IMachineClock clock, ApicBus bus, ApicPage? page = null)
    {
        Page = page ?? new ApicPage();
        InitialId = id;
        _bootProcessor = bootProcessor;
        _baseReserved = ~((1UL << physicalAddressBits) - 1) | 0x2FF;
        _owner = owner;
        _bus = bus;
        _timer = new ApicTimer(clock, TimerExpired);
        PowerUp();
        bus.Attach(this);
    }

    /// <summary>The APIC ID as the hardware assigned it: CPUID's, and the x2APIC ID.</summary>
    public uint InitialId { get; }

    /// <summary>The registers.</summary>
    public ApicPage Page { get; }

    /// <summary>IA32_APIC_BASE.</summary>
    public ulong BaseMsr { get; private set; }

    /// <summary>The mode that IA32_APIC_BASE selects.</summary>
    public ApicMode Mode { get; private set; }

    /// <summary>Where the registers are in memory in xAPIC mode, page aligned.</summary>
    public ulong BaseAddress => BaseMsr & ~0xFFFUL;

    /// <summary>Whether the guest has switched the APIC on by the spurious-vector register, too.</summary>
    public bool IsSoftwareEnabled
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Mode != ApicMode.Disabled && (Page[ApicRegister.SpuriousVector] & SoftwareEnabled) != 0;
    }

    /// <summary>The ID that messages in physical mode name it by.</summary>
    public uint Id => Mode == ApicMode.X2Apic ? InitialId : Page[ApicRegister.Id] >> 24;

    /// <summary>The task priority: CR8 shows bits 7:4.</summary>
    public uint TaskPriority => Page[ApicRegister.TaskPriority];

    /// <summary>The state after power-up or RESET (SDM volume 3, section 12.4.7.1).</summary>
    public void PowerUp()
    {
        BaseMsr = DefaultBase | 0x800 | (_bootProcessor ? 0x100UL : 0);
        Mode = ApicMode.XApic;
        ResetRegisters(keepId: false);
        _bus.IdentityChanged?.Invoke();
    }

    /// <summary>The state after INIT: as after power-up, but the APIC ID and IA32_APIC_BASE stay (SDM volume 3, section 12.4.7.3).</summary>
    public void Init()
    {
        ResetRegisters(keepId: true);
        _bus.IdentityChanged?.Invoke();
    }

    /// <summary>
    /// Leaves the APIC as a PC's firmware hands it over: enabled, the 8259 pair's interrupts coming through LINT0 (virtual wire
    /// mode) and NMIs through LINT1.
    /// </summary>
    public void EnterVirtualWireMode()
    {
        Page[ApicRegister.SpuriousVector] = 0xFF | SoftwareEnabled;
        Page[ApicRegister.LvtLint0] = (uint)DeliveryMode.ExtInt << 8;
        Page[ApicRegister.LvtLint1] = (uint)DeliveryMode.Nmi << 8;
    }

    /// <summary>The processor's priority (PPR): what an interrupt must exceed in its upper four bits.</summary>
    public uint ProcessorPriority
    {
        get
        {
            uint task = Page[ApicRegister.TaskPriority] & 0xFF;
            int service = Page.Highest(ApicRegister.InService);
            return service < 0 || (task & 0xF0) >= ((uint)service & 0xF0) ? task : (uint)service & 0xF0;
        }
    }

    /// <summary>The highest vector that may interrupt the processor now, or -1.</summary>
    public int DeliverableVector
    {
        get
        {
            int vector = Page.Highest(ApicRegister.Request);
            return vector >= 0 && IsSoftwareEnabled && ((uint)vector & 0xF0) > (ProcessorPriority & 0xF0) ? vector : -1;
        }
    }

    /// <summary>Whether an interrupt waits that only the task priority holds back.</summary>
    public bool IsHeldByTaskPriority
    {
        get
        {
            int vector = Page.Highest(ApicRegister.Request);
            return vector >= 0 && IsSoftwareEnabled && DeliverableVector < 0
                && ((uint)vector & 0xF0) > ((uint)Math.Max(Page.Highest(ApicRegister.InService), 0) & 0xF0);
        }
    }

    /// <summary>Whether the 8259 pair asks, and the APIC lets it through.</summary>
    public bool HasExternalInterrupt
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => _externalInterruptMessage || (_lint0 && AcceptsExternalInterrupts);
    }

    /// <summary>Whether there is a maskable interrupt for the processor.</summary>
    public bool HasInterrupt => HasExternalInterrupt || DeliverableVector >= 0;

    private bool AcceptsExternalInterrupts
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get
        {
            if (Mode == ApicMode.Disabled)
                return true;
            uint lint0 = Page[ApicRegister.LvtLint0];
            return (lint0 & LvtMasked) == 0 && (lint0 >> 8 & 7) == (uint)DeliveryMode.ExtInt;
        }
    }

    /// <summary>The processor takes an interrupt: returns its vector, or -1 where there is none any more. A vector of the APIC goes from requested to in service.</summary>
    public int AcknowledgeInterrupt()
    {
        if (HasExternalInterrupt)
        {
            _externalInterruptMessage = false;
            return _bus.AcknowledgeExternalInterrupt();
        }
        int vector = DeliverableVector;
        if (vector >= 0)
        {
            Page.Reset(ApicRegister.Request, vector);
            Page.Set(ApicRegister.InService, vector);
        }
        return vector;
    }

    /// <summary>A message for this APIC. Returns whether it was accepted.</summary>
    public bool Accept(DeliveryMode mode, byte vector, bool levelTriggered)
    {
        if (Mode == ApicMode.Disabled && mode is not (DeliveryMode.Init or DeliveryMode.StartUp or DeliveryMode.Nmi or DeliveryMode.Smi))
            return false;
        switch (mode)
        {
            case DeliveryMode.Fixed:
            case DeliveryMode.LowestPriority:
                if (!IsSoftwareEnabled)
                    return false;
                if (vector < 16)
                {
                    RaiseError(ErrorReceiveIllegalVector);
                    return true;
                }
                if (Page.Test(ApicRegister.TriggerMode, vector) != levelTriggered)
                    ChangeTriggerMode(vector, levelTriggered);
                Page.Set(ApicRegister.Request, vector);
                _owner.InterruptPending();
                return true;
            case DeliveryMode.Nmi:
                _owner.NonMaskableInterrupt();
                return true;
            case DeliveryMode.Smi:
                _owner.SystemManagementInterrupt();
                return true;
            case DeliveryMode.Init:
                _owner.Init();
                return true;
            case DeliveryMode.StartUp:
                _owner.StartUp(vector);
                return true;
            case DeliveryMode.ExtInt:
                _externalInterruptMessage = true;
                _owner.InterruptPending();
                return true;
            default:
                return false;
        }
    }

    /// <summary>The level of the LINT0 pin: on the boot processor the 8259 pair's output.</summary>
    public void SetLint0(bool asserted)
    {
        bool rising = asserted && !_lint0;
        _lint0 = asserted;
        if (!asserted)
            return;
        if (AcceptsExternalInterrupts)
            _owner.InterruptPending();
        else if (Mode != ApicMode.Disabled)
            DeliverPin(ApicRegister.LvtLint0, rising);
    }

    /// <summary>The level of the LINT1 pin: the platform's NMI line.</summary>
    public void SetLint1(bool asserted)
    {
        bool rising = asserted && !_lint1;
        _lint1 = asserted;
        if (Mode == ApicMode.Disabled)
        {
            if (rising)
                _owner.NonMaskableInterrupt();
        }
        else if (asserted)
        {
            DeliverPin(ApicRegister.LvtLint1, rising);
        }
    }

    /// <summary>Whether a message with this destination is for this APIC (SDM volume 3, sections 12.6.2 and 12.12.10).</summary>
    /// <param name="destination">The destination; <see cref="uint.MaxValue"/> is everyone.</param>
    /// <param name="logical">Whether it is a logical one.</param>
    public bool Matches(uint destination, bool logical)
    {
        if (!logical)
            return destination == uint.MaxValue || destination == Id;
        uint ldr = Page[ApicRegister.LogicalDestination];
        if (Mode == ApicMode.X2Apic)
            return destination == uint.MaxValue || (destination >> 16 == ldr >> 16 && (destination & ldr & 0xFFFF) != 0);
        uint set = destination & 0xFF;
        uint own = ldr >> 24;
        if (Page[ApicRegister.DestinationFormat] >> 28 == 0xF)
            return (set & own) != 0;
        return set == 0xFF || (set >> 4 == own >> 4 && (set & own & 0xF) != 0);
    }

    /// <summary>IA32_TSC_DEADLINE.</summary>
    public ulong TscDeadline
    {
        get => _timer.TscDeadline;
        set => _timer.SetTscDeadline(value, _owner.TscOffset);
    }

    /// <summary>To be called when <see cref="ILocalApicOwner.TscOffset"/> has changed.</summary>
    public void TscOffsetChanged() => _timer.RearmTscDeadline(_owner.TscOffset);

    /// <summary>A write of CR8: bits 7:4 of the task priority.</summary>
    public void SetTaskPriority(uint priority)
    {
        Page[ApicRegister.TaskPriority] = priority & 0xFF;
        Page[ApicRegister.ProcessorPriority] = ProcessorPriority;
        _owner.TaskPriorityChanged(priority & 0xFF);
        NotifyIfDeliverable();
    }

    /// <summary>
    /// A write of IA32_APIC_BASE (SDM volume 3, sections 12.4.4 and 12.12.5). Returns false, with nothing changed, for a
    /// reserved bit or a forbidden change of mode, which is #GP.
    /// </summary>
    public bool TrySetBase(ulong value)
    {
        if ((value & _baseReserved) != 0)
            return false;
        bool enabled = (value & 0x800) != 0;
        bool extended = (value & 0x400) != 0;
        ApicMode mode = !enabled ? ApicMode.Disabled : extended ? ApicMode.X2Apic : ApicMode.XApic;
        if (extended && !enabled || (mode == ApicMode.X2Apic && Mode == ApicMode.Disabled) || (mode == ApicMode.XApic && Mode == ApicMode.X2Apic))
            return false;
        ApicMode before = Mode;
        BaseMsr = value;
        Mode = mode;
        if (mode == ApicMode.X2Apic && before != mode)
        {
            Page[ApicRegister.Id] = InitialId;
            Page[ApicRegister.LogicalDestination] = (InitialId >> 4 << 16) | 1u << (int)(InitialId & 15);
            Page[ApicRegister.CommandHigh] = 0;
        }
        else if (mode != before)
        {
            ResetRegisters(keepId: false);
        }
        _bus.IdentityChanged?.Invoke();
        _owner.ModeChanged();
        return true;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _timer.Reset();
        Page.Dispose();
    }

    private void ResetRegisters(bool keepId)
    {
        uint id = Page[ApicRegister.Id];
        Page.Clear();
        Page[ApicRegister.Id] = Mode == ApicMode.X2Apic ? InitialId : keepId ? id : InitialId << 24;
        if (Mode == ApicMode.X2Apic)
            Page[ApicRegister.LogicalDestination] = (InitialId >> 4 << 16) | 1u << (int)(InitialId & 15);
        // Six LVT entries; the version of an APIC on the processor; EOI broadcasts can be suppressed.
        Page[ApicRegister.Version] = 0x14 | 5 << 16 | 1 << 24;
        Page[ApicRegister.DestinationFormat] = uint.MaxValue;
        Page[ApicRegister.SpuriousVector] = 0xFF;
        for (uint lvt = ApicRegister.LvtTimer; lvt <= ApicRegister.LvtError; lvt += 16)
            Page[lvt] = LvtMasked;
        _pendingErrors = 0;
        _triggerModeChanged = true;
        _externalInterruptMessage = false;
        _timer.Reset();
        _owner.TaskPriorityChanged(0);
    }

    private void TimerExpired() => DeliverLvt(ApicRegister.LvtTimer);

    private void DeliverPin(uint lvt, bool rising)
    {
        bool level = (Page[lvt] & 1 << 15) != 0;
        if (level || rising)
            DeliverLvt(lvt);
    }

    private void DeliverLvt(uint lvt)
    {
        uint entry = Page[lvt];
        if ((entry & LvtMasked) != 0)
            return;
        // The timer's and the error entry have no delivery mode: theirs is fixed.
        DeliveryMode mode = lvt is ApicRegister.LvtTimer or ApicRegister.LvtError ? DeliveryMode.Fixed : (DeliveryMode)(entry >> 8 & 7);
        Accept(mode, (byte)entry, levelTriggered: false);
    }

    private void RaiseError(uint error)
    {
        bool news = (_pendingErrors & error) == 0;
        _pendingErrors |= error;
        // An illegal vector in the error entry itself must not go round in circles.
        if (news && (byte)Page[ApicRegister.LvtError] >= 16)
            DeliverLvt(ApicRegister.LvtError);
    }

    private void ChangeTriggerMode(byte vector, bool levelTriggered)
    {
        if (levelTriggered)
            Page.Set(ApicRegister.TriggerMode, vector);
        else
            Page.Reset(ApicRegister.TriggerMode, vector);
        _triggerModeChanged = true;
    }

    private void NotifyIfDeliverable()
    {
        if (HasInterrupt)
            _owner.InterruptPending();
    }
}
