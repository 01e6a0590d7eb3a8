using System.Collections.Immutable;
using Vmm.Server;
using Xunit;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>Everything in one process: the one of <c>vmmctl</c> for the commands that start a server, and this one for all others.</summary>
public sealed class EmbeddedInstallation : Installation, IAsyncLifetime
{
    private EmbeddedServer _server = null!;

    /// <inheritdoc/>
    public override string Address => _server.Address;

    /// <inheritdoc/>
    public async Task InitializeAsync() => _server = await EmbeddedServer.StartAsync();

    /// <inheritdoc/>
    public async Task DisposeAsync() => await _server.DisposeAsync();

    /// <inheritdoc/>
    internal override ConsoleProcess Run(params string[] arguments) => ConsoleProcess.Vmmctl(ImmutableDictionary<string, string>.Empty, arguments);
}
