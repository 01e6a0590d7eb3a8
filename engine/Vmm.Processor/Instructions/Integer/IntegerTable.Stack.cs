using Iced.Intel;
using Vmm.Processor.Memory;

namespace Vmm.Processor.Instructions.Integer;

public static unsafe partial class IntegerTable
{
    /// <summary>The stack, strings, and what 64-bit mode has dropped.</summary>
    private static void FillStack<M>(HandlerTable table) where M : struct, IAddressing
    {
        table.Add(Code.Push_r16, &Stack.PushReg<ushort, M>);
        table.Add(Code.Push_rm16, &Stack.PushReg<ushort, M>, &Stack.PushMem<ushort, M>);
        table.Add(Code.Pop_r16, &Stack.PopReg<ushort, M>);
        table.Add(Code.Pop_rm16, &Stack.PopReg<ushort, M>, &Stack.PopMem<ushort, M>);
        table.Add(Code.Push_r32, &Stack.PushReg<uint, M>);
        table.Add(Code.Push_rm32, &Stack.PushReg<uint, M>, &Stack.PushMem<uint, M>);
        table.Add(Code.Pop_r32, &Stack.PopReg<uint, M>);
        table.Add(Code.Pop_rm32, &Stack.PopReg<uint, M>, &Stack.PopMem<uint, M>);
        table.Add(Code.Push_r64, &Stack.PushReg<ulong, M>);
        table.Add(Code.Push_rm64, &Stack.PushReg<ulong, M>, &Stack.PushMem<ulong, M>);
        table.Add(Code.Pop_r64, &Stack.PopReg<ulong, M>);
        table.Add(Code.Pop_rm64, &Stack.PopReg<ulong, M>, &Stack.PopMem<ulong, M>);
        table.Add(Code.Push_imm16, &Stack.PushImm<ushort, M>);
        table.Add(Code.Pushd_imm32, &Stack.PushImm<uint, M>);
        table.Add(Code.Pushq_imm32, &Stack.PushImm<ulong, M>);
        table.Add(Code.Pushw_imm8, &Stack.PushImm<ushort, M>);
        table.Add(Code.Pushd_imm8, &Stack.PushImm<uint, M>);
        table.Add(Code.Pushq_imm8, &Stack.PushImm<ulong, M>);
        table.Add(Code.Enterw_imm16_imm8, &Stack.Enter<ushort, M>);
        table.Add(Code.Leavew, &Stack.Leave<ushort, M>);
        table.Add(Code.Enterd_imm16_imm8, &Stack.Enter<uint, M>);
        table.Add(Code.Leaved, &Stack.Leave<uint, M>);
        table.Add(Code.Enterq_imm16_imm8, &Stack.Enter<ulong, M>);
        table.Add(Code.Leaveq, &Stack.Leave<ulong, M>);

        table.Add(Code.Movsb_m8_m8, &Strings.Movs<byte, M>);
        table.Add(Code.Movsw_m16_m16, &Strings.Movs<ushort, M>);
        table.Add(Code.Movsd_m32_m32, &Strings.Movs<uint, M>);
        table.Add(Code.Movsq_m64_m64, &Strings.Movs<ulong, M>);
        table.Add(Code.Cmpsb_m8_m8, &Strings.Cmps<byte, M>);
        table.Add(Code.Cmpsw_m16_m16, &Strings.Cmps<ushort, M>);
        table.Add(Code.Cmpsd_m32_m32, &Strings.Cmps<uint, M>);
        table.Add(Code.Cmpsq_m64_m64, &Strings.Cmps<ulong, M>);
        table.Add(Code.Stosb_m8_AL, &Strings.Stos<byte, M>);
        table.Add(Code.Lodsb_AL_m8, &Strings.Lods<byte, M>);
        table.Add(Code.Scasb_AL_m8, &Strings.Scas<byte, M>);
        table.Add(Code.Stosw_m16_AX, &Strings.Stos<ushort, M>);
        table.Add(Code.Lodsw_AX_m16, &Strings.Lods<ushort, M>);
        table.Add(Code.Scasw_AX_m16, &Strings.Scas<ushort, M>);
        table.Add(Code.Stosd_m32_EAX, &Strings.Stos<uint, M>);
        table.Add(Code.Lodsd_EAX_m32, &Strings.Lods<uint, M>);
        table.Add(Code.Scasd_EAX_m32, &Strings.Scas<uint, M>);
        table.Add(Code.Stosq_m64_RAX, &Strings.Stos<ulong, M>);
        table.Add(Code.Lodsq_RAX_m64, &Strings.Lods<ulong, M>);
        table.Add(Code.Scasq_RAX_m64, &Strings.Scas<ulong, M>);

        if (M.IsLong)
            return;
        table.Add(Code.Pushaw, &Stack.PushAll<ushort>);
        table.Add(Code.Popaw, &Stack.PopAll<ushort>);
        table.Add(Code.Pushad, &Stack.PushAll<uint>);
        table.Add(Code.Popad, &Stack.PopAll<uint>);
        table.Add(Code.Bound_r16_m1616, null, &DecimalAdjust.Bound<ushort>);
        table.Add(Code.Bound_r32_m3232, null, &DecimalAdjust.Bound<uint>);
        table.Add(Code.Daa, &DecimalAdjust.Daa);
        table.Add(Code.Das, &DecimalAdjust.Das);
        table.Add(Code.Aaa, &DecimalAdjust.Aaa);
        table.Add(Code.Aas, &DecimalAdjust.Aas);
        table.Add(Code.Aam_imm8, &DecimalAdjust.Aam);
        table.Add(Code.Aad_imm8, &DecimalAdjust.Aad);
        table.Add(Code.Salc, &FlagControl.Salc);
    }
}
