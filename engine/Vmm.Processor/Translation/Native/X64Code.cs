using System.Numerics;

namespace Vmm.Processor.Translation.Native;

/// <summary>
/// Code of an x86-64 host, generated in one pass. Every local has a home in <see cref="CpuState"/> and may stand in a host register
/// besides; several locals may share one. A value on the stack is a constant or an address computation over registers that has not been
/// carried out yet. A register's content does not change while anything refers to it, so a copy costs nothing.
/// <para>
/// Where execution comes together, there is one way that has been emitted already, and out-of-line code that comes back to it: the
/// latter brings registers and homes into the former's order. A label to which several branches lead forward finds everything at home.
/// </para>
/// </summary>
internal sealed unsafe partial class X64Code : RegionCode
{
    /// <summary>Where <see cref="CpuState"/> is.</summary>
    private const int State = HostRegister.Rbx;

    // RAX, RCX and RDX are for what takes no longer than one operation.
    private const uint Allocatable = 0xFFFF
        & ~(1u << HostRegister.Rax | 1u << HostRegister.Rcx | 1u << HostRegister.Rdx | 1u << State | 1u << HostRegister.Rsp | 1u << NativeLayout.Slice);

    private readonly X64Assembler _assembler = new();
    private readonly LocalHomes _homes;
    private readonly ValueStack _stack = new();
    private readonly List<CodeLocal> _declared = [];
    private readonly List<LabelState> _labels = [];
    private int _labelCount;
    private bool _reachable;
    private readonly List<NativePiece> _pieces = [];

    // For each host register: which locals stand in it, how many values on the stack refer to it, and how many low bits may be set.
    private readonly ulong[] _owners = new ulong[16];
    private readonly int[] _pins = new int[16];
    private readonly byte[] _widths = new byte[16];
    private Snapshot _now = new();
    private int _lastAllocated;

    // Where what is computed next had better stand, and whether that is its register where nodes begin.
    private int _preferred = HostRegister.None;
    private bool _prefersOrder;

    /// <summary>Creates a generator.</summary>
    /// <param name="temporaries">Offset in <see cref="CpuState"/> of the homes of temporaries.</param>
    public X64Code(int temporaries) => _homes = new LocalHomes(temporaries);

    /// <summary>Where the code goes to, for what is beyond the operations of this class.</summary>
    public X64Assembler Assembler => _assembler;

    /// <summary>Where what stands for an instruction of the guest begins, in order.</summary>
    public NativePiece[] Pieces => [.. _pieces];

    /// <summary>Begins anew, with every local at home.</summary>
    public void Begin()
    {
        _assembler.Reset();
        _pieces.Clear();
        _labelCount = 0;
        _stack.Depth = 0;
        Array.Clear(_owners);
        Array.Clear(_pins);
        _now.Clear(_declared.Count);
        _order.Clear(_declared.Count);
        _nodes.Clear();
        _ahead.Clear();
        _preferred = HostRegister.None;
        _reachable = true;
    }

    public override CodeLocal Declare(CodeType type) => throw new NotSupportedException("Locals mirror fields of the state: Mirror.");

    /// <summary>A local whose home is a field of <see cref="CpuState"/>. It lives as long as this object.</summary>
    public CodeLocal Mirror(CodeType type, int offset)
    {
        var local = new CodeLocal(type, _declared.Count);
        _homes.Add(offset);
        _declared.Add(local);
        return local;
    }

    public override CodeLocal Temporary(CodeType type)
    {
        int slot = _now.Count;
        if (slot == LocalHomes.Most)
            throw new CodeLimitException("Too many temporaries.");
        _now.Add();
        return new CodeLocal(type, slot);
    }

    public override void Vary(CodeLocal local)
    {
        if (!_now.Constant[local.Slot])
            return;
        SendHome(local.Slot);
        Unbind(local.Slot);
    }

    public override void BeginInstruction(RegionNode node, int index) => _pieces.Add(new NativePiece(_assembler.Position, node, index));

    public override void EndInstruction()
    {
        _preferred = HostRegister.None;
        while (_now.Count > _declared.Count)
        {
            Unbind(_now.Count - 1);
            _now.Count--;
        }
    }

