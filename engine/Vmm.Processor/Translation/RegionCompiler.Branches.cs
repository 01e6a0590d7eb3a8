using System.Reflection.Emit;
using Iced.Intel;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <content>Branches: within the region they are branches of the compiled code, out of it they do what their handlers do.</content>
internal sealed unsafe partial class RegionCompiler
{
    private void EmitConditionalJump(in Instruction instruction)
    {
        Label taken = _il.DefineLabel();
        EmitBranchIf(instruction.ConditionCode, taken);
        OutOfLine(() =>
        {
            _il.MarkLabel(taken);
            EmitDirect();
        });
    }

    private void EmitTransfer(in Instruction instruction)
    {
        switch (instruction.Code)
        {
            case Code.Jmp_rel8_64 or Code.Jmp_rel32_64:
                EmitDirect();
                return;
            case Code.Call_rel32_64:
                EmitCallDirect();
                return;
            case Code.Retnq or Code.Retnq_imm16:
                EmitReturn();
                return;
            case Code.Jmp_rm64:
                EmitIndirect(EmitOperandValue(instruction, 0, 8));
                return;
            case Code.Call_rm64:
                EmitCallIndirect(instruction);
                return;
            default:
                throw new InvalidOperationException($"{instruction.Code} has no emitter.");
        }
    }

    /// <summary>Goes to the target of the current direct branch.</summary>
    private void EmitDirect()
    {
        if (EmitEdge(_node.Targets[_index]))
            return;
        EmitPosition();
        _il.Emit(OpCodes.Ldarg_0);
        EmitPointer(_node.Address(_index));
        EmitRip((long)Bound.Immediate);
        EmitCall(typeof(RegionExits), nameof(RegionExits.Direct));
        Leave();
    }

    /// <summary>Leaves to an address that is only known at run time.</summary>
    private void EmitIndirect(LocalBuilder target)
    {
        EmitPosition();
        _il.Emit(OpCodes.Ldarg_0);
        EmitPointer(_node.Address(_index));
        _il.Emit(OpCodes.Ldloc, target);
        EmitCall(typeof(RegionExits), nameof(RegionExits.Indirect));
        Leave();
    }

    /// <summary>Has the interpreter execute the current instruction where an address is not canonical with 48 bits.</summary>
    private void EmitCanonicalCheck(LocalBuilder address)
    {
        Label rare = _il.DefineLabel();
        _il.Emit(OpCodes.Ldloc, address);
        _il.Emit(OpCodes.Ldc_I4, 16);
        _il.Emit(OpCodes.Shl);
        _il.Emit(OpCodes.Ldc_I4, 16);
        _il.Emit(OpCodes.Shr);
        _il.Emit(OpCodes.Ldloc, address);
        _il.Emit(OpCodes.Bne_Un, rare);
        OutOfLine(() =>
        {
            _il.MarkLabel(rare);
            LeaveToCurrent();
        });
    }

    private LocalBuilder EmitReturnAddress()
    {
        LocalBuilder address = _temporaries.Take(typeof(long));
        EmitRip(Bound.Offset + Bound.Length);
        _il.Emit(OpCodes.Stloc, address);
        return address;
    }

    private void EmitCallDirect()
    {
        if (_node.Targets[_index] == null)
        {
            LocalBuilder target = _temporaries.Take(typeof(long));
            EmitRip((long)Bound.Immediate);
            _il.Emit(OpCodes.Stloc, target);
            EmitCanonicalCheck(target);
        }
        EmitPushForCall(EmitReturnAddress());
        EmitDirect();
    }

    private void EmitCallIndirect(in Instruction instruction)
    {
        LocalBuilder target = EmitOperandValue(instruction, 0, 8);
        EmitCanonicalCheck(target);
        EmitPushForCall(EmitReturnAddress());
        EmitIndirect(target);
    }

    /// <summary>
    /// Pushes a return address. Where that has made the region's code stale, the target of a call within the region is too: the call is
    /// then completed as one that leaves.
    /// </summary>
    private void EmitPushForCall(LocalBuilder address)
    {
        LocalBuilder pointer = _temporaries.Take(typeof(long));
        Label slow = _il.DefineLabel(), done = _il.DefineLabel();
        PushRegister(Gpr.Rsp * 8, 8);
        EmitConstant(8);
        _il.Emit(OpCodes.Sub);
        _il.Emit(OpCodes.Stloc, pointer);
        EmitHostAddress(pointer, 8, WriteTagOffset, slow);
        _il.Emit(OpCodes.Ldloc, address);
        EmitStore(8);
        _il.MarkLabel(done);
        _il.Emit(OpCodes.Ldloc, pointer);
        PopRegister(Gpr.Rsp * 8, 8);
        RegionNode? target = Current.Code == Code.Call_rel32_64 ? _node.Targets[_index] : null;
        OutOfLine(() =>
        {
            _il.MarkLabel(slow);
            EmitScratch();
            _il.Emit(OpCodes.Ldloc, address);
            EmitStore(8);
            EmitSlowCall(nameof(RegionAccess.Write), pointer, 8);
            if (target == null)
            {
                _il.Emit(OpCodes.Br, done);
                return;
            }
            Label changed = _il.DefineLabel();
            EmitBranchIfChanged(changed);
            _il.Emit(OpCodes.Br, done);
            _il.MarkLabel(changed);
            _il.Emit(OpCodes.Ldloc, pointer);
            PopRegister(Gpr.Rsp * 8, 8);
            EmitPosition();
            _il.Emit(OpCodes.Ldarg_0);
            EmitPointer(_node.Address(_index));
            EmitRip((long)Bound.Immediate);
            EmitCall(typeof(RegionExits), nameof(RegionExits.Direct));
            Leave();
        });
    }

    private void EmitReturn()
    {
        LocalBuilder pointer = _temporaries.Take(typeof(long));
        PushRegister(Gpr.Rsp * 8, 8);
        _il.Emit(OpCodes.Stloc, pointer);
        LocalBuilder target = EmitRead(pointer, 8);
        EmitCanonicalCheck(target);
        _il.Emit(OpCodes.Ldloc, pointer);
        EmitConstant(8 + (Current.Code == Code.Retnq_imm16 ? (ushort)Bound.Immediate : 0));
        _il.Emit(OpCodes.Add);
        PopRegister(Gpr.Rsp * 8, 8);
        EmitIndirect(target);
    }
}
