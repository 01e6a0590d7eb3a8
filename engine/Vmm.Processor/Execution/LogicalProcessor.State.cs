using Vmm.Processor.Instructions.System;
using Vmm.Processor.SavedState;

namespace Vmm.Processor.Execution;

/// <content>
/// Saving and loading. Cached translations and decoded code are not saved: a processor may drop them at any time, so one that is loaded
/// has none.
/// </content>
public sealed unsafe partial class LogicalProcessor
{
    private const int XmmRegisters = 16, X87Registers = 8;

    /// <summary>What it holds besides the VMCS. Not while it executes.</summary>
    public ProcessorState Save()
    {
        CpuState* s = State;
        ulong* g = s->Gpr;
        return new ProcessorState
        {
            InstructionsRetired = InstructionsRetired,
            General = new GeneralRegistersState
            {
                Rax = g[Gpr.Rax],
                Rcx = g[Gpr.Rcx],
                Rdx = g[Gpr.Rdx],
                Rbx = g[Gpr.Rbx],
                Rbp = g[Gpr.Rbp],
                Rsi = g[Gpr.Rsi],
                Rdi = g[Gpr.Rdi],
                R8 = g[8],
                R9 = g[9],
                R10 = g[10],
                R11 = g[11],
                R12 = g[12],
                R13 = g[13],
                R14 = g[14],
                R15 = g[15],
            },
            Cr2 = s->Cr2,
            Cr8 = s->Cr8,
            Xcr0 = s->Xcr0,
            DebugAddresses = new Span<ulong>(s->Dr, 4).ToArray(),
            Dr6 = s->Dr6,
            Dr7 = s->Dr7,
            Pdptes = [.. Mmu.Pdptes],
            Msrs = SaveMsrs(s),
            X87 = SaveX87(s),
            Mxcsr = s->Mxcsr,
            Xmm = [.. Enumerable.Range(0, XmmRegisters).Select(k => new Span<byte>(State->Xmm + 2 * k, 16).ToArray())],
        };
    }

    /// <summary>Takes a saved state. The next entry brings the rest from the VMCS.</summary>
    /// <exception cref="InvalidStateException">A value is none that a processor with these features could have.</exception>
    public void Load(ProcessorState state)
    {
        CpuState* s = State;
        Check(state);
        _held = null;
        s->RetiredBase = state.InstructionsRetired;
        s->Budget = s->BudgetGranted = s->Position = 0;
        ulong* g = s->Gpr;
        GeneralRegistersState general = state.General;
        g[Gpr.Rax] = general.Rax;
        g[Gpr.Rcx] = general.Rcx;
        g[Gpr.Rdx] = general.Rdx;
        g[Gpr.Rbx] = general.Rbx;
        g[Gpr.Rbp] = general.Rbp;
        g[Gpr.Rsi] = general.Rsi;
        g[Gpr.Rdi] = general.Rdi;
        g[8] = general.R8;
        g[9] = general.R9;
        g[10] = general.R10;
        g[11] = general.R11;
        g[12] = general.R12;
        g[13] = general.R13;
        g[14] = general.R14;
        g[15] = general.R15;
        s->Cr2 = state.Cr2;
        s->Cr8 = state.Cr8;
        s->Xcr0 = state.Xcr0;
        state.DebugAddresses.CopyTo(new Span<ulong>(s->Dr, 4));
        s->Dr6 = state.Dr6;
        s->Dr7 = state.Dr7;
        state.Pdptes.CopyTo(Mmu.Pdptes, 0);
        LoadMsrs(s, state.Msrs);
        LoadX87(s, state.X87);
        s->Mxcsr = state.Mxcsr;
        for (int k = 0; k < XmmRegisters; k++)
            state.Xmm[k].CopyTo(new Span<byte>(s->Xmm + 2 * k, 16));
        Mmu.FlushEverything();
        DebugRegistersChanged();
        ModeChanged();
    }

