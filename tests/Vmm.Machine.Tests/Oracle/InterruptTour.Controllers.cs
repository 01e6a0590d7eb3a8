using Iced.Intel;
using Vmm.Hypervisor.Apic;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>Trials of the 8259s, the 8254 and the I/O APIC. Line 4 is COM1's: the program has it in its hand.</summary>
internal sealed partial class InterruptTour
{
    private const uint Level = 0x8000, Masked = 0x1_0000;

    private void EmitPicTrials()
    {
        Trial("PIC: masks read back", () =>
        {
            Out(0x21, 0xA5);
            Out(0xA1, 0x5A);
            NotePort(0x21);
            NotePort(0xA1);
        });
        Trial("PIC: a request waits for its mask", () =>
        {
            ConnectPics();
            SetAction(Line4, Handling.NotePics | Handling.LowerLine | Handling.EndMaster);
            SetIer(2);
            Enable();
            NotePic(0x0A, 0x10);
            Out(0x21, 0xEF);
            Enable();
            NotePic(0x0B, 0xFF);
        });
        Trial("PIC: LINT0 masked, it is not heard", () =>
        {
            Out(0x21, 0xEF);
            SetIer(2);
            Enable();
        });
        Trial("PIC: an edge comes once", () =>
        {
            ConnectPics();
            Out(0x21, 0xEF);
            SetIer(2);
            Enable();
            Enable();
            SetIer(0);
            SetIer(2);
            Enable();
        });
        Trial("PIC: nothing until the end of interrupt, then the next edge", () =>
        {
            ConnectPics();
            Out(0x21, 0xEF);
            SetAction(Line4, Handling.LowerLine);
            SetIer(2);
            Enable();
            SetIer(2);
            Enable();
            NotePic(0x0A, 0x10);
            NotePic(0x0B, 0xFF);
            Out(0x20, 0x20);
            Enable();
            Out(0x20, 0x64);
            NotePic(0x0B, 0xFF);
        });
        Trial("PIC: a specific end of another line", () =>
        {
            ConnectPics();
            Out(0x21, 0xEF);
            SetAction(Line4, Handling.LowerLine);
            SetIer(2);
            Enable();
            Out(0x20, 0x63);
            NotePic(0x0B, 0xFF);
            Out(0x20, 0x64);
            NotePic(0x0B, 0xFF);
        });
        Trial("PIC: automatic end of interrupt", () =>
        {
            InitialisePics(autoEnd: true);
            ConnectPics();
            Out(0x21, 0xEF);
            SetAction(Line4, Handling.NotePics | Handling.LowerLine);
            SetIer(2);
            Enable();
            SetIer(2);
            Enable();
        });
        Trial("PIC: a poll is an acknowledgement", () =>
        {
            Out(0x21, 0xEF);
            SetIer(2);
            Out(0x20, 0x0C);
            NotePort(0x20);
            NotePic(0x0B, 0xFF);
            Out(0x20, 0x20);
            Out(0x20, 0x0C);
            NotePort(0x20, 0x80);
        });
        Trial("PIC: a line that falls before the acknowledgement", () =>
        {
            ConnectPics();
            Out(0x21, 0xEF);
            SetIer(2);
            SetIer(0);
            Enable();
            NotePic(0x0B, 0xFF);
        });
        Trial("PIC: the slave's interrupt is in service in both", () =>
        {
            ConnectPics();
            Out(0x21, 0xFB);
            Out(0xA1, 0xFE);
            SetAction(Line8, Handling.ReadRtc | Handling.NotePics | Handling.EndSlave | Handling.EndMaster);
            // 1,024 times a second.
            Cmos(0x0A, 0x26);
            Cmos(0x0B, 0x42);
            WaitForNotes(6);
            Cmos(0x0B, 0x02);
        });
        Trial("PIT: mode 0 comes once, mode 2 goes on", () =>
        {
            ConnectPics();
            Out(0x43, 0x30);
            Out(0x40, 0xA9);
            Out(0x40, 0x04);
            Out(0x21, 0xFE);
            WaitForNotes(1);
            Out(0x43, 0x34);
            Out(0x40, 0xA9);
            Out(0x40, 0x04);
            WaitForNotes(4);
            Out(0x21, 0xFF);
        });
        Trial("PIC: line 0 goes before line 4", () =>
        {
            Label again = _a.CreateLabel();
            ConnectPics();
            Out(0x43, 0x30);
            Out(0x40, 0xA9);
            Out(0x40, 0x04);
            SetIer(2);
            _a.Label(ref again);
            Out(0x20, 0x0A);
            In(0x20);
            _a.test(al, 1);
            _a.jz(again);
            SetAction(Line4, Handling.LowerLine | Handling.EndMaster);
            Out(0x21, 0xEE);
            Enable();
        });
        Trial("PIC: rotated priority, line 4 goes before line 0", () =>
        {
            Label again = _a.CreateLabel();
            ConnectPics();
            Out(0x43, 0x30);
            Out(0x40, 0xA9);
            Out(0x40, 0x04);
            SetIer(2);
            _a.Label(ref again);
            Out(0x20, 0x0A);
            In(0x20);
            _a.test(al, 1);
            _a.jz(again);
            SetAction(Line4, Handling.LowerLine | Handling.EndMaster);
            // Line 3 is the lowest now.
            Out(0x20, 0xC3);
            Out(0x21, 0xEE);
            Enable();
        });
    }

