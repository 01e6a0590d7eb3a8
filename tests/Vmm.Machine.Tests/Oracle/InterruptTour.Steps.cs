using Iced.Intel;
using Vmm.Hypervisor.Apic;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>What trials are made of.</summary>
internal sealed partial class InterruptTour
{
    private void Trial(string name, Action body)
    {
        Label over = _a.CreateLabel(), done = _a.CreateLabel();
        Store(Number, (uint)_trials.Count);
        _trials.Add(name);
        _a.call(_begin);
        // Where a handler that gives up goes on: what follows this CALL.
        _a.call(over);
        _a.jmp(done);
        _a.Label(ref over);
        _a.pop(__dword_ptr[Abort]);
        body();
        _a.Label(ref done);
        _a.cli();
        _a.call(_finish);
    }

    /// <summary>Distances that handlers note are from here.</summary>
    private void Mark()
    {
        Label here = _a.CreateLabel();
        _a.call(here);
        _a.Label(ref here);
        _a.pop(__dword_ptr[Base]);
    }

    /// <summary>Lets what is pending come.</summary>
    private void Enable()
    {
        _a.sti();
        _a.call(_settle);
        _a.cli();
    }

    /// <summary>Waits with interrupts enabled until a number of values has been noted, within reason; more are forgotten.</summary>
    private void WaitForNotes(int count)
    {
        Label again = _a.CreateLabel(), done = _a.CreateLabel(), few = _a.CreateLabel();
        _a.mov(ecx, 40_000_000);
        _a.sti();
        _a.Label(ref again);
        _a.pause();
        _a.cmp(__dword_ptr[Next], (int)(Log + count * 4));
        _a.jae(done);
        _a.dec(ecx);
        _a.jnz(again);
        _a.Label(ref done);
        _a.cli();
        _a.cmp(__dword_ptr[Next], (int)(Log + count * 4));
        _a.jb(few);
        Store(Next, (uint)(Log + count * 4));
        _a.Label(ref few);
        _a.nop();
    }

    private void Store(uint at, uint value) => _a.mov(__dword_ptr[at], value);

    private void SetAction(byte vector, Handling handling, uint interrupts = 0)
    {
        Store(Actions + vector * 8u, (uint)handling);
        Store(Actions + vector * 8u + 4, interrupts);
    }

    private void NoteEax() => _a.call(_note);

    private void NoteValue(uint value)
    {
        _a.mov(eax, value);
        NoteEax();
    }

    private void WriteApic(uint register, uint value) => Store(ApicBase + register, value);

    private void ReadApic(uint register) => _a.mov(eax, __dword_ptr[ApicBase + register]);

    private void NoteApic(uint register, uint mask = uint.MaxValue)
    {
        ReadApic(register);
        if (mask != uint.MaxValue)
            _a.and(eax, mask);
        NoteEax();
    }

    private void NoteRequest(byte vector) => NoteApic(ApicRegister.Request + (uint)(vector >> 5) * 0x10);

    private void SendSelf(params byte[] vectors)
    {
        foreach (byte vector in vectors)
            WriteApic(ApicRegister.CommandLow, 0x4_0000u | vector);
    }

    private void Out(ushort port, byte value)
    {
        _a.mov(edx, port);
        _a.mov(al, value);
        _a.@out(dx, al);
    }

    private void In(ushort port)
    {
        _a.mov(edx, port);
        _a.xor(eax, eax);
        _a.@in(al, dx);
    }

    private void NotePort(ushort port, byte mask = 0xFF)
    {
        In(port);
        if (mask != 0xFF)
            _a.and(eax, mask);
        NoteEax();
    }

    /// <summary>COM1's transmitter is empty, and its interrupt is line 4: high with 2, low with 0.</summary>
    private void SetIer(byte value) => Out(0x3F9, value);

    private void Cmos(byte index, byte value)
    {
        Out(0x70, index);
        Out(0x71, value);
    }

    private void ReadCmos(byte index)
    {
        Out(0x70, index);
        In(0x71);
    }

    /// <summary>Vectors 20h and 28h, all lines masked.</summary>
    private void InitialisePics(bool autoEnd)
    {
        foreach ((ushort port, byte vector, byte cascade) in ((ushort, byte, byte)[])[(0x20, 0x20, 4), (0xA0, 0x28, 2)])
        {
            Out(port, 0x11);
            Out((ushort)(port + 1), vector);
            Out((ushort)(port + 1), cascade);
            Out((ushort)(port + 1), (byte)(autoEnd && port == 0x20 ? 3 : 1));
            Out((ushort)(port + 1), 0xFF);
        }
    }

    /// <summary>The 8259s by LINT0.</summary>
    private void ConnectPics() => WriteApic(ApicRegister.LvtLint0, 0x700);

    private void NotePic(byte command, byte mask)
    {
        Out(0x20, command);
        NotePort(0x20, mask);
    }

    private void WriteIoApic(uint register, uint value)
    {
        Store(IoApicSelect, register);
        Store(IoApicWindow, value);
    }

    private void NoteIoApic(uint register, uint mask = uint.MaxValue)
    {
        Store(IoApicSelect, register);
        _a.mov(eax, __dword_ptr[IoApicWindow]);
        if (mask != uint.MaxValue)
            _a.and(eax, mask);
        NoteEax();
    }

    private void Redirect(uint pin, uint low, uint high = 0)
    {
        WriteIoApic(0x11 + pin * 2, high);
        WriteIoApic(0x10 + pin * 2, low);
    }
}
