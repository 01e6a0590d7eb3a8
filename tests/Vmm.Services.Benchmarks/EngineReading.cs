using System.Diagnostics.Metrics;

namespace Vmm.Services.Benchmarks;

/// <summary>What the engine of a server in this process has counted, by the names of the metrics.</summary>
internal sealed class EngineReading : IDisposable
{
    private readonly MeterListener _listener = new();
    private readonly Dictionary<string, double> _sums = [];

    public EngineReading()
    {
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (instrument is ObservableInstrument<long> or ObservableInstrument<double> && instrument.Meter.Name == "Vmm.Engine")
                listener.EnableMeasurementEvents(instrument);
        };
        _listener.SetMeasurementEventCallback<long>((instrument, value, _, _) => Add(instrument, value));
        _listener.SetMeasurementEventCallback<double>((instrument, value, _, _) => Add(instrument, value));
        _listener.Start();
    }

    /// <summary>All counters of now, summed over their attributes.</summary>
    public IReadOnlyDictionary<string, double> Read()
    {
        _sums.Clear();
        _listener.RecordObservableInstruments();
        return new Dictionary<string, double>(_sums);
    }

    /// <inheritdoc/>
    public void Dispose() => _listener.Dispose();

    private void Add(Instrument instrument, double value) => _sums[instrument.Name] = _sums.GetValueOrDefault(instrument.Name) + value;
}
