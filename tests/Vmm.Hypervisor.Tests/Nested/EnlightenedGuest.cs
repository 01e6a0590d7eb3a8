using Iced.Intel;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// An L1 that uses the enlightened VMCS: it names itself, has a VP assist page, and enters L2 without a VMPTRLD or VMWRITE. The test writes the
/// structure, by the offsets of <see cref="EnlightenedVmcsOffsets"/>.
/// </summary>
internal sealed unsafe class EnlightenedGuest : IDisposable
{
    public const ulong Structure = 0x10_0000, OtherStructure = 0x10_1000, AssistPage = 0x10_2000;
    public const uint GuestOsId = 0x4000_0000, Hypercall = 0x4000_0001, VpIndex = 0x4000_0002, VpAssistPage = 0x4000_0073;

    private const ulong Handler = 0x1_4000, ResumeFlag = 0x10_3000, Flags = 0x10_3008, Rax = 0x10_3010;
    private const int CleanFields = 824;

    public EnlightenedGuest()
    {
        L1 = new NestedMachine(enlightened: true);
        Fill(Structure);
        L1.Write(AssistPage + 40, [1, Structure]);
        L1.Assemble(a =>
        {
            Label enter = a.CreateLabel(), resume = a.CreateLabel(), failed = a.CreateLabel();
            a.mov(__qword_ptr[Rax], rax);
            NestedMachine.Report(a, L1Stop.Exit);
            a.Label(ref enter);
            a.mov(rax, __qword_ptr[Rax]);
            a.cmp(__dword_ptr[ResumeFlag], 0);
            a.jne(resume);
            a.vmlaunch();
            a.jmp(failed);
            a.Label(ref resume);
            a.vmresume();
            a.Label(ref failed);
            a.pushfq();
            a.pop(__qword_ptr[Flags]);
            NestedMachine.Report(a, L1Stop.NoEntry);
            a.jmp(enter);
        }, Handler);
    }

    public NestedMachine L1 { get; }

    /// <summary>RFLAGS after a VM entry that did not take place.</summary>
    public ulong EntryFlags => L1.Read(Flags);

    /// <summary>L2's RAX at the last exit.</summary>
    public ulong L2Rax => L1.Read(Rax);

    public uint Reason => (uint)this[VmcsField.ExitReason];

    /// <summary>Says VMRESUME instead of VMLAUNCH.</summary>
    public bool Resumes
    {
        set => L1.Write(ResumeFlag, [value ? 1ul : 0]);
    }

    /// <summary>The clean fields of the structure.</summary>
    public uint Clean
    {
        set => L1.WriteBytes(Structure + CleanFields, BitConverter.GetBytes(value));
    }

    /// <summary>A field of the structure.</summary>
    public ulong this[VmcsField field]
    {
        get => Read(Structure, field);
        set => Write(Structure, field, value);
    }

    public ulong Read(ulong structure, VmcsField field)
    {
        ulong value = L1.Read(structure + (uint)EnlightenedVmcsOffsets.Of(field));
        return SizeOf(field) switch { 2 => (ushort)value, 4 => (uint)value, _ => value };
    }

    public void Write(ulong structure, VmcsField field, ulong value) =>
        L1.WriteBytes(structure + (uint)EnlightenedVmcsOffsets.Of(field), BitConverter.GetBytes(value).AsSpan(0, SizeOf(field)));

    /// <summary>A structure whose L2 passes every check, as <see cref="NestedMachine"/> has it.</summary>
    public void Fill(ulong structure)
    {
        L1.WriteBytes(structure, new byte[4096]);
        L1.Write(structure, [1]);
        foreach ((VmcsField field, _, _) in EnlightenedVmcsOffsets.All)
            Write(structure, field, field == VmcsField.HostRip ? Handler : L1[field]);
    }

    /// <summary>L1 from its beginning: names itself, sets its assist page up, executes VMXON and enters L2.</summary>
    public L1Stop Start(Action<Assembler> program, bool assist = true)
    {
        L1.Assemble(program, NestedMachine.L2Code);
        return L1.RunL1(a =>
        {
            WriteMsr(a, GuestOsId, 0x8100_0000_0000_0001);
            if (assist)
                WriteMsr(a, VpAssistPage, AssistPage | 1);
            NestedMachine.SetVmxe(a);
            a.vmxon(__qword_ptr[NestedMachine.Scratch]);
            // Into the loop, behind the report.
            Label enter = a.CreateLabel();
            a.Label(ref enter);
            a.mov(rax, EnterAddress);
            a.jmp(rax);
        });
    }

    // MOV to memory and the report come first in the handler.
    private ulong EnterAddress
    {
        get
        {
            Span<byte> code = stackalloc byte[64];
            Assert.True(L1.Memory.TryRead(Handler, code));
            var decoder = Decoder.Create(64, new ByteArrayCodeReader(code.ToArray()), Handler);
            while (decoder.Decode().Mnemonic != Mnemonic.Out)
            {
            }
            return decoder.IP;
        }
    }

    public L1Stop Continue() => L1.Continue();

    public static void WriteMsr(Assembler a, uint msr, ulong value)
    {
        a.mov(ecx, (int)msr);
        a.mov(eax, (uint)value);
        a.mov(edx, (uint)(value >> 32));
        a.wrmsr();
    }

    public void Dispose() => L1.Dispose();

    private static int SizeOf(VmcsField field) => VmcsCatalogue.Of(field).Width switch { VmcsFieldWidth.Bits16 => 2, VmcsFieldWidth.Bits32 => 4, _ => 8 };
}
