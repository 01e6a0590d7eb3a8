using Vmm.Hypervisor.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Hypervisor.Apic;

/// <content>Saving and loading.</content>
public sealed partial class LocalApic
{
    private static readonly (string Name, uint Offset)[] Registers =
    [
        ("ID", ApicRegister.Id), ("Version", ApicRegister.Version), ("TPR", ApicRegister.TaskPriority),
        ("APR", ApicRegister.ArbitrationPriority), ("PPR", ApicRegister.ProcessorPriority), ("EOI", ApicRegister.EndOfInterrupt),
        ("RRD", ApicRegister.RemoteRead), ("LDR", ApicRegister.LogicalDestination), ("DFR", ApicRegister.DestinationFormat),
        ("SVR", ApicRegister.SpuriousVector), ("ESR", ApicRegister.ErrorStatus), ("LVT CMCI", 0x2F0),
        ("ICR low", ApicRegister.CommandLow), ("ICR high", ApicRegister.CommandHigh), ("LVT timer", ApicRegister.LvtTimer),
        ("LVT thermal", ApicRegister.LvtThermal), ("LVT performance", ApicRegister.LvtPerformance), ("LVT LINT0", ApicRegister.LvtLint0),
        ("LVT LINT1", ApicRegister.LvtLint1), ("LVT error", ApicRegister.LvtError), ("Initial count", ApicRegister.InitialCount),
        ("Current count", ApicRegister.CurrentCount), ("Divide configuration", ApicRegister.DivideConfiguration), ("Self IPI", ApicRegister.SelfIpi),
        .. Words("ISR", ApicRegister.InService), .. Words("TMR", ApicRegister.TriggerMode), .. Words("IRR", ApicRegister.Request),
    ];

    /// <summary>Everything that it holds.</summary>
    public LocalApicState Save()
    {
        var registers = new SortedDictionary<string, uint>(StringComparer.Ordinal);
        foreach ((string name, uint offset) in Registers)
        {
            if (Page[offset] != 0)
                registers.Add(name, Page[offset]);
        }
        return new LocalApicState
        {
            BaseMsr = BaseMsr,
            Registers = registers,
            PendingErrors = _pendingErrors,
            Lint0 = _lint0,
            Lint1 = _lint1,
            ExternalInterruptMessage = _externalInterruptMessage,
            TriggerModeChanged = _triggerModeChanged,
            Timer = _timer.Save(),
        };
    }

    /// <summary>Takes a saved state; tells neither the vCPU nor the bus.</summary>
    /// <exception cref="InvalidStateException">A value is none that it could have.</exception>
    public void Load(LocalApicState state)
    {
        bool enabled = (state.BaseMsr & 0x800) != 0, extended = (state.BaseMsr & 0x400) != 0;
        InvalidStateException.ThrowUnless((state.BaseMsr & _baseReserved) == 0 && (enabled || !extended), "LocalApic.BaseMsr", $"0x{state.BaseMsr:x} is not allowed.");
        foreach (string name in state.Registers.Keys)
            InvalidStateException.ThrowUnless(Array.Exists(Registers, register => register.Name == name), $"LocalApic.Registers['{name}']", "there is no such register.");
        BaseMsr = state.BaseMsr;
        Mode = !enabled ? ApicMode.Disabled : extended ? ApicMode.X2Apic : ApicMode.XApic;
        Page.Clear();
        foreach ((string name, uint offset) in Registers)
            Page[offset] = state.Registers.GetValueOrDefault(name);
        _pendingErrors = state.PendingErrors;
        _lint0 = state.Lint0;
        _lint1 = state.Lint1;
        _externalInterruptMessage = state.ExternalInterruptMessage;
        _triggerModeChanged = state.TriggerModeChanged;
        _timer.Load(state.Timer);
    }

    private static IEnumerable<(string Name, uint Offset)> Words(string name, uint first) =>
        Enumerable.Range(0, 8).Select(word => ($"{name}{word}", first + (uint)word * 16));
}
