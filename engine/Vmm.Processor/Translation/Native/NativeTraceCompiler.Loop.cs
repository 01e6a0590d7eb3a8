using Iced.Intel;

namespace Vmm.Processor.Translation.Native;

/// <content>
/// A trace that jumps to its own beginning, and of which nothing is interpreted until there, keeps its general registers in the host's around the loop, and its
/// vectors and x87 registers if it computes in them. While it runs, only its own stores can change its code, and those look.
/// </content>
internal sealed unsafe partial class NativeTraceCompiler
{
    // Of ten host registers for locals, those that a single instruction needs must be left.
    private const int MostKept = 7, MostKeptBesideTlb = 5;

    private bool _isLoop;

    // What stands in vector registers and in those of x87 at the loop's beginning.
    private VectorState _loopVectors;
    private X87State _loopX87;

    // With vector registers and the stack of x87 as they are at the beginning.
    protected override bool ClosesLoop =>
        _isLoop && Bound.Immediate == 0 && (!_loopVectors.Controls || _vectors.Controls && (_loopVectors.Present & ~_vectors.Present) == 0)
        && (!_loopX87.Active || _x87.Active && _x87.Stack == _loopX87.Stack);

    protected override void EmitStart()
    {
        _vectors = _loopVectors = default;
        _x87 = _loopX87 = default;
        int length = LengthOfLoop(_node);
        _isLoop = length > 0;
        if (!_isLoop)
            return;
        if (_computesInFloats)
            LoadLoopVectors();
        LoadLoopX87(length);
        bool usesTlb = false;
        for (int k = 0; k < length; k++)
            usesTlb |= AccessesMemory(_node.Decoded[k]);
        _x64.BeginLoop(MostUsed(length, usesTlb ? MostKeptBesideTlb : MostKept), usesTlb ? [_tlb, _tlbContext] : []);
    }

    /// <summary>Loads what a loop of floats uses before it begins.</summary>
    private void LoadLoopVectors()
    {
        EmitControls();
        uint used = 0, written = 0;
        for (int k = 0; k < _node.Length; k++)
        {
            Instruction instruction = _node.Decoded[k];
            used |= BitOf(instruction.Op0Register) | BitOf(instruction.Op1Register);
            written |= BitOf(instruction.Op0Register);
        }
        _vectors = new VectorState(used, written, true);
        Restore(used);
        _loopVectors = _vectors;
    }

    /// <summary>Begins the run of a loop before it, with all registers that it uses in the host's, if the stack is as it was when the loop closes.</summary>
    private void LoadLoopX87(int length)
    {
        int first = 0, written = 0;
        while (first < length && X87Form.Of(_node.Decoded[first]) is not { Waits: true })
            first++;
        if (first == length)
            return;
        X87Stack begin = _runs[first], stack = begin;
        for (int k = first; k < length; k++)
        {
            if (X87Form.Of(_node.Decoded[k]) is not { Waits: true } form)
                continue;
            written |= stack.WrittenBy(form);
            stack.TryApply(form, out stack);
        }
        if (stack != begin)
            return;
        BeginRun(begin);
        if ((begin.NeedFull | written) is var used && used != 0)
            Load(used);
        _x87 = _loopX87 = _x87 with { Present = used, Changed = written };
    }

    /// <summary>Makes the state of x87 what it is at the loop's beginning, with pointers and condition codes at home.</summary>
    private void CloseLoopX87()
    {
        if (!_loopX87.Active)
        {
            SettleX87();
            return;
        }
        EmitStatus();
        EmitPointers();
        Move(_x87.Lag);
        if ((_loopX87.Present & ~_x87.Present) is var missing && missing != 0)
            Load(missing);
    }

    /// <summary>The general registers that most of the first instructions use.</summary>
    private CodeLocal[] MostUsed(int length, int count)
    {
        var factory = new InstructionInfoFactory();
        Span<int> uses = stackalloc int[16];
        for (int k = 0; k < length; k++)
        {
            uint used = RegistersOf(factory, _node.Decoded[k], out _);
            for (int register = 0; register < 16; register++)
                uses[register] += (int)(used >> register & 1);
        }
        var kept = new List<CodeLocal>(count);
        while (kept.Count < count)
        {
            int most = 0;
            for (int register = 1; register < 16; register++)
            {
                if (uses[register] > uses[most])
                    most = register;
            }
            if (uses[most] == 0)
                break;
            kept.Add(_registers[most]!);
            uses[most] = 0;
        }
        return [.. kept];
    }

    /// <summary>Goes to the beginning of the loop, unless the budget is spent or something waits.</summary>
    private void EmitBackEdge()
    {
        CodeLabel stop = _code.DefineLabel();
        _assembler.ArithmeticImmediate(HostArithmetic.Sub, NativeLayout.Slice, Bound.Count, true);
        _assembler.ArithmeticImmediate(HostArithmetic.Compare, NativeLayout.Slice, _node.Length, true);
        _x64.JumpIf(HostCondition.Less, stop);
        _assembler.ArithmeticImmediate(HostArithmetic.Compare, NativeLayout.Attention, 0, false);
        _x64.JumpIf(HostCondition.NotEqual, stop);
        OutOfLine(() =>
        {
            _code.Mark(stop);
            SettleFlagKind();
            _x64.Settle();
            SettleUnits();
            SetInsn(_node.Address(0));
            Exit(NativeExit.Stop);
            _x64.End();
        });
        if (StartLooksAtFlags)
            SettleFlagKind();
        else
            DiscardFlags();
        if (!_loopVectors.Controls)
            SettleVectors();
        CloseLoopX87();
        _x64.CloseLoop();
    }

    private void DiscardFlags()
    {
        _x64.Discard(_live.Kind);
        _x64.Discard(_live.A);
        _x64.Discard(_live.B);
        _x64.Discard(_live.C);
    }

    /// <summary>How many instructions there are up to the last one that jumps to the first; 0 where some of them is interpreted, or none jumps.</summary>
    private static int LengthOfLoop(RegionNode node)
    {
        int length = 0;
        for (int k = 0; k < node.Length && node.Emits[k]; k++)
        {
            if ((node.Decoded[k].Code.IsJccShortOrNear() || node.Decoded[k].Code.IsJmpShortOrNear()) && node.Bound[k].Immediate == 0)
                length = k + 1;
        }
        return length;
    }
}
