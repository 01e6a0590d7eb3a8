using Iced.Intel;
using Vmm.Hypervisor.Apic;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>What the guest tries.</summary>
internal sealed partial class InterruptTour
{
    private const byte Line4 = 0x24, Line0 = 0x20, Line8 = 0x28;

    private void EmitTrials()
    {
        EmitRegisterTrials();
        EmitPriorityTrials();
        EmitShadowTrials();
        EmitNmiTrials();
        EmitTimerTrials();
        EmitPicTrials();
        EmitIoApicTrials();
    }

    private void EmitRegisterTrials()
    {
        Trial("APIC: registers after the start", () =>
        {
            foreach (uint register in (uint[])[ApicRegister.Id, ApicRegister.TaskPriority, ApicRegister.ProcessorPriority, ApicRegister.LogicalDestination,
                ApicRegister.DestinationFormat, ApicRegister.SpuriousVector, ApicRegister.LvtTimer, ApicRegister.LvtError, ApicRegister.CurrentCount])
                NoteApic(register);
        });
        Trial("APIC: bits that can be written", () =>
        {
            foreach (uint register in (uint[])[ApicRegister.TaskPriority, ApicRegister.LogicalDestination, ApicRegister.DivideConfiguration, ApicRegister.CommandHigh])
            {
                WriteApic(register, 0xFFFF_FFFF);
                NoteApic(register);
            }
            // The vector, delivery mode and mask of what is not a timer; the timer has a mode, not a delivery mode.
            foreach (uint register in (uint[])[ApicRegister.LvtLint0, ApicRegister.LvtError])
            {
                WriteApic(register, 0x1_0000 | 0xFF);
                NoteApic(register);
            }
            WriteApic(ApicRegister.LvtTimer, 0x3_00FF);
            NoteApic(ApicRegister.LvtTimer);
        });
        Trial("APIC: switched off by software, its local interrupts are masked and stay so", () =>
        {
            WriteApic(ApicRegister.LvtTimer, 0x40);
            WriteApic(ApicRegister.LvtError, 0x41);
            WriteApic(ApicRegister.SpuriousVector, 0xFF);
            NoteApic(ApicRegister.LvtTimer);
            NoteApic(ApicRegister.LvtError);
            WriteApic(ApicRegister.LvtTimer, 0x42);
            NoteApic(ApicRegister.LvtTimer);
            WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            NoteApic(ApicRegister.LvtTimer);
        });
        Trial("APIC: a vector below 16 is an error to send", () =>
        {
            WriteApic(ApicRegister.ErrorStatus, 0);
            SendSelf(8);
            WriteApic(ApicRegister.ErrorStatus, 0);
            NoteApic(ApicRegister.ErrorStatus, 0x60);
            NoteRequest(8);
            WriteApic(ApicRegister.ErrorStatus, 0);
            NoteApic(ApicRegister.ErrorStatus);
        });
        Trial("APIC: an error interrupts where it is not masked", () =>
        {
            WriteApic(ApicRegister.LvtError, 0x66);
            SendSelf(9);
            Enable();
        });
    }

