namespace Vmm.Processor.Translation.Native;

/// <content>Values on the stack: which registers they are in, and how computations that were put off are carried out.</content>
internal sealed unsafe partial class X64Code
{
    /// <summary>
    /// A value: a constant, or base + (index &lt;&lt; scale) + displacement, in 32 or 64 bits. Of a 32-bit value in a register the upper half
    /// may be anything.
    /// </summary>
    private readonly record struct Value(bool Wide, bool IsConstant, int Base, int Index, int Scale, long Constant)
    {
        public Value(bool wide, long constant) : this(wide, true, HostRegister.None, HostRegister.None, 0, wide ? constant : (int)constant)
        {
        }

        public Value(bool wide, int register) : this(wide, false, register, HostRegister.None, 0, 0)
        {
        }

        /// <summary>Whether it is the content of a register.</summary>
        public bool IsPlain => !IsConstant && Base != HostRegister.None && Index == HostRegister.None && Constant == 0;

        public bool IsImmediate => IsConstant && Constant == (int)Constant;

        public HostMemory Memory => new(Base, (int)Constant, Index, Scale);
    }

    private sealed class ValueStack
    {
        private readonly Value[] _values = new Value[32];

        public int Depth;

        public void Push(in Value value) => _values[Depth++] = value;

        public Value Pop() => _values[--Depth];
    }

    private void Push(int register, bool wide, int width)
    {
        _widths[register] = (byte)width;
        _stack.Push(new Value(wide, register));
    }

    /// <summary>Puts a constant second, and first what may be changed in place.</summary>
    private void Order(ref Value a, ref Value b)
    {
        if (a.IsConstant || !b.IsConstant && !IsExclusive(a) && IsExclusive(b))
            (a, b) = (b, a);
    }

    private bool IsExclusive(in Value value) => value.IsPlain && value.Base != State && _pins[value.Base] == 1 && _owners[value.Base] == 0;

    private void Release(in Value value)
    {
        if (value.Base != HostRegister.None)
            _pins[value.Base]--;
        if (value.Index != HostRegister.None)
            _pins[value.Index]--;
    }

    /// <summary>A value that can be the address of a memory operand.</summary>
    private Value Address(in Value value) => value.IsConstant ? Plain(value) : value;

    private Value Plain(in Value value) => value.IsPlain ? value : new Value(value.Wide, Materialise(value));

    /// <summary>Carries a computation out. The register is held as the value was; it may be others' too, or the state's.</summary>
    private int Materialise(in Value value)
    {
        if (value.IsPlain)
            return value.Base;
        int to = value.Base;
        bool inPlace = to != HostRegister.None && to == _preferred && _prefersOrder && _pins[to] == 1 && _owners[to] != 0;
        // What stands there has to move, or else the result where the next node begins.
        if (inPlace)
            Vacate(to);
        Release(value);
        to = inPlace ? Take(to) : Allocate();
        if (value.IsConstant)
        {
            _assembler.MoveImmediate(to, value.Wide ? value.Constant : (uint)value.Constant);
            _widths[to] = (byte)(value.Wide && (ulong)value.Constant > uint.MaxValue ? 64 : 32);
        }
        else
        {
            LoadAddress(to, value);
            _widths[to] = (byte)(value.Wide ? 64 : 32);
        }
        return to;
    }

    // Processors take longer for three parts than for two, and for a scaled one.
    private void LoadAddress(int to, in Value value)
    {
        HostMemory memory = value.Memory;
        if (memory.Displacement == 0 || memory.Index == HostRegister.None || memory.Base == HostRegister.None || memory.Base == to)
        {
            _assembler.LoadAddress(to, memory, value.Wide);
            return;
        }
        _assembler.LoadAddress(to, memory.Scale == 1 ? memory with { Base = memory.Index, Scale = 0 } : memory with { Base = HostRegister.None }, value.Wide);
        _assembler.Arithmetic(HostArithmetic.Add, to, memory.Base, value.Wide);
    }

    /// <summary>The same in a register that nothing else refers to.</summary>
    private int Exclusive(in Value value)
    {
        if (!value.IsPlain)
            return Materialise(value);
        int from = value.Base;
        if (IsExclusive(value))
            return from;
        if (from == _preferred && _pins[from] == 1)
        {
            Vacate(from);
            return from;
        }
        Release(value);
        int to = Allocate();
        if (to != from || !value.Wide)
            _assembler.Move(to, from, value.Wide);
        _widths[to] = value.Wide ? _widths[from] : Math.Min(_widths[from], (byte)32);
        return to;
    }
}
