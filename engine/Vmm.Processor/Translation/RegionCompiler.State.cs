using System.Collections.Concurrent;
using System.Reflection;
using System.Reflection.Emit;
using System.Runtime.InteropServices;
using Iced.Intel;
using FlowControl = Iced.Intel.FlowControl;
using Label = System.Reflection.Emit.Label;

namespace Vmm.Processor.Translation;

/// <content>Registers and fields of <see cref="CpuState"/>.</content>
internal sealed unsafe partial class RegionCompiler
{
    private static readonly Dictionary<string, int> Offsets = MeasureOffsets();

    private static Dictionary<string, int> MeasureOffsets()
    {
        CpuState state = default;
        CpuState* s = &state;
        int Offset(void* field) => (int)((byte*)field - (byte*)s);
        return new Dictionary<string, int>
        {
            [nameof(CpuState.TraceRip)] = Offset(&s->TraceRip),
            [nameof(CpuState.FlagResult)] = Offset(&s->FlagResult),
            [nameof(CpuState.FlagCarries)] = Offset(&s->FlagCarries),
            [nameof(CpuState.Budget)] = Offset(&s->Budget),
            [nameof(CpuState.Tlb)] = Offset(&s->Tlb),
            [nameof(CpuState.TlbContext)] = Offset(&s->TlbContext),
            [nameof(CpuState.Attention)] = Offset(&s->Attention),
            [nameof(CpuState.Scratch)] = Offset(s->Scratch),
        };
    }

    private static int OffsetOf(string field) => Offsets[field];

    /// <summary>Decides which registers are locals: those that some emitted instruction uses.</summary>
    private void FindRegisters()
    {
        var factory = new InstructionInfoFactory();
        uint used = 0;
        foreach (RegionNode node in _region.Nodes)
        {
            for (int k = 0; k < node.Length; k++)
            {
                node.MayRaiseAttention |= !CanEmit(node, k) || AccessesMemory(node.Decoded[k]);
                if (!CanEmit(node, k))
                    continue;
                used |= RegistersOf(factory, node.Decoded[k], out uint written);
                _written |= written;
            }
        }
        for (int k = 0; k < 16; k++)
        {
            if ((used >> k & 1) != 0)
                _registers[k] = _il.DeclareLocal(typeof(long));
        }
    }

    private static uint RegistersOf(InstructionInfoFactory factory, in Instruction instruction, out uint written)
    {
        uint used = 0;
        written = 0;
        foreach (UsedRegister each in factory.GetInfo(instruction).GetUsedRegisters())
        {
            Register full = each.Register.GetFullRegister();
            if (full is < Register.RAX or > Register.R15)
                continue;
            uint bit = 1u << (full - Register.RAX);
            used |= bit;
            if (each.Access is not (OpAccess.Read or OpAccess.CondRead or OpAccess.NoMemAccess or OpAccess.None))
                written |= bit;
        }
        return used;
    }

    private static bool AccessesMemory(in Instruction instruction)
    {
        if (instruction.IsStackInstruction || instruction.IsStringInstruction)
            return true;
        if (instruction.Mnemonic is Mnemonic.Lea or Mnemonic.Nop)
            return false;
        for (int k = 0; k < instruction.OpCount; k++)
        {
            if (instruction.GetOpKind(k) is OpKind.Memory or >= OpKind.MemorySegSI and <= OpKind.MemoryESRDI)
                return true;
        }
        return !IsPure(instruction);
    }

    // Instructions without a memory operand that touch no memory and no device either.
    private static bool IsPure(in Instruction instruction) =>
        instruction.FlowControl is FlowControl.Next or FlowControl.ConditionalBranch or FlowControl.UnconditionalBranch
        && !instruction.IsPrivileged && instruction.Mnemonic is not (Mnemonic.Monitor or Mnemonic.Mwait or Mnemonic.Maskmovq or Mnemonic.Maskmovdqu);

