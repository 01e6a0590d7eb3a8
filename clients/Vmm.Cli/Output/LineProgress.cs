namespace Vmm.Cli.Output;

/// <summary>Progress as lines on standard error, in the order reported.</summary>
internal sealed class LineProgress(TextWriter error) : IProgress<string>
{
    /// <inheritdoc/>
    public void Report(string value) => error.WriteLine($"vmmctl: {value}");
}
