using Vmm.Hypervisor.Apicv;
using Vmm.Machine;
using Vmm.Processor.Translation;

namespace Vmm.Worker.Telemetry;

/// <summary>The counters of many machines, added up. Immutable.</summary>
internal sealed record EngineTotals
{
    /// <summary>What only grows.</summary>
    public MachineCounters Machine { get; init; } = new();

    /// <summary>Instructions compiled.</summary>
    public long Instructions { get; init; }

    /// <summary>Time that took.</summary>
    public TimeSpan CompileTime { get; init; }

    /// <summary>Bytes of compiled code, of machines that run.</summary>
    public long CodeSize { get; init; }

    /// <summary>vCPUs of machines that run.</summary>
    public int Vcpus { get; init; }

    /// <summary>Those of them on which APICv is active.</summary>
    public int ActiveVcpus { get; init; }

    /// <summary>In how many machines that run each inhibit is set, 0 where in none.</summary>
    public IReadOnlyDictionary<ApicvInhibit, int> Inhibits { get; init; } =
        Enum.GetValues<ApicvInhibit>().Where(static inhibit => inhibit != ApicvInhibit.None).ToDictionary(static inhibit => inhibit, static _ => 0);

    /// <summary>With a machine that has ended.</summary>
    public EngineTotals WithEnded(MachineCounters counters, TranslationStatistics? code) => this with
    {
        Machine = Machine + counters,
        Instructions = Instructions + (code?.Instructions ?? 0),
        CompileTime = CompileTime + (code?.CompileTime ?? TimeSpan.Zero),
    };

    /// <summary>With a machine that runs.</summary>
    public EngineTotals WithRunning(MachineCounters counters, TranslationStatistics? code) => WithEnded(counters, code) with
    {
        CodeSize = CodeSize + (code?.Size ?? 0),
        Vcpus = Vcpus + counters.Vcpus,
        ActiveVcpus = ActiveVcpus + counters.ApicvActiveVcpus,
        Inhibits = CountInhibits(counters.Inhibits),
    };

    private IReadOnlyDictionary<ApicvInhibit, int> CountInhibits(ApicvInhibit set) => set == ApicvInhibit.None
        ? Inhibits
        : Inhibits.ToDictionary(static each => each.Key, each => each.Value + (set.HasFlag(each.Key) ? 1 : 0));
}
