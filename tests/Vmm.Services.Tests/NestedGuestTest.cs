using Grpc.Core;
using Vmm.Machine;
using Vmm.Server;
using Vmm.Testing.Guests;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

/// <summary>A server with the engine's machines, and a guest that is a hypervisor.</summary>
public abstract class NestedGuestTest : ServerTest
{
    protected const string Name = "projects/default/vms/one";

    private protected override Task<VmmServer> StartServerAsync() => VmmServer.StartAsync(Options, new MachineFactory(), TimeProvider.System);

    /// <summary>Starts the guest with two vCPUs, of which the second waits for a start-up message, and waits until L2 is active.</summary>
    protected async Task<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>> StartInL2Async(ApicvPolicy policy = ApicvPolicy.Deferred, params ApicvInhibitReason[] inhibits) =>
        await StartInL2Async(maxCpus: 0, policy, inhibits);

    /// <summary>Likewise, with room for more vCPUs.</summary>
    protected async Task<AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse>> StartInL2Async(int maxCpus, ApicvPolicy policy = ApicvPolicy.Deferred, params ApicvInhibitReason[] inhibits)
    {
        await File.WriteAllBytesAsync(Kernel, NestedGuest.Image());
        VmSpec spec = Spec();
        spec.Cpus = 2;
        spec.MaxCpus = maxCpus;
        spec.Apicv = new ApicvSpec { Policy = policy, FixedInhibits = { inhibits } };
        await CreateAsync(spec: spec);
        AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console = Vms.Console();
        await console.RequestStream.WriteAsync(new ConsoleRequest { Attach = new ConsoleAttach { Name = Name } });
        await Vms.StartVmAsync(new StartVmRequest { Name = Name });
        await ReadUntilAsync(console, "2");
        return console;
    }

    protected static async Task ReadUntilAsync(AsyncDuplexStreamingCall<ConsoleRequest, ConsoleResponse> console, string text)
    {
        string seen = "";
        while (!seen.Contains(text, StringComparison.Ordinal))
        {
            Assert.True(await console.ResponseStream.MoveNext(Soon));
            ConsoleResponse response = console.ResponseStream.Current;
            Assert.True(response.RunEnded is null, $"the run ended with {response.RunEnded} after '{seen}'");
            seen += response.Output?.Data.ToStringUtf8();
        }
    }
}
