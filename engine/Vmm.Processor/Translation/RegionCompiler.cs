using Iced.Intel;

namespace Vmm.Processor.Translation;

/// <summary>
/// What instructions mean to compiled code: turns those of a region into operations of a <see cref="RegionCode"/>. General registers and
/// flags are locals; what stands in <see cref="CpuState"/> may be old until a way out brings it up to date. How code is entered, left and
/// goes from one trace to another, and how it calls what is not compiled, is up to who derives from this: <see cref="IlRegionCompiler"/>
/// and <see cref="Native.NativeRegionCompiler"/>.
/// </summary>
internal abstract unsafe partial class RegionCompiler
{
    protected readonly RegionCode _code;
    protected Region _region = null!;
    protected readonly CodeLocal?[] _registers = new CodeLocal?[16];
    protected readonly CodeLocal _rip;
    protected readonly CodeLocal _tlb;
    protected readonly CodeLocal _tlbContext;
    protected RegionNode _node = null!;
    protected int _index;

    // Of the point of emission: which registers may differ from CpuState.
    protected uint _dirty;

    // Each return of the region compares with all of them.
    private const int MostReturnPoints = 4;

    private readonly List<Action> _outOfLine = [];
    private RegionNode[] _returnPoints = [];

    /// <summary>Creates a compiler.</summary>
    /// <param name="code">Where its code goes to.</param>
    /// <param name="mirror">Makes a local for a field of <see cref="CpuState"/>.</param>
    protected RegionCompiler(RegionCode code, Func<CodeType, string, CodeLocal> mirror)
    {
        _code = code;
        _rip = mirror(CodeType.Int64, nameof(CpuState.TraceRip));
        _tlb = mirror(CodeType.Pointer, nameof(CpuState.Tlb));
        _tlbContext = mirror(CodeType.Int64, nameof(CpuState.TlbContext));
        _live = new FlagLocals(
            mirror(CodeType.Int32, nameof(CpuState.FlagKind)),
            mirror(CodeType.Int64, nameof(CpuState.FlagA)),
            mirror(CodeType.Int64, nameof(CpuState.FlagB)),
            mirror(CodeType.Int64, nameof(CpuState.FlagC)));
    }

    protected Instruction Current => _node.Decoded[_index];

    protected ref Insn Bound => ref _node.Bound[_index];

    protected bool EmitsCurrent => _node.Emits[_index];

    /// <summary>Begins with a region.</summary>
    protected void Begin(Region region)
    {
        _region = region;
        _outOfLine.Clear();
        _liveFlags.Clear();
        foreach (RegionNode node in region.Nodes)
        {
            var decoder = Decoder.Create(64, new ByteArrayCodeReader(node.Bytes), DecoderOptions.None);
            node.Decoded = new Instruction[node.Length];
            for (int k = 0; k < node.Length; k++)
                decoder.Decode(out node.Decoded[k]);
        }
        _returnPoints = [.. region.Nodes.Select(node => node.ReturnPoint).OfType<RegionNode>().Distinct().Take(MostReturnPoints)];
    }

    /// <summary>Decides which instructions are emitted and which are calls of their handlers.</summary>
    protected void FindEmitted()
    {
        foreach (RegionNode node in _region.Nodes)
        {
            node.Emits = new bool[node.Length];
            for (int k = 0; k < node.Length; k++)
                node.Emits[k] = CanEmit(node, k);
        }
    }

    /// <summary>Whether the region has so many instructions with an emitter for each one without.</summary>
    /// <param name="emittedPerHandler">How many.</param>
    /// <param name="within">Whether only those of each trace count that come before the last branch that stays in the region: the rest is behind a loop.</param>
    protected bool IsWorthwhile(int emittedPerHandler, bool within = false)
    {
        int emitted = 0, called = 0;
        foreach (RegionNode node in _region.Nodes)
        {
            int length = within ? LengthWithin(node) : node.Length;
            int here = node.Emits.Take(length).Count(emits => emits);
            emitted += here;
            called += length - here;
        }
        return emitted >= called * emittedPerHandler;
    }

    /// <summary>How many instructions there are up to the last branch that stays in the region; all where there is none.</summary>
    protected static int LengthWithin(RegionNode node)
    {
        int last = Array.FindLastIndex(node.Targets, target => target != null);
        return last < 0 ? node.Length : Math.Min(last + 1, node.Length);
    }

