using System.CommandLine;
using System.Globalization;
using Vmm.Cli.Commands;
using Vmm.Cli.Output;
using Vmm.Cli.Terminal;
using Vmm.Client;
using Vmm.V1;
using Duration = Google.Protobuf.WellKnownTypes.Duration;

namespace Vmm.Cli.Sessions;

/// <summary>The options that say what a VM is made from, of <c>run</c> and <c>vm create</c>.</summary>
internal sealed class VmSpecOptions
{
    private const string ImagePrefix = "image:";
    private const string ServerPathPrefix = "server:";

    private readonly Option<string> _kernel = new("--kernel")
    {
        Description = $"bzImage, ELF with a PVH note, or Multiboot 1. A file of this host, {ImagePrefix}NAME, or {ServerPathPrefix}PATH on the server's host.",
        HelpName = "FILE",
        Required = true,
    };

    private readonly Option<string?> _initrd = new("--initrd") { Description = "Initial RAM disk; for Multiboot the first module.", HelpName = "FILE" };
    private readonly Option<string?> _append = new("--append") { Description = "The kernel's command line.", HelpName = "TEXT" };

    private readonly Option<string[]> _modules = new("--module")
    {
        Description = "A further Multiboot module, with its command line after a space; may be given again.",
        HelpName = "FILE [TEXT]",
    };

    private readonly Option<string[]> _disks = new("--disk") { Description = "A raw disk, with ,ro read only; may be given again.", HelpName = "FILE[,ro]" };
    private readonly Option<long> _memory = new Option<long>("--memory") { Description = "RAM.", HelpName = "MIB", DefaultValueFactory = _ => 256 }.Within(1, long.MaxValue);
    private readonly Option<int> _cpus = new Option<int>("--cpus") { Description = "Virtual processors.", HelpName = "N", DefaultValueFactory = _ => 1 }.Within(1, int.MaxValue);

    private readonly Option<int?> _maxCpus = new Option<int?>("--max-cpus") { Description = "Virtual processors that there may come to be by vm add-vcpu. Default: as many as --cpus.", HelpName = "N" }.Within(1, int.MaxValue);

    private readonly Option<string> _clock = new("--clock")
    {
        Description = "realtime follows the host; virtual follows the guest's instructions and makes runs repeatable.",
        HelpName = "virtual|realtime",
        DefaultValueFactory = _ => "realtime",
    };

    private readonly Option<ulong?> _seed = new Option<ulong?>("--seed") { Description = "Seeds the guest's random numbers under the virtual clock.", HelpName = "N" }.Within(0UL, ulong.MaxValue);

    private readonly Option<string?> _engine = new("--engine")
    {
        Description = "What executes the guest: auto compiles what runs often, interpreter does not. The guest does the same under both; lockstep checks that, and needs --clock virtual. Default: auto.",
        HelpName = "auto|interpreter|lockstep",
    };

    private readonly Option<string?> _restart = new("--restart", "--restart-policy")
    {
        Description = "What becomes of the VM, on another worker where need be, when its worker fails while it runs: on-failure boots it again, from-last-checkpoint has it go on from when it was saved last. Default: never.",
        HelpName = "never|on-failure|from-last-checkpoint",
    };

    private readonly ShareOptions _share = new();

    private readonly Option<string?> _checkpointInterval = new("--checkpoint-interval")
    {
        Description = "How often the VM is saved, with --restart from-last-checkpoint: seconds, or as 30s, 5m or 1h. Default: 60s.",
        HelpName = "DURATION",
    };

    private readonly Option<string[]> _onWorker = new("--on-worker") { Description = "Only on workers that have this label; may be given again.", HelpName = "KEY=VALUE" };
    private readonly Option<string[]> _withVm = new("--with-vm") { Description = "Only on a worker that has a VM with this label; may be given again.", HelpName = "KEY=VALUE" };
    private readonly Option<string[]> _apartFrom = new("--apart-from") { Description = "Only on a worker that has no VM with this label; may be given again.", HelpName = "KEY=VALUE" };

    private readonly Option<string?> _strategy = new("--place")
    {
        Description = "Prefer the worker with the most room, or the one with the least that is enough. Default: spread.",
        HelpName = "spread|pack",
    };

    private readonly Option<string?> _apicvPolicy = new("--apicv-policy")
    {
        Description = "What is done with an APICv inhibit that changes while L2 is active. Default: deferred. unsafe-immediate is a bug, for watching it.",
        HelpName = "deferred|switch|unsafe-immediate",
    };

    private readonly Option<string[]> _apicv = new("--apicv") { Description = "The VM has no APICv, or has it switched off; may be given again.", HelpName = "absent|disable" };

    private readonly Option<bool> _earlyCheck = new("--nested-early-check")
    {
        Description = "Take a vmcs02 that the processor refuses for a fault of the engine, and never blame it on the guest hypervisor.",
    };

    private readonly Option<bool> _enlightenedVmcs = new("--enlightened-vmcs")
    {
        Description = "Show the guest the Hyper-V interface with the enlightened VMCS, and not what that has no fields for.",
    };

