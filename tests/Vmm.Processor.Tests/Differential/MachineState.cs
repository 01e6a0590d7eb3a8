using System.Runtime.InteropServices;

namespace Vmm.Processor.Tests.Differential;

/// <summary>What a sequence starts with, or ends with: registers in native memory, and how it ended.</summary>
internal sealed unsafe class MachineState : IDisposable
{
    public const int FxBytes = 512;

    private byte* _memory = (byte*)NativeMemory.AlignedAlloc(FxBytes + 16 * 8 + Layout.MutableSize, 64);

    public MachineState() => new Span<byte>(_memory, FxBytes + 16 * 8 + Layout.MutableSize).Clear();

    /// <summary>x87, MMX and SSE state in the format of FXSAVE64.</summary>
    public byte* Fx => _memory;

    /// <summary>General-purpose registers in the manual's order.</summary>
    public ulong* Gpr => (ulong*)(_memory + FxBytes);

    /// <summary>Data pages, then stack page.</summary>
    public Span<byte> Memory => new(_memory + FxBytes + 16 * 8, Layout.MutableSize);

    public ulong Rip { get; set; }
    public ulong Flags { get; set; }

    /// <summary>The exception that ended the sequence; <see cref="NoVector"/> where none did in time.</summary>
    public uint Vector { get; set; }
    public uint Error { get; set; }

    /// <summary>CR2 after a page fault.</summary>
    public ulong Address { get; set; }

    public const uint NoVector = uint.MaxValue;

    public uint Mxcsr
    {
        get => *(uint*)(Fx + 24);
        set => *(uint*)(Fx + 24) = value;
    }

    public ushort Fcw
    {
        get => *(ushort*)Fx;
        set => *(ushort*)Fx = value;
    }

    public ushort Fsw
    {
        get => *(ushort*)(Fx + 2);
        set => *(ushort*)(Fx + 2) = value;
    }

    /// <summary>Abridged tags: bit i for physical register i, set where not empty.</summary>
    public byte Ftw
    {
        get => Fx[4];
        set => Fx[4] = value;
    }

    /// <summary>ST(i), 16 bytes each of which 10 count.</summary>
    public byte* St(int i) => Fx + 32 + i * 16;

    /// <summary>XMM register.</summary>
    public byte* Xmm(int i) => Fx + 160 + i * 16;

    public void CopyFrom(MachineState other)
    {
        Buffer.MemoryCopy(other._memory, _memory, FxBytes + 16 * 8 + Layout.MutableSize, FxBytes + 16 * 8 + Layout.MutableSize);
        (Rip, Flags, Vector, Error, Address) = (other.Rip, other.Flags, other.Vector, other.Error, other.Address);
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
