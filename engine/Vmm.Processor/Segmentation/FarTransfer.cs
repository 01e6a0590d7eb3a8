using System.Runtime.CompilerServices;
using Vmm.Processor.Execution;

namespace Vmm.Processor.Segmentation;

/// <summary>
/// JMP, CALL and RET to another code segment (SDM volume 2; volume 3, sections 5.8 and 7.3). Every method sets
/// <see cref="CpuState.Rip"/> on success and otherwise returns false with a fault recorded, or with a VM exit recorded and
/// <see cref="CpuState.Stop"/> set to <see cref="StopReason.VmExit"/>; registers are then unchanged.
/// </summary>
internal static unsafe class FarTransfer
{
    /// <summary>Whether selectors are paragraph numbers: real-address and virtual-8086 mode.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsRealStyle(CpuState* s) => (s->Cr0 & Cr0.Pe) == 0 || (s->SystemFlags & Rflags.Vm) != 0;

    /// <summary>Far JMP.</summary>
    public static bool Jump(LogicalProcessor cpu, ushort selector, ulong offset)
    {
        CpuState* s = cpu.State;
        if (IsRealStyle(s))
        {
            if (offset > RealLimit(s))
                return Fault.Record(s, Vector.Gp, 0);
            LoadRealStyle(cpu, selector);
            s->Rip = offset;
            return true;
        }
        if (Selector.IsNull(selector))
            return Fault.Record(s, Vector.Gp, 0);
        if (!DescriptorTable.Fetch(cpu, selector, out Descriptor descriptor, Vector.Gp, 0))
            return false;
        if (!descriptor.IsSystem)
            return EnterCode(cpu, selector, descriptor, offset, checkRpl: true);
        if (!CheckGate(cpu, selector, descriptor, TaskSwitchSource.Jump, out bool isGate) || !isGate)
            return false;
        ushort target = descriptor.GateSelector;
        if (!CodeSegment.Fetch(cpu, target, 0, out Descriptor code))
            return false;
        if (!CheckGateTarget(s, target, code))
            return false;
        return EnterCode(cpu, target, code, GateOffset(descriptor), checkRpl: false);
    }

    /// <summary>Far CALL that pushes values of <paramref name="size"/> bytes.</summary>
    /// <param name="returnRip">The instruction pointer to push.</param>
    public static bool Call(LogicalProcessor cpu, ushort selector, ulong offset, int size, ulong returnRip)
    {
        CpuState* s = cpu.State;
        if (IsRealStyle(s))
        {
            if (offset > RealLimit(s))
                return Fault.Record(s, Vector.Gp, 0);
            if (!PushReturn(cpu, size, returnRip))
                return false;
            LoadRealStyle(cpu, selector);
            s->Rip = offset;
            return true;
        }
        if (Selector.IsNull(selector))
            return Fault.Record(s, Vector.Gp, 0);
        if (!DescriptorTable.Fetch(cpu, selector, out Descriptor descriptor, Vector.Gp, 0))
            return false;
        if (!descriptor.IsSystem)
        {
            if (!CheckCode(cpu, selector, ref descriptor, offset, checkRpl: true) || !PushReturn(cpu, size, returnRip))
                return false;
            CodeSegment.Load(cpu, selector, descriptor, s->Cpl);
            s->Rip = offset;
            return true;
        }
        if (!CheckGate(cpu, selector, descriptor, TaskSwitchSource.Call, out bool isGate) || !isGate)
            return false;
        return CallThroughGate(cpu, descriptor, returnRip);
    }

    /// <summary>Far RET that pops values of <paramref name="size"/> bytes and then releases <paramref name="release"/> bytes of parameters.</summary>
    public static bool Return(LogicalProcessor cpu, int size, uint release)
    {
        CpuState* s = cpu.State;
        if (!StackPointer.Read(cpu, 0, size, out ulong rip) || !StackPointer.Read(cpu, (ulong)size, size, out ulong selectorValue))
            return false;
        ushort selector = (ushort)selectorValue;
        ulong popped = (ulong)size * 2 + release;
        ulong mask = StackPointer.Mask(s);
        if (IsRealStyle(s))
        {
            if (rip > RealLimit(s))
                return Fault.Record(s, Vector.Gp, 0);
            StackPointer.Set(s, s->Gpr[Gpr.Rsp] + popped, mask);
            LoadRealStyle(cpu, selector);
            s->Rip = rip;
            return true;
        }
        if (!CheckReturn(cpu, selector, rip, out Descriptor code))
            return false;
        int cpl = Selector.Rpl(selector);
        if (cpl == s->Cpl)
        {
            StackPointer.Set(s, s->Gpr[Gpr.Rsp] + popped, mask);
            CodeSegment.Load(cpu, selector, code, cpl);
            s->Rip = rip;
            return true;
        }
        if (!StackPointer.Read(cpu, popped, size, out ulong pointer) || !StackPointer.Read(cpu, popped + (ulong)size, size, out ulong stackSelector))
            return false;
        if (!OuterStack(cpu, (ushort)stackSelector, cpl, CodeSegment.IsLong(s, code), out SegmentState stack))
            return false;
        ReturnOutward(cpu, selector, code, cpl, stack, pointer, release);
        s->Rip = rip;
        return true;
    }

