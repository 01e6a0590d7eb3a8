using Vmm.Devices.Bus;
using Vmm.Devices.Serial;

namespace Vmm.Devices.Test;

/// <summary>
/// The exit port of test kernels, isa-debug-exit: a write at 0xF4 to 0xF7 ends the machine with the exit code
/// <c>(value &lt;&lt; 1) | 1</c>.
/// </summary>
public sealed class DebugExitPort : IPortDevice
{
    private readonly Action<uint> _exit;

    /// <summary>Puts the port on the bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="exit">Takes the value written, as it was written.</param>
    public DebugExitPort(SystemBus bus, Action<uint> exit)
    {
        _exit = exit;
        bus.AddPorts(this, 0xF4, 4, 4);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) => 0;

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value) => _exit(value);
}

/// <summary>
/// The debug console at port 0xE9: what is written comes out, and a read gives 0xE9 as proof of its presence. The dword at
/// 0xE8 is pc-testdev's "flush page", which has nothing to flush here and must not leak into the console.
/// </summary>
public sealed class DebugConsolePort : IPortDevice
{
    private const ushort FirstPort = 0xE8;
    private const ushort Port = 0xE9;

    private readonly ByteSink? _output;
    private readonly byte[] _one = new byte[1];

    /// <summary>Puts the port on the bus.</summary>
    public DebugConsolePort(SystemBus bus, ByteSink? output)
    {
        _output = output;
        bus.AddPorts(this, FirstPort, 4, 4);
    }

    /// <inheritdoc/>
    public uint ReadPort(ushort port, int size) => port == Port ? 0xFFFF_FFE9 : uint.MaxValue;

    /// <inheritdoc/>
    public void WritePort(ushort port, int size, uint value)
    {
        if (port != Port)
            return;
        _one[0] = (byte)value;
        _output?.Invoke(_one);
    }
}
