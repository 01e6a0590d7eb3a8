using System.Numerics;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// Nodes: code that several ways lead to, with locals in the same registers at the beginning of each, and all others at home.
/// </content>
internal sealed partial class X64Code
{
    private readonly Snapshot _order = new();
    private readonly List<int> _nodes = [];
    private readonly List<(int Node, int Jump)> _ahead = [];

    /// <summary>Decides what stands in registers where nodes begin, and brings it there. Every local is at home.</summary>
    /// <param name="nodes">How many there are.</param>
    /// <param name="changed">Locals that may change.</param>
    /// <param name="constant">Locals that do not.</param>
    public void BeginNodes(int nodes, ReadOnlySpan<CodeLocal> changed, ReadOnlySpan<CodeLocal> constant)
    {
        foreach (CodeLocal local in constant)
            Keep(local);
        foreach (CodeLocal local in changed)
        {
            Keep(local);
            _now.Dirty[local.Slot] = true;
        }
        Array.Fill(_widths, (byte)64);
        _order.CopyFrom(_now, _widths);
        _nodes.AddRange(Enumerable.Repeat(-1, nodes));
    }

    /// <summary>Begins a node. What has been emitted last either ends or leads here.</summary>
    /// <param name="node">Which one.</param>
    /// <param name="loop">Whether a loop begins with it.</param>
    public void BeginNode(int node, bool loop)
    {
        if (loop)
            _assembler.Align();
        foreach ((int each, int jump) in _ahead)
        {
            if (each == node)
                _assembler.Patch(jump);
        }
        _nodes[node] = _assembler.Position;
        Restore(_order);
        _reachable = true;
    }

    /// <summary>Goes to a node.</summary>
    /// <param name="node">Which one.</param>
    /// <param name="follows">Whether it begins here.</param>
    public void GoTo(int node, bool follows)
    {
        // Where each register's content is, and -1 where it is right.
        Span<int> from = stackalloc int[16];
        from.Fill(HostRegister.None);
        for (int slot = 0; slot < _declared.Count; slot++)
        {
            int wanted = _order.Register[slot], now = _now.Register[slot];
            if (!_order.Dirty[slot])
                SendHome(slot);
            if (wanted != HostRegister.None && now != HostRegister.None && now != wanted)
                from[wanted] = now;
        }
        MoveAll(from);
        for (int slot = 0; slot < _declared.Count; slot++)
        {
            int wanted = _order.Register[slot];
            if (wanted == HostRegister.None || _now.Register[slot] != HostRegister.None)
                continue;
            if (_now.Constant[slot])
                _assembler.MoveImmediate(wanted, _now.Values[slot]);
            else
                _assembler.Load(wanted, HomeOf(slot), 8);
        }
        if (_nodes[node] >= 0)
            _assembler.JumpBack(_nodes[node]);
        else if (!follows)
            _ahead.Add((node, _assembler.Jump()));
        _reachable = false;
    }

    public override void Discard(CodeLocal local) => Unbind(local.Slot);

    public override void Overwrite(CodeLocal local)
    {
        int slot = local.Slot;
        int ordered = _order.Register[slot];
        _prefersOrder = ordered != HostRegister.None;
        _preferred = _prefersOrder ? ordered : _now.Register[slot];
        Unbind(slot);
    }

    /// <summary>Goes to a label where the host's flags say so.</summary>
    public void JumpIf(HostCondition condition, CodeLabel target) =>
        _labels[target.Number].Add(_assembler.JumpIf(condition), _now, _widths);

    private void Keep(CodeLocal local)
    {
        Load(local);
        _pins[_stack.Pop().Base]--;
    }

    /// <summary>
    /// Leaves a register that an operation may change in place to its result, with what stands there in another one. The caller holds it, and
    /// no value on the stack refers to it besides.
    /// </summary>
    private void Vacate(int register)
    {
        int to = Allocate();
        _assembler.Move(to, register, true);
        _widths[to] = _widths[register];
        for (ulong owners = _owners[register]; owners != 0; owners &= owners - 1)
            _now.Register[BitOperations.TrailingZeroCount(owners)] = (sbyte)to;
        _owners[to] = _owners[register];
        _owners[register] = 0;
        _pins[to]--;
    }

    /// <summary>Moves registers at once: each gets what another one has now.</summary>
    private void MoveAll(Span<int> from)
    {
        for (bool moved = true; moved;)
        {
            moved = false;
            for (int to = 0; to < from.Length; to++)
            {
                if (from[to] == HostRegister.None || from.Contains(to))
                    continue;
                _assembler.Move(to, from[to], true);
                from[to] = HostRegister.None;
                moved = true;
            }
        }
        // What is left are circles.
        for (int first = 0; first < from.Length; first++)
        {
            if (from[first] == HostRegister.None)
                continue;
            _assembler.Move(HostRegister.Rax, first, true);
            int to = first;
            while (from[to] != first)
            {
                _assembler.Move(to, from[to], true);
                (from[to], to) = (HostRegister.None, from[to]);
            }
            _assembler.Move(to, HostRegister.Rax, true);
            from[to] = HostRegister.None;
        }
    }
}
