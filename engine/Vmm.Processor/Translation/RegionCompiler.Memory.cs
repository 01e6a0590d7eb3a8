using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <content>Memory operands: the compare of the translation cache's tag in line, everything else out of line.</content>
internal abstract unsafe partial class RegionCompiler
{
    protected const int ReadTagOffset = 0, WriteTagOffset = 8;
    private const int AddendOffset = 16;

    /// <summary>The linear address of the current instruction's memory operand, in a local.</summary>
    protected CodeLocal EmitLinear()
    {
        EmitEffectiveAddress();
        if (Bound.Segment >= Seg.Fs)
        {
            _code.LoadState();
            EmitOffset(CpuState.SegmentsOffset + Bound.Segment * sizeof(SegmentState));
            _code.Emit(CodeOp.Read64);
            _code.Emit(CodeOp.Add);
        }
        CodeLocal linear = _code.Temporary(CodeType.Int64);
        _code.Store(linear);
        return linear;
    }

    /// <summary>Pushes the effective address of the current instruction's memory operand.</summary>
    protected void EmitEffectiveAddress()
    {
        ref Insn insn = ref Bound;
        bool any = false;
        if (insn.Base == CpuState.TraceRipOffset)
        {
            EmitRip(insn.Displacement);
            any = true;
        }
        else if (insn.Base != CpuState.ZeroOffset)
        {
            _code.Load(_registers[insn.Base >> 3]!);
            any = true;
        }
        if (insn.Index != CpuState.ZeroOffset)
        {
            _code.Load(_registers[insn.Index >> 3]!);
            if (insn.Scale != 0)
            {
                _code.Constant((int)insn.Scale);
                _code.Emit(CodeOp.ShiftLeft);
            }
            if (any)
                _code.Emit(CodeOp.Add);
            any = true;
        }
        if (insn.Base != CpuState.TraceRipOffset && (insn.Displacement != 0 || !any))
        {
            _code.Constant(insn.Displacement);
            if (any)
                _code.Emit(CodeOp.Add);
        }
        if (insn.AddressMask != ulong.MaxValue)
        {
            _code.Constant((long)insn.AddressMask);
            _code.Emit(CodeOp.And);
        }
    }

    /// <summary>
    /// Pushes the host address of an access that the translation cache knows, and goes to <paramref name="slow"/> where it does not
    /// or where the access leaves its page: the tag is that of the last byte's page, the entry that of the first's.
    /// </summary>
    protected void EmitHostAddress(CodeLocal linear, int size, int tagOffset, CodeLabel slow)
    {
        CodeLocal entry = _code.Temporary(CodeType.Int64);
        _code.Load(linear);
        _code.Constant(12 - 5);
        _code.Emit(CodeOp.ShiftRight);
        _code.Constant((long)(Tlb.Entries - 1) * sizeof(TlbEntry));
        _code.Emit(CodeOp.And);
        _code.Store(entry);
        _code.Load(linear);
        if (size > 1)
        {
            _code.Constant((long)(size - 1));
            _code.Emit(CodeOp.Add);
        }
        _code.Constant(~0xFFFL);
        _code.Emit(CodeOp.And);
        _code.Or(_tlbContext);
        PushInEntry(tagOffset);
        _code.BranchUnlessAt(slow);
        _code.Load(linear);
        PushInEntry(AddendOffset);
        _code.Emit(CodeOp.Read64);
        _code.Emit(CodeOp.Add);
        _code.Emit(CodeOp.ToPointer);

        void PushInEntry(int offset)
        {
            _code.Load(_tlb);
            _code.Load(entry);
            _code.Emit(CodeOp.ToPointer);
            _code.Emit(CodeOp.Add);
            if (offset != 0)
                EmitOffset(offset);
        }
    }

