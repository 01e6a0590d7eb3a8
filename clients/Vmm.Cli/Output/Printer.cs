using System.Globalization;
using Google.Protobuf;
using Spectre.Console;
using Spectre.Console.Rendering;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;

namespace Vmm.Cli.Output;

/// <summary>Prints what the API answers: as tables, or as the API's own JSON.</summary>
internal sealed partial class Printer(CliConsole console, string format)
{
    private static readonly JsonFormatter Indented =
        new(JsonFormatter.Settings.Default.WithIndentation().WithPreserveProtoFieldNames(false));

    private const string LocalWorker = "workers/local";

    private static readonly JsonFormatter OneLine = new(JsonFormatter.Settings.Default);

    /// <summary>Whether a program reads.</summary>
    public bool IsJson => format == OutputFormat.Json;

    /// <summary>One message as JSON.</summary>
    public void Json(IMessage message) => console.Text.WriteLine(Indented.Format(message));

    /// <summary>One message of a stream as JSON, on one line.</summary>
    public void JsonLine(IMessage message) => console.Text.WriteLine(OneLine.Format(message));

    /// <summary>One VM.</summary>
    public void Vm(Vm vm)
    {
        if (IsJson)
            Json(vm);
        else
        {
            Vms([vm]);
            if (vm.Status?.CompiledCode is { } code)
                console.Text.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"compiled: {code.RegionCount} regions, {code.DiscardedRegionCount} more discarded, {code.InstructionCount} instructions; {code.SizeBytes >> 10} of {code.LimitBytes >> 10} KiB in {code.CompileTime?.ToTimeSpan().TotalSeconds ?? 0:f2} s"));
            if (vm.Status?.CompiledCode is { FailedRegionCount: > 0 } broken)
                console.Text.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"not compiled, for a bug of vmmd: {broken.FailedRegionCount} regions, which are interpreted; the last: {broken.LastFailure}"));
            if (vm.Spec is { } share && (share.CpuWeight is not (0 or 100) || share.CpuLimitMillicpus != 0))
                console.Text.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"processors: weight {(share.CpuWeight == 0 ? 100 : share.CpuWeight)}, limit {(share.CpuLimitMillicpus == 0 ? "none" : $"{share.CpuLimitMillicpus} millicpus")}; throttled for {vm.Status?.Counters?.ThrottledTime?.ToTimeSpan().TotalSeconds ?? 0:f2} s"));
            if (vm.Spec?.RestartPolicy == RestartPolicy.FromLastCheckpoint)
                console.Text.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"checkpoint: every {vm.Spec.CheckpointInterval?.ToTimeSpan().TotalSeconds ?? 0:0.###} s, {(vm.Status?.Checkpoint is { } last ? $"last {last.CreateTime?.ToDateTime():yyyy-MM-dd HH:mm:ss'Z'}, after {last.InstructionsRetired} instructions" : "none yet")}"));
        }
    }

    /// <summary>The id of the worker that has a VM, and why it does not speak for it where it does not; empty where there is no choice of workers.</summary>
    public static string WorkerText(Vm vm) => vm.Status is not { Worker: not ("" or LocalWorker) } status ? "" : status.WorkerCondition switch
    {
        WorkerCondition.Unspecified => ResourceNames.Id(status.Worker),
        WorkerCondition.Replacing => $"{ResourceNames.Id(status.Worker)} (lost, waits for another)",
        var condition => $"{ResourceNames.Id(status.Worker)} ({condition.ToString().ToLowerInvariant()})",
    };

    /// <summary>A table of VMs.</summary>
    public void Vms(IEnumerable<Vm> vms)
    {
        List<Vm> all = [.. vms];
        // A server that is all in one has one worker, of which nobody need know.
        var isFleet = all.Any(vm => WorkerText(vm).Length > 0);
        var table = NewTable([.. (string[])["NAME", "STATE", "CPUS", "MEMORY", "CLOCK", "CREATED", "END", "LABELS"], .. isFleet ? (string[])["WORKER"] : []]);
        foreach (var vm in all)
        {
            List<Text> cells =
            [
                Cell(ShortName(vm.Name)),
                Cell(StateName(vm.Status?.State ?? VmState.Unspecified)),
                Cell(CpusOf(vm).ToString(CultureInfo.InvariantCulture)),
                Cell($"{vm.Spec?.MemoryMib ?? 0} MiB"),
                Cell(vm.Spec?.Clock == Clock.Virtual ? "virtual" : "realtime"),
                Cell(vm.CreateTime?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss'Z'", CultureInfo.InvariantCulture) ?? ""),
                Cell(EndText(vm.Status?.End)),
                Cell(LabelText(vm.Labels)),
            ];
            if (isFleet)
                cells.Add(Cell(WorkerText(vm)));
            table.AddRow(cells);
        }

        Write(table);
    }

    /// <summary>A table of images.</summary>
    public void Images(IEnumerable<V1.Image> images)
    {
        var table = NewTable("IMAGE", "DISPLAY NAME", "SIZE", "CREATED");
        foreach (var image in images)
            table.AddRow(
                Cell(ResourceNames.Id(image.Name)),
                Cell(image.DisplayName),
                Cell(SizeText(image.SizeBytes)),
                Cell(image.CreateTime?.ToDateTime().ToString("yyyy-MM-dd HH:mm:ss'Z'", CultureInfo.InvariantCulture) ?? ""));
        Write(table);
    }

    /// <summary>A vCPU's registers.</summary>
    public void Registers(VcpuRegisters registers)
    {
        string[] names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
        var text = console.Text;
        text.WriteLine($"vcpu {registers.Vcpu}  {registers.Activity}  {registers.InstructionsRetired} instructions");
        text.WriteLine($"rip {registers.Rip:x16}  rflags {registers.Rflags:x16}");
        for (var row = 0; row < registers.GeneralPurpose.Count; row += 4)
            text.WriteLine(string.Join("  ", registers.GeneralPurpose.Skip(row).Take(4).Select((value, at) => $"{(row + at < names.Length ? names[row + at] : "?"),-3} {value:x16}")));
        WriteNamed(registers.Control);
        WriteNamed(registers.Debug);
        WriteNamed(registers.Msrs);
        foreach (var segment in registers.Segments)
            text.WriteLine($"{segment.Name.ToLowerInvariant(),-4} {segment.Selector:x4}  base {segment.Base:x16}  limit {segment.Limit:x8}  rights {segment.AccessRights:x5}");
        for (var index = 0; index < registers.Xmm.Count; index++)
            text.WriteLine($"xmm{index,-2} {registers.Xmm[index].High:x16}_{registers.Xmm[index].Low:x16}");
    }

    /// <summary>Memory, sixteen bytes a line.</summary>
    public void HexDump(ulong address, ReadOnlySpan<byte> bytes)
    {
        for (var at = 0; at < bytes.Length; at += 16)
        {
            var line = bytes.Slice(at, Math.Min(16, bytes.Length - at));
            var digits = string.Join(' ', line.ToArray().Select(value => value.ToString("x2", CultureInfo.InvariantCulture)));
            var characters = string.Concat(line.ToArray().Select(value => value is >= 0x20 and < 0x7F ? (char)value : '.'));
            console.Text.WriteLine($"{address + (ulong)at:x16}  {digits,-47}  {characters}");
        }
    }

    /// <summary>A VM's name as people type it: without the default project.</summary>
    public static string ShortName(string name) =>
        name.StartsWith($"projects/{ResourceNames.DefaultProject}/", StringComparison.Ordinal) ? ResourceNames.Id(name) : name;

    /// <summary>A state in one word of small letters.</summary>
    public static string StateName(VmState state) => state.ToString().ToLowerInvariant();

    /// <summary>How a run ended, in a few words; empty where it has not.</summary>
    public static string EndText(VmEnd? end) => end?.Reason switch
    {
        null => "",
        VmEndReason.PowerOff => "power-off",
        VmEndReason.DebugExit => $"debug exit {end.ExitCode}",
        VmEndReason.TripleFault => "triple fault",
        VmEndReason.Stopped => "stopped",
        VmEndReason.Failed => "engine failed",
        VmEndReason.Interrupted => "interrupted",
        _ => end.Reason.ToString(),
    };

    /// <summary>A VM's vCPUs: those of its run, which may have been given more, and where it is stopped those of its spec.</summary>
    public static int CpusOf(Vm vm)
    {
        var running = vm.Status is { State: not VmState.Stopped } status ? status.Cpus : 0;
        return Math.Max(1, running > 0 ? running : vm.Spec?.Cpus ?? 1);
    }

    private static string LabelText(IEnumerable<KeyValuePair<string, string>> labels) =>
        string.Join(',', labels.OrderBy(label => label.Key, StringComparer.Ordinal).Select(label => $"{label.Key}={label.Value}"));

    /// <summary>A number of bytes in the unit that suits it.</summary>
    internal static string SizeText(long bytes) => bytes switch
    {
        >= 1 << 30 => $"{bytes / (double)(1 << 30):0.0} GiB",
        >= 1 << 20 => $"{bytes / (double)(1 << 20):0.0} MiB",
        >= 1 << 10 => $"{bytes / (double)(1 << 10):0.0} KiB",
        _ => $"{bytes} B",
    };

    private static Text Cell(string text) => new(text);

    private static Table NewTable(params string[] columns)
    {
        var table = new Table { Border = TableBorder.None, ShowHeaders = true };
        foreach (var column in columns)
            table.AddColumn(new TableColumn(new Text(column)) { NoWrap = true, Padding = new Padding(0, 0, 2, 0) });
        return table;
    }

    private void Write(IRenderable content)
    {
        var screen = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(console.Text),
            Ansi = console.OutputIsTerminal ? AnsiSupport.Detect : AnsiSupport.No,
            ColorSystem = console.OutputIsTerminal ? ColorSystemSupport.Detect : ColorSystemSupport.NoColors,
            Interactive = InteractionSupport.No,
        });
        // Nothing is cut or folded inside a column, so that names can be copied: a terminal wraps what is too long for it.
        screen.Profile.Width = 1000;
        screen.Write(content);
    }

    private void WriteNamed(IEnumerable<KeyValuePair<string, ulong>> values)
    {
        foreach (var row in values.OrderBy(value => value.Key, StringComparer.Ordinal).Chunk(3))
            console.Text.WriteLine(string.Join("  ", row.Select(value => $"{value.Key.ToLowerInvariant(),-14} {value.Value:x16}")));
    }
}
