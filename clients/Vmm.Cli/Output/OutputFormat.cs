using System.CommandLine;

namespace Vmm.Cli.Output;

/// <summary>The values of <c>-o</c>.</summary>
internal static class OutputFormat
{
    /// <summary>For people.</summary>
    public const string Table = "table";

    /// <summary>For programs: the API's own JSON; of streams one object a line.</summary>
    public const string Json = "json";

    /// <summary>The option itself.</summary>
    public static Option<string> Option()
    {
        var option = new Option<string>("--output", "-o")
        {
            Description = "table for people, json for programs.",
            DefaultValueFactory = _ => Table,
            HelpName = "table|json",
        };
        option.AcceptOnlyFromAmong(Table, Json);
        return option;
    }
}
