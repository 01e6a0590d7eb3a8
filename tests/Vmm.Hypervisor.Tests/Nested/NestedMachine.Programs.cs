using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <content>What L1 executes, and the state with which L1 and L2 begin.</content>
internal sealed unsafe partial class NestedMachine
{
    public const ulong DefaultCr0 = Cr0.Pe | Cr0.Et | Cr0.Ne | Cr0.Pg, DefaultCr4 = Cr4.Pae | Cr4.Osfxsr | Cr4.Vmxe;

    /// <summary>Where L1 goes on after a VM exit: behind the jump with which its program begins.</summary>
    public const ulong ExitHandler = Code + 5;

    private static readonly AssemblerRegister64[] AllButRsp = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

    /// <summary>Sets CR4.VMXE, executes VMXON, and makes <see cref="VmcsRegion"/> clear and current.</summary>
    public static void StartVmx(Assembler a)
    {
        SetVmxe(a);
        a.vmxon(__qword_ptr[Scratch]);
        a.vmclear(__qword_ptr[Scratch + 8]);
        a.vmptrld(__qword_ptr[Scratch + 8]);
    }

    public static void SetVmxe(Assembler a)
    {
        a.mov(rax, cr4);
        a.or(eax, (int)Cr4.Vmxe);
        a.mov(cr4, rax);
    }

    /// <summary>Ends a program, or says something to the test and goes on behind when it lets L1.</summary>
    public static void Report(Assembler a, L1Stop stop)
    {
        a.mov(eax, (int)stop);
        a.@out(ReportPort & 0xFF, eax);
    }

    /// <summary>VMX is on and a VMCS current; the rest of a program follows.</summary>
    public static void ReportFlags(Assembler a)
    {
        a.pushfq();
        a.pop(rax);
        a.mov(__qword_ptr[(ulong)Flags], rax);
        Report(a, L1Stop.Done);
    }

    private static int Number(AssemblerRegister64 register) => register.Value - Iced.Intel.Register.RAX;

    /// <summary>The hypervisor: see <see cref="NestedMachine"/>.</summary>
    private void AssembleMonitor() => Assemble(a =>
    {
        Label next = a.CreateLabel(), write = a.CreateLabel(), written = a.CreateLabel(), refused = a.CreateLabel(), resume = a.CreateLabel(),
            failed = a.CreateLabel(), exit = a.CreateLabel(), read = a.CreateLabel(), start = a.CreateLabel();
        a.jmp(start);
        // A jump over what follows is near, of five bytes.
        a.Label(ref exit);
        foreach (AssemblerRegister64 register in AllButRsp)
            a.mov(__qword_ptr[(ulong)(Registers + Number(register) * 8)], register);
        a.mov(__dword_ptr[(ulong)Launched], 1);
        a.mov(edi, (int)L1Stop.Exit);
        a.Label(ref refused);
        a.xor(esi, esi);
        a.Label(ref read);
        a.mov(rax, __qword_ptr[rsi * 8 + ReadTable]);
        a.vmread(__qword_ptr[rsi * 8 + ReadResults], rax);
        a.inc(esi);
        a.cmp(esi, __dword_ptr[(ulong)Reads]);
        a.jb(read);
        a.mov(eax, edi);
        a.@out(ReportPort & 0xFF, eax);
        a.jmp(next);

        a.Label(ref start);
        StartVmx(a);
        a.Label(ref next);
        a.mov(ecx, __dword_ptr[(ulong)Writes]);
        a.mov(esi, WriteTable);
        a.Label(ref write);
        a.test(ecx, ecx);
        a.jz(written);
        a.mov(rax, __qword_ptr[rsi]);
        a.vmwrite(rax, __qword_ptr[rsi + 8]);
        a.jbe(failed);
        a.add(esi, 16);
        a.dec(ecx);
        a.jmp(write);
        a.Label(ref written);
        foreach (AssemblerRegister64 register in AllButRsp)
            a.mov(register, __qword_ptr[(ulong)(Registers + Number(register) * 8)]);
        a.cmp(__dword_ptr[(ulong)Launched], 0);
        a.jne(resume);
        a.vmlaunch();
        a.jmp(failed);
        a.Label(ref resume);
        a.vmresume();
        a.Label(ref failed);
        a.pushfq();
        a.pop(__qword_ptr[(ulong)Flags]);
        a.mov(edi, (int)L1Stop.NoEntry);
        a.jmp(refused);
    }, Code);

    private void WriteExceptionHandler(uint vector)
    {
        bool hasError = vector is 8 or (>= 10 and <= 14) or 17;
        ulong at = Handlers + vector * 64;
        Assemble(a =>
        {
            if (hasError)
                a.pop(__qword_ptr[(ulong)Registers - 8]);
            a.mov(eax, (int)(vector << 8) | (int)L1Stop.Exception);
            a.@out(ReportPort & 0xFF, eax);
            a.iretq();
        }, at);
        SetGate(Idt, vector, at);
    }

    /// <summary>Points an IDT entry of L1's or L2's table to a handler.</summary>
    public void SetGate(ulong table, uint vector, ulong handler) =>
        Write(table + vector * 16, [(handler & 0xFFFF) | (8UL << 16) | (0x8EUL << 40) | ((handler & 0xFFFF_0000) << 32), handler >> 32]);

