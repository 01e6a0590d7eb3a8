using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Tests.SystemInstructions;
using Vmm.Processor.Translation;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.Translation;

/// <summary>A guest with a program of <see cref="TierProgram"/>, executed by one tier or by both.</summary>
internal sealed unsafe class TierMachine : IDisposable
{
    private static readonly VmcsField[] Compared =
    [
        VmcsField.GuestRip, VmcsField.GuestRsp, VmcsField.GuestRflags, VmcsField.GuestCr0, VmcsField.GuestCr3, VmcsField.GuestCr4, VmcsField.GuestDr7,
        VmcsField.GuestInterruptibility, VmcsField.GuestActivityState, VmcsField.GuestPendingDebugExceptions, VmcsField.GuestCsSelector, VmcsField.GuestSsSelector,
        VmcsField.ExitReason, VmcsField.ExitQualification, VmcsField.VmExitInstructionLength, VmcsField.VmExitInterruptionInformation, VmcsField.VmExitInterruptionErrorCode,
        VmcsField.IdtVectoringInformation, VmcsField.IdtVectoringErrorCode, VmcsField.GuestLinearAddress, VmcsField.VmEntryInterruptionInformation,
    ];

    private readonly List<(ulong Time, ulong Address, ulong Value)> _device = [];
    private readonly TierProgram _program;

    public TierMachine(TierProgram program, Random random, TranslationOptions? translation)
    {
        _program = program;
        Guest = new TestGuest(TierLayout.MemorySize, translation: translation, translate: translation != null);
        TierLayout.WriteTables(Guest);
        WriteHandlers();
        var data = new byte[0x8000];
        random.NextBytes(data);
        Guest.Write(TierLayout.Data, data);
        ulong[] resumes = [.. Enumerable.Range(0, TierLayout.Resumes).Select(_ => program.Blocks[random.Next(program.Blocks.Length)])];
        Guest.Write(TierLayout.ResumeTable, resumes);
        WriteCode();
        Guest.EnterLongMode(program.Start, cpl: random.Next(3) == 0 ? 3 : 0);
        Vmcs[VmcsField.GuestCr3] = TierLayout.Tables;
        Vmcs[VmcsField.GuestCr4] |= Cr4.Pge | (random.Next(2) == 0 ? Cr4.Pcide : 0);
        Vmcs[VmcsField.GuestRsp] = TierLayout.StackTop;
        Vmcs[VmcsField.GuestFsBase] = 0x40;
        Vmcs[VmcsField.GuestGsBase] = TierLayout.Alias;
        for (int k = 0; k < 16; k++)
            State->Gpr[k] = (ulong)random.NextInt64(long.MinValue, long.MaxValue) >> random.Next(64);
        foreach (int pointer in new[] { 3, 6, 7, 14 })
            State->Gpr[pointer] = TierLayout.Data + (ulong)random.Next(0x1800);
        for (int k = 0; k < 32; k++)
            State->Xmm[k] = (ulong)random.NextInt64();
        State->Fcw = 0x37F;
        State->Ftw = (ushort)(random.Next(3) == 0 ? random.Next(0x100) : 0);
        State->FpuTop = random.Next(8);
        for (int k = 0; k < 16; k++)
            State->Fpu[k] = k % 2 == 0 ? (ulong)random.NextInt64(long.MinValue, long.MaxValue) : (ulong)(random.Next(4) == 0 ? random.Next(0x10000) : random.Next(0x3FF0, 0x4010));
        Guest.Bus.OnReadMemory = (address, _) =>
        {
            Touch(address, 0);
            return address * 0x0101_0101_0101_0101 + (ulong)_device.Count;
        };
        Guest.Bus.OnWriteMemory = () => Touch(Guest.Bus.MemoryWrites[^1].Address, Guest.Bus.MemoryWrites[^1].Value);
    }

    public TestGuest Guest { get; }
    public Vmcs Vmcs => Guest.Vmcs;
    public CpuState* State => Guest.State;

    /// <summary>Writes the program anew: what it has made of itself is gone.</summary>
    public void WriteCode()
    {
        Guest.Write(_program.Start, _program.Code);
        // The other address space has the first page with other immediates here and there.
        byte[] other = new byte[4096];
        new Span<byte>(Guest.Memory.Page(TierLayout.Code), 4096).CopyTo(other);
        for (int k = 0; k < 4096; k += 61)
            other[k] ^= 4;
        Guest.Write(TierLayout.OtherCode, other);
    }

    /// <summary>Runs a slice and does what L0 would do about the exit. False where the guest is at its end.</summary>
    public bool Run(long budget)
    {
        ExitReason reason = Guest.Run(budget);
        switch (reason)
        {
            case ExitReason.TripleFault:
            case ExitReason.VmxAbort:
                return false;
            case ExitReason.Cpuid:
            case ExitReason.Hlt:
                State->Gpr[Gpr.Rcx] ^= Vmcs[VmcsField.GuestRip];
                Vmcs[VmcsField.GuestRip] += Vmcs[VmcsField.VmExitInstructionLength];
                Vmcs[VmcsField.GuestInterruptibility] = 0;
                break;
        }
        return true;
    }

