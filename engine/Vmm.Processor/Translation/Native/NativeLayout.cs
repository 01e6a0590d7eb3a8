using System.Runtime.InteropServices;
using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <summary>Where native code finds what it uses: operands relative to the state in RBX, the jump-cache entry in RDX or a trace's first instruction.</summary>
internal static unsafe class NativeLayout
{
    /// <summary>The register of what is left of the slice while native code runs, instead of <see cref="NativeFrame.Slice"/>.</summary>
    public const int Slice = HostRegister.R15;

    private static readonly Dictionary<string, int> Offsets = MeasureOffsets();

    public static readonly HostMemory Insn = InState(nameof(NativeFrame.Insn));
    public static readonly HostMemory Function = InState(nameof(NativeFrame.Function));
    public static readonly HostMemory Argument = InState(nameof(NativeFrame.Argument));
    public static readonly HostMemory FrameSlice = InState(nameof(NativeFrame.Slice));
    public static readonly HostMemory Resume = InState(nameof(NativeFrame.Resume));
    public static readonly HostMemory Continuation = InState(nameof(NativeFrame.Continuation));
    public static readonly HostMemory TraceRip = InState(nameof(CpuState.TraceRip));
    public static readonly HostMemory FlagKind = InState(nameof(CpuState.FlagKind));
    public static readonly HostMemory FlagA = InState(nameof(CpuState.FlagA));
    public static readonly HostMemory FlagB = InState(nameof(CpuState.FlagB));
    public static readonly HostMemory FlagC = InState(nameof(CpuState.FlagC));
    public static readonly HostMemory FlagResult = InState(nameof(CpuState.FlagResult));
    public static readonly HostMemory FlagCarries = InState(nameof(CpuState.FlagCarries));
    public static readonly HostMemory Mxcsr = InState(nameof(CpuState.Mxcsr));
    public static readonly HostMemory Fcw = InState(nameof(CpuState.Fcw));
    public static readonly HostMemory Fsw = InState(nameof(CpuState.Fsw));
    public static readonly HostMemory Ftw = InState(nameof(CpuState.Ftw));
    public static readonly HostMemory FpuTop = InState(nameof(CpuState.FpuTop));
    public static readonly HostMemory Fip = InState(nameof(CpuState.Fip));
    public static readonly HostMemory Fdp = InState(nameof(CpuState.Fdp));
    public static readonly HostMemory Fcs = InState(nameof(CpuState.Fcs));
    public static readonly HostMemory Fds = InState(nameof(CpuState.Fds));
    public static readonly HostMemory JumpKey = InState(nameof(CpuState.JumpKey));
    public static readonly HostMemory JumpCache = InState(nameof(CpuState.JumpCache));

    /// <summary>Offset of the homes of temporaries in the state.</summary>
    public static readonly int Temporaries = Offsets[nameof(NativeFrame.Temporaries)];

    public static readonly int Coolness = (int)Marshal.OffsetOf<Trace>(nameof(Trace.Coolness));
    public static readonly int Entry = (int)Marshal.OffsetOf<Trace>(nameof(Trace.Native));

    /// <summary>The place for a host register across an exit.</summary>
    public static HostMemory Saved(int register) => new(HostRegister.Rbx, Offsets[nameof(NativeFrame.Saved)] + register * 8);

    /// <summary>A field of the trace whose first instruction is in a register.</summary>
    public static HostMemory InTrace(int first, int offset) => new(first, offset - sizeof(Trace));

    /// <summary>A field of the jump-cache entry in RDX.</summary>
    public static HostMemory InEntry(string field) => new(HostRegister.Rdx, (int)Marshal.OffsetOf<JumpCacheEntry>(field));

    /// <summary>What stands at an offset in the state, for people; null where that is not among what native code finds by itself.</summary>
    public static string? NameOf(int offset)
    {
        if (offset is >= 0 and < 128 && offset % 8 == 0)
            return $"guest_{Register.RAX + offset / 8}";
        int vector = offset - CpuState.XmmOffset;
        if (vector is >= 0 and < 256 && vector % 8 == 0)
            return $"guest_{Register.XMM0 + vector / 16}{(vector % 16 == 0 ? "" : "_high")}";
        return Offsets.FirstOrDefault(each => each.Value == offset).Key ?? RegionCompiler.NameOf(offset);
    }

    private static HostMemory InState(string field) => new(HostRegister.Rbx, Offsets[field]);

    // Managed and marshalled layout differ where there are booleans, so the offsets are measured.
    private static Dictionary<string, int> MeasureOffsets()
    {
        CpuState state = default;
        CpuState* s = &state;
        int Offset(void* field) => (int)((byte*)field - (byte*)s);
        return new Dictionary<string, int>
        {
            [nameof(NativeFrame.Insn)] = Offset(&s->Native.Insn),
            [nameof(NativeFrame.Function)] = Offset(&s->Native.Function),
            [nameof(NativeFrame.Argument)] = Offset(&s->Native.Argument),
            [nameof(NativeFrame.Slice)] = Offset(&s->Native.Slice),
            [nameof(NativeFrame.Resume)] = Offset(&s->Native.Resume),
            [nameof(NativeFrame.Continuation)] = Offset(&s->Native.Continuation),
            [nameof(NativeFrame.Saved)] = Offset(s->Native.Saved),
            [nameof(NativeFrame.Temporaries)] = Offset(s->Native.Temporaries),
            [nameof(CpuState.TraceRip)] = Offset(&s->TraceRip),
            [nameof(CpuState.FlagKind)] = Offset(&s->FlagKind),
            [nameof(CpuState.FlagA)] = Offset(&s->FlagA),
            [nameof(CpuState.FlagB)] = Offset(&s->FlagB),
            [nameof(CpuState.FlagC)] = Offset(&s->FlagC),
            [nameof(CpuState.FlagResult)] = Offset(&s->FlagResult),
            [nameof(CpuState.FlagCarries)] = Offset(&s->FlagCarries),
            [nameof(CpuState.Mxcsr)] = Offset(&s->Mxcsr),
            [nameof(CpuState.Fcw)] = Offset(&s->Fcw),
            [nameof(CpuState.Fsw)] = Offset(&s->Fsw),
            [nameof(CpuState.Ftw)] = Offset(&s->Ftw),
            [nameof(CpuState.FpuTop)] = Offset(&s->FpuTop),
            [nameof(CpuState.Fip)] = Offset(&s->Fip),
            [nameof(CpuState.Fdp)] = Offset(&s->Fdp),
            [nameof(CpuState.Fcs)] = Offset(&s->Fcs),
            [nameof(CpuState.Fds)] = Offset(&s->Fds),
            [nameof(CpuState.JumpKey)] = Offset(&s->JumpKey),
            [nameof(CpuState.JumpCache)] = Offset(&s->JumpCache),
        };
    }
}