    private void EnterLongMode()
    {
        Vmcs vmcs = Vcpu.Vmcs;
        CpuState* s = Vcpu.State;
        vmcs[VmcsField.GuestCr0] = s->Cr0 = DefaultCr0;
        vmcs[VmcsField.GuestCr3] = s->Cr3 = Tables;
        Vcpu.SetGuestCr4(DefaultCr4 & ~Cr4.Vmxe);
        s->Cr4 = vmcs[VmcsField.GuestCr4];
        vmcs[VmcsField.GuestEfer] = s->Efer = Efer.Lme | Efer.Lma;
        vmcs[VmcsField.VmEntryControls] |= (ulong)VmEntryControls.Ia32eModeGuest;
        Vcpu.SetSegment(Seg.Cs, 8, 0, uint.MaxValue, 0xA09B);
        foreach (int segment in (int[])[Seg.Es, Seg.Ss, Seg.Ds, Seg.Fs, Seg.Gs])
            Vcpu.SetSegment(segment, 16, 0, uint.MaxValue, 0xC093);
        Vcpu.SetSegment(Seg.Tr, 24, Tss, 0x67, 0x8B);
        vmcs[VmcsField.GuestGdtrBase] = Gdt;
        vmcs[VmcsField.GuestGdtrLimit] = 0xFF;
        vmcs[VmcsField.GuestIdtrBase] = Idt;
        vmcs[VmcsField.GuestIdtrLimit] = 0xFFF;
        vmcs[VmcsField.GuestRsp] = Stack;
        Apic.EnterVirtualWireMode();
    }

    /// <summary>A vmcs12 that passes every check: L2 in 64-bit mode without EPT, of which only HLT exits besides what always does.</summary>
    private void SetDefaults()
    {
        Pin = (PinControls)Capabilities.Required(VmxControlWord.Pin);
        Proc = (ProcControls)Capabilities.Required(VmxControlWord.Proc) | ProcControls.HltExiting;
        Exit = (VmExitControls)Capabilities.Required(VmxControlWord.Exit) | VmExitControls.HostAddressSpaceSize | VmExitControls.SaveEfer
            | VmExitControls.LoadEfer | VmExitControls.SaveDebugControls;
        Entry = (VmEntryControls)Capabilities.Required(VmxControlWord.Entry) | VmEntryControls.Ia32eModeGuest | VmEntryControls.LoadEfer
            | VmEntryControls.LoadDebugControls;
        this[VmcsField.SecondaryControls] = 0;
        this[VmcsField.VmcsLinkPointer] = ulong.MaxValue;
        this[VmcsField.HostCr0] = this[VmcsField.GuestCr0] = DefaultCr0;
        this[VmcsField.HostCr3] = this[VmcsField.GuestCr3] = Tables;
        this[VmcsField.HostCr4] = this[VmcsField.GuestCr4] = DefaultCr4;
        this[VmcsField.HostEfer] = this[VmcsField.GuestEfer] = Efer.Lme | Efer.Lma;
        this[VmcsField.HostCsSelector] = 8;
        foreach (VmcsField field in (VmcsField[])[VmcsField.HostSsSelector, VmcsField.HostDsSelector, VmcsField.HostEsSelector,
            VmcsField.HostFsSelector, VmcsField.HostGsSelector])
            this[field] = 16;
        this[VmcsField.HostTrSelector] = 24;
        this[VmcsField.HostTrBase] = Tss;
        this[VmcsField.HostGdtrBase] = this[VmcsField.GuestGdtrBase] = Gdt;
        this[VmcsField.HostIdtrBase] = Idt;
        this[VmcsField.GuestIdtrBase] = L2Idt;
        this[VmcsField.GuestGdtrLimit] = 0xFF;
        this[VmcsField.GuestIdtrLimit] = 0xFFF;
        this[VmcsField.HostRsp] = Stack;
        this[VmcsField.HostRip] = ExitHandler;
        this[VmcsField.GuestRip] = L2Code;
        this[VmcsField.GuestRsp] = L2Stack;
        this[VmcsField.GuestRflags] = Rflags.Fixed1;
        this[VmcsField.GuestDr7] = 0x400;
        for (int segment = Seg.Es; segment <= Seg.Gs; segment++)
            SetL2Segment(segment, segment == Seg.Cs ? 8u : 16, 0, uint.MaxValue, segment == Seg.Cs ? 0xA09Bu : 0xC093);
        SetL2Segment(Seg.Ldtr, 0, 0, 0, SegmentRights.Unusable);
        SetL2Segment(Seg.Tr, 24, Tss, 0x67, 0x8B);
    }

    public void SetL2Segment(int segment, uint selector, ulong address, uint limit, uint rights)
    {
        this[Hypervisor.Vcpus.Vcpu.SegmentField(VmcsField.GuestEsSelector, segment)] = selector;
        this[Hypervisor.Vcpus.Vcpu.SegmentField(VmcsField.GuestEsBase, segment)] = address;
        this[Hypervisor.Vcpus.Vcpu.SegmentField(VmcsField.GuestEsLimit, segment)] = limit;
        this[Hypervisor.Vcpus.Vcpu.SegmentField(VmcsField.GuestEsAccessRights, segment)] = rights;
    }
}
