using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Iced.Intel;
using Vmm.Processor.Translation;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.Processor.Tests.Differential;

/// <summary>
/// Oracle 1: random instruction sequences, of 64-bit, 32-bit and 16-bit code (the latter with segments that have bases and
/// limits), run on the host's processor and on ours. 50,000 of 64-bit code and half as many of the others, or 2,000,000 with
/// VMM_NIGHTLY=1 (VMM_SEQUENCES=n for another number of each). Sequence k of a run is drawn from seed + k, so that VMM_SEED=s
/// with VMM_SEQUENCES=1 replays the one that was printed. One in 32 of 64-bit code is run compiled, too; as many as of 32-bit code are of x87
/// instructions alone, and each of them is run as native code. Hosts that are not x86-64 Linux have no oracle: the tests are skipped
/// there, and say so.
/// </summary>
[Collection(HostProcessor.Name)]
public sealed class DifferentialTests(ITestOutputHelper output)
{
    private const int Normal = 50_000, Nightly = 2_000_000, ReportsAtMost = 20;

    [HostProcessorTheory]
    [InlineData(64)]
    [InlineData(32)]
    public void RandomSequencesEndAsOnTheHostsProcessor(int bitness) => Compare(bitness);

    [SixteenBitFact]
    public void RandomSequencesOf16BitCodeEndAsOnTheHostsProcessor() => Compare(16);

    [HostProcessorTheory]
    [InlineData(64)]
    public void RandomSequencesOfX87EndAsOnTheHostsProcessor(int bitness) => Compare(bitness, IsX87);

    private static bool IsX87(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        uint opcode = info.OpCode > 0xFF ? info.OpCode >> 8 : info.OpCode;
        return info.Table == OpCodeTableKind.Normal && opcode is >= 0xD8 and <= 0xDF;
    }

    private void Compare(int bitness, Predicate<Code>? among = null)
    {
        int seed = Setting("VMM_SEED") ?? 20_250_101;
        int count = Setting("VMM_SEQUENCES") ?? (Environment.GetEnvironmentVariable("VMM_NIGHTLY") == "1" ? Nightly : Normal) / (bitness == 64 && among == null ? 1 : 2);
        var run = new DifferentialRun(bitness, seed, count, ReportsAtMost, among);
        // Signals and their stack belong to a thread, so everything native happens on one of our own.
        var thread = new Thread(run.Run, 16 << 20);
        thread.Start();
        run.Watch(thread);
        thread.Join();
        output.WriteLine(run.Summary);
        Assert.True(run.Failure == null, run.Failure?.ToString());
        Assert.True(run.Mismatches == 0, run.Report);
    }

    private static int? Setting(string name) => int.TryParse(Environment.GetEnvironmentVariable(name), out int value) ? value : null;
}

/// <summary>A theory that needs a processor of the emulated kind under it.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class HostProcessorTheoryAttribute : TheoryAttribute
{
    public HostProcessorTheoryAttribute()
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64 || !OperatingSystem.IsLinux())
            Skip = "The host is not x86-64 Linux, so its processor is not there to compare with.";
    }
}

/// <summary>A test that needs 16-bit segments of the host's kernel too.</summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class SixteenBitFactAttribute : FactAttribute
{
    public SixteenBitFactAttribute()
    {
        if (RuntimeInformation.ProcessArchitecture != Architecture.X64 || !OperatingSystem.IsLinux())
            Skip = "The host is not x86-64 Linux, so its processor is not there to compare with.";
        else if (!NativeProcessor.HasSegments())
            Skip = "The host's kernel does not give programs 16-bit segments (modify_ldt).";
    }
}

/// <summary>One run over many sequences.</summary>
internal sealed class DifferentialRun(int bitness, int seed, int count, int reportsAtMost, Predicate<Code>? among)
{
    // Compiling a sequence takes a hundred times as long as interpreting it.
    private const int CompiledShare = 32;

    private readonly StringBuilder _report = new();
    private readonly HashSet<string> _reported = [];
    private volatile int _done;
    private volatile int _thread;

    /// <summary>How many sequences ended differently.</summary>
    public int Mismatches { get; private set; }

    /// <summary>Sequences, inputs and differences of the first mismatches, each shrunk.</summary>
    public string Report => $"{Mismatches} of {count} sequences differ (seed {seed}).\n{_report}";

    /// <summary>What was run and how it ended.</summary>
    public string Summary { get; private set; } = "";

