using System.Buffers.Binary;
using Iced.Intel;
using Vmm.Testing.Oracle;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Oracle;

/// <summary>
/// A bare guest that is a hypervisor of the smallest kind: it enters VMCSs that are valid but for a few fields, and prints how each entry
/// ended. It begins with the lines that a judge needs: the VMX capability MSRs, the width of addresses, and which fields there are. Its
/// controls are what it would like to have, within what those MSRs allow, so that it runs on every processor with VMX.
/// </summary>
internal sealed partial class EntryTour
{
    /// <summary>Where the guest is loaded and entered, in flat 32-bit protected mode.</summary>
    public const uint Origin = 0x10_0000;

    /// <summary>Numbers on every line: what it is about, its <see cref="EntryLine"/>, and two values.</summary>
    public const int Columns = 4;

    private const uint Gdt = Origin + 0x100, Idt = Origin + 0x200, Pointers = Origin + 0x800, Variables = Origin + 0x900, Main = Origin + 0x1000,
        Data = Origin + 0x1_0000;

    private const uint Number = Variables, Region = Variables + 8, Faulted = Variables + 16, NextChange = Variables + 24;
    private const uint Stack = 0x60_0000, Tables = 0x60_0000, GuestTables = 0x60_3000, EptTables = 0x60_7000, VmxonRegion = 0x60_A000,
        GuestCode = 0x70_0000;
    private const ushort Code32 = 0x08, Data32 = 0x10, Code64 = 0x18, Tss = 0x20;

    private readonly Assembler _a = new(64);
    private Label _print, _put, _line;

    /// <param name="seed">Of the cases.</param>
    /// <param name="cases">How many.</param>
    /// <param name="monitorTrap">Whether a pending MTF VM exit is among what is injected.</param>
    public EntryTour(int seed, int cases, bool monitorTrap = true)
    {
        _print = _a.CreateLabel();
        _put = _a.CreateLabel();
        _line = _a.CreateLabel();
        Cases = Generate(seed, cases, monitorTrap);
        Image = Build();
    }

    /// <summary>What is changed, in order.</summary>
    public IReadOnlyList<EntryTourCase> Cases { get; }

    /// <summary>The guest, to be loaded at <see cref="Origin"/>. It carries a Multiboot header.</summary>
    public byte[] Image { get; }

    private byte[] Build()
    {
        byte[] main = Assemble(_a, Main, EmitMain, out AssemblerResult placed);
        if (main.Length > Data - Main)
            throw new InvalidOperationException($"The code has {main.Length} bytes.");
        byte[] data = BuildData(placed.GetLabelRIP(_exit));
        var image = new byte[Data - Origin + data.Length];
        void Place(uint at, ReadOnlySpan<byte> bytes) => bytes.CopyTo(image.AsSpan((int)(at - Origin)));
        void Store(uint at, params ReadOnlySpan<ulong> values)
        {
            foreach (ulong value in values)
            {
                BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan((int)(at - Origin)), value);
                at += 8;
            }
        }
        Place(Data, data);
        Place(Main, main);
        Store(Gdt, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00AF9B000000FFFF, 0x00008B0000000067);
        Store(Pointers, 0x27 | (ulong)Gdt << 16, 0, 0x1FF | (ulong)Idt << 16, 0);
        // JMP to the start, then a Multiboot header that says where all this goes.
        uint start = Origin + 0xA00;
        Place(start, Assemble(new Assembler(32), start, EmitStart, out _));
        image[0] = 0xE9;
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(1), start - Origin - 5);
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), Origin + 8, Origin, 0, 0, Origin];
        for (int k = 0; k < header.Length; k++)
            BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(8 + k * 4), header[k]);
        for (uint vector = 0; vector < 32; vector++)
        {
            ulong handler = placed.GetLabelRIP(_handlers[vector]);
            Store(Idt + vector * 16, (handler & 0xFFFF) | Code64 << 16 | 0x8E00UL << 32 | (handler & 0xFFFF_0000) << 32);
        }
        return image;
    }

    private static byte[] Assemble(Assembler a, uint at, Action<Assembler> emit, out AssemblerResult placed)
    {
        emit(a);
        using var stream = new MemoryStream();
        placed = a.Assemble(new StreamCodeWriter(stream), at, BlockEncoderOptions.ReturnNewInstructionOffsets);
        return stream.ToArray();
    }
}
