using System.Security.Cryptography;
using Google.Protobuf;
using Vmm.V1;

namespace Vmm.Protos;

/// <summary>The etags of VMs.</summary>
public static class VmEtag
{
    /// <summary>A digest of all of a VM but etag, counters and checkpoint.</summary>
    public static string Of(Vm vm)
    {
        ArgumentNullException.ThrowIfNull(vm);
        Vm copy = vm.Clone();
        copy.Etag = "";
        copy.Status.InstructionsRetired = 0;
        copy.Status.ResetCount = 0;
        copy.Status.MemoryBytes = 0;
        copy.Status.CompiledCode = null;
        copy.Status.Counters = null;
        copy.Status.Migration = null;
        copy.Status.Checkpoint = null;
        return Convert.ToHexStringLower(SHA256.HashData(copy.ToByteArray()).AsSpan(0, 8));
    }
}