    /// <summary>Why the run itself could not go on.</summary>
    public Exception? Failure { get; private set; }

    /// <summary>Ends sequences that hang, until the thread has finished.</summary>
    public void Watch(Thread thread)
    {
        int last = -1;
        while (!thread.Join(TimeSpan.FromSeconds(1)))
        {
            int now = _done;
            if (now == last && _thread != 0)
                NativeProcessor.Interrupt(_thread);
            last = now;
        }
    }

    public void Run()
    {
        try
        {
            var clock = Stopwatch.StartNew();
            byte[] readOnly = new byte[4096];
            new Random(seed).NextBytes(readOnly);
            using var native = new NativeProcessor(readOnly);
            using var emulated = new EmulatedProcessor(readOnly);
            using var compiled = new EmulatedProcessor(readOnly, new TranslationOptions { NativeThreshold = 0, Threshold = 1, Synchronous = true, EmittedPerHandler = 0 });
            using var generated = new EmulatedProcessor(readOnly, new TranslationOptions { NativeThreshold = 1, NativeRegionThreshold = 0, NativeHotThreshold = 0, EmittedPerHandler = 0 });
            using MachineState input = new(), nativeEnd = new(), emulatedEnd = new();
            _thread = native.Thread;
            var pool = new InstructionPool(bitness, among);
            var generator = new SequenceGenerator(pool);
            var ends = new SortedDictionary<uint, int>();
            for (int k = 0; k < count; k++)
            {
                Sequence sequence = generator.Next(unchecked(seed + k), input);
                string differences = Compare(sequence, alsoCompiled: bitness == 64 && (k % CompiledShare == 0 || count == 1));
                ends[nativeEnd.Vector] = ends.GetValueOrDefault(nativeEnd.Vector) + 1;
                if (differences.Length > 0)
                    Note(unchecked(seed + k), sequence, differences);
                _done++;
            }
            _thread = 0;
            Summary = $"{count} sequences of {bitness}-bit code from seed {seed} in {clock.Elapsed.TotalSeconds:f1} s, {generator.Drawn.Count} kinds of instruction, {Mismatches} differ; they ended with "
                + string.Join(", ", ends.Select(end => $"vector {(int)end.Key}: {end.Value}")) + "."
                + (count >= 10_000 ? $" Never drawn: {string.Join(' ', pool.Codes.Where(code => !generator.Drawn.ContainsKey(code)))}." : "");

            string Compare(Sequence sequence, bool alsoCompiled)
            {
                native.Run(bitness, sequence.Bytes, input, nativeEnd);
                emulated.Run(bitness, sequence.Bytes, input, emulatedEnd);
                string differences = Comparison.Differences(sequence, nativeEnd, emulatedEnd);
                if (differences.Length > 0)
                    return differences;
                if (alsoCompiled)
                {
                    compiled.Run(bitness, sequence.Bytes, input, emulatedEnd);
                    differences = Comparison.Differences(sequence, nativeEnd, emulatedEnd);
                    if (differences.Length > 0)
                        return $"where it is compiled: {differences}";
                }
                if (!alsoCompiled && among == null)
                    return "";
                generated.Run(bitness, sequence.Bytes, input, emulatedEnd);
                differences = Comparison.Differences(sequence, nativeEnd, emulatedEnd);
                return differences.Length > 0 ? $"where it is native code: {differences}" : "";
            }

            void Note(int sequenceSeed, Sequence sequence, string differences)
            {
                Mismatches++;
                if (_reported.Count >= reportsAtMost)
                    return;
                for (int index = 0; index < sequence.Items.Count;)
                {
                    Sequence shorter = sequence.Without(index);
                    string remaining = shorter.Encode() ? Compare(shorter, bitness == 64) : "";
                    if (remaining.Length == 0)
                    {
                        index++;
                        continue;
                    }
                    (sequence, differences) = (shorter, remaining);
                }
                Compare(sequence, bitness == 64);
                string key = string.Join(' ', sequence.Items.Select(item => item.Instruction.Code));
                if (!_reported.Add(key))
                    return;
                _report.AppendLine($"--- seed {sequenceSeed}, shrunk:").Append(sequence).AppendLine($"differences, natively ending with {Comparison.End(nativeEnd)}:").Append(differences)
                    .AppendLine("input:").Append(Comparison.Describe(input));
            }
        }
        catch (Exception failure)
        {
            // On a thread of our own an exception would end the process; the test reports it instead.
            Failure = failure;
        }
    }
}
