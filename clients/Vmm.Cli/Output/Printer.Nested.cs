using Vmm.V1;

namespace Vmm.Cli.Output;

/// <content>The guest's own VMX operation.</content>
internal sealed partial class Printer
{
    /// <summary>L1's VMX operation on a vCPU.</summary>
    public void Nested(VcpuNested nested)
    {
        if (IsJson)
        {
            Json(nested);
            return;
        }

        var text = console.Text;
        text.WriteLine($"vcpu {nested.Vcpu}  L{nested.Level} runs{(nested.RunPending ? ", entered just now" : "")}  {nested.InstructionsRetired} instructions");
        text.WriteLine(nested.VmxOn ? $"vmx on, vmxon pointer {nested.VmxonPointer:x}" : "vmx off");
        if (nested.HasCurrentVmcsPointer)
            text.WriteLine($"current vmcs {nested.CurrentVmcsPointer:x}, {Words.Of(nested.LaunchState)}{(nested.ShadowVmcs ? ", shadow" : "")}");
        Exit("last exit to L1", nested.LastExit);
        Exit("last exit to L0", nested.LastHardwareExit);
    }

    private void Exit(string title, VmExit? exit)
    {
        if (exit is null)
            return;
        console.Text.WriteLine(
            $"{title}  {exit.Reason & 0xFFFF} {exit.ReasonName}  qualification {exit.Qualification:x}{(exit.Decode.Length > 0 ? $"  {exit.Decode}" : "")}");
    }
}
