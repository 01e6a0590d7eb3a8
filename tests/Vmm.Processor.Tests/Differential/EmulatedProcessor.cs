using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Tests.Differential;

/// <summary>Runs a sequence on the emulated processor, at privilege level 3 of 64-bit or compatibility mode, until its first exception.</summary>
internal sealed unsafe class EmulatedProcessor : IDisposable
{
    // Guest-physical places; the low megabyte holds no more than these.
    private const ulong Tables = 0x1000, PhysicalCode = 0x10_0000, PhysicalData = 0x11_0000, PhysicalReadOnly = 0x12_0000, PhysicalStack = 0x13_0000, PhysicalTss = 0x14_0000;

    // The processor asks it for port permissions, of which there are none; sequences see no more of it than of the host's kernel.
    private const ulong Tss = 0xFFFF_8000_0000_0000;
    private const long Budget = 20_000;
    private const ulong Present = 1, Writable = 2, User = 4, Marked = 0x60, NoExecute = 1UL << 63;

    private readonly TestGuest _guest;
    private readonly byte[] _codePage = new byte[4096];
    private readonly byte* _data;
    private readonly byte* _stack;

    public EmulatedProcessor(ReadOnlySpan<byte> readOnlyPage, TranslationOptions? translation = null)
    {
        _guest = new TestGuest(2 << 20, new ProcessorFeatures { Bmi = true }, translation: translation);
        // One table of each level: all user addresses of the layout share a region of 2 MiB.
        _guest.Write(Tables, new byte[7 * 4096]);
        WriteEntry(0, Layout.Code >> 39, Tables + 0x1000 | Present | Writable | User | Marked);
        WriteEntry(1, Layout.Code >> 30, Tables + 0x2000 | Present | Writable | User | Marked);
        WriteEntry(2, Layout.Code >> 21, Tables + 0x3000 | Present | Writable | User | Marked);
        MapPages(Layout.Code, PhysicalCode, 4096, Present | User | Marked);
        MapPages(Layout.Data, PhysicalData, Layout.DataSize, Present | Writable | User | Marked | NoExecute);
        MapPages(Layout.ReadOnly, PhysicalReadOnly, 4096, Present | User | Marked | NoExecute);
        MapPages(Layout.Stack, PhysicalStack, Layout.StackSize, Present | Writable | User | Marked | NoExecute);
        WriteEntry(0, Tss >> 39, Tables + 0x4000 | Present | Writable | Marked);
        WriteEntry(4, 0, Tables + 0x5000 | Present | Writable | Marked);
        WriteEntry(5, 0, Tables + 0x6000 | Present | Writable | Marked);
        WriteEntry(6, 0, PhysicalTss | Present | Writable | Marked | NoExecute);
        _guest.Write(PhysicalTss + 0x60, [0xFFFF_0000_0000_0000UL]);
        _guest.Write(PhysicalReadOnly, readOnlyPage);
        _data = _guest.Memory.Page(PhysicalData);
        _stack = _guest.Memory.Page(PhysicalStack);
    }