    private void LoadRegister(int register)
    {
        _il.Emit(OpCodes.Ldarg_0);
        EmitOffset(register * 8);
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Stloc, _registers[register]!);
    }

    private void StoreRegisters(uint mask)
    {
        for (int k = 0; k < 16; k++)
        {
            if ((mask >> k & 1) == 0)
                continue;
            _il.Emit(OpCodes.Ldarg_0);
            EmitOffset(k * 8);
            _il.Emit(OpCodes.Ldloc, _registers[k]!);
            _il.Emit(OpCodes.Stind_I8);
        }
    }

    private void StoreDirtyRegisters()
    {
        StoreRegisters(_dirty);
        _dirty = 0;
    }

    private void ReloadAfterHandler()
    {
        RegistersOf(new InstructionInfoFactory(), Current, out uint written);
        for (int k = 0; k < 16; k++)
        {
            if ((written >> k & 1) != 0 && _registers[k] != null)
                LoadRegister(k);
        }
    }

    /// <summary>The register operand of an instruction: which of the 16, and whether it is AH, CH, DH or BH.</summary>
    private static int RegisterOf(ushort offset, out bool high)
    {
        high = (offset & 7) == 1;
        return offset >> 3;
    }

    /// <summary>Pushes a register operand, zero-extended to 32 bits or, with a size of 8, whole.</summary>
    private void PushRegister(ushort offset, int size)
    {
        _il.Emit(OpCodes.Ldloc, _registers[RegisterOf(offset, out bool high)]!);
        if (high)
        {
            _il.Emit(OpCodes.Ldc_I4_8);
            _il.Emit(OpCodes.Shr_Un);
        }
        EmitNarrow(size, signed: false);
    }

    /// <summary>Pops a value into a register operand, as the processor does: 32 bits clear the upper half, 8 and 16 keep the rest.</summary>
    private void PopRegister(ushort offset, int size)
    {
        int register = RegisterOf(offset, out bool high);
        LocalBuilder local = _registers[register]!;
        if (size <= 2)
        {
            EmitNarrow(size, signed: false);
            _il.Emit(OpCodes.Conv_U8);
            if (high)
            {
                _il.Emit(OpCodes.Ldc_I4_8);
                _il.Emit(OpCodes.Shl);
            }
            _il.Emit(OpCodes.Ldloc, local);
            EmitConstant(size == 2 ? ~0xFFFFL : high ? ~0xFF00L : ~0xFFL);
            _il.Emit(OpCodes.And);
            _il.Emit(OpCodes.Or);
        }
        else if (size == 4)
        {
            _il.Emit(OpCodes.Conv_U8);
        }
        _il.Emit(OpCodes.Stloc, local);
        _dirty |= 1u << register;
    }

    /// <summary>Cuts the value on the stack to a size: a 32-bit value for sizes up to 4.</summary>
    private void EmitNarrow(int size, bool signed)
    {
        switch (size)
        {
            case 1:
                _il.Emit(signed ? OpCodes.Conv_I1 : OpCodes.Conv_U1);
                break;
            case 2:
                _il.Emit(signed ? OpCodes.Conv_I2 : OpCodes.Conv_U2);
                break;
            case 4:
                _il.Emit(signed ? OpCodes.Conv_I4 : OpCodes.Conv_U4);
                break;
        }
    }

    /// <summary>Pushes a constant in the stack type of a size.</summary>
    private void EmitOperand(long value, int size)
    {
        if (size == 8)
            EmitConstant(value);
        else
            _il.Emit(OpCodes.Ldc_I4, size == 1 ? (byte)value : size == 2 ? (ushort)value : (int)value);
    }

    private static Type StackType(int size) => size switch { 16 => typeof(Vector128<byte>), 8 => typeof(long), _ => typeof(int) };

    private void EmitConstant(long value) => _il.Emit(OpCodes.Ldc_I8, value);

    private void EmitPointer(void* pointer)
    {
        _il.Emit(OpCodes.Ldc_I8, (long)pointer);
        _il.Emit(OpCodes.Conv_I);
    }

    private void EmitPointer(Handler pointer) => EmitPointer((void*)pointer);

    /// <summary>Adds a constant to an address.</summary>
    private void EmitOffset(int offset)
    {
        _il.Emit(OpCodes.Ldc_I4, offset);
        _il.Emit(OpCodes.Conv_I);
        _il.Emit(OpCodes.Add);
    }

    /// <summary>Pushes the address of a field of the state.</summary>
    private void EmitField(string field)
    {
        _il.Emit(OpCodes.Ldarg_0);
        EmitOffset(OffsetOf(field));
    }

    private void LoadState(LocalBuilder local, string field)
    {
        EmitField(field);
        _il.Emit(OpCodes.Ldind_I8);
        _il.Emit(OpCodes.Stloc, local);
    }

    private void StoreState(LocalBuilder local, string field)
    {
        EmitField(field);
        _il.Emit(OpCodes.Ldloc, local);
        _il.Emit(OpCodes.Stind_I8);
    }

    /// <summary>Pushes the RIP at a distance from the current trace's first instruction.</summary>
    private void EmitRip(long distance)
    {
        _il.Emit(OpCodes.Ldloc, _rip);
        EmitConstant(_node.Offset + distance);
        _il.Emit(OpCodes.Add);
    }

    private void EmitCall(Type type, string method, Type? argument = null) => _il.Emit(OpCodes.Call, MethodOf(type, method, argument));

    // Reflection is slow, and few methods are called.
    private static readonly ConcurrentDictionary<(Type Type, string Method, Type? Argument), MethodInfo> Methods = new();

    private static MethodInfo MethodOf(Type type, string method, Type? argument) => Methods.GetOrAdd((type, method, argument), static key =>
    {
        MethodInfo found = key.Type.GetMethod(key.Method, BindingFlags.Static | BindingFlags.Public)!;
        return key.Argument == null ? found : found.MakeGenericMethod(key.Argument);
    });
}