    /// <summary>Reads memory into a local.</summary>
    protected CodeLocal EmitRead(CodeLocal linear, int size)
    {
        CodeLocal value = _code.Temporary(StackType(size));
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        EmitHostAddress(linear, size, ReadTagOffset, slow);
        EmitLoad(size);
        _code.Store(value);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            EmitSlowAccess(SlowAccessKind.Read, linear, size);
            EmitScratch();
            EmitLoad(size);
            _code.Store(value);
            _code.Branch(CodeBranch.Always, done);
        });
        return value;
    }

    /// <summary>Writes a local's value to memory.</summary>
    /// <param name="linear">Where to.</param>
    /// <param name="value">The value.</param>
    /// <param name="size">Its size.</param>
    /// <param name="complete">Emits what else the instruction does once the write has been done; no more than registers.</param>
    protected void EmitWrite(CodeLocal linear, CodeLocal value, int size, Action? complete = null)
    {
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        EmitHostAddress(linear, size, WriteTagOffset, slow);
        _code.Load(value);
        EmitStore(size);
        _code.Mark(done);
        uint dirty = _dirty;
        complete?.Invoke();
        uint completed = _dirty;
        OutOfLine(() =>
        {
            _dirty = dirty;
            _code.Mark(slow);
            EmitScratch();
            _code.Load(value);
            EmitStore(size);
            EmitSlowWrite(SlowAccessKind.Write, linear, size, done, () =>
            {
                complete?.Invoke();
                _dirty = completed;
            });
        });
    }

    /// <summary>Begins a read-modify-write: the old value, and the host address, which is null where the slow path must write.</summary>
    private (CodeLocal Value, CodeLocal Host) EmitBeginModify(CodeLocal linear, int size)
    {
        CodeLocal value = _code.Temporary(StackType(size)), host = _code.Temporary(CodeType.Pointer);
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        EmitHostAddress(linear, size, WriteTagOffset, slow);
        _code.Store(host);
        _code.Load(host);
        EmitLoad(size);
        _code.Store(value);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            EmitSlowAccess(SlowAccessKind.BeginModify, linear, size);
            EmitScratch();
            EmitLoad(size);
            _code.Store(value);
            _code.Constant(0);
            _code.Emit(CodeOp.ToPointer);
            _code.Store(host);
            _code.Branch(CodeBranch.Always, done);
        });
        return (value, host);
    }

    /// <summary>Ends a read-modify-write, as the last thing that the instruction does.</summary>
    private void EmitEndModify(CodeLocal linear, CodeLocal host, CodeLocal value, int size)
    {
        CodeLabel slow = _code.DefineLabel(), done = _code.DefineLabel();
        _code.Load(host);
        _code.Branch(CodeBranch.False, slow);
        _code.Load(host);
        _code.Load(value);
        EmitStore(size);
        _code.Mark(done);
        OutOfLine(() =>
        {
            _code.Mark(slow);
            EmitScratch();
            _code.Load(value);
            EmitStore(size);
            EmitSlowWrite(SlowAccessKind.EndModify, linear, size, done);
        });
    }

    /// <summary>
    /// Out of line: writes what stands in <see cref="CpuState.Scratch"/> and goes on at <paramref name="done"/>, or, where that has changed what
    /// comes next, completes the instruction and leaves.
    /// </summary>
    protected void EmitSlowWrite(SlowAccessKind kind, CodeLocal linear, int size, CodeLabel done, Action? complete = null)
    {
        EmitSlowAccess(kind, linear, size);
        CodeLabel changed = _code.DefineLabel();
        EmitBranchIfChanged(changed);
        _code.Branch(CodeBranch.Always, done);
        _code.Mark(changed);
        complete?.Invoke();
        LeaveToNext();
    }

    /// <summary>Leaves to the interpreter, which raises #GP, where an address is not a multiple of 16.</summary>
    protected void EmitAlignmentCheck(CodeLocal linear)
    {
        CodeLabel rare = _code.DefineLabel();
        _code.Load(linear);
        _code.Constant(15);
        _code.Emit(CodeOp.And);
        _code.Branch(CodeBranch.True, rare);
        OutOfLine(() =>
        {
            _code.Mark(rare);
            LeaveToCurrent();
        });
    }

    protected void EmitScratch() => EmitField(nameof(CpuState.Scratch));

    protected void EmitLoad(int size) =>
        _code.Emit(size switch { 1 => CodeOp.Read8, 2 => CodeOp.Read16, 4 => CodeOp.Read32, 8 => CodeOp.Read64, _ => CodeOp.ReadVector });

    protected void EmitStore(int size) =>
        _code.Emit(size switch { 1 => CodeOp.Write8, 2 => CodeOp.Write16, 4 => CodeOp.Write32, 8 => CodeOp.Write64, _ => CodeOp.WriteVector });

    /// <summary>
    /// Branches where the following instruction has got another handler: a store has made the code stale, or a device has asked for
    /// attention at the next instruction.
    /// </summary>
    protected void EmitBranchIfChanged(CodeLabel changed)
    {
        EmitPointer(_node.Address(_index + 1));
        _code.Emit(CodeOp.ReadPointer);
        EmitPointer(_node.Bound[_index + 1].Handler);
        _code.Branch(CodeBranch.NotEqual, changed);
    }
}