    /// <summary>What differs from another machine; empty if nothing does.</summary>
    public string Differences(TierMachine other)
    {
        var found = new List<string>();
        Check("retired", Guest.Cpu.InstructionsRetired, other.Guest.Cpu.InstructionsRetired);
        foreach (VmcsField field in Compared)
            Check(field.ToString(), Vmcs[field], other.Vmcs[field]);
        for (int k = 0; k < 16; k++)
            Check($"GPR {k}", State->Gpr[k], other.State->Gpr[k]);
        for (int k = 0; k < 32; k++)
            Check($"XMM {k >> 1}", State->Xmm[k], other.State->Xmm[k]);
        Check("CR2", State->Cr2, other.State->Cr2);
        Check("DR6", State->Dr6, other.State->Dr6);
        Check("MXCSR", State->Mxcsr, other.State->Mxcsr);
        Check("FCW", State->Fcw, other.State->Fcw);
        Check("FSW", State->Fsw, other.State->Fsw);
        Check("FTW", State->Ftw, other.State->Ftw);
        Check("TOP", (ulong)State->FpuTop, (ulong)other.State->FpuTop);
        Check("FOP", State->Fop, other.State->Fop);
        Check("FIP", State->Fip, other.State->Fip);
        Check("FDP", State->Fdp, other.State->Fdp);
        Check("FCS", State->Fcs, other.State->Fcs);
        Check("FDS", State->Fds, other.State->Fds);
        for (int k = 0; k < 16; k++)
            Check($"x87 R{k >> 1}", State->Fpu[k], other.State->Fpu[k]);
        for (ulong page = 0; page < TierLayout.MemorySize; page += 4096)
        {
            var mine = new ReadOnlySpan<byte>(Guest.Memory.Page(page), 4096);
            var theirs = new ReadOnlySpan<byte>(other.Guest.Memory.Page(page), 4096);
            int at = mine.CommonPrefixLength(theirs);
            if (at < 4096)
                Check($"memory at {page + (ulong)at:x}", mine[at], theirs[at]);
        }
        if (!_device.SequenceEqual(other._device))
            found.Add($"the device: {string.Join(' ', _device.TakeLast(4))} and {string.Join(' ', other._device.TakeLast(4))}");
        if (!Guest.Bus.PortWrites.SequenceEqual(other.Guest.Bus.PortWrites))
            found.Add("ports");
        return string.Join("; ", found);

        void Check(string name, ulong mine, ulong theirs)
        {
            if (mine != theirs)
                found.Add($"{name}: {mine:x} and {theirs:x}");
        }
    }

    /// <summary>The code at an address, as it is now.</summary>
    public string Disassemble(ulong rip, int count)
    {
        ulong at = rip & 0xFFFF_FFFF;
        if (at >= TierLayout.MemorySize - 256)
            return $"  {rip:x}: no code\n";
        var bytes = new byte[256];
        Guest.Memory.TryRead(at, bytes);
        var decoder = Iced.Intel.Decoder.Create(64, bytes, rip);
        var text = new System.Text.StringBuilder();
        while (count-- > 0)
            text.AppendLine($"  {decoder.IP:x}: {decoder.Decode()}");
        return text.ToString();
    }

    public void Dispose() => Guest.Dispose();

    private void Touch(ulong address, ulong value)
    {
        _device.Add((Guest.Cpu.InstructionsRetired, address, value));
        if (_device.Count % 4 == 0)
            Guest.Cpu.RequestAttention();
    }

    private void WriteHandlers()
    {
        for (uint vector = 0; vector < 64; vector++)
        {
            ulong at = TierLayout.Handlers + vector * 64;
            Guest.Assemble(64, a => WriteHandler(a, vector), at);
            Guest.SetGate64(vector, at, TestGuest.Code64, vector % 3 == 0 ? 15 : 14, 0, table: vector is Vector.Df || vector % 2 == 0 ? 1 : 0);
        }
        Guest.Write(TestGuest.TssBase + 4, [TierLayout.InnerStack]);
        Guest.Write(TestGuest.TssBase + 36, [TierLayout.TableStack]);
    }

    /// <summary>Traps and interrupts are counted; a fault resumes at some block with a fresh stack, and single-stepping ends now and then.</summary>
    private static void WriteHandler(Assembler a, uint vector)
    {
        if (vector is Vector.Df or 10 or 11 or 12 or Vector.Gp or Vector.Pf or 17)
            a.add(rsp, 8);
        a.inc(__dword_ptr[TierLayout.Events]);
        if (vector == Vector.Db)
        {
            Label on = a.CreateLabel();
            a.test(__byte_ptr[TierLayout.Events], 15);
            a.jne(on);
            a.and(__dword_ptr[rsp + 16], ~0x100);
            a.Label(ref on);
        }
        else if (vector < 32 && vector != Vector.Bp)
        {
            a.push(rax);
            a.mov(eax, __dword_ptr[TierLayout.Events]);
            a.and(eax, TierLayout.Resumes - 1);
            a.mov(rax, __qword_ptr[rax * 8 + (int)TierLayout.ResumeTable]);
            a.mov(__qword_ptr[rsp + 8], rax);
            a.pop(rax);
            a.mov(__qword_ptr[rsp + 24], (int)TierLayout.StackTop);
        }
        a.iretq();
    }
}
