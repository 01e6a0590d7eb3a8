using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>The image of a bare guest, put together piece by piece at addresses that the guest's layout names.</summary>
internal sealed class GuestImage(uint origin, uint size)
{
    /// <summary>The image, to be loaded at the origin.</summary>
    public byte[] Bytes { get; } = new byte[size];

    /// <summary>Assembles code at an address that is to run at another (or the same).</summary>
    public void Place(uint at, int bits, uint address, Action<Assembler> emit)
    {
        var a = new Assembler(bits);
        emit(a);
        Place(at, address, a);
    }

    /// <summary>Assembles code at an address and returns where its labels are at <paramref name="address"/>.</summary>
    public uint[] Place(uint at, uint address, Assembler a, params Label[] labels)
    {
        using var stream = new MemoryStream();
        AssemblerResult result = a.Assemble(new StreamCodeWriter(stream), address, BlockEncoderOptions.ReturnNewInstructionOffsets);
        stream.ToArray().CopyTo(Bytes, at - origin);
        return [.. labels.Select(label => (uint)result.GetLabelRIP(label))];
    }

    /// <summary>Puts values at an address.</summary>
    public void Store(uint at, params ReadOnlySpan<ulong> values)
    {
        for (int k = 0; k < values.Length; k++)
            BitConverter.TryWriteBytes(Bytes.AsSpan((int)(at - origin) + 8 * k), values[k]);
    }

    /// <summary>
    /// 32-bit interrupt gates, each to a stub of 16 bytes that pushes what makes the frames equal (-1 where the exception has no error code)
    /// and the vector, and jumps to the handler.
    /// </summary>
    public void StoreInterrupts32(uint idt, uint stubs, int vectors, ushort selector, uint handler, Predicate<uint> isOpen)
    {
        for (uint vector = 0; vector < vectors; vector++)
        {
            uint stub = stubs + vector * 16;
            Place(stub, 32, stub, a =>
            {
                if (!HasErrorCode(vector))
                    a.push(-1);
                a.push(vector);
                a.jmp(handler);
            });
            Store(idt + vector * 8, SystemGuest.Gate(stub, selector, 14, isOpen(vector) ? 3 : 0));
        }
    }

    /// <summary>Whether an exception pushes an error code.</summary>
    public static bool HasErrorCode(uint vector) => vector is 8 or (>= 10 and <= 14) or 17;

    /// <summary>
    /// From the loader's segments to the guest's own: loads GDTR from <paramref name="registers"/> and IDTR from 16 bytes behind it, CS, and
    /// every data segment. Needs a stack; clobbers EAX.
    /// </summary>
    public static void EmitOwnSegments(Assembler a, uint registers, ushort code, ushort data)
    {
        Label here = a.CreateLabel(), go = a.CreateLabel();
        a.lgdt(__[registers]);
        a.lidt(__[registers + 16]);
        // Our own GDT's CS: what follows is at the return address of this CALL.
        a.call(here);
        a.jmp(go);
        a.Label(ref here);
        a.pop(eax);
        a.push(code);
        a.push(eax);
        a.retf();
        a.Label(ref go);
        foreach (AssemblerRegisterSegment segment in (AssemblerRegisterSegment[])[ds, es, ss, fs, gs])
        {
            a.mov(eax, data);
            a.mov(segment, eax);
        }
    }
}
