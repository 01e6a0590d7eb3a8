using Vmm.Devices.Platform;
using Vmm.Devices.SavedState;
using Vmm.Processor.SavedState;

namespace Vmm.Devices.Board;

/// <content>Saving and loading. A board that loads what another one saved goes on as that one did.</content>
public sealed partial class PcBoard
{
    /// <summary>The state of every device, between two accesses.</summary>
    public BoardState Save() => new()
    {
        LegacyWires = _routing.SaveLegacyWires(),
        Wires = _routing.SaveWires(),
        TimerLine = _timerLine.Save(),
        ClockLine = _clockLine.Save(),
        IoApic = IoApic.Save(),
        Pic = Pic.Save(),
        Pit = Pit.Save(),
        Rtc = Rtc.Save(),
        Hpet = _hpet?.Save(),
        Power = Power.Save(),
        CpuHotplug = _cpuHotplug?.Save(),
        SystemManagement = _systemManagement.Save(),
        Keyboard = _keyboard.Save(),
        InitBit = SystemControlA.InitBit,
        ResetControl = _resetControl.Save(),
        Pci = Pci.Save(),
        Serial = [.. Serial.Select(port => port.Save())],
        FirmwareConfiguration = FirmwareConfiguration.Save(),
        TestDevice = _testDevice?.Save(),
    };

    /// <summary>
    /// Takes the state of a board that was built from equal options. Nothing else is touched: no interrupt is delivered, no
    /// callback called and no memory written; local APICs, clock, RAM and disks load their own. Guest memory must be as large
    /// as it was, and the items of fw_cfg must be there.
    /// </summary>
    /// <exception cref="InvalidStateException">The state is none of a board like this; this one is in no defined state now.</exception>
    public void Load(BoardState state)
    {
        ArgumentNullException.ThrowIfNull(state);
        InvalidStateException.ThrowUnless(state.Hpet is null == _hpet is null, "Board.Hpet", "one board has it and the other has not.");
        InvalidStateException.ThrowUnless(state.CpuHotplug is null == _cpuHotplug is null, "Board.CpuHotplug", "one board has it and the other has not.");
        InvalidStateException.ThrowUnless(state.TestDevice is null == _testDevice is null, "Board.TestDevice", "one board has it and the other has not.");
        InvalidStateException.ThrowUnlessLength(state.Serial, Serial.Count, "Board.Serial");
        _routing.Load(state.LegacyWires, state.Wires);
        _timerLine.Load(state.TimerLine);
        _clockLine.Load(state.ClockLine);
        IoApic.Load(state.IoApic);
        Pic.Load(state.Pic);
        Pit.Load(state.Pit);
        Rtc.Load(state.Rtc);
        _hpet?.Load(state.Hpet!);
        Power.Load(state.Power);
        _cpuHotplug?.Load(state.CpuHotplug!);
        FirmwareConfiguration.SetItem(FirmwareItem.CpuCount, (ushort)Cpus);
        _systemManagement.Load(state.SystemManagement);
        _keyboard.Load(state.Keyboard);
        SystemControlA.InitBit = state.InitBit;
        _resetControl.Load(state.ResetControl);
        Pci.Load(state.Pci);
        for (int i = 0; i < Serial.Count; i++)
        {
            InvalidStateException.ThrowUnless(state.Serial[i] != null, "Board.Serial", "one is missing.");
            Serial[i].Load(state.Serial[i]);
        }
        FirmwareConfiguration.Load(state.FirmwareConfiguration);
        _testDevice?.Load(state.TestDevice!);
    }
}