    /// <summary>Emits the instructions of a node.</summary>
    protected void EmitNode(RegionNode node)
    {
        _node = node;
        _flags = FlagsAtStart(node);
        bool ended = false;
        _index = 0;
        EmitStart();
        for (_index = 0; _index < node.Length && !ended; _index++)
        {
            _code.BeginInstruction(node, _index);
            if (EmitsCurrent)
                BeforeEmitted();
            ended = EmitsCurrent ? EmitInstruction() : EmitInterpreted();
            _code.EndInstruction();
        }
        if (!ended)
        {
            _index = _node.Length;
            _code.BeginInstruction(node, _index);
            EmitFallThrough();
        }
    }

    /// <summary>Emits what was put out of line.</summary>
    protected void EmitOutOfLine()
    {
        for (int k = 0; k < _outOfLine.Count; k++)
            _outOfLine[k]();
    }

    /// <summary>Emits code behind everything else, at this point's state of flags and registers.</summary>
    protected void OutOfLine(Action emit) => _outOfLine.Add(Here(emit));

    /// <summary>What emits code at another place as if at this point: with its state of flags and registers.</summary>
    protected virtual Action Here(Action emit)
    {
        (RegionNode node, int index, FlagState flags, uint dirty) = (_node, _index, _flags, _dirty);
        return () =>
        {
            (_node, _index, _flags, _dirty) = (node, index, flags, dirty);
            _code.BeginInstruction(node, index);
            emit();
        };
    }

    /// <summary>What is known of the flags where a node begins.</summary>
    protected virtual FlagState FlagsAtStart(RegionNode node) => FlagState.Dynamic;

    /// <summary>Emits what comes before the first instruction of a node.</summary>
    protected virtual void EmitStart()
    {
    }

    /// <summary>Whether an instruction of SSE has an emitter.</summary>
    protected virtual bool CanEmitSse(RegionNode node, in Instruction instruction) => false;

    /// <summary>Emits the current instruction if it is of SSE.</summary>
    protected virtual bool EmitSse(in Instruction instruction) => false;

    /// <summary>Whether an instruction of x87 has an emitter.</summary>
    protected virtual bool CanEmitX87(RegionNode node, in Instruction instruction) => false;

    /// <summary>Emits the current instruction if it is of x87.</summary>
    protected virtual bool EmitX87(in Instruction instruction) => false;

    /// <summary>Emits what comes before an instruction that has an emitter.</summary>
    protected virtual void BeforeEmitted()
    {
    }

    /// <summary>Whether an emitted instruction may raise an exception although it accesses no memory.</summary>
    protected virtual bool MayFault(in Instruction instruction) => false;

    /// <summary>Executes the current instruction by its handler. True where the trace ends with it.</summary>
    protected abstract bool EmitInterpreted();

    /// <summary>The end of a trace that was cut: on to the next one.</summary>
    protected abstract void EmitFallThrough();

    /// <summary>Whether the current branch goes to the beginning of a loop, in which it is taken more often than not.</summary>
    protected virtual bool ClosesLoop => false;

    /// <summary>Goes on with another node of the region, or the same again.</summary>
    /// <param name="target">Which one.</param>
    /// <param name="loop">Whether that may close a loop.</param>
    protected abstract void EmitEdge(RegionNode target, bool loop);

    /// <summary>Goes on with another node if there is one.</summary>
    protected bool TryEmitEdge(RegionNode? target)
    {
        if (target == null)
            return false;
        EmitEdge(target, loop: target.Index <= _node.Index);
        return true;
    }

    /// <summary>Goes to the target of the current direct branch.</summary>
    protected abstract void EmitDirect();

    /// <summary>Goes to an address that is only known at run time.</summary>
    protected abstract void EmitIndirect(CodeLocal target);

    /// <summary>Out of line: execution goes on in the interpreter with the instruction behind the current one.</summary>
    protected abstract void LeaveToNext();

    /// <summary>Out of line: the interpreter executes the current instruction, of which nothing has been done.</summary>
    protected abstract void LeaveToCurrent();

    /// <summary>
    /// Out of line: completes the current call, whose return address has been pushed, as one that leaves the region, because the region's
    /// code has changed.
    /// </summary>
    protected abstract void LeaveToTarget();

    /// <summary>Out of line: calls a slow access, which hands over its value in <see cref="CpuState.Scratch"/>; a fault leaves the region.</summary>
    protected abstract void EmitSlowAccess(SlowAccessKind kind, CodeLocal linear, int size);

    /// <summary>Writes the flags into the state where some operation is known to have set them, or nothing is known.</summary>
    protected abstract void EmitSettle(FlagState flags, FlagLocals operands);
}
