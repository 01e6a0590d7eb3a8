namespace Vmm.Cli.Terminal;

/// <summary>Whoever read standard output has gone away.</summary>
public sealed class BrokenPipeException() : IOException("Standard output was closed by its reader.");
