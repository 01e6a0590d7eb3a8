using System.Numerics;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Vmx.VirtualApic;

/// <summary>The posted-interrupt descriptor (SDM volume 3, table 30-1): 64 bytes at the address in the VMCS.</summary>
public static class PostedInterruptDescriptor
{
    /// <summary>Bytes; also its alignment.</summary>
    public const int Size = 64;

    /// <summary>The offset of the byte with the outstanding-notification bit (bit 256 of the descriptor).</summary>
    public const int ControlOffset = 32;

    /// <summary>The outstanding-notification bit in its byte.</summary>
    public const byte OutstandingNotification = 1;
}

/// <content>Posted-interrupt processing (SDM volume 3, section 30.6).</content>
internal sealed unsafe partial class ApicVirtualization
{
    /// <summary>
    /// What the processor does when the notification vector arrives: takes over the posted-interrupt requests. The evaluation of
    /// pending virtual interrupts follows at once where the guest runs, or with the next entry.
    /// </summary>
    public void ProcessPostedInterrupts(Vmcs vmcs, bool running)
    {
        ulong address = vmcs[VmcsField.PostedInterruptDescriptorAddress] & ~(PostedInterruptDescriptor.Size - 1UL);
        byte* host = cpu.Environment.Memory.HostPage(address);
        if (host == null)
            return;
        host += address & 0xFFF;
        host[PostedInterruptDescriptor.ControlOffset] &= unchecked((byte)~PostedInterruptDescriptor.OutstandingNotification);
        cpu.Package.Code.Written(address, PostedInterruptDescriptor.Size);
        _vmcs = vmcs;
        Locate(vmcs[VmcsField.VirtualApicAddress]);
        for (uint word = 0; word < 8; word++)
        {
            uint bits = ((uint*)host)[word];
            if (bits == 0)
                continue;
            ((uint*)host)[word] = 0;
            SetRegister(VirtualApicOffset.Request + word * 16, Register(VirtualApicOffset.Request + word * 16) | bits);
            Requesting = Math.Max(Requesting, word * 32 + (uint)BitOperations.Log2(bits));
        }
        if (running)
            Evaluate();
    }
}
