using Vmm.Machine;

namespace Vmm.Worker.Machines;

/// <summary>Registers as messages.</summary>
internal static class RegisterMessages
{
    /// <summary>The message of a vCPU's registers.</summary>
    public static Vmm.V1.VcpuRegisters From(VcpuRegisters registers)
    {
        var message = new Vmm.V1.VcpuRegisters
        {
            Vcpu = registers.Vcpu,
            Rip = registers.Rip,
            Rflags = registers.Rflags,
            Activity = registers.Activity,
            InstructionsRetired = registers.InstructionsRetired,
        };
        message.GeneralPurpose.AddRange(registers.GeneralPurpose);
        message.Control.Add(registers.Control.ToDictionary());
        message.Debug.Add(registers.Debug.ToDictionary());
        message.Msrs.Add(registers.Msrs.ToDictionary());
        message.Segments.AddRange(registers.Segments.Select(segment => new Vmm.V1.SegmentRegister
        {
            Name = segment.Name,
            Selector = segment.Selector,
            Base = segment.Base,
            Limit = segment.Limit,
            AccessRights = segment.AccessRights,
        }));
        message.Xmm.AddRange(registers.Xmm.Select(xmm => new Vmm.V1.Xmm { Low = xmm.Low, High = xmm.High }));
        return message;
    }
}
