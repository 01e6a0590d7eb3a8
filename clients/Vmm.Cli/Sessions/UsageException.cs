namespace Vmm.Cli.Sessions;

/// <summary>The command line asks for something that cannot be, found after it was parsed. The message is for the user.</summary>
public sealed class UsageException(string message) : Exception(message);