    private void EmitPriorityTrials()
    {
        Trial("priority: four of different classes", () =>
        {
            SendSelf(0x41, 0x71, 0x55, 0x9F);
            foreach (byte vector in (byte[])[0x41, 0x71, 0x9F])
                NoteRequest(vector);
            NoteApic(ApicRegister.ProcessorPriority);
            Enable();
            NoteRequest(0x41);
        });
        Trial("priority: four of one class", () =>
        {
            SendSelf(0x51, 0x5F, 0x50, 0x58);
            Enable();
        });
        Trial("priority: one vector sent twice comes once", () =>
        {
            SendSelf(0x51, 0x51);
            Enable();
        });
        Trial("priority: a higher class interrupts a handler, the same and lower ones wait", () =>
        {
            SetAction(0x51, Handling.Nest | Handling.EndApic, 0x41_61_5F_50);
            SendSelf(0x51);
            Enable();
        });
        Trial("priority: without an end of interrupt nothing of the class comes", () =>
        {
            SetAction(0x61, Handling.NoteInService | Handling.NoteProcessorPriority);
            SendSelf(0x61);
            Enable();
            SendSelf(0x6F, 0x51, 0x71);
            Enable();
            NoteRequest(0x61);
            NoteApic(ApicRegister.ProcessorPriority);
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            Enable();
        });
        Trial("priority: one vector is requested while in service", () =>
        {
            SetAction(0x51, Handling.None);
            SendSelf(0x51);
            Enable();
            SendSelf(0x51);
            NoteRequest(0x51);
            NoteApic(ApicRegister.InService + 0x20);
            SetAction(0x51, Handling.EndApic);
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            NoteApic(ApicRegister.InService + 0x20);
            Enable();
        });
        Trial("task priority: classes up to it wait", () =>
        {
            WriteApic(ApicRegister.TaskPriority, 0x50);
            NoteApic(ApicRegister.ProcessorPriority);
            SendSelf(0x4F, 0x5F, 0x60);
            Enable();
            NoteRequest(0x5F);
            WriteApic(ApicRegister.TaskPriority, 0x4F);
            Enable();
            WriteApic(ApicRegister.TaskPriority, 0x3F);
            Enable();
        });
        foreach (byte priority in (byte[])[0x53, 0x6A, 0x60])
            Trial($"task priority {priority:x}: the processor's while 61h is in service", () =>
            {
                SetAction(0x61, Handling.None);
                SendSelf(0x61);
                Enable();
                WriteApic(ApicRegister.TaskPriority, priority);
                NoteApic(ApicRegister.ProcessorPriority);
                WriteApic(ApicRegister.EndOfInterrupt, 0);
                NoteApic(ApicRegister.ProcessorPriority);
            });
        Trial("an end of interrupt that ends nothing", () =>
        {
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            SendSelf(0x51);
            Enable();
        });
        Trial("destinations: oneself by number, by logical number, all, and others", () =>
        {
            WriteApic(ApicRegister.CommandLow, 0x51);
            Enable();
            WriteApic(ApicRegister.LogicalDestination, 0x0400_0000);
            foreach (uint destination in (uint[])[0x0400_0000, 0x0200_0000, 0x0600_0000])
            {
                WriteApic(ApicRegister.CommandHigh, destination);
                WriteApic(ApicRegister.CommandLow, 0x852);
                Enable();
            }
            WriteApic(ApicRegister.CommandLow, 0x8_0053);
            Enable();
            WriteApic(ApicRegister.CommandLow, 0xC_0054);
            Enable();
            // The cluster model: cluster 2, members 1 and 2.
            WriteApic(ApicRegister.DestinationFormat, 0x0FFF_FFFF);
            WriteApic(ApicRegister.LogicalDestination, 0x2200_0000);
            foreach (uint destination in (uint[])[0x2200_0000, 0x2100_0000, 0x1200_0000, 0x2F00_0000])
            {
                WriteApic(ApicRegister.CommandHigh, destination);
                WriteApic(ApicRegister.CommandLow, 0x855);
                Enable();
            }
        });
        Trial("an APIC that is switched off takes no fixed interrupt", () =>
        {
            WriteApic(ApicRegister.SpuriousVector, 0xFF);
            WriteApic(ApicRegister.CommandLow, 0x51);
            WriteApic(ApicRegister.SpuriousVector, 0x1FF);
            NoteRequest(0x51);
            Enable();
        });
    }