    public override void Load(CodeLocal local)
    {
        int slot = local.Slot;
        bool wide = local.Type != CodeType.Int32;
        if (_now.Constant[slot])
        {
            _stack.Push(new Value(wide, _now.Values[slot]));
            return;
        }
        int register = _now.Register[slot];
        if (register == HostRegister.None)
        {
            register = Allocate();
            _assembler.Load(register, HomeOf(slot), wide ? 8 : 4);
            _widths[register] = (byte)(wide ? 64 : 32);
            Bind(slot, register);
        }
        else
        {
            _pins[register]++;
        }
        _stack.Push(new Value(wide, register));
    }

    public override void Store(CodeLocal local)
    {
        Value value = _stack.Pop();
        if (value.IsConstant)
        {
            Unbind(local.Slot);
            _now.Constant[local.Slot] = true;
            _now.Values[local.Slot] = value.Constant;
        }
        else
        {
            int register = Materialise(value);
            Unbind(local.Slot);
            Bind(local.Slot, register);
            _pins[register]--;
        }
        _now.Dirty[local.Slot] = true;
    }

    public override void LoadState() => _stack.Push(new Value(true, State));

    public override void Constant(int value) => _stack.Push(new Value(false, (long)value));

    public override void Constant(long value) => _stack.Push(new Value(true, value));

    public override CodeLabel DefineLabel()
    {
        if (_labelCount == _labels.Count)
            _labels.Add(new LabelState());
        _labels[_labelCount].Reset();
        return new CodeLabel(_labelCount++);
    }

    public override void Mark(CodeLabel label)
    {
        LabelState state = _labels[label.Number];
        if (_reachable)
        {
            if (state.Branches.Count != 0)
                throw new InvalidOperationException("Two ways come together that have no common order of registers.");
            state.Position = _assembler.Position;
            state.Snapshot.CopyFrom(_now, _widths);
            return;
        }
        _reachable = true;
        int count = state.Branches.Count;
        if (count == 0)
            throw new InvalidOperationException("Nothing leads here.");
        if (count == 1)
        {
            Restore(state.Branches[0].From);
            _assembler.Patch(state.Branches[0].Jump);
            return;
        }
        var joined = new int[count - 1];
        for (int k = 0; k < count; k++)
        {
            Restore(state.Branches[k].From);
            _assembler.Patch(state.Branches[k].Jump);
            for (int slot = 0; slot < _now.Count; slot++)
                SendHome(slot);
            if (k < count - 1)
                joined[k] = _assembler.Jump();
        }
        foreach (int jump in joined)
            _assembler.Patch(jump);
        for (int slot = 0; slot < _now.Count; slot++)
            Unbind(slot);
    }

    public override void Branch(CodeBranch condition, CodeLabel target)
    {
        LabelState state = _labels[target.Number];
        if (condition == CodeBranch.Always)
        {
            _reachable = false;
            if (state.Position >= 0)
            {
                Conform(state.Snapshot);
                _assembler.JumpBack(state.Position);
                return;
            }
            state.Add(_assembler.Jump(), _now, _widths);
            return;
        }
        HostCondition taken = Compare(condition);
        if (_stack.Depth != 0)
            throw new InvalidOperationException("The stack is not empty at a branch.");
        if (state.Position >= 0)
            throw new InvalidOperationException("A branch back must be unconditional.");
        state.Add(_assembler.JumpIf(taken), _now, _widths);
    }

    public override void Or(CodeLocal local)
    {
        int slot = local.Slot;
        if (_now.Constant[slot] || _now.Register[slot] != HostRegister.None)
        {
            base.Or(local);
            return;
        }
        // At home, where the operation finds it as well: it takes no register.
        int to = Exclusive(_stack.Pop());
        _assembler.Arithmetic(HostArithmetic.Or, to, HomeOf(slot), true);
        Push(to, true, 64);
    }