    /// <summary>Checks the code selector of a far return or IRET and reads its descriptor (SDM volume 2, RET and IRET).</summary>
    public static bool CheckReturn(LogicalProcessor cpu, ushort selector, ulong rip, out Descriptor code)
    {
        CpuState* s = cpu.State;
        if (!CodeSegment.Fetch(cpu, selector, 0, out code))
            return false;
        int rpl = Selector.Rpl(selector);
        bool allowed = rpl >= s->Cpl && (code.IsConforming ? code.Dpl <= rpl : code.Dpl == rpl);
        if (!allowed)
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
        return CodeSegment.CheckPresent(s, selector, code, 0) && CodeSegment.CheckTarget(s, code, rip, 0)
            && DescriptorTable.MarkAccessed(cpu, ref code);
    }

    /// <summary>Checks the stack selector that a return to a privilege level popped; null is good only for 64-bit code above level 3.</summary>
    public static bool OuterStack(LogicalProcessor cpu, ushort selector, int cpl, bool toLong, out SegmentState stack)
    {
        stack = default;
        if (Selector.IsNull(selector) && toLong && cpl != 3 && Selector.Rpl(selector) == cpl)
        {
            fixed (SegmentState* state = &stack)
                SegmentLoad.LoadNull(state, selector, cpl);
            return true;
        }
        if (!SegmentLoad.CheckStack(cpu, selector, cpl, Vector.Gp, 0, out Descriptor descriptor))
            return false;
        fixed (SegmentState* state = &stack)
            SegmentLoad.Fill(state, selector, descriptor);
        return true;
    }

    /// <summary>Loads stack, code and data segments of an outer level. The stack pointer's width is that of the stack it points to.</summary>
    public static void ReturnOutward(LogicalProcessor cpu, ushort selector, in Descriptor code, int cpl, in SegmentState stack, ulong pointer, uint release)
    {
        CpuState* s = cpu.State;
        s->Ss = stack;
        ulong mask = CodeSegment.IsLong(s, code) ? ulong.MaxValue : StackPointer.Mask(stack.Rights);
        StackPointer.Set(s, pointer + release, mask);
        bool outer = cpl > s->Cpl;
        CodeSegment.Load(cpu, selector, code, cpl);
        if (outer)
            SegmentLoad.DropInaccessible(s, cpl);
    }

    /// <summary>The limit that an instruction pointer has in real-address mode (whatever CS has there) and virtual-8086 mode.</summary>
    public static uint RealLimit(CpuState* s) => (s->Cr0 & Cr0.Pe) == 0 ? s->Cs.Limit : 0xFFFF;

    /// <summary>Loads CS where selectors are paragraph numbers.</summary>
    public static void LoadRealStyle(LogicalProcessor cpu, ushort selector)
    {
        if ((cpu.State->Cr0 & Cr0.Pe) == 0)
            CodeSegment.LoadReal(cpu, selector);
        else
            CodeSegment.LoadVirtual8086(cpu, selector);
    }

    private static bool EnterCode(LogicalProcessor cpu, ushort selector, Descriptor code, ulong offset, bool checkRpl)
    {
        CpuState* s = cpu.State;
        if (!CheckCode(cpu, selector, ref code, offset, checkRpl))
            return false;
        CodeSegment.Load(cpu, selector, code, s->Cpl);
        s->Rip = offset;
        return true;
    }

    /// <summary>Checks a code descriptor for a transfer at the same privilege level.</summary>
    private static bool CheckCode(LogicalProcessor cpu, ushort selector, ref Descriptor code, ulong offset, bool checkRpl)
    {
        CpuState* s = cpu.State;
        bool allowed = code.IsCode && !(CodeSegment.IsLong(s, code) && code.IsBig)
            && (code.IsConforming ? code.Dpl <= s->Cpl : code.Dpl == s->Cpl && (!checkRpl || Selector.Rpl(selector) <= s->Cpl));
        if (!allowed)
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
        return CodeSegment.CheckPresent(s, selector, code, 0) && CodeSegment.CheckTarget(s, code, offset, 0)
            && DescriptorTable.MarkAccessed(cpu, ref code);
    }

    /// <summary>
    /// Checks a system descriptor that a JMP or CALL names. True with <paramref name="isGate"/> for a call gate; task-state
    /// segments and task gates end in a VM exit or a fault, which is false.
    /// </summary>
    private static bool CheckGate(LogicalProcessor cpu, ushort selector, in Descriptor descriptor, TaskSwitchSource source, out bool isGate)
    {
        CpuState* s = cpu.State;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        isGate = descriptor.Type == SystemType.CallGate32 || (!ia32e && descriptor.Type == SystemType.CallGate16);
        bool task = !ia32e && descriptor.Type is SystemType.TaskGate or SystemType.Tss16 or SystemType.Tss32;
        if ((!isGate && !task) || descriptor.Dpl < s->Cpl || descriptor.Dpl < Selector.Rpl(selector))
            return Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
        if (!descriptor.IsPresent)
            return Fault.Record(s, Vector.Np, Selector.Error(selector, 0));
        if (isGate)
            return true;
        return TaskSwitch.Exit(cpu, descriptor.Type == SystemType.TaskGate ? descriptor.GateSelector : selector, source, 0);
    }

