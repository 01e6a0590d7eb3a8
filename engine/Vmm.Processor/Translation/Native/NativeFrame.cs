using System.Runtime.InteropServices;

namespace Vmm.Processor.Translation.Native;

/// <summary>Why native code has returned.</summary>
internal enum NativeExit
{
    /// <summary>To go on in the interpreter with <see cref="NativeFrame.Insn"/>.</summary>
    Leave,

    /// <summary>To have the interpreter execute the first instruction of a trace, <see cref="NativeFrame.Insn"/>, which may be compiled itself.</summary>
    First,

    /// <summary>To have a slow access done, and to go on unless it faults.</summary>
    Access,

    /// <summary>To have a handler called, and to go on if it returns the next instruction.</summary>
    Handler,

    /// <summary>To have the flags settled, and to go on.</summary>
    Settle,

    /// <summary>A direct branch that is not linked.</summary>
    Direct,

    /// <summary>A branch to <see cref="NativeFrame.Argument"/>, which the jump cache does not know.</summary>
    Indirect,

    /// <summary>A branch that has been followed to <see cref="NativeFrame.Insn"/>, which must not be executed before someone looks around.</summary>
    Stop,

    /// <summary>The trace of <see cref="NativeFrame.Insn"/> is hot; nothing of it has been executed.</summary>
    Hot,
}

/// <summary>What native code and the managed code that runs it tell each other, and where native code keeps what has no register.</summary>
[StructLayout(LayoutKind.Sequential)]
public unsafe struct NativeFrame
{
    /// <summary><see cref="NativeCodeSpace.Enter"/> of the virtual machine's native code; 0 where there is none.</summary>
    public nint Enter;

    /// <summary>
    /// What is left of the budget, in instructions, before native code must return, without the last <see cref="NativeExecution.LongestPath"/> of
    /// them: at each entry and exit. Negative where it must return at the next branch.
    /// </summary>
    public long Slice;

    /// <summary>The instruction that the exit is about.</summary>
    public nint Insn;

    /// <summary>The function that is to be called.</summary>
    public nint Function;

    /// <summary>Its argument, or the target of a branch.</summary>
    public ulong Argument;

    /// <summary>Where to enter native code again.</summary>
    public nint Resume;

    /// <summary>Where that goes on, once it has restored the registers.</summary>
    public nint Continuation;

    /// <summary>The host registers across an exit.</summary>
    public fixed ulong Saved[16];

    /// <summary>The homes of temporaries.</summary>
    public fixed ulong Temporaries[64];
}
