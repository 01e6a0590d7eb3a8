using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.Apic;

/// <summary>The destination shorthand of the interrupt command register (SDM volume 3, section 12.6.1).</summary>
public enum ApicShorthand
{
    None = 0,
    Self = 1,
    AllIncludingSelf = 2,
    AllExcludingSelf = 3,
}

/// <summary>What connects the local APICs of one virtual machine with each other, with the I/O APICs and with the 8259 pair.</summary>
public sealed class ApicBus : IInterruptSink
{
    private LocalApic[] _apics = [];
    private int _lastLowestPriority = -1;

    /// <summary>The 8259 pair, or null where there is none.</summary>
    public IExternalInterruptController? ExternalInterrupts { get; set; }

    /// <summary>The I/O APICs, or null where there are none.</summary>
    public IEndOfInterruptListener? EndOfInterruptListener { get; set; }

    /// <summary>Who wants to hear that the guest has changed by what the local APICs are addressed: IDs, logical IDs, base or mode.</summary>
    internal Action? IdentityChanged { get; set; }

    /// <summary>The local APICs.</summary>
    internal ReadOnlySpan<LocalApic> Apics => _apics;

    /// <inheritdoc/>
    public bool Deliver(InterruptMessage message)
    {
        // Devices name processors by 8 bits; all ones in physical mode is everyone, also where APIC IDs are wider.
        if (!message.Logical && message.Destination == 0xFF)
            message = message with { Destination = uint.MaxValue };
        return Route(message, null);
    }

    /// <inheritdoc/>
    public void SetExternalInterrupt(bool asserted)
    {
        if (_apics.Length > 0)
            _apics[0].SetLint0(asserted);
    }

    /// <summary>The local APIC to which the last interrupt of lowest priority went; -1 for none yet.</summary>
    internal int LastLowestPriority
    {
        get => _lastLowestPriority;
        set
        {
            InvalidStateException.ThrowUnless(value >= -1 && value < _apics.Length, "VirtualMachine.LastLowestPriority", "there is no such local APIC.");
            _lastLowestPriority = value;
        }
    }

    internal void Attach(LocalApic apic) => _apics = [.. _apics, apic];

    internal void BroadcastEndOfInterrupt(byte vector) => EndOfInterruptListener?.EndOfInterrupt(vector);

    internal int AcknowledgeExternalInterrupt() => ExternalInterrupts?.Acknowledge() ?? -1;

    /// <summary>A message from a local APIC.</summary>
    internal void Send(LocalApic source, InterruptMessage message, ApicShorthand shorthand)
    {
        switch (shorthand)
        {
            case ApicShorthand.Self:
                // Only fixed interrupts may be sent to oneself (SDM volume 3, table 12-3), which does not say what becomes of
                // others. INIT arrives: guests reset themselves by it.
                if (message.Mode is DeliveryMode.Fixed or DeliveryMode.Init)
                    source.Accept(message.Mode, message.Vector, levelTriggered: false);
                break;
            case ApicShorthand.AllIncludingSelf when message.Mode == DeliveryMode.Fixed:
                Route(message with { Destination = uint.MaxValue, Logical = false }, null);
                break;
            case ApicShorthand.AllExcludingSelf:
                Route(message with { Destination = uint.MaxValue, Logical = false }, source);
                break;
            case ApicShorthand.None:
                Route(message, null);
                break;
            default:
                break;
        }
    }

    private bool Route(InterruptMessage message, LocalApic? except)
    {
        if (message.Mode == DeliveryMode.LowestPriority)
            return RouteLowestPriority(message, except);
        bool accepted = false;
        foreach (LocalApic apic in _apics)
        {
            if (apic != except && apic.Matches(message.Destination, message.Logical))
                accepted |= apic.Accept(message.Mode, message.Vector, message.LevelTriggered);
        }
        return accepted;
    }

    // Of processors with the same priority each has its turn, so that none of them gets all the interrupts.
    private bool RouteLowestPriority(InterruptMessage message, LocalApic? except)
    {
        int best = -1;
        uint bestPriority = uint.MaxValue;
        for (int step = 1; step <= _apics.Length; step++)
        {
            int index = (_lastLowestPriority + step) % _apics.Length;
            LocalApic apic = _apics[index];
            if (apic == except || !apic.IsSoftwareEnabled || !apic.Matches(message.Destination, message.Logical))
                continue;
            uint priority = apic.ProcessorPriority;
            if (priority < bestPriority)
            {
                best = index;
                bestPriority = priority;
            }
        }
        if (best < 0)
            return false;
        _lastLowestPriority = best;
        return _apics[best].Accept(message.Mode, message.Vector, message.LevelTriggered);
    }
}
