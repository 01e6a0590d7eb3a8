using System.Runtime.InteropServices;

namespace Vmm.Processor.Decoding;

/// <summary>A run of decoded instructions that starts at one physical address, in native memory; the instructions follow the header.</summary>
[StructLayout(LayoutKind.Sequential, Size = 128)]
internal unsafe struct Trace
{
    /// <summary>The physical address of the first byte.</summary>
    public ulong Physical;

    /// <summary>The physical page of the bytes beyond the first page, where the only instruction crosses; otherwise 0.</summary>
    public ulong SecondPage;

    /// <summary>The next trace in the same hash bucket.</summary>
    public Trace* NextInBucket;

    /// <summary>The next trace that starts in the same page.</summary>
    public Trace* NextInPage;

    /// <summary>The next trace that reaches into the same second page.</summary>
    public Trace* NextInSecondPage;

    /// <summary>
    /// What executes the first instruction alone. The instruction's own handler may be one that counts, or a compiled region that
    /// executes more.
    /// </summary>
    public Handler FirstHandler;

    /// <summary>
    /// Where native code enters the trace (<see cref="Translation.Native.NativeCodeSpace"/>): its code, or what goes back to the interpreter.
    /// 0 where there is no native code.
    /// </summary>
    public nint Native;

    /// <summary>Executions left until the trace is hot.</summary>
    public int Coolness;

    /// <summary>What entering its native code from the interpreter has gained so far, in instructions: <see cref="Translation.Native.NativeExecution"/>.</summary>
    public int NativeGain;

    /// <summary>Instructions, without the end-of-trace one.</summary>
    public ushort Length;

    /// <summary>Instructions that <see cref="Native"/> may execute before it looks at the budget.</summary>
    public ushort NativePath;

    /// <summary>Bytes from the first to the end of the last instruction.</summary>
    public ushort Bytes;

    /// <summary>What the trace was decoded for: <see cref="TraceMode"/>.</summary>
    public TraceMode Mode;

    /// <summary>Whether its native code goes around in itself.</summary>
    public bool IsLoop;

    /// <summary>Whether its native code calls handlers.</summary>
    public bool CallsHandlers;

    /// <summary>Whether native code of its region was not worthwhile, so that it may yet be a region for the JIT.</summary>
    public bool Refused;

    /// <summary>Set when the bytes changed: the trace is unlinked and its handlers are replaced.</summary>
    public bool Stale;

    /// <summary>The first instruction.</summary>
    public static Insn* First(Trace* trace) => (Insn*)(trace + 1);

    /// <summary>The trace that begins with an instruction.</summary>
    public static Trace* Of(Insn* first) => (Trace*)first - 1;
}

/// <summary>What of the processor's mode decides how bytes decode and bind.</summary>
[Flags]
internal enum TraceMode : byte
{
    Code16 = 0,
    Code32 = 1,
    Code64 = 2,
    SizeMask = 3,

    /// <summary>x87 instructions raise #NM (CR0.EM or CR0.TS).</summary>
    FpuUnavailable = 4,

    /// <summary>WAIT raises #NM (CR0.MP and CR0.TS).</summary>
    WaitUnavailable = 8,

    /// <summary>SSE instructions raise #UD (CR0.EM, or CR4.OSFXSR clear).</summary>
    SseUndefined = 16,

    /// <summary>MMX and SSE instructions raise #NM (CR0.TS).</summary>
    TaskSwitched = 32,

    /// <summary>MMX instructions raise #UD (CR0.EM).</summary>
    Emulated = 64,

    /// <summary>XSAVE and its kin raise #UD (CR4.OSXSAVE clear).</summary>
    NoXsave = 128,
}
