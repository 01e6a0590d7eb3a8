using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.State;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using Vmm.Testing;

namespace Vmm.Processor.Tests;

/// <summary>
/// A processor with a little memory and no L0: guest state goes straight into a VMCS. In 64-bit mode everything is identity-mapped
/// with 2 MiB pages, writable and user-accessible; the GDT at 0x1000 has the usual flat segments.
/// </summary>
public sealed unsafe class TestGuest : IDisposable
{
    public const ulong GdtBase = 0x1000, IdtBase = 0x2000, TssBase = 0x3000, PageTables = 0x4000, StackTop = 0x9000, CodeBase = 0x1_0000;
    public const ushort Code64 = 0x08, Data = 0x10, Code32 = 0x18, Tss = 0x20, UserCode64 = 0x33, UserData = 0x3B, UserCode32 = 0x43;

    private readonly ProcessorPackage _package;
    private readonly TestTimeStamp _timeStamp = new();

    public TestGuest(ulong memoryBytes = 4 << 20, ProcessorFeatures? features = null, Vmcs? vmcs = null, TranslationOptions? translation = null, bool translate = true)
    {
        Memory = new PhysicalMemory(memoryBytes);
        Bus = new RecordingBus();
        _package = new ProcessorPackage(new ProcessorEnvironment(Memory, Bus, _timeStamp, new CountingEntropy(), features ?? new ProcessorFeatures()) { Translation = translate ? translation ?? TestTranslation.Default : null });
        Cpu = _package.CreateProcessor();
        Vmcs = vmcs ?? new Vmcs();
        Write(GdtBase, [0UL, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, 0x00008B0000000067 | (TssBase & 0xFFFFFF) << 16, 0, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF, 0x00CFFB000000FFFF]);
        for (ulong k = 0; k < 512; k++)
            Write(PageTables + 0x2000 + k * 8, [(k << 21) | 0xE7]);
        Write(PageTables, [(PageTables + 0x1000) | 0x67]);
        Write(PageTables + 0x1000, [(PageTables + 0x2000) | 0x67]);
    }

    public PhysicalMemory Memory { get; }
    public RecordingBus Bus { get; }
    public LogicalProcessor Cpu { get; }
    public Vmcs Vmcs { get; }
    public CpuState* State => Cpu.State;

    /// <summary>What the second tier has done; null where only the interpreter runs.</summary>
    public TranslationStatistics? Translated => _package.Translation;

    public void Write(ulong address, ReadOnlySpan<ulong> values) => _package.WriteMemory(address, System.Runtime.InteropServices.MemoryMarshal.AsBytes(values));
    public void Write(ulong address, ReadOnlySpan<byte> bytes) => _package.WriteMemory(address, bytes);

    public T Read<T>(ulong address) where T : unmanaged
    {
        T value = default;
        Memory.TryRead(address, new Span<byte>(&value, sizeof(T)));
        return value;
    }

    /// <summary>Assembles at <see cref="CodeBase"/>.</summary>
    public void Assemble(int bitness, Action<Assembler> program, ulong at = CodeBase)
    {
        var assembler = new Assembler(bitness);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Write(at, stream.ToArray());
    }

    /// <summary>Sets up flat 64-bit mode at a privilege level.</summary>
    public void EnterLongMode(ulong rip = CodeBase, int cpl = 0)
    {
        Vmcs[VmcsField.GuestCr0] = Cr0.Pe | Cr0.Pg | Cr0.Ne | Cr0.Et | Cr0.Wp;
        Vmcs[VmcsField.GuestCr3] = PageTables;
        Vmcs[VmcsField.GuestCr4] = Cr4.Pae | Cr4.Osfxsr | Cr4.Osxmmexcpt;
        Vmcs[VmcsField.VmEntryControls] = (uint)(VmEntryControls.Ia32eModeGuest | VmEntryControls.LoadEfer | VmEntryControls.LoadDebugControls);
        Vmcs[VmcsField.VmExitControls] = (uint)(VmExitControls.SaveEfer | VmExitControls.SaveDebugControls);
        Vmcs[VmcsField.GuestEfer] = Efer.Lme | Efer.Lma | Efer.Sce | Efer.Nxe;
        uint dpl = (uint)cpl << 5;
        SetSegment(Seg.Cs, cpl == 0 ? Code64 : UserCode64, 0, 0xFFFF_FFFF, 0xA09B | dpl);
        foreach (int segment in new[] { Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs })
            SetSegment(segment, cpl == 0 ? Data : UserData, 0, 0xFFFF_FFFF, 0xC093 | dpl);
        SetCommon(rip);
    }