    private readonly Option<string[]> _vmxMsrs = new("--vmx-msr")
    {
        Description = "A VMX capability MSR, 0x480 to 0x493, of which the guest sees this value, which must offer less than the processor's; may be given again.",
        HelpName = "MSR=VALUE",
    };

    public VmSpecOptions()
    {
        _vmxMsrs.Validators.Add(result =>
        {
            var msrs = new HashSet<uint>();
            foreach (var token in result.Tokens)
                if (!TryMsr(token.Value, out var msr, out _))
                    result.AddError($"--vmx-msr: '{token.Value}' is not a pair of numbers as 0x481=0x7f00000016.");
                else if (!msrs.Add(msr))
                    result.AddError($"--vmx-msr: 0x{msr:x} is there twice.");
        });
        _clock.AcceptOnlyFromAmong("virtual", "realtime");
        _engine.AcceptOnlyFromAmong("auto", "interpreter", "lockstep");
        foreach (var option in new[] { _onWorker, _withVm, _apartFrom })
            VmCommands.RequirePairs(option);
        _restart.AcceptOnlyFromAmong("never", "on-failure", "from-last-checkpoint");
        _checkpointInterval.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && !TryDuration(token.Value, out _))
                result.AddError($"--checkpoint-interval: '{token.Value}' is not a duration as 30s, 5m or 1h.");
        });
        _strategy.AcceptOnlyFromAmong("spread", "pack");
        _apicvPolicy.AcceptOnlyFromAmong("deferred", "switch", "unsafe-immediate");
        _apicv.AcceptOnlyFromAmong("absent", "disable");
        // Files are checked here, before anything is sent; a server's limits are the server's to check.
        foreach (var option in new Option[] { _kernel, _initrd })
            option.Validators.Add(result =>
            {
                foreach (var token in result.Tokens)
                    if (MissingFile(token.Value) is { } problem)
                        result.AddError($"{option.Name}: {problem}");
            });
        _disks.Validators.Add(result =>
        {
            foreach (var token in result.Tokens)
                if (MissingFile(SplitDisk(token.Value).File) is { } problem)
                    result.AddError($"--disk: {problem}");
        });
        _modules.Validators.Add(result =>
        {
            foreach (var token in result.Tokens)
                if (MissingFile(SplitModule(token.Value).File) is { } problem)
                    result.AddError($"--module: {problem}");
        });
    }

    public void AddTo(Command command)
    {
        command.Add(_kernel);
        command.Add(_initrd);
        command.Add(_append);
        command.Add(_modules);
        command.Add(_disks);
        command.Add(_memory);
        command.Add(_cpus);
        command.Add(_maxCpus);
        command.Add(_clock);
        command.Add(_seed);
        command.Add(_engine);
        command.Add(_restart);
        command.Add(_checkpointInterval);
        _share.AddTo(command);
        command.Add(_onWorker);
        command.Add(_withVm);
        command.Add(_apartFrom);
        command.Add(_strategy);
        command.Add(_apicvPolicy);
        command.Add(_apicv);
        command.Add(_earlyCheck);
        command.Add(_enlightenedVmcs);
        command.Add(_vmxMsrs);
    }

    /// <summary>The spec; files of this host are uploaded first, unless the server is in this process.</summary>
    public async Task<VmSpec> BuildAsync(ParseResult parsed, Session session, CliConsole console, CancellationToken cancellation)
    {
        var spec = new VmSpec
        {
            MemoryMib = parsed.GetValue(_memory),
            Cpus = parsed.GetValue(_cpus),
            // What is not asked for is not mentioned: a server that is too old to know it need not refuse it.
            MaxCpus = parsed.GetValue(_maxCpus) ?? 0,
            Kernel = await SourceAsync(parsed.GetRequiredValue(_kernel)).ConfigureAwait(false),
            CommandLine = parsed.GetValue(_append) ?? "",
            Clock = parsed.GetValue(_clock) == "virtual" ? V1.Clock.Virtual : V1.Clock.RealTime,
        };
        if (parsed.GetValue(_seed) is { } seed)
            spec.Seed = seed;
        AddVirtualization(parsed, spec);
        AddPlacement(parsed, spec);
        _share.Apply(parsed, spec);
        if (parsed.GetValue(_initrd) is { Length: > 0 } initrd)
            spec.Initrd = await SourceAsync(initrd).ConfigureAwait(false);
        foreach (var module in parsed.GetValue(_modules) ?? [])
        {
            var (file, commandLine) = SplitModule(module);
            spec.Modules.Add(new Module { Source = await SourceAsync(file).ConfigureAwait(false), CommandLine = commandLine });
        }

        foreach (var disk in parsed.GetValue(_disks) ?? [])
        {
            var (file, readOnly) = SplitDisk(disk);
            spec.Disks.Add(new Disk { Source = await SourceAsync(file).ConfigureAwait(false), ReadOnly = readOnly });
        }

        return spec;

        async Task<FileSource> SourceAsync(string text)
        {
            if (text.StartsWith(ImagePrefix, StringComparison.Ordinal))
                return new FileSource { Image = ResourceNames.Image(text[ImagePrefix.Length..], session.Project) };
            if (text.StartsWith(ServerPathPrefix, StringComparison.Ordinal))
                return new FileSource { Path = text[ServerPathPrefix.Length..] };
            if (session.IsEmbedded)
                return new FileSource { Path = Path.GetFullPath(text) };
            var image = await Upload.RunAsync(session, text, displayName: null, console, cancellation).ConfigureAwait(false);
            return new FileSource { Image = image.Name };
        }
    }

    // Likewise.
    private void AddVirtualization(ParseResult parsed, VmSpec spec)
    {
        if (parsed.GetValue(_engine) is { } engine)
            spec.Engine = Words.Parse<ExecutionEngine>(engine);
        var inhibits = (parsed.GetValue(_apicv) ?? []).Distinct().Select(Words.Parse<ApicvInhibitReason>).ToList();
        var policy = parsed.GetValue(_apicvPolicy);
        if (inhibits.Count > 0 || policy is not null)
            spec.Apicv = new ApicvSpec { FixedInhibits = { inhibits }, Policy = policy is null ? ApicvPolicy.Unspecified : Words.Parse<ApicvPolicy>(policy) };
        if (parsed.GetValue(_earlyCheck))
            spec.Nested = new NestedSpec { EarlyCheck = true };
        if (parsed.GetValue(_enlightenedVmcs))
            (spec.Nested ??= new NestedSpec()).EnlightenedVmcs = true;
        foreach (var text in parsed.GetValue(_vmxMsrs) ?? [])
            if (TryMsr(text, out var msr, out var value))
                (spec.Nested ??= new NestedSpec()).VmxCapabilityMsrs[msr] = value;
    }

    // Likewise.
    private void AddPlacement(ParseResult parsed, VmSpec spec)
    {
        if (parsed.GetValue(_restart) is { } restart)
            spec.RestartPolicy = restart switch
            {
                "never" => RestartPolicy.Never,
                "on-failure" => RestartPolicy.Restart,
                _ => RestartPolicy.FromLastCheckpoint,
            };
        if (parsed.GetValue(_checkpointInterval) is { } interval && TryDuration(interval, out var seconds))
            spec.CheckpointInterval = Duration.FromTimeSpan(seconds);
        var placement = new PlacementSpec();
        VmCommands.AddLabels(placement.WorkerLabels, parsed.GetValue(_onWorker));
        VmCommands.AddLabels(placement.WithVmLabels, parsed.GetValue(_withVm));
        VmCommands.AddLabels(placement.ApartFromVmLabels, parsed.GetValue(_apartFrom));
        if (parsed.GetValue(_strategy) is { } strategy)
            placement.Strategy = Words.Parse<PlacementSpec.Types.Strategy>(strategy);
        if (!placement.Equals(new PlacementSpec()))
            spec.Placement = placement;
    }

    private static bool TryMsr(string text, out uint msr, out ulong value)
    {
        value = 0;
        var parts = text.Split('=');
        var isPair = parts.Length == 2 & TryNumber(parts[0], out var number) && number <= uint.MaxValue && TryNumber(parts[^1], out value);
        msr = isPair ? (uint)number : 0;
        return isPair;
    }

    /// <summary>A time as 30s, 5m or 1h; a number alone is seconds.</summary>
    public static bool TryDuration(string text, out TimeSpan duration)
    {
        var unit = text.Length > 0 ? text[^1] : ' ';
        var scale = unit switch { 'm' => 60, 'h' => 3600, _ => 1 };
        var isNumber = int.TryParse(unit is 's' or 'm' or 'h' ? text[..^1] : text, NumberStyles.None, CultureInfo.InvariantCulture, out var number);
        duration = TimeSpan.FromSeconds((double)number * scale);
        return isNumber;
    }

    private static bool TryNumber(string text, out ulong number)
    {
        var isHex = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        return ulong.TryParse(isHex ? text[2..] : text, isHex ? NumberStyles.AllowHexSpecifier : NumberStyles.None, CultureInfo.InvariantCulture, out number);
    }

    private static string? MissingFile(string text)
    {
        if (text.StartsWith(ImagePrefix, StringComparison.Ordinal))
            return text.Length == ImagePrefix.Length ? "an image's name is missing." : null;
        if (text.StartsWith(ServerPathPrefix, StringComparison.Ordinal))
            return text.Length == ServerPathPrefix.Length ? "a path is missing." : null;
        return InputFile.Problem(text);
    }

    private static (string File, bool ReadOnly) SplitDisk(string text) =>
        text.EndsWith(",ro", StringComparison.Ordinal) ? (text[..^3], true) : (text, false);

    private static (string File, string CommandLine) SplitModule(string text)
    {
        var space = text.IndexOf(' ', StringComparison.Ordinal);
        return space < 0 ? (text, "") : (text[..space], text[(space + 1)..]);
    }
}
