using Iced.Intel;
using Vmm.Processor.Execution;
using Vmm.Processor.Translation.Native;

namespace Vmm.Processor.Translation;

/// <summary>
/// Traces of one page and mode that are compiled together: a head, where execution enters, and what it reaches by direct branches.
/// A copy, so that another thread can compile it while the traces themselves change.
/// </summary>
internal sealed unsafe class Region
{
    /// <summary>The traces in an order in which every branch that does not close a loop goes forward.</summary>
    public required RegionNode[] Nodes { get; init; }

    /// <summary>The mode that the traces were decoded for.</summary>
    public required TraceMode Mode { get; init; }

    /// <summary><see cref="TraceCache.Generation"/> when the copy was made.</summary>
    public required int Generation { get; init; }

    /// <summary>Whether it is to become native code, and not intermediate code for the .NET JIT.</summary>
    public bool IsNative { get; init; }

    /// <summary>The intermediate code, once there is some.</summary>
    public CompiledCode? Code { get; set; }

    /// <summary>The native code, once there is some.</summary>
    public NativeCode? Native { get; set; }

    /// <summary>Whether the compiler has found that interpreting it takes no longer.</summary>
    public bool NotWorthwhile { get; set; }

    /// <summary>The trace where execution enters.</summary>
    public RegionNode Head => Nodes[0];

    /// <summary>Whether it may go around in itself.</summary>
    public bool HasLoop => Array.Exists(Nodes, node => Array.Exists(node.Targets, target => target != null && target.Index <= node.Index));

    /// <summary>Whether every trace is still what was copied.</summary>
    public bool IsCurrent(TraceCache cache)
    {
        if (Generation != cache.Generation)
            return false;
        foreach (RegionNode node in Nodes)
        {
            if (node.Trace->Stale)
                return false;
        }
        return true;
    }
}

/// <summary>One trace of a region.</summary>
internal sealed unsafe class RegionNode
{
    /// <summary>The trace itself; only the processors' thread may look into it.</summary>
    public required Trace* Trace { get; init; }

    /// <summary>Its instructions, with the one at the end that is none.</summary>
    public required Insn[] Bound { get; init; }

    /// <summary>Its bytes.</summary>
    public required byte[] Bytes { get; init; }

    /// <summary>The mode that they were decoded for.</summary>
    public required TraceMode Mode { get; init; }

    /// <summary>The physical address of the first byte.</summary>
    public required ulong Physical { get; init; }

    /// <summary>What executes the first instruction alone.</summary>
    public required Handler FirstHandler { get; init; }

    /// <summary>Distance in bytes from the region's first instruction.</summary>
    public required int Offset { get; init; }

    /// <summary>Position in <see cref="Region.Nodes"/>.</summary>
    public int Index { get; set; }

    /// <summary>The instructions as Iced decodes them, with addresses relative to the trace's first one.</summary>
    public Instruction[] Decoded { get; set; } = [];

    /// <summary>Which instructions have an emitter; the others are calls of their handlers.</summary>
    public bool[] Emits { get; set; } = [];

    /// <summary>For each instruction (and for the end) the node that its direct branch, or falling through, leads to.</summary>
    public RegionNode?[] Targets { get; set; } = [];

    /// <summary>Where the call at the end returns to, if that belongs to the region.</summary>
    public RegionNode? ReturnPoint { get; set; }

    /// <summary>Whether some instruction may make something wait for the dispatcher.</summary>
    public bool MayRaiseAttention { get; set; }

    /// <summary>The most instructions from here on before a loop closes or the region is left.</summary>
    public int LongestPath { get; set; }

    /// <summary>Instructions.</summary>
    public int Length => Bound.Length - 1;

    /// <summary>Where an instruction stands in the trace cache.</summary>
    public Insn* Address(int index) => Decoding.Trace.First(Trace) + index;

    /// <summary>The handler that executes an instruction alone.</summary>
    public Handler HandlerOf(int index) => index == 0 ? FirstHandler : Bound[index].Handler;
}
