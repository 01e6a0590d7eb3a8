using Microsoft.Extensions.Logging;
using Vmm.Machine;

namespace Vmm.Worker.Machines;

/// <summary>Says in the log, once for a VM, that code could not be compiled: a bug of ours that costs the guest nothing but speed.</summary>
internal sealed class CompilerFailures(ILogger log, string vm)
{
    private int _said;

    /// <summary>A failure in a line.</summary>
    public static string TextOf(Exception failure) => $"{failure.GetType().Name}: {failure.Message}";

    /// <summary>Looks after a machine of the VM.</summary>
    public void Watch(IMachine machine) => machine.CompilationFailed += Say;

    private void Say(Exception failure)
    {
        if (Interlocked.Exchange(ref _said, 1) == 0)
            log.CompilationFailed(vm, TextOf(failure));
    }
}
