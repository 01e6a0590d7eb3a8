using System.Reflection.Emit;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Translation;

/// <content>Memory operands: the compare of the translation cache's tag in line, everything else out of line.</content>
internal sealed unsafe partial class RegionCompiler
{
    private const int ReadTagOffset = 0, WriteTagOffset = 8, AddendOffset = 16;

    /// <summary>The linear address of the current instruction's memory operand, in a local.</summary>
    private LocalBuilder EmitLinear()
    {
        EmitEffectiveAddress();
        if (Bound.Segment >= Seg.Fs)
        {
            _il.Emit(OpCodes.Ldarg_0);
            EmitOffset(CpuState.SegmentsOffset + Bound.Segment * sizeof(SegmentState));
            _il.Emit(OpCodes.Ldind_I8);
            _il.Emit(OpCodes.Add);
        }
        LocalBuilder linear = _temporaries.Take(typeof(long));
        _il.Emit(OpCodes.Stloc, linear);
        return linear;
    }

    /// <summary>Pushes the effective address of the current instruction's memory operand.</summary>
    private void EmitEffectiveAddress()
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
            _il.Emit(OpCodes.Ldloc, _registers[insn.Base >> 3]!);
            any = true;
        }
        if (insn.Index != CpuState.ZeroOffset)
        {
            _il.Emit(OpCodes.Ldloc, _registers[insn.Index >> 3]!);
            if (insn.Scale != 0)
            {
                _il.Emit(OpCodes.Ldc_I4, (int)insn.Scale);
                _il.Emit(OpCodes.Shl);
            }
            if (any)
                _il.Emit(OpCodes.Add);
            any = true;
        }
        if (insn.Base != CpuState.TraceRipOffset && (insn.Displacement != 0 || !any))
        {
            EmitConstant(insn.Displacement);
            if (any)
                _il.Emit(OpCodes.Add);
        }
        if (insn.AddressMask != ulong.MaxValue)
        {
            EmitConstant((long)insn.AddressMask);
            _il.Emit(OpCodes.And);
        }
    }

    /// <summary>
    /// Pushes the host address of an access that the translation cache knows, and goes to <paramref name="slow"/> where it does not
    /// or where the access leaves its page: the tag is that of the last byte's page, the entry that of the first's.
    /// </summary>
    private void EmitHostAddress(LocalBuilder linear, int size, int tagOffset, Label slow)
    {
        LocalBuilder entry = _temporaries.Take(typeof(nint));
        _il.Emit(OpCodes.Ldloc, _tlb);
        _il.Emit(OpCodes.Ldloc, linear);
        _il.Emit(OpCodes.Ldc_I4, 12 - 5);
        _il.Emit(OpCodes.Shr_Un);
        EmitConstant((Tlb.Entries - 1) * sizeof(TlbEntry));
        _il.Emit(OpCodes.And);
        _il.Emit(OpCodes.Conv_I);
        _il.Emit(OpCodes.Add);
        _il.Emit(OpCodes.Stloc, entry);
        _il.Emit(OpCodes.Ldloc, linear);
        if (size > 1)
        {
            EmitConstant(size - 1);
            _il.Emit(OpCodes.Add);
        }
        EmitConstant(~0xFFFL);
        _il.Emit(OpCodes.And);
        _il.Emit(OpCodes.Ldloc, _tlbContext);
        _il.Emit(OpCodes.Or);
        _il.Emit(OpCodes.Ldloc, entry);
        if (tagOffset != 0)
            EmitOffset(tagOffset);
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Bne_Un, slow);
        _il.Emit(OpCodes.Ldloc, linear);
        _il.Emit(OpCodes.Ldloc, entry);
        EmitOffset(AddendOffset);
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Add);
        _il.Emit(OpCodes.Conv_I);
    }

    /// <summary>Reads memory into a local.</summary>
    private LocalBuilder EmitRead(LocalBuilder linear, int size)
    {
        LocalBuilder value = _temporaries.Take(StackType(size));
        Label slow = _il.DefineLabel(), done = _il.DefineLabel();
        EmitHostAddress(linear, size, ReadTagOffset, slow);
        EmitLoad(size);
        _il.Emit(OpCodes.Stloc, value);
        _il.MarkLabel(done);
        OutOfLine(() =>
        {
            _il.MarkLabel(slow);
            EmitSlowCall(nameof(RegionAccess.Read), linear, size);
            EmitScratch();
            EmitLoad(size);
            _il.Emit(OpCodes.Stloc, value);
            _il.Emit(OpCodes.Br, done);
        });
        return value;
    }

    /// <summary>Writes a local's value to memory.</summary>
    /// <param name="linear">Where to.</param>
    /// <param name="value">The value.</param>
    /// <param name="size">Its size.</param>
    /// <param name="complete">Emits what else the instruction does once the write has been done; no more than registers.</param>
    private void EmitWrite(LocalBuilder linear, LocalBuilder value, int size, Action? complete = null)
    {
        Label slow = _il.DefineLabel(), done = _il.DefineLabel();
        EmitHostAddress(linear, size, WriteTagOffset, slow);
        _il.Emit(OpCodes.Ldloc, value);
        EmitStore(size);
        _il.MarkLabel(done);
        uint dirty = _dirty;
        complete?.Invoke();
        uint completed = _dirty;
        OutOfLine(() =>
        {
            _dirty = dirty;
            _il.MarkLabel(slow);
            EmitScratch();
            _il.Emit(OpCodes.Ldloc, value);
            EmitStore(size);
            EmitSlowCall(nameof(RegionAccess.Write), linear, size);
            Label changed = _il.DefineLabel();
            EmitBranchIfChanged(changed);
            _il.Emit(OpCodes.Br, done);
            _il.MarkLabel(changed);
            complete?.Invoke();
            _dirty = completed;
            LeaveToNext();
        });
    }

    /// <summary>Begins a read-modify-write: the old value, and the host address, which is null where the slow path must write.</summary>
    private (LocalBuilder Value, LocalBuilder Host) EmitBeginModify(LocalBuilder linear, int size)
    {
        LocalBuilder value = _temporaries.Take(StackType(size)), host = _temporaries.Take(typeof(nint));
        Label slow = _il.DefineLabel(), done = _il.DefineLabel();
        EmitHostAddress(linear, size, WriteTagOffset, slow);
        _il.Emit(OpCodes.Stloc, host);
        _il.Emit(OpCodes.Ldloc, host);
        EmitLoad(size);
        _il.Emit(OpCodes.Stloc, value);
        _il.MarkLabel(done);
        OutOfLine(() =>
        {
            _il.MarkLabel(slow);
            EmitSlowCall(nameof(RegionAccess.BeginModify), linear, size);
            EmitScratch();
            EmitLoad(size);
            _il.Emit(OpCodes.Stloc, value);
            _il.Emit(OpCodes.Ldc_I4_0);
            _il.Emit(OpCodes.Conv_I);
            _il.Emit(OpCodes.Stloc, host);
            _il.Emit(OpCodes.Br, done);
        });
        return (value, host);
    }

    /// <summary>Ends a read-modify-write, as the last thing that the instruction does.</summary>
    private void EmitEndModify(LocalBuilder linear, LocalBuilder host, LocalBuilder value, int size)
    {
        Label slow = _il.DefineLabel(), done = _il.DefineLabel();
        _il.Emit(OpCodes.Ldloc, host);
        _il.Emit(OpCodes.Brfalse, slow);
        _il.Emit(OpCodes.Ldloc, host);
        _il.Emit(OpCodes.Ldloc, value);
        EmitStore(size);
        _il.MarkLabel(done);
        OutOfLine(() =>
        {
            _il.MarkLabel(slow);
            EmitScratch();
            _il.Emit(OpCodes.Ldloc, value);
            EmitStore(size);
            EmitPosition();
            _il.Emit(OpCodes.Ldarg_0);
            EmitPointer(_node.Address(_index));
            _il.Emit(OpCodes.Ldloc, linear);
            EmitCall(typeof(RegionAccess), nameof(RegionAccess.EndModify), TypeOf(size));
            Label changed = _il.DefineLabel();
            EmitBranchIfChanged(changed);
            _il.Emit(OpCodes.Br, done);
            _il.MarkLabel(changed);
            LeaveToNext();
        });
    }

    /// <summary>Out of line: calls a slow access; a fault leaves the region.</summary>
    private void EmitSlowCall(string method, LocalBuilder linear, int size)
    {
        Label fine = _il.DefineLabel();
        EmitPosition();
        _il.Emit(OpCodes.Ldarg_0);
        EmitPointer(_node.Address(_index));
        _il.Emit(OpCodes.Ldloc, linear);
        EmitCall(typeof(RegionAccess), method, TypeOf(size));
        _il.Emit(OpCodes.Brtrue, fine);
        _il.Emit(OpCodes.Ldc_I4_0);
        _il.Emit(OpCodes.Conv_I);
        Leave();
        _il.MarkLabel(fine);
    }

    private void EmitScratch() => EmitField(nameof(CpuState.Scratch));

    private void EmitLoad(int size)
    {
        if (size == 16)
            EmitLoadVector();
        else
            _il.Emit(size switch { 1 => OpCodes.Ldind_U1, 2 => OpCodes.Ldind_U2, 4 => OpCodes.Ldind_U4, _ => OpCodes.Ldind_I8 });
    }

    private void EmitStore(int size)
    {
        if (size == 16)
            EmitStoreVector();
        else
            _il.Emit(size switch { 1 => OpCodes.Stind_I1, 2 => OpCodes.Stind_I2, 4 => OpCodes.Stind_I4, _ => OpCodes.Stind_I8 });
    }

    private static Type TypeOf(int size) => size switch { 1 => typeof(byte), 2 => typeof(ushort), 4 => typeof(uint), 8 => typeof(ulong), _ => typeof(Vector128<byte>) };
}