    private void Check(ProcessorState state)
    {
        ProcessorFeatures features = Environment.Features;
        InvalidStateException.ThrowUnless(state.Cr8 <= 15, "Processor.Cr8", "it has 4 bits.");
        InvalidStateException.ThrowUnless(ControlRegisters.IsXcr0(state.Xcr0, features), "Processor.Xcr0", $"0x{state.Xcr0:x} is not allowed.");
        InvalidStateException.ThrowUnless((state.Msrs.Efer & ~features.EferAllowed) == 0, "Processor.Msrs.Efer", $"0x{state.Msrs.Efer:x} is not allowed.");
        InvalidStateException.ThrowUnless((state.Msrs.Xss & ~features.XssAllowed) == 0, "Processor.Msrs.Xss", $"0x{state.Msrs.Xss:x} is not allowed.");
        InvalidStateException.ThrowUnless((state.Mxcsr & ~FloatingPoint.Mxcsr.Writable) == 0, "Processor.Mxcsr", "a reserved bit is set.");
        InvalidStateException.ThrowUnless(state.X87.Top is >= 0 and < X87Registers, "Processor.X87.Top", "it is from 0 to 7.");
        InvalidStateException.ThrowUnless(state.X87.Tags <= 0xFF, "Processor.X87.Tags", "there are eight.");
        InvalidStateException.ThrowUnlessLength(state.DebugAddresses, 4, "Processor.DebugAddresses");
        InvalidStateException.ThrowUnlessLength(state.Pdptes, 4, "Processor.Pdptes");
        InvalidStateException.ThrowUnlessWhole(state.X87.Registers, X87Registers, "Processor.X87.Registers");
        InvalidStateException.ThrowUnlessWhole(state.Xmm, XmmRegisters, "Processor.Xmm");
        foreach (byte[] xmm in state.Xmm)
            InvalidStateException.ThrowUnlessLength(xmm, 16, "Processor.Xmm");
    }

    private static ProcessorMsrsState SaveMsrs(CpuState* s) => new()
    {
        Efer = s->Efer,
        Star = s->Star,
        Lstar = s->Lstar,
        Cstar = s->Cstar,
        Fmask = s->Fmask,
        KernelGsBase = s->KernelGsBase,
        TscAux = s->TscAux,
        SysenterCs = s->SysenterCs,
        SysenterEsp = s->SysenterEsp,
        SysenterEip = s->SysenterEip,
        Pat = s->Pat,
        DebugCtl = s->DebugCtl,
        Xss = s->Xss,
    };

    private static void LoadMsrs(CpuState* s, ProcessorMsrsState msrs)
    {
        s->Efer = msrs.Efer;
        s->Star = msrs.Star;
        s->Lstar = msrs.Lstar;
        s->Cstar = msrs.Cstar;
        s->Fmask = msrs.Fmask;
        s->KernelGsBase = msrs.KernelGsBase;
        s->TscAux = msrs.TscAux;
        s->SysenterCs = msrs.SysenterCs;
        s->SysenterEsp = msrs.SysenterEsp;
        s->SysenterEip = msrs.SysenterEip;
        s->Pat = msrs.Pat;
        s->DebugCtl = msrs.DebugCtl;
        s->Xss = msrs.Xss;
    }

    private X87State SaveX87(CpuState* s) => new()
    {
        ControlWord = s->Fcw,
        StatusWord = s->Fsw,
        Top = s->FpuTop,
        Tags = s->Ftw,
        Opcode = s->Fop,
        InstructionPointer = s->Fip,
        InstructionSelector = s->Fcs,
        DataPointer = s->Fdp,
        DataSelector = s->Fds,
        Registers = [.. Enumerable.Range(0, X87Registers).Select(k => new X87RegisterState { Significand = State->Fpu[2 * k], SignAndExponent = State->Fpu[2 * k + 1] })],
    };

    private static void LoadX87(CpuState* s, X87State x87)
    {
        s->Fcw = x87.ControlWord;
        s->Fsw = x87.StatusWord;
        s->FpuTop = x87.Top;
        s->Ftw = x87.Tags;
        s->Fop = x87.Opcode;
        s->Fip = x87.InstructionPointer;
        s->Fcs = x87.InstructionSelector;
        s->Fdp = x87.DataPointer;
        s->Fds = x87.DataSelector;
        for (int k = 0; k < X87Registers; k++)
        {
            s->Fpu[2 * k] = x87.Registers[k].Significand;
            s->Fpu[2 * k + 1] = x87.Registers[k].SignAndExponent;
        }
    }
}
