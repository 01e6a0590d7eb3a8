namespace Vmm.Hypervisor.Apic;

/// <content>What the processor's APIC virtualization works on besides the registers, and what it leaves over.</content>
public sealed partial class LocalApic
{
    private bool _triggerModeChanged = true;

    /// <summary>
    /// The registers that x2APIC mode shows and whose value is in the page as it stands, by offset: the current count is computed, and
    /// the interrupt command register is in two places.
    /// </summary>
    internal static IEnumerable<uint> RegistersInPage
    {
        get
        {
            for (uint offset = 0; offset < 0x1000; offset += 16)
            {
                if (IsX2ApicReadable(offset) && offset is not (ApicRegister.CurrentCount or ApicRegister.CommandLow))
                    yield return offset;
            }
        }
    }

    /// <summary>Whether a trigger mode has changed since the last call.</summary>
    internal bool TakeTriggerModeChange()
    {
        bool changed = _triggerModeChanged;
        _triggerModeChanged = false;
        return changed;
    }

    /// <summary>The processor has stored to a register: what a write has for effects is brought about.</summary>
    internal void WriteFromPage(uint offset)
    {
        uint value = Page[offset];
        if (Mode == ApicMode.X2Apic)
            TryWriteMsr(0x800 + (offset >> 4), value);
        else
            WriteMemory(offset, 4, value);
    }

    /// <summary>
    /// The processor has ended a vector that is in the EOI-exit bitmap. Its trigger mode goes back to edge, as the processor's own
    /// self-IPIs do not see to that; the vector may stay in the bitmap, which costs no more than an exit.
    /// </summary>
    internal void VectorEnded(byte vector)
    {
        bool level = Page.Test(ApicRegister.TriggerMode, vector);
        Page.Reset(ApicRegister.TriggerMode, vector);
        if (level)
            Broadcast(vector);
    }

    /// <summary>A vector has been ended: tells the I/O APICs of one that was level-triggered (SDM volume 3, section 12.8.5).</summary>
    private void NotifyEndOfInterrupt(byte vector)
    {
        if (Page.Test(ApicRegister.TriggerMode, vector))
            Broadcast(vector);
    }

    private void Broadcast(byte vector)
    {
        if ((Page[ApicRegister.SpuriousVector] & SuppressEoiBroadcast) == 0)
            _bus.BroadcastEndOfInterrupt(vector);
    }
}