    private void EmitShadowTrials()
    {
        void Shadow(string name, Action body) => Trial(name, () =>
        {
            SetAction(0x51, Handling.NoteDistance | Handling.EndApic);
            SetAction(0x52, Handling.NoteDistance | Handling.EndApic);
            SendSelf(0x51);
            Mark();
            body();
            _a.cli();
            NoteValue(0xE0F);
            // What the body left behind.
            Enable();
        });
        void Nops()
        {
            for (int k = 0; k < 6; k++)
                _a.nop();
        }
        Shadow("shadow: STI", () =>
        {
            _a.sti();
            Nops();
        });
        Shadow("shadow: STI and CLI", () =>
        {
            _a.sti();
            _a.cli();
            Nops();
        });
        Shadow("shadow: STI twice", () =>
        {
            _a.sti();
            _a.sti();
            Nops();
        });
        Shadow("shadow: STI and HLT", () =>
        {
            _a.sti();
            _a.hlt();
            Nops();
        });
        Shadow("shadow: STI and PUSHF", () =>
        {
            _a.sti();
            _a.pushfd();
            _a.pop(eax);
            _a.and(eax, 0x200);
            NoteEax();
        });
        Shadow("shadow: POPF", () =>
        {
            _a.push(0x202);
            _a.popfd();
            Nops();
        });
        Shadow("shadow: POPF and CLI", () =>
        {
            _a.push(0x202);
            _a.popfd();
            _a.cli();
            Nops();
        });
        Shadow("shadow: IRET", () =>
        {
            Label on = _a.CreateLabel(), over = _a.CreateLabel();
            _a.call(over);
            Nops();
            _a.jmp(on);
            _a.Label(ref over);
            _a.pop(eax);
            _a.push(0x202);
            _a.push(Code0);
            _a.push(eax);
            _a.iretd();
            _a.Label(ref on);
        });
        Shadow("shadow: MOV SS after POPF has none left", () =>
        {
            _a.mov(eax, Data0);
            _a.push(0x202);
            _a.popfd();
            _a.mov(ss, eax);
            Nops();
        });
        Shadow("shadow: STI, MOV SS", () =>
        {
            _a.mov(eax, Data0);
            _a.sti();
            _a.mov(ss, eax);
            Nops();
        });
        Shadow("shadow: STI, POP SS", () =>
        {
            _a.push(Data0);
            _a.sti();
            _a.pop(ss);
            Nops();
        });
        Shadow("shadow: STI, MOV DS", () =>
        {
            _a.mov(eax, Data0);
            _a.sti();
            _a.mov(ds, eax);
            Nops();
        });
        Shadow("shadow: MOV SS, STI", () =>
        {
            _a.mov(eax, Data0);
            _a.mov(ss, eax);
            _a.sti();
            Nops();
        });
        Shadow("two pending: the handler's IRET lets the second in", () =>
        {
            SendSelf(0x52);
            Mark();
            _a.sti();
            Nops();
        });
        Trial("HLT ends by an interrupt to come", () =>
        {
            SetAction(0x51, Handling.NoteDistance | Handling.EndApic);
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x51);
            WriteApic(ApicRegister.InitialCount, 200_000);
            Mark();
            _a.sti();
            _a.hlt();
            _a.cli();
            NoteValue(0xE0F);
        });
    }

    private void EmitNmiTrials()
    {
        void SendNmi() => WriteApic(ApicRegister.CommandLow, 0x400);
        Trial("NMI: comes with interrupts disabled", () =>
        {
            SendNmi();
            _a.call(_settle);
            NoteValue(0xE0F);
        });
        Trial("NMI: another waits for IRET", () =>
        {
            SetAction(2, Handling.SendNmi);
            SendNmi();
            _a.call(_settle);
            NoteValue(0xE0F);
        });
        Trial("NMI: the IRET of an exception in its handler lets the next in", () =>
        {
            SetAction(2, Handling.SendNmi | Handling.Breakpoint);
            SetAction(3, Handling.None);
            SendNmi();
            _a.call(_settle);
            NoteValue(0xE0F);
        });
        Trial("NMI: before an interrupt that is pending too", () =>
        {
            SendSelf(0x51);
            _a.sti();
            SendNmi();
            _a.call(_settle);
            _a.cli();
        });
        Trial("NMI: does not look at the task priority", () =>
        {
            WriteApic(ApicRegister.TaskPriority, 0xFF);
            SendNmi();
            _a.call(_settle);
        });
        Trial("NMI: interrupts in its handler", () =>
        {
            SetAction(2, Handling.Nest, 0x51);
            SendNmi();
            _a.call(_settle);
        });
    }

    private void EmitTimerTrials()
    {
        Trial("timer: once", () =>
        {
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x51);
            WriteApic(ApicRegister.InitialCount, 50_000);
            WaitForNotes(1);
            NoteApic(ApicRegister.CurrentCount);
            NoteApic(ApicRegister.InitialCount);
            Enable();
        });
        Trial("timer: for ever, until its count is zero", () =>
        {
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x2_0051);
            WriteApic(ApicRegister.InitialCount, 50_000);
            WaitForNotes(4);
            WriteApic(ApicRegister.InitialCount, 0);
            SetAction(0x51, Handling.EndApic);
            NoteApic(ApicRegister.CurrentCount);
        });
        Trial("timer: counts down", () =>
        {
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x1_0051);
            WriteApic(ApicRegister.InitialCount, 0xF000_0000);
            ReadApic(ApicRegister.CurrentCount);
            _a.mov(ebx, eax);
            for (int k = 0; k < 64; k++)
                _a.call(_settle);
            ReadApic(ApicRegister.CurrentCount);
            _a.cmp(eax, ebx);
            _a.setb(al);
            _a.movzx(eax, al);
            NoteEax();
        });
        Trial("timer: masked, it ends without a request", () =>
        {
            Label again = _a.CreateLabel();
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x1_0051);
            WriteApic(ApicRegister.InitialCount, 20_000);
            _a.Label(ref again);
            ReadApic(ApicRegister.CurrentCount);
            _a.test(eax, eax);
            _a.jnz(again);
            NoteRequest(0x51);
            WriteApic(ApicRegister.LvtTimer, 0x51);
            Enable();
        });
        Trial("timer: requested again while in service, it is not lost", () =>
        {
            Label again = _a.CreateLabel();
            SetAction(0x51, Handling.None);
            WriteApic(ApicRegister.DivideConfiguration, 0xB);
            WriteApic(ApicRegister.LvtTimer, 0x2_0051);
            WriteApic(ApicRegister.InitialCount, 50_000);
            WaitForNotes(1);
            _a.Label(ref again);
            ReadApic(ApicRegister.Request + 0x20);
            _a.test(eax, eax);
            _a.jz(again);
            WriteApic(ApicRegister.InitialCount, 0);
            SetAction(0x51, Handling.EndApic);
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            Enable();
        });
    }
}