    private void EmitIoApicTrials()
    {
        Trial("I/O APIC: registers", () =>
        {
            NoteIoApic(1, 0xFF_0000);
            Redirect(4, 0xFFFF_FFFF, 0xFF00_0000);
            NoteIoApic(0x18, ~0x5000u);
            NoteIoApic(0x19, 0xFF00_0000);
        });
        Trial("I/O APIC: an edge comes once", () =>
        {
            SetAction(0x51, Handling.NoteTriggerMode | Handling.EndApic);
            Redirect(4, 0x51);
            SetIer(2);
            Enable();
            Enable();
            SetIer(0);
            SetIer(2);
            Enable();
        });
        Trial("I/O APIC: a level comes until it falls", () =>
        {
            SetAction(0x51, Handling.NoteTriggerMode);
            Redirect(4, Level | 0x51);
            SetIer(2);
            Enable();
            NoteIoApic(0x18);
            SetAction(0x51, Handling.NoteTriggerMode | Handling.LowerLine | Handling.EndApic);
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            Enable();
            NoteIoApic(0x18);
            Enable();
        });
        Trial("I/O APIC: a level that falls while in service does not come again", () =>
        {
            SetAction(0x51, Handling.LowerLine);
            Redirect(4, Level | 0x51);
            SetIer(2);
            Enable();
            NoteIoApic(0x18);
            WriteApic(ApicRegister.EndOfInterrupt, 0);
            NoteIoApic(0x18);
            Enable();
        });
        Trial("I/O APIC: a level under a mask is remembered by its line", () =>
        {
            SetAction(0x51, Handling.LowerLine | Handling.EndApic);
            Redirect(4, Masked | Level | 0x51);
            SetIer(2);
            Enable();
            NoteIoApic(0x18, 0x1_FFFF);
            Redirect(4, Level | 0x51);
            Enable();
        });
        Trial("I/O APIC: an edge under a mask is lost", () =>
        {
            SetAction(0x51, Handling.LowerLine | Handling.EndApic);
            Redirect(4, Masked | 0x51);
            SetIer(2);
            Enable();
            Redirect(4, 0x51);
            Enable();
        });
        Trial("I/O APIC: destinations", () =>
        {
            SetAction(0x51, Handling.LowerLine | Handling.EndApic);
            WriteApic(ApicRegister.LogicalDestination, 0x0400_0000);
            // Physical, itself and another; logical, itself, both and another; lowest priority.
            foreach ((uint low, uint high) in ((uint, uint)[])[(0x51, 0), (0x51, 0x0500_0000), (0x851, 0x0400_0000), (0x851, 0x0C00_0000), (0x851, 0x0200_0000), (0x951, 0x0400_0000)])
            {
                Redirect(4, low, high);
                SetIer(2);
                Enable();
                SetIer(0);
                NoteValue(0xE0F);
            }
        });
        Trial("I/O APIC: an NMI", () =>
        {
            SetAction(2, Handling.LowerLine);
            Redirect(4, 0x400);
            SetIer(2);
            _a.call(_settle);
        });
        Trial("I/O APIC: by both ways, the I/O APIC's and the 8259's", () =>
        {
            ConnectPics();
            Out(0x21, 0xEF);
            Redirect(4, 0x51);
            SetIer(2);
            Enable();
        });
        Trial("I/O APIC: the interval timer is at pin 2", () =>
        {
            Redirect(2, 0x51);
            Out(0x43, 0x34);
            Out(0x40, 0xA9);
            Out(0x40, 0x04);
            WaitForNotes(3);
            Redirect(2, Masked);
        });
        Trial("I/O APIC: level and edge with one class", () =>
        {
            SetAction(0x51, Handling.LowerLine | Handling.NoteTriggerMode | Handling.NoteInService | Handling.EndApic);
            SetAction(0x52, Handling.NoteTriggerMode | Handling.NoteInService | Handling.EndApic);
            Redirect(4, Level | 0x51);
            SetIer(2);
            SendSelf(0x52);
            Enable();
            SendSelf(0x51);
            Enable();
        });
    }
}
