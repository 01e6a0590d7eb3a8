using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;
using Vmm.Processor.Memory;
using Vmm.Processor.Segmentation;
using Vmm.Processor.Vmx;

namespace Vmm.Processor.Instructions.System;

/// <summary>
/// The VMX instructions in non-root operation: they exit, at whatever privilege level, for the program in root operation to execute
/// (SDM volume 3, sections 26.1.2 and chapter 31). What is #UD there before the exit is #UD here.
/// </summary>
internal static unsafe class VmxInstructions
{
    /// <summary>RSM: exits in system-management mode (SDM volume 3, section 26.1.2), and is undefined elsewhere.</summary>
    public static Insn* ResumeFromSystemManagement(CpuState* s, Insn* i) => s->SmiBlocked ? VmExit.At(s, i, ExitReason.Rsm) : Fault.Raise(s, i, Vector.Ud);

    /// <summary>VMCALL: in every mode.</summary>
    public static Insn* Call(CpuState* s, Insn* i) => VmExit.At(s, i, ExitReason.Vmcall);

    /// <summary>VMLAUNCH.</summary>
    public static Insn* Launch(CpuState* s, Insn* i) => Exit(s, i, ExitReason.Vmlaunch);

    /// <summary>VMRESUME.</summary>
    public static Insn* Resume(CpuState* s, Insn* i) => Exit(s, i, ExitReason.Vmresume);

    /// <summary>VMXOFF.</summary>
    public static Insn* Off(CpuState* s, Insn* i) => Exit(s, i, ExitReason.Vmxoff);

    /// <summary>VMXON m64. CR4.VMXE is the guest's actual one: a hypervisor that shows it as 0 looks at that itself.</summary>
    public static Insn* On(CpuState* s, Insn* i) =>
        (s->Cr4 & Cr4.Vmxe) == 0 ? Fault.Raise(s, i, Vector.Ud) : ExitForPointer(s, i, ExitReason.Vmxon);

    /// <summary>VMCLEAR m64.</summary>
    public static Insn* Clear(CpuState* s, Insn* i) => ExitForPointer(s, i, ExitReason.Vmclear);

    /// <summary>VMPTRLD m64.</summary>
    public static Insn* LoadPointer(CpuState* s, Insn* i) => ExitForPointer(s, i, ExitReason.Vmptrld);

    /// <summary>VMPTRST m64.</summary>
    public static Insn* StorePointer(CpuState* s, Insn* i) => ExitForPointer(s, i, ExitReason.Vmptrst);

    /// <summary>INVEPT r, m128.</summary>
    public static Insn* InvalidateEpt(CpuState* s, Insn* i) => ExitForDescriptor(s, i, ExitReason.Invept);

    /// <summary>INVVPID r, m128.</summary>
    public static Insn* InvalidateVpid(CpuState* s, Insn* i) => ExitForDescriptor(s, i, ExitReason.Invvpid);

    /// <summary>VMREAD r, r: the field's encoding is the second operand.</summary>
    public static Insn* Read(CpuState* s, Insn* i) => ExitForField(s, i, ExitReason.Vmread, i->Operand1, i->Operand0);

    /// <summary>VMREAD m, r.</summary>
    public static Insn* ReadToMemory(CpuState* s, Insn* i) => ExitForField(s, i, ExitReason.Vmread, i->Operand1);

    /// <summary>VMWRITE r, r: the field's encoding is the first operand.</summary>
    public static Insn* Write(CpuState* s, Insn* i) => ExitForField(s, i, ExitReason.Vmwrite, i->Operand0, i->Operand1);

    /// <summary>VMWRITE r, m.</summary>
    public static Insn* WriteFromMemory(CpuState* s, Insn* i) => ExitForField(s, i, ExitReason.Vmwrite, i->Operand0);

    /// <summary>Whether VMX instructions other than VMCALL exist in the current mode: protected mode, and 64-bit mode in IA-32e mode.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Exist(CpuState* s) => !FarTransfer.IsRealStyle(s) && ((s->Efer & Efer.Lma) == 0 || s->CodeSize == 64);

    private static Insn* Exit(CpuState* s, Insn* i, ExitReason reason) =>
        Exist(s) ? VmExit.At(s, i, reason) : Fault.Raise(s, i, Vector.Ud);

    // SDM volume 3, table 28-14.
    private static Insn* ExitForPointer(CpuState* s, Insn* i, ExitReason reason) => Exist(s)
        ? InstructionInformation.Exit(s, i, reason, InstructionInformation.OfMemory(i), InstructionInformation.Displacement(s, i))
        : Fault.Raise(s, i, Vector.Ud);

    // SDM volume 3, table 28-10: the register operand is in bits 31:28.
    private static Insn* ExitForDescriptor(CpuState* s, Insn* i, ExitReason reason)
    {
        if (!Exist(s))
            return Fault.Raise(s, i, Vector.Ud);
        uint information = InstructionInformation.OfMemory(i) | (uint)(i->Operand0 / 8) << 28;
        return InstructionInformation.Exit(s, i, reason, information, InstructionInformation.Displacement(s, i));
    }

    // SDM volume 3, table 28-15: the register with the field's encoding in bits 31:28, a register as the other operand in bits 6:3.
    private static Insn* ExitForField(CpuState* s, Insn* i, ExitReason reason, ushort field)
    {
        if (!Exist(s))
            return Fault.Raise(s, i, Vector.Ud);
        uint information = InstructionInformation.OfMemory(i) | (uint)(field / 8) << 28;
        return InstructionInformation.Exit(s, i, reason, information, InstructionInformation.Displacement(s, i));
    }

    private static Insn* ExitForField(CpuState* s, Insn* i, ExitReason reason, ushort field, ushort register) => Exist(s)
        ? InstructionInformation.Exit(s, i, reason, InstructionInformation.OfRegister(register) | (uint)(field / 8) << 28, 0)
        : Fault.Raise(s, i, Vector.Ud);
}
