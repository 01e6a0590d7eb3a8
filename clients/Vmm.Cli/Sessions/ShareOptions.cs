using System.CommandLine;
using System.CommandLine.Parsing;
using Vmm.V1;

namespace Vmm.Cli.Sessions;

/// <summary>The options that say what a VM gets of the processors, of commands that make or change one.</summary>
internal sealed class ShareOptions
{
    private readonly Option<int?> _weight = new Option<int?>("--cpu-weight")
    {
        Description = "How much of the processors the VM gets where VMs want more than there is, in proportion to the others' weights: 1 to 10000. Default: 100.",
        HelpName = "N",
    }.Within(1, int.MaxValue);

    private readonly Option<int?> _limit = new Option<int?>("--cpu-limit")
    {
        Description = "The most of the processors that the VM gets, in thousandths of one: 10 to 16000, or 0 for no limit. Default: 0.",
        HelpName = "MILLICPUS",
    }.Within(0, int.MaxValue);

    /// <summary>Adds the options to a command.</summary>
    public void AddTo(Command command)
    {
        command.Add(_weight);
        command.Add(_limit);
    }

    /// <summary>Whether a command line has one of them.</summary>
    public bool IsGiven(CommandResult command) => command.GetResult(_weight) is not null || command.GetResult(_limit) is not null;

    /// <summary>Sets what was given, and nothing else.</summary>
    /// <returns>The paths of the fields that were given, as UpdateVm's mask has them.</returns>
    public IReadOnlyList<string> Apply(ParseResult parsed, VmSpec spec)
    {
        var paths = new List<string>();
        if (parsed.GetValue(_weight) is { } weight)
        {
            spec.CpuWeight = weight;
            paths.Add("spec.cpu_weight");
        }

        if (parsed.GetValue(_limit) is { } limit)
        {
            spec.CpuLimitMillicpus = limit;
            paths.Add("spec.cpu_limit_millicpus");
        }

        return paths;
    }
}