    public override void BranchUnlessAt(CodeLabel target)
    {
        Value address = Address(_stack.Pop());
        int value = Materialise(_stack.Pop());
        _assembler.Arithmetic(HostArithmetic.Compare, value, address.Memory, true);
        _pins[value]--;
        Release(address);
        JumpIf(HostCondition.NotEqual, target);
    }

    public override void Select(CodeBranch condition, CodeType type)
    {
        Value other = _stack.Pop(), taken = _stack.Pop();
        int from = Materialise(taken), to = Exclusive(other);
        _assembler.MoveIf(Compare(condition), to, from, type != CodeType.Int32);
        _pins[from]--;
        Push(to, type != CodeType.Int32, Math.Min(Math.Max(_widths[to], _widths[from]), type == CodeType.Int32 ? 32 : 64));
    }

    /// <summary>Brings the homes of all locals that mirror the state up to date.</summary>
    public void Settle()
    {
        for (int slot = 0; slot < _declared.Count; slot++)
            SendHome(slot);
    }

    /// <summary>Takes it that the state has changed: what mirrors it is to be read again. Everything must be settled.</summary>
    public void Forget()
    {
        for (int slot = 0; slot < _declared.Count; slot++)
            Unbind(slot);
    }

    /// <summary>Pops a value into a host register that is not for locals.</summary>
    public void Pop(int register)
    {
        Value value = _stack.Pop();
        int from = Materialise(value);
        _assembler.Move(register, from, value.Wide);
        _pins[from]--;
    }

    /// <summary>Pushes the content of a host register that is not for locals.</summary>
    public void PushFrom(int register, bool wide)
    {
        int to = Allocate();
        _assembler.Move(to, register, wide);
        Push(to, wide, wide ? 64 : 32);
    }

    /// <summary>Tells that execution does not come to this point.</summary>
    public void End() => _reachable = false;

    private HostMemory HomeOf(int slot) => new(State, _homes[slot]);

    private void SendHome(int slot)
    {
        if (!_now.Dirty[slot])
            return;
        _now.Dirty[slot] = false;
        if (_now.Register[slot] != HostRegister.None)
        {
            _assembler.Store(HomeOf(slot), _now.Register[slot], 8);
            return;
        }
        long value = _now.Values[slot];
        if (value == (int)value)
        {
            _assembler.StoreImmediate(HomeOf(slot), (int)value, 8);
            return;
        }
        _assembler.MoveImmediate(HostRegister.Rax, value);
        _assembler.Store(HomeOf(slot), HostRegister.Rax, 8);
    }

    private void Bind(int slot, int register)
    {
        _now.Register[slot] = (sbyte)register;
        _owners[register] |= 1UL << slot;
    }

    private void Unbind(int slot)
    {
        int register = _now.Register[slot];
        if (register != HostRegister.None)
        {
            _owners[register] &= ~(1UL << slot);
            _now.Register[slot] = HostRegister.None;
        }
        _now.Constant[slot] = false;
        _now.Dirty[slot] = false;
    }

    /// <summary>A register that nothing else refers to. The caller holds it, as one value on the stack would.</summary>
    private int Allocate()
    {
        int preferred = _preferred;
        _preferred = HostRegister.None;
        if (preferred != HostRegister.None && (Allocatable >> preferred & 1) != 0 && _pins[preferred] == 0 && _owners[preferred] == 0)
            return Take(preferred);
        int evicted = HostRegister.None;
        for (int k = 1; k <= 16; k++)
        {
            int register = _lastAllocated + k & 15;
            if ((Allocatable >> register & 1) == 0 || _pins[register] != 0)
                continue;
            if (_owners[register] == 0)
                return Take(register);
            if (evicted == HostRegister.None)
                evicted = register;
        }
        if (evicted == HostRegister.None)
            throw new CodeLimitException("An operation needs more registers than there are.");
        for (ulong owners = _owners[evicted]; owners != 0; owners &= owners - 1)
        {
            int slot = BitOperations.TrailingZeroCount(owners);
            SendHome(slot);
            Unbind(slot);
        }
        return Take(evicted);
    }

    private int Take(int register)
    {
        _lastAllocated = register;
        _pins[register] = 1;
        return register;
    }

