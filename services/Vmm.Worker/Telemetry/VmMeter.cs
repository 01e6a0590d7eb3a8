using System.Diagnostics.Metrics;
using Vmm.Machine;
using Vmm.V1;
using Vmm.Worker.Machines;

namespace Vmm.Worker.Telemetry;

/// <summary>What one VM's machine has counted and holds just now.</summary>
/// <param name="Counters">Of the run.</param>
/// <param name="ResidentBytes">Guest memory that the host has in memory.</param>
internal sealed record VmReading(MachineCounters Counters, ulong ResidentBytes);

/// <summary>
/// Series of single VMs: of those whose label asks for them, up to a number of VMs per worker, the oldest first. The series of a VM begin
/// anew with each run, and end with it. Catalogued in the README of <c>services</c>.
/// </summary>
internal sealed class VmMeter : IDisposable
{
    /// <summary>The meter's name.</summary>
    public const string Name = "Vmm.Vms";

    /// <summary>The label of a VM that asks for series of its own by being <c>true</c>.</summary>
    public const string Label = "vmm-metrics";

    /// <summary>The instruments of one collection see the same values.</summary>
    private static readonly TimeSpan Fresh = TimeSpan.FromMilliseconds(100);

    private readonly Meter _meter = new(Name);
    private readonly WorkerHost _host;
    private readonly int _most;
    private readonly TimeProvider _time;
    private readonly Lock _lock = new();
    private Readings? _read;
    private long _readAt;

    /// <param name="host">The worker.</param>
    /// <param name="most">VMs that may have series.</param>
    /// <param name="time">For how long values are those of now.</param>
    public VmMeter(WorkerHost host, int most, TimeProvider time)
    {
        _host = host;
        _most = most;
        _time = time;
        _ = _meter.CreateObservableCounter("vmm.vm.instructions", () => Each<long>((vm, reading) =>
            [Of((long)(reading.Counters.Instructions - reading.Counters.InstructionsOfL2), vm, Level("l1")), Of((long)reading.Counters.InstructionsOfL2, vm, Level("l2"))]),
            "{instruction}", "Instructions that a VM has retired, by level.");
        _ = _meter.CreateObservableCounter("vmm.vm.exits", () => Each<long>((vm, reading) =>
            [Exits(vm, reading, 1, 0), Exits(vm, reading, 2, 0), Exits(vm, reading, 2, 1)]),
            "{exit}", "VM exits of a VM, by level and by who took them.");
        _ = _meter.CreateObservableCounter("vmm.vm.cpu.time", () => Each<double>((vm, reading) => [new(reading.Counters.ProcessorTime.TotalSeconds, Named(vm))]),
            "s", "Processor time of the host that executing a VM took.");
        _ = _meter.CreateObservableCounter("vmm.vm.cpu.throttled.time", () => Each<double>((vm, reading) => [new(reading.Counters.ThrottledTime.TotalSeconds, Named(vm))]),
            "s", "For how long a VM could have executed, but had had what its limit gives it.");
        _ = _meter.CreateObservableCounter("vmm.vm.apicv.deferrals", () => Each<long>((vm, reading) => [Of((long)reading.Counters.ApicvDeferrals, vm)]),
            "{update}", "Changes of APICv inhibits that a VM's vCPUs have deferred.");
        _ = _meter.CreateObservableUpDownCounter("vmm.vm.memory.resident", () => Each<long>((vm, reading) => [Of((long)reading.ResidentBytes, vm)]),
            "By", "Guest memory of a VM that the host has in memory.");
        _ = _meter.CreateObservableUpDownCounter("vmm.worker.vm_series", () =>
            {
                Readings readings = Read();
                return (IEnumerable<Measurement<int>>)[new(readings.Vms.Count, Result("measured")), new(readings.Refused, Result("refused"))];
            },
            "{vm}", "Running VMs that ask for series of their own, by whether they have them.");
    }

    /// <inheritdoc/>
    public void Dispose() => _meter.Dispose();

    private IEnumerable<Measurement<T>> Each<T>(Func<string, VmReading, IEnumerable<Measurement<T>>> measure) where T : struct =>
        Read().Vms.SelectMany(vm => measure(vm.Name, vm.Reading));

    private Readings Read()
    {
        lock (_lock)
        {
            if (_read is not null && _time.GetElapsedTime(_readAt) < Fresh)
                return _read;
            List<HostedVm> asked = [.. _host.RunningVmsWith(Label, "true").OrderBy(vm => vm.Present.CreateTime.ToDateTime()).ThenBy(vm => vm.Name, StringComparer.Ordinal)];
            var readings = new Readings(
                [.. asked.Take(_most).Select(vm => (vm.Name, Reading: vm.Read()!)).Where(vm => vm.Reading is not null)],
                Math.Max(0, asked.Count - _most));
            _readAt = _time.GetTimestamp();
            return _read = readings;
        }
    }

    private static Measurement<long> Exits(string vm, VmReading reading, int level, int owner) =>
        Of((long)reading.Counters.CountExits(level, owner), vm, Level(level == 1 ? "l1" : "l2"), new("vmm.owner", owner == 0 ? "l0" : "l1"));

    private static Measurement<long> Of(long value, string vm, params KeyValuePair<string, object?>[] attributes) => new(value, [Named(vm), .. attributes]);

    private static KeyValuePair<string, object?> Named(string vm) => new("vmm.vm.name", vm);

    private static KeyValuePair<string, object?> Level(string level) => new("vmm.level", level);

    private static KeyValuePair<string, object?> Result(string result) => new("vmm.result", result);

    private sealed record Readings(IReadOnlyList<(string Name, VmReading Reading)> Vms, int Refused);
}
