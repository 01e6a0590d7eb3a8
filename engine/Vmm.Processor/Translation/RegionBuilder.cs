using Iced.Intel;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Translation;

/// <summary>Says something about a trace.</summary>
internal unsafe delegate bool TracePredicate(Trace* trace);

/// <summary>Finds what belongs into the region of a hot trace.</summary>
internal static unsafe class RegionBuilder
{
    /// <summary>Copies a hot trace and the warm ones of its page that it leads to. On the processors' thread.</summary>
    /// <param name="cache">Where the traces are.</param>
    /// <param name="head">The hot trace.</param>
    /// <param name="longest">Instructions in the region at most.</param>
    /// <param name="isWarm">Whether another trace belongs into it.</param>
    /// <param name="native">Whether it is to become native code.</param>
    public static Region Build(TraceCache cache, Trace* head, int longest, TracePredicate isWarm, bool native)
    {
        cache.ForgetInterruption();
        var found = new Dictionary<int, RegionNode>();
        int room = longest;
        RegionNode first = Copy(cache, head, 0);
        found.Add(0, first);
        var order = new List<RegionNode>();
        Visit(first);
        order.Reverse();
        for (int k = 0; k < order.Count; k++)
            order[k].Index = k;
        foreach (RegionNode node in Enumerable.Reverse(order))
            MeasurePath(node);
        return new Region { Nodes = [.. order], Mode = head->Mode, Generation = cache.Generation, IsNative = native };

        // A depth-first walk: the reverse of the order in which nodes are left is the order of Region.Nodes.
        void Visit(RegionNode node)
        {
            room -= node.Length;
            node.Targets = new RegionNode?[node.Length + 1];
            for (int k = node.Length; k >= 0; k--)
            {
                if (TargetOf(node, k) is { } distance)
                    node.Targets[k] = At(node.Offset + distance);
            }
            if (EndsInCall(node))
                node.ReturnPoint = At(node.Offset + node.Bound[node.Length].Offset);
            order.Add(node);
        }

        RegionNode? At(int offset)
        {
            if (found.TryGetValue(offset, out RegionNode? there))
                return there;
            RegionNode? target = Find(cache, head, offset, isWarm, room);
            if (target == null)
                return null;
            found.Add(offset, target);
            Visit(target);
            return target;
        }
    }

    /// <summary>Copies a trace alone, to become native code. On the processors' thread.</summary>
    public static Region BuildSingle(TraceCache cache, Trace* trace)
    {
        cache.ForgetInterruption();
        RegionNode node = Copy(cache, trace, 0);
        node.Targets = new RegionNode?[node.Length + 1];
        node.MayRaiseAttention = true;
        return new Region { Nodes = [node], Mode = trace->Mode, Generation = cache.Generation, IsNative = true };
    }

    private static RegionNode? Find(TraceCache cache, Trace* head, int offset, TracePredicate isWarm, int room)
    {
        long inPage = (long)(head->Physical & 0xFFF) + offset;
        if (inPage is < 0 or >= 4096)
            return null;
        Trace* trace = cache.FindDecoded(head->Physical + (ulong)(long)offset, head->Mode);
        return trace != null && trace->Length <= room && isWarm(trace) ? Copy(cache, trace, offset) : null;
    }

    private static RegionNode Copy(TraceCache cache, Trace* trace, int offset)
    {
        var bound = new Span<Insn>(Trace.First(trace), trace->Length + 1);
        return new RegionNode
        {
            Trace = trace,
            Bound = bound.ToArray(),
            Bytes = cache.BytesOf(trace).ToArray(),
            Mode = trace->Mode,
            Physical = trace->Physical,
            FirstHandler = trace->FirstHandler,
            Offset = offset,
        };
    }

    /// <summary>The distance from the trace's first instruction to where an instruction's direct branch leads, or the end of the trace to what follows.</summary>
    private static int? TargetOf(RegionNode node, int index)
    {
        ref Insn insn = ref node.Bound[index];
        if (index == node.Length)
            return EndsInTransfer(node) ? null : insn.Offset;
        return (FlowControl)((Code)insn.Code).FlowControl() switch
        {
            FlowControl.ConditionalBranch when ((Code)insn.Code).IsJccShortOrNear() => (int)(long)insn.Immediate,
            FlowControl.UnconditionalBranch or FlowControl.Call when ((Code)insn.Code).IsJmpShortOrNear() || ((Code)insn.Code).IsCallNear() => (int)(long)insn.Immediate,
            _ => null,
        };
    }

    private static bool EndsInTransfer(RegionNode node) =>
        ((Code)node.Bound[node.Length - 1].Code).FlowControl() is not (FlowControl.Next or FlowControl.ConditionalBranch);

    private static bool EndsInCall(RegionNode node) =>
        ((Code)node.Bound[node.Length - 1].Code).FlowControl() is FlowControl.Call or FlowControl.IndirectCall;

    private static void MeasurePath(RegionNode node)
    {
        int longest = node.Length;
        for (int k = 0; k < node.Targets.Length; k++)
        {
            if (node.Targets[k] is { } target && target.Index > node.Index)
                longest = Math.Max(longest, node.Bound[k].Count + target.LongestPath);
        }
        node.LongestPath = longest;
    }
}