    private void Restore(Snapshot snapshot)
    {
        _now.CopyFrom(snapshot);
        Array.Clear(_owners);
        Array.Clear(_pins);
        snapshot.Widths.CopyTo(_widths, 0);
        for (int slot = 0; slot < _now.Count; slot++)
        {
            if (_now.Register[slot] != HostRegister.None)
                _owners[_now.Register[slot]] |= 1UL << slot;
        }
    }

    /// <summary>Brings registers and homes into another order, in which the same locals have the same values.</summary>
    private void Conform(Snapshot wanted)
    {
        // First whatever must come from or be at a home goes there, then the registers are filled.
        for (int slot = 0; slot < wanted.Count; slot++)
        {
            bool stays = wanted.Dirty[slot] && (wanted.Constant[slot] || wanted.Register[slot] == _now.Register[slot]);
            if (wanted.Constant[slot] && (!_now.Constant[slot] || _now.Values[slot] != wanted.Values[slot]))
                throw new InvalidOperationException("A local is constant on one way only.");
            if (!stays)
                SendHome(slot);
        }
        ulong filled = 0;
        for (int slot = 0; slot < wanted.Count; slot++)
        {
            int register = wanted.Register[slot];
            if (register == HostRegister.None || register == _now.Register[slot] || (filled >> register & 1) != 0)
                continue;
            filled |= 1UL << register;
            _assembler.Load(register, HomeOf(slot), 8);
        }
    }

    /// <summary>What is known of the locals at one point of the code.</summary>
    private sealed class Snapshot
    {
        public readonly sbyte[] Register = new sbyte[LocalHomes.Most];
        public readonly bool[] Constant = new bool[LocalHomes.Most];
        public readonly bool[] Dirty = new bool[LocalHomes.Most];
        public readonly long[] Values = new long[LocalHomes.Most];
        public readonly byte[] Widths = new byte[16];
        public int Count;

        public void Clear(int count)
        {
            Count = 0;
            while (Count < count)
                Add();
        }

        public void Add()
        {
            Register[Count] = HostRegister.None;
            Constant[Count] = false;
            Dirty[Count] = false;
            Count++;
        }

        public void CopyFrom(Snapshot other)
        {
            Count = other.Count;
            Array.Copy(other.Register, Register, Count);
            Array.Copy(other.Constant, Constant, Count);
            Array.Copy(other.Dirty, Dirty, Count);
            Array.Copy(other.Values, Values, Count);
        }

        public void CopyFrom(Snapshot other, byte[] widths)
        {
            CopyFrom(other);
            widths.CopyTo(Widths, 0);
        }
    }

    /// <summary>A label: where it is, in which order the code there has the locals, and what leads to it.</summary>
    private sealed class LabelState
    {
        private readonly Stack<Snapshot> _spare = [];

        public int Position { get; set; }

        public Snapshot Snapshot { get; } = new();

        public List<(int Jump, Snapshot From)> Branches { get; } = [];

        public void Reset()
        {
            Position = -1;
            foreach ((int _, Snapshot from) in Branches)
                _spare.Push(from);
            Branches.Clear();
        }

        public void Add(int jump, Snapshot now, byte[] widths)
        {
            Snapshot from = _spare.Count != 0 ? _spare.Pop() : new Snapshot();
            from.CopyFrom(now, widths);
            Branches.Add((jump, from));
        }
    }
}

/// <summary>Code cannot be generated because it needs more of something than there is.</summary>
internal sealed class CodeLimitException(string message) : Exception(message);

/// <summary>Where locals have their homes in <see cref="CpuState"/>.</summary>
internal sealed class LocalHomes(int temporaries)
{
    /// <summary>Locals at most.</summary>
    public const int Most = 64;

    private readonly int[] _offsets = new int[Most];
    private int _mirrors;

    /// <summary>The home of a local.</summary>
    public int this[int slot] => slot < _mirrors ? _offsets[slot] : temporaries + (slot - _mirrors) * 8;

    /// <summary>Adds a local that mirrors a field.</summary>
    public void Add(int offset) => _offsets[_mirrors++] = offset;
}