    private static bool CheckGateTarget(CpuState* s, ushort selector, in Descriptor code)
    {
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        bool good = code.Dpl <= s->Cpl && (!ia32e || code.IsLong);
        return good || Fault.Record(s, Vector.Gp, Selector.Error(selector, 0));
    }

    private static ulong GateOffset(in Descriptor gate) => gate.Type == SystemType.CallGate16 ? (ushort)gate.GateOffset : gate.GateOffset;

    private static bool CallThroughGate(LogicalProcessor cpu, in Descriptor gate, ulong returnRip)
    {
        CpuState* s = cpu.State;
        bool ia32e = (s->Efer & Efer.Lma) != 0;
        int size = ia32e ? 8 : gate.Type == SystemType.CallGate32 ? 4 : 2;
        ushort selector = gate.GateSelector;
        ulong offset = GateOffset(gate);
        if (!CodeSegment.Fetch(cpu, selector, 0, out Descriptor code) || !CheckGateTarget(s, selector, code)
            || !CodeSegment.CheckPresent(s, selector, code, 0))
            return false;
        bool inner = !code.IsConforming && code.Dpl < s->Cpl;
        if (!inner)
        {
            if (!CodeSegment.CheckTarget(s, code, offset, 0) || !DescriptorTable.MarkAccessed(cpu, ref code))
                return false;
            if (ia32e ? !PushReturnLong(cpu, returnRip) : !PushReturn(cpu, size, returnRip))
                return false;
            CodeSegment.Load(cpu, selector, code, s->Cpl);
            s->Rip = offset;
            return true;
        }

        int cpl = code.Dpl;
        SegmentState stack = default;
        ulong pointer;
        ushort stackSelector = (ushort)cpl;
        var frame = new StackFrame(size);
        frame.Push(s->Ss.Selector);
        frame.Push(s->Gpr[Gpr.Rsp]);
        if (ia32e)
        {
            if (!TaskState.InnerStack64(cpu, cpl, 0, 0, out pointer))
                return false;
            SegmentLoad.LoadNull(&stack, stackSelector, cpl);
        }
        else
        {
            if (!TaskState.InnerStack(cpu, cpl, 0, out stackSelector, out uint pointer32)
                || !SegmentLoad.CheckStack(cpu, stackSelector, cpl, Vector.Ts, 0, out Descriptor descriptor))
                return false;
            pointer = pointer32;
            SegmentLoad.Fill(&stack, stackSelector, descriptor);
            for (int k = gate.GateParameters - 1; k >= 0; k--)
            {
                if (!StackPointer.Read(cpu, (ulong)(k * size), size, out ulong parameter))
                    return false;
                frame.Push(parameter);
            }
        }
        frame.Push(s->Cs.Selector);
        frame.Push(returnRip);
        if (!CodeSegment.CheckTarget(s, code, offset, 0) || !DescriptorTable.MarkAccessed(cpu, ref code))
            return false;
        ulong mask = ia32e ? ulong.MaxValue : StackPointer.Mask(stack.Rights);
        if (!frame.Write(cpu, ia32e ? null : &stack, pointer, mask, cpl, ia32e ? 0 : Selector.Error(stackSelector, 0), out ulong bottom))
            return false;
        s->Ss = stack;
        StackPointer.Set(s, bottom, mask);
        CodeSegment.Load(cpu, selector, code, cpl);
        s->Rip = offset;
        return true;
    }

    private static bool PushReturn(LogicalProcessor cpu, int size, ulong returnRip)
    {
        CpuState* s = cpu.State;
        var frame = new StackFrame(size);
        frame.Push(s->Cs.Selector);
        frame.Push(returnRip);
        ulong mask = StackPointer.Mask(s);
        if (!frame.Write(cpu, s->CodeSize == 64 ? null : &s->Ss, s->Gpr[Gpr.Rsp], mask, s->Cpl, 0, out ulong bottom))
            return false;
        StackPointer.Set(s, bottom, mask);
        return true;
    }

    // A 64-bit call gate used from compatibility mode without a change of level still pushes onto the stack as 64-bit code sees it.
    private static bool PushReturnLong(LogicalProcessor cpu, ulong returnRip)
    {
        CpuState* s = cpu.State;
        var frame = new StackFrame(8);
        frame.Push(s->Cs.Selector);
        frame.Push(returnRip);
        if (!frame.Write(cpu, null, s->Gpr[Gpr.Rsp], ulong.MaxValue, s->Cpl, 0, out ulong bottom))
            return false;
        s->Gpr[Gpr.Rsp] = bottom;
        return true;
    }
}