    /// <summary>Runs code from given registers and memory until its first exception.</summary>
    public void Run(int bitness, ReadOnlySpan<byte> code, MachineState input, MachineState output)
    {
        Array.Fill(_codePage, (byte)0xF4);
        code.CopyTo(_codePage.AsSpan((int)(Layout.Start(bitness) & 0xFFF)));
        _guest.Write(PhysicalCode, _codePage);
        input.Memory[..(int)Layout.DataSize].CopyTo(new Span<byte>(_data, (int)Layout.DataSize));
        input.Memory[(int)Layout.DataSize..].CopyTo(new Span<byte>(_stack, (int)Layout.StackSize));

        _guest.EnterLongMode(input.Rip, cpl: 3);
        Vmcs vmcs = _guest.Vmcs;
        vmcs[VmcsField.GuestCr0] = Cr0.Pe | Cr0.Mp | Cr0.Et | Cr0.Ne | Cr0.Wp | Cr0.Am | Cr0.Pg;
        vmcs[VmcsField.GuestCr3] = Tables;
        vmcs[VmcsField.GuestCr4] = Cr4.Pae | Cr4.Osfxsr | Cr4.Osxmmexcpt | Cr4.Fsgsbase | Cr4.Umip | Cr4.Tsd;
        vmcs[VmcsField.GuestTrBase] = Tss;
        // A branch into the middle of an instruction may find INT n: it is as little allowed as by the host's kernel.
        vmcs[VmcsField.GuestIdtrLimit] = 0;
        vmcs[VmcsField.GuestGsBase] = Layout.GsBase;
        if (bitness != 64)
        {
            _guest.SetSegment(Seg.Cs, TestGuest.UserCode32, 0, 0xFFFF_FFFF, 0xC0FB);
            // Null selectors, as the host's threads have them.
            _guest.SetSegment(Seg.Fs, 0, 0, 0, SegmentRights.Unusable);
            _guest.SetSegment(Seg.Gs, 0, 0, 0, SegmentRights.Unusable);
        }
        vmcs[VmcsField.GuestRflags] = input.Flags;
        vmcs[VmcsField.GuestRsp] = input.Gpr[Gpr.Rsp];
        vmcs[VmcsField.ExceptionBitmap] = uint.MaxValue;
        if (bitness == 16)
        {
            _guest.SetSegment(Seg.Cs, 0x07, Layout.Code, Layout.CodeLimit, 0xFB);
            _guest.SetSegment(Seg.Ds, 0x0F, Layout.Data, Layout.DataLimit, 0xF3);
            _guest.SetSegment(Seg.Es, 0x17, Layout.Data, Layout.ExtraLimit, 0xF3);
            _guest.SetSegment(Seg.Ss, 0x1F, Layout.Stack, Layout.StackLimit, 0xF3);
        }
        CpuState* s = _guest.State;
        s->FaultVector = MachineState.NoVector;
        s->FaultError = 0;
        s->FaultAddress = 0;
        for (int k = 0; k < 16; k++)
            s->Gpr[k] = input.Gpr[k];
        LoadFx(s, input);

        ExitReason reason = _guest.Run(Budget);

        for (int k = 0; k < 16; k++)
            output.Gpr[k] = s->Gpr[k];
        output.Gpr[Gpr.Rsp] = vmcs[VmcsField.GuestRsp];
        output.Rip = vmcs[VmcsField.GuestRip];
        output.Flags = vmcs[VmcsField.GuestRflags];
        SaveFx(s, output);
        if (reason == ExitReason.ExceptionOrNmi)
        {
            uint information = vmcs.Read32(VmcsField.VmExitInterruptionInformation);
            output.Vector = information & 0xFF;
            output.Error = (information & 1 << 11) != 0 ? vmcs.Read32(VmcsField.VmExitInterruptionErrorCode) : 0;
            output.Address = output.Vector == Vector.Pf ? vmcs[VmcsField.ExitQualification] : 0;
        }
        else
        {
            output.Vector = reason == ExitReason.TripleFault ? s->FaultVector : MachineState.NoVector;
            output.Error = s->FaultHasError ? s->FaultError : 0;
            output.Address = output.Vector == Vector.Pf ? s->FaultAddress : 0;
        }
        new Span<byte>(_data, (int)Layout.DataSize).CopyTo(output.Memory);
        new Span<byte>(_stack, (int)Layout.StackSize).CopyTo(output.Memory[(int)Layout.DataSize..]);
    }

    public void Dispose() => _guest.Dispose();

    private static void LoadFx(CpuState* s, MachineState input)
    {
        s->Fcw = input.Fcw;
        s->FpuTop = input.Fsw >> 11 & 7;
        s->Fsw = (ushort)(input.Fsw & ~(7 << 11));
        s->Ftw = input.Ftw;
        s->Mxcsr = input.Mxcsr;
        for (int k = 0; k < 8; k++)
        {
            byte* register = (byte*)s + CpuState.FpuOffset + ((s->FpuTop + k) & 7) * 16;
            Buffer.MemoryCopy(input.St(k), register, 16, 16);
        }
        Buffer.MemoryCopy(input.Xmm(0), (byte*)s + CpuState.XmmOffset, 256, 256);
    }

    private static void SaveFx(CpuState* s, MachineState output)
    {
        new Span<byte>(output.Fx, MachineState.FxBytes).Clear();
        output.Fcw = s->Fcw;
        output.Fsw = (ushort)(s->Fsw & ~(7 << 11) | s->FpuTop << 11);
        output.Ftw = (byte)s->Ftw;
        output.Mxcsr = s->Mxcsr;
        for (int k = 0; k < 8; k++)
        {
            byte* register = (byte*)s + CpuState.FpuOffset + ((s->FpuTop + k) & 7) * 16;
            Buffer.MemoryCopy(register, output.St(k), 16, 10);
        }
        Buffer.MemoryCopy((byte*)s + CpuState.XmmOffset, output.Xmm(0), 256, 256);
    }

    private void MapPages(ulong linear, ulong physical, ulong size, ulong rights)
    {
        for (ulong offset = 0; offset < size; offset += 4096)
            WriteEntry(3, (linear + offset) >> 12, physical + offset | rights);
    }

    private void WriteEntry(int table, ulong index, ulong entry) => _guest.Write(Tables + (ulong)table * 4096 + (index & 511) * 8, [entry]);
}