    /// <summary>Sets up flat 32-bit protected mode without paging.</summary>
    public void EnterProtectedMode(ulong rip = CodeBase, int cpl = 0)
    {
        Vmcs[VmcsField.GuestCr0] = Cr0.Pe | Cr0.Ne | Cr0.Et;
        Vmcs[VmcsField.GuestCr4] = Cr4.Osfxsr | Cr4.Osxmmexcpt;
        Vmcs[VmcsField.VmEntryControls] = (uint)(VmEntryControls.LoadEfer | VmEntryControls.LoadDebugControls);
        Vmcs[VmcsField.VmExitControls] = (uint)(VmExitControls.SaveEfer | VmExitControls.SaveDebugControls);
        uint dpl = (uint)cpl << 5;
        SetSegment(Seg.Cs, cpl == 0 ? Code32 : UserCode32, 0, 0xFFFF_FFFF, 0xC09B | dpl);
        foreach (int segment in new[] { Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs })
            SetSegment(segment, cpl == 0 ? Data : UserData, 0, 0xFFFF_FFFF, 0xC093 | dpl);
        SetCommon(rip);
    }

    /// <summary>Sets up real mode with CS:IP = 0:rip.</summary>
    public void EnterRealMode(ulong rip = 0x7C00)
    {
        Vmcs[VmcsField.GuestCr0] = Cr0.Ne | Cr0.Et;
        Vmcs[VmcsField.GuestCr4] = Cr4.Osfxsr;
        Vmcs[VmcsField.VmEntryControls] = (uint)(VmEntryControls.LoadEfer | VmEntryControls.LoadDebugControls);
        Vmcs[VmcsField.VmExitControls] = (uint)(VmExitControls.SaveEfer | VmExitControls.SaveDebugControls);
        SetSegment(Seg.Cs, 0, 0, 0xFFFF, 0x9B);
        foreach (int segment in new[] { Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs })
            SetSegment(segment, 0, 0, 0xFFFF, 0x93);
        SetCommon(rip);
        Vmcs[VmcsField.GuestIdtrBase] = 0;
        Vmcs[VmcsField.GuestIdtrLimit] = 0x3FF;
    }

    /// <summary>Runs until a VM exit or the budget's end.</summary>
    public ExitReason Run(long budget = 100_000) => Cpu.Enter(Vmcs, budget);

    public void SetSegment(int number, ushort selector, ulong @base, uint limit, uint rights)
    {
        var step = (ushort)(2 * number);
        Vmcs[VmcsField.GuestEsSelector + step] = selector;
        Vmcs[VmcsField.GuestEsBase + step] = @base;
        Vmcs[VmcsField.GuestEsLimit + step] = limit;
        Vmcs[VmcsField.GuestEsAccessRights + step] = rights;
    }

    public void Dispose()
    {
        _package.Dispose();
        Vmcs.Dispose();
        Memory.Dispose();
    }

    private void SetCommon(ulong rip)
    {
        SetSegment(Seg.Ldtr, 0, 0, 0, SegmentRights.Unusable);
        SetSegment(Seg.Tr, Tss, TssBase, 0x67, 0x8B);
        Vmcs[VmcsField.GuestGdtrBase] = GdtBase;
        Vmcs[VmcsField.GuestGdtrLimit] = 0x7F;
        Vmcs[VmcsField.GuestIdtrBase] = IdtBase;
        Vmcs[VmcsField.GuestIdtrLimit] = 0xFFF;
        Vmcs[VmcsField.GuestDr7] = 0x400;
        Vmcs[VmcsField.GuestRip] = rip;
        Vmcs[VmcsField.GuestRsp] = StackTop;
        Vmcs[VmcsField.GuestRflags] = 2;
        Vmcs[VmcsField.ProcessorBasedControls] = (uint)ProcControls.HltExiting;
    }

    /// <summary>What the time-stamp counter is when so many instructions have retired: their number, unless a test says otherwise.</summary>
    public Func<ulong, ulong> TimeStamp { get => _timeStamp.At; set => _timeStamp.At = value; }

    private sealed class TestTimeStamp : ITimeStampCounter
    {
        public Func<ulong, ulong> At { get; set; } = retired => retired;
        public ulong Read(ulong instructionsRetired) => At(instructionsRetired);
    }

    private sealed class CountingEntropy : IEntropySource
    {
        private ulong _next;
        public ulong Next() => _next += 0x9E37_79B9_7F4A_7C15;
    }
}

/// <summary>Ports and MMIO that remember what was written and read as ones.</summary>
public sealed class RecordingBus : IProcessorBus
{
    public List<(ushort Port, int Size, uint Value)> PortWrites { get; } = [];
    public List<(ulong Address, int Size, ulong Value)> MemoryWrites { get; } = [];

    /// <summary>What was written to COM1.</summary>
    public string Console() => string.Concat(PortWrites.Where(w => w.Port == 0x3F8).Select(w => (char)(byte)w.Value));

    public Func<ushort, int, uint> OnReadPort { get; set; } = (_, _) => uint.MaxValue;
    public uint ReadPort(ushort port, int size) => OnReadPort(port, size);
    public void WritePort(ushort port, int size, uint value) => PortWrites.Add((port, size, value));
    public Func<ulong, int, ulong> OnReadMemory { get; set; } = (_, _) => ulong.MaxValue;
    public ulong ReadMemory(ulong address, int size) => OnReadMemory(address, size);
    public Action OnWriteMemory { get; set; } = () => { };

    public void WriteMemory(ulong address, int size, ulong value)
    {
        MemoryWrites.Add((address, size, value));
        OnWriteMemory();
    }
}
