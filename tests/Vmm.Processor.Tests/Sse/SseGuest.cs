using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Xunit;
using Bits = Vmm.Processor.State.Cr4;

namespace Vmm.Processor.Tests.Sse;

/// <summary>Runs a few instructions in 64-bit mode at CPL 0 and tells how they ended.</summary>
internal sealed unsafe class SseGuest : IDisposable
{
    /// <summary>Scratch memory for operands.</summary>
    public const ulong Scratch = 0x20_0000;

    private readonly TestGuest _guest = new();

    public CpuState* State => _guest.State;
    public TestGuest Guest => _guest;
    public ulong Cr4 { get; set; } = Bits.Pae | Bits.Osfxsr | Bits.Osxmmexcpt | Bits.Osxsave;
    public ulong Cr0 { get; set; }

    public UInt128 this[int register]
    {
        get => *(UInt128*)&State->Xmm[2 * register];
        set => *(UInt128*)&State->Xmm[2 * register] = value;
    }

    public void SetSingle(int register, float value) => this[register] = BitConverter.SingleToUInt32Bits(value);

    public void SetDouble(int register, double value) => this[register] = BitConverter.DoubleToUInt64Bits(value);

    public double Double(int register) => BitConverter.UInt64BitsToDouble((ulong)this[register]);

    /// <summary>Runs; returns the vector of the exception that ended it, or null when it came to its end.</summary>
    public uint? Run(Action<Assembler> program)
    {
        _guest.EnterLongMode();
        _guest.Vmcs[VmcsField.GuestCr4] = Cr4;
        _guest.Vmcs[VmcsField.GuestCr0] |= Cr0;
        _guest.Vmcs[VmcsField.ExceptionBitmap] = uint.MaxValue;
        _guest.Vmcs[VmcsField.ProcessorBasedControls] = (uint)(ProcControls.HltExiting | ProcControls.ActivateSecondary);
        _guest.Vmcs[VmcsField.SecondaryControls] = (uint)SecondaryControls.EnableXsaves;
        _guest.Assemble(64, a =>
        {
            program(a);
            a.hlt();
        });
        ExitReason reason = _guest.Run();
        if (reason == ExitReason.Hlt)
            return null;
        Assert.Equal(ExitReason.ExceptionOrNmi, reason);
        return _guest.Vmcs.Read32(VmcsField.VmExitInterruptionInformation) & 0xFF;
    }

    public void Dispose() => _guest.Dispose();
}
