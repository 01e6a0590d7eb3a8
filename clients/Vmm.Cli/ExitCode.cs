namespace Vmm.Cli;

/// <summary>Exit codes of vmmctl. <c>vmmctl run</c> adds its guest's own, which are odd (see <see cref="Table"/>).</summary>
public static class ExitCode
{
    /// <summary>Done; of <c>run</c>: the guest powered itself off.</summary>
    public const int Success = 0;

    /// <summary>The server refused the request or failed it; the message says why.</summary>
    public const int Failed = 1;

    /// <summary>The command line, or a file that it or the environment names, is wrong; nothing was done.</summary>
    public const int Usage = 2;

    /// <summary>The server could not be reached, or something that it needs for this: a worker, the fleet's registry. The message says which.</summary>
    public const int Unreachable = 4;

    /// <summary><c>run</c>: the timeout ran out, as of <c>timeout</c>(1).</summary>
    public const int TimedOut = 124;

    /// <summary><c>run</c>: the VM could not be created or started, or the engine failed.</summary>
    public const int NotStarted = 125;

    /// <summary><c>run</c>: the guest ended in a triple fault.</summary>
    public const int TripleFault = 126;

    /// <summary>Interrupted: 128 plus SIGINT.</summary>
    public const int Interrupted = 130;

    /// <summary><c>run</c>: someone else stopped the VM, or its server went away: 128 plus SIGKILL.</summary>
    public const int Stopped = 137;

    /// <summary>Whoever read standard output has gone: 128 plus SIGPIPE.</summary>
    public const int BrokenPipe = 141;

    /// <summary>The table that <c>vmmctl help exit-codes</c> prints.</summary>
    public static IReadOnlyList<(string Code, string Meaning)> Table { get; } =
    [
        ("0", "Success. run: the guest powered itself off."),
        ("1", "The server refused the request or failed it; the message says why."),
        ("2", "The command line, or a file that it or the environment names, is wrong; nothing was done."),
        ("4", "The server could not be reached, or something that it needs: a worker, the fleet's registry. The message says what (of run: 125)."),
        ("124", "run: the timeout ran out."),
        ("125", "run: the VM could not be created or started, or the engine failed."),
        ("126", "run: the guest ended in a triple fault."),
        ("130", "Interrupted (Ctrl-C, SIGTERM); what was begun was undone."),
        ("137", "run: someone else stopped the VM, or its server went away."),
        ("141", "Whoever read standard output has gone away."),
        ("odd", "run: the guest wrote VALUE to isa-debug-exit (port 0xf4): (VALUE << 1) | 1, as a byte."),
    ];
}
