using Vmm.Processor.Vmx;

namespace Vmm.Processor.Execution;

/// <content>PAUSE-loop exiting.</content>
public sealed unsafe partial class LogicalProcessor
{
    private bool _pausing;
    private ulong _firstPause;
    private ulong _lastPause;

    /// <summary>
    /// Whether a PAUSE at privilege level 0 belongs to a loop that has lasted longer than PLE_Window: one whose PAUSEs follow each
    /// other within PLE_Gap counts of the time-stamp counter (SDM volume 3, section 26.1.3).
    /// </summary>
    internal bool SpinsTooLong(ulong now)
    {
        Vmcs vmcs = Vmcs!;
        if (!_pausing || now - _lastPause > vmcs.Read32(VmcsField.PleGap))
        {
            _pausing = true;
            _firstPause = now;
        }
        _lastPause = now;
        return now - _firstPause > vmcs.Read32(VmcsField.PleWindow);
    }
}
