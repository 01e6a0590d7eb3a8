using System.Collections.Immutable;
using Google.Protobuf;
using Vmm.Client;
using Vmm.Guests;
using Vmm.Testing.Processes;
using Vmm.V1;
using Xunit;

namespace Vmm.EndToEnd.Tests.Installations;

/// <summary>
/// The product as a user has it: an address, the authority of its certificate and a token, which <c>vmmctl</c> takes from its environment.
/// Journeys know nothing else of it, so that each can be made in any installation.
/// </summary>
public abstract class Installation
{
    /// <summary>How long anything may take on a host that has other work.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromMinutes(5);

    /// <summary>The address, https with <see cref="Credentials"/>.</summary>
    public abstract string Address { get; }

    /// <summary>Whom to trust and what to show there.</summary>
    public virtual VmmCredentials Credentials { get; } = new();

    /// <summary>The variables of <c>vmmctl</c> by which it talks to this installation.</summary>
    public virtual IReadOnlyDictionary<string, string> Environment => ImmutableDictionary<string, string>.Empty.Add("VMM_SERVER", Address);

    /// <summary>A connection with the user's credentials.</summary>
    public VmmConnection Connect() => VmmConnection.Open(Address, Credentials);

    /// <summary>Starts <c>vmmctl run</c> or <c>quickstart</c>, the commands that start a server themselves where none is named.</summary>
    internal virtual ConsoleProcess Run(params string[] arguments) => ConsoleProcess.Vmmctl(Environment, arguments);

    /// <summary>Starts <c>vmmctl</c>, for commands that go on until they are ended or the guest is.</summary>
    internal ConsoleProcess Start(params string[] arguments) => ConsoleProcess.Vmmctl(Environment, arguments);

    /// <summary>Has <c>vmmctl</c> do something.</summary>
    /// <returns>What it printed.</returns>
    internal async Task<string> VmmctlAsync(params string[] arguments)
    {
        (int code, string output, string errors) = await TryAsync(Environment, arguments);
        Assert.True(code == 0, $"vmmctl {string.Join(' ', arguments)} ended with {code}: {errors}");
        return output;
    }

    /// <summary>Likewise, with the API's answer from its JSON.</summary>
    internal async Task<T> VmmctlAsync<T>(params string[] arguments)
        where T : IMessage, new() => JsonParser.Default.Parse<T>(await VmmctlAsync([.. arguments, "-o", "json"]));

    /// <summary>Has <c>vmmctl</c> try something that is to be refused.</summary>
    /// <returns>Its message.</returns>
    internal async Task<string> RefusedAsync(params string[] arguments)
    {
        (int code, string output, string errors) = await TryAsync(Environment, arguments);
        Assert.True(code == 1, $"vmmctl {string.Join(' ', arguments)} ended with {code}: {output}{errors}");
        return errors;
    }

    /// <summary>Has <c>vmmctl</c> do something in an environment of its own.</summary>
    internal static async Task<(int Code, string Output, string Errors)> TryAsync(IReadOnlyDictionary<string, string> environment, params string[] arguments)
    {
        await using ConsoleProcess vmmctl = ConsoleProcess.Vmmctl(environment, arguments);
        int code = await vmmctl.WaitForExitAsync(Patience);
        return (code, vmmctl.Output, vmmctl.Errors);
    }

    /// <summary>Waits for a VM's first vCPU to execute L2: L1 takes its timer's interrupts in between.</summary>
    internal async Task RunsL2Async(string vm)
    {
        using VmmConnection connection = Connect();
        await Eventually.HoldsAsync(
            async () => (await connection.Vms.GetVcpuNestedAsync(new GetVcpuNestedRequest { Name = ResourceNames.Vm(vm, null) })).Level == 2, $"{vm} runs L2");
    }

    /// <summary>Boots Debian's kernel and waits for its shell's prompt.</summary>
    /// <param name="id">The VM's id.</param>
    /// <param name="content">What it boots into: a shell.</param>
    /// <param name="options">Further ones of <c>vmmctl vm create</c>.</param>
    /// <returns>An open console, at the prompt.</returns>
    internal async Task<ConsoleProcess> BootAsync(string id, Initramfs content, params string[] options)
    {
        (string kernel, string initrd) = await DebianGuest.FilesAsync(content);
        await VmmctlAsync(["vm", "create", id, "--kernel", kernel, "--initrd", initrd, "--append", DebianGuest.Append, "--start", .. options]);
        ConsoleProcess console = Start("vm", "console", id);
        try
        {
            await console.WaitForAsync(Initramfs.ReadyLine, Patience);
            await console.WaitForAsync(Initramfs.Prompt, Patience);
            await DebianGuest.QuietenAsync(console);
            return console;
        }
        catch
        {
            await console.DisposeAsync();
            throw;
        }
    }
}
