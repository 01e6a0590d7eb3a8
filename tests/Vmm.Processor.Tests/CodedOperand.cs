using Iced.Intel;

namespace Vmm.Processor.Tests;

/// <summary>Operands that leave a generator of instructions no choice but a value: registers that the opcode names, and immediates.</summary>
internal static class CodedOperand
{
    /// <summary>Sets such an operand; false for one of another kind.</summary>
    /// <param name="value">Draws the value of an immediate; not called for a register.</param>
    public static bool TrySet(ref Instruction instruction, int operand, OpCodeOperandKind kind, Func<ulong> value)
    {
        Register register = kind switch
        {
            OpCodeOperandKind.al => Register.AL,
            OpCodeOperandKind.cl => Register.CL,
            OpCodeOperandKind.ax => Register.AX,
            OpCodeOperandKind.dx => Register.DX,
            OpCodeOperandKind.eax => Register.EAX,
            OpCodeOperandKind.rax => Register.RAX,
            OpCodeOperandKind.st0 => Register.ST0,
            _ => Register.None,
        };
        if (register != Register.None)
        {
            instruction.SetOpKind(operand, OpKind.Register);
            instruction.SetOpRegister(operand, register);
            return true;
        }
        switch (kind)
        {
            case OpCodeOperandKind.imm8:
                instruction.SetOpKind(operand, OpKind.Immediate8);
                instruction.Immediate8 = (byte)value();
                break;
            case OpCodeOperandKind.imm8_const_1:
                instruction.SetOpKind(operand, OpKind.Immediate8);
                instruction.Immediate8 = 1;
                break;
            case OpCodeOperandKind.imm8sex16:
                instruction.SetOpKind(operand, OpKind.Immediate8to16);
                instruction.Immediate8to16 = (sbyte)value();
                break;
            case OpCodeOperandKind.imm8sex32:
                instruction.SetOpKind(operand, OpKind.Immediate8to32);
                instruction.Immediate8to32 = (sbyte)value();
                break;
            case OpCodeOperandKind.imm8sex64:
                instruction.SetOpKind(operand, OpKind.Immediate8to64);
                instruction.Immediate8to64 = (sbyte)value();
                break;
            case OpCodeOperandKind.imm16:
                instruction.SetOpKind(operand, OpKind.Immediate16);
                instruction.Immediate16 = (ushort)value();
                break;
            case OpCodeOperandKind.imm32:
                instruction.SetOpKind(operand, OpKind.Immediate32);
                instruction.Immediate32 = (uint)value();
                break;
            case OpCodeOperandKind.imm32sex64:
                instruction.SetOpKind(operand, OpKind.Immediate32to64);
                instruction.Immediate32to64 = (int)value();
                break;
            case OpCodeOperandKind.imm64:
                instruction.SetOpKind(operand, OpKind.Immediate64);
                instruction.Immediate64 = value();
                break;
            default:
                return false;
        }
        return true;
    }
}
