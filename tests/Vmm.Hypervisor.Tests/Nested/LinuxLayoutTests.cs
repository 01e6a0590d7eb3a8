using System.Buffers.Binary;
using System.Text;
using Vmm.Guests;
using Vmm.Hypervisor.Nested;
using Vmm.Processor.Vmx;
using Vmm.Testing;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// The offsets of vmcs12's fields, next to those in Debian's kvm-intel: it has a table of them, <c>vmcs12_field_offsets</c>, of 16 bits
/// each, whose index is the encoding rotated left by 6; 0 where there is no field.
/// </summary>
public sealed class LinuxLayoutTests
{
    [RequiresLinuxGuestFact]
    public async Task Every_field_that_Linux_has_is_where_Linux_has_it()
    {
        DebianKernel kernel = await DebianGuests.Default.GetKernelAsync(null, CancellationToken.None);
        byte[] module = KernelModules.Load(kernel.ModulesPath, ["kvm-intel"]).Single(m => m.Name == "kvm_intel").Content;
        byte[] table = Symbol(module, "vmcs12_field_offsets");
        var theirs = new SortedDictionary<uint, int>();
        for (uint index = 0; index < table.Length / 2; index++)
        {
            int offset = BinaryPrimitives.ReadUInt16LittleEndian(table.AsSpan((int)index * 2));
            if (offset != 0)
                theirs[(index >> 6 | index << 10) & 0xFFFF] = offset;
        }

        var ours = new SortedDictionary<uint, int>();
        foreach (Vmcs12Slot slot in Vmcs12Layout.Slots.Where(s => s.Offset < Vmcs12Layout.OwnFields))
        {
            ours[(uint)slot.Field] = slot.Offset;
            // The high half of a 64-bit field has an encoding of its own.
            if (VmcsCatalogue.Of(slot.Field).Width == VmcsFieldWidth.Bits64)
                ours[(uint)slot.Field + 1] = slot.Offset + 4;
        }
        Assert.NotEmpty(theirs);
        Assert.Equal(Lines(theirs), Lines(ours));

        static string[] Lines(SortedDictionary<uint, int> offsets) => [.. offsets.Select(o => $"{o.Key:x4} at {o.Value}")];
    }

    /// <summary>What an ELF64 object has under a name (System V ABI, chapter 4).</summary>
    private static byte[] Symbol(byte[] elf, string name)
    {
        const uint symbolTable = 2;
        ulong Word(ulong at) => BinaryPrimitives.ReadUInt64LittleEndian(elf.AsSpan((int)at));
        uint Half(ulong at) => BinaryPrimitives.ReadUInt32LittleEndian(elf.AsSpan((int)at));
        ulong Section(uint index) => Word(0x28) + index * 64;
        uint sections = BinaryPrimitives.ReadUInt16LittleEndian(elf.AsSpan(0x3C));
        for (uint index = 0; index < sections; index++)
        {
            if (Half(Section(index) + 4) != symbolTable)
                continue;
            ulong names = Word(Section(Half(Section(index) + 40)) + 24), first = Word(Section(index) + 24), size = Word(Section(index) + 32);
            for (ulong symbol = first; symbol < first + size; symbol += 24)
            {
                ReadOnlySpan<byte> text = elf.AsSpan((int)(names + Half(symbol)));
                if (!text[..text.IndexOf((byte)0)].SequenceEqual(Encoding.ASCII.GetBytes(name)))
                    continue;
                uint section = BinaryPrimitives.ReadUInt16LittleEndian(elf.AsSpan((int)symbol + 6));
                return elf.AsSpan((int)(Word(Section(section) + 24) + Word(symbol + 8)), (int)Word(symbol + 16)).ToArray();
            }
        }
        throw new InvalidOperationException($"The module has no '{name}'.");
    }
}
