using Iced.Intel;
using Vmm.Hypervisor.Apic;
using Vmm.Hypervisor.Apicv;
using Vmm.Hypervisor.Tests.Nested;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Hypervisor.Tests.SystemManagement;

/// <summary>
/// L1 with an SMI handler. SMBASE is 2 MiB: the handler that the power-up value leads to has moved it there, by an SMI of its own. The
/// handler runs 16-bit code with flat data segments, and reaches the save state map by the manual's offsets.
/// </summary>
internal sealed class SmiGuest : IDisposable
{
    public const uint Smbase = 0x20_0000, Entry = Smbase + 0x8000, Marks = 0x30_0000;

    private const uint PowerUpBase = 0x3_0000;

    public SmiGuest(ApicvOptions? options = null)
    {
        L1 = new NestedMachine(options);
        byte[] scratch = new byte[4096];
        Assert.True(L1.Memory.TryRead(NestedMachine.Ept, scratch));
        Assemble(a =>
        {
            a.mov(edi, (int)(PowerUpBase + 0x8000 + 0x7EF8));
            a.mov(__dword_ptr[edi], Smbase);
            a.rsm();
        }, PowerUpBase + 0x8000);
        SendSmi();
        Assert.Equal(L1Stop.Done, L1.RunL1(a => NestedMachine.Report(a, L1Stop.Done)));
        Assert.Equal((Smbase, false), (L1.Vcpu.SystemManagement.Base, L1.Vcpu.SystemManagement.IsActive));
        L1.WriteBytes(NestedMachine.Ept, scratch);
        Handler(a => a.rsm());
    }

    public NestedMachine L1 { get; }

    /// <summary>Where the manual's offset in the save state map is, from SMBASE + 8000H.</summary>
    public static ulong Map(uint offset) => Smbase + 0x8000 + offset;

    public ulong Read(uint offset) => L1.Read(Map(offset));

    public uint Read32(uint offset) => (uint)Read(offset);

    /// <summary>The handler's code.</summary>
    public void Handler(Action<Assembler> program) => Assemble(program, Entry);

    public void SendSmi() => Assert.True(L1.Bus.Deliver(new(0, false, DeliveryMode.Smi, 0, false)));

    /// <summary>Counts in <see cref="Marks"/>. Clobbers EDI.</summary>
    public static void Count(Assembler a, uint mark = 0)
    {
        a.mov(edi, (int)(Marks + mark * 8));
        a.inc(__dword_ptr[edi]);
    }

    /// <summary>Stores into the save state map. Clobbers EDI.</summary>
    public static void Store(Assembler a, uint offset, uint value)
    {
        a.mov(edi, (int)Map(offset));
        a.mov(__dword_ptr[edi], value);
    }

    public ulong Mark(uint mark = 0) => L1.Read(Marks + mark * 8);

    public void Assemble(Action<Assembler> program, ulong at)
    {
        var assembler = new Assembler(16);
        program(assembler);
        using var stream = new MemoryStream();
        // Addresses in the code are from the base of CS.
        assembler.Assemble(new StreamCodeWriter(stream), at & 0xFFFF);
        L1.WriteBytes(at, stream.ToArray());
    }

    public void Dispose() => L1.Dispose();
}
