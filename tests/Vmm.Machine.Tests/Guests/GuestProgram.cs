using System.Buffers.Binary;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Machine.Tests.Guests;

/// <summary>A Multiboot kernel of a few instructions, entered in 32-bit protected mode at 1 MiB without paging.</summary>
internal static class GuestProgram
{
    /// <summary>Where the code is.</summary>
    public const uint CodeAddress = 0x10_0000 + HeaderLength;

    /// <summary>RAM that the tests' guests use for data: neither loaded nor cleared.</summary>
    public const uint Data = 0x30_0000;

    /// <summary>The top of the stack.</summary>
    public const uint Stack = 0x2F_0000;

    private const uint HeaderLength = 32;
    private const uint InterruptTable = 0x30_1000;

    /// <summary>Assembles a kernel into a file of its own and returns the path.</summary>
    public static string Write(TemporaryFolder folder, Action<Assembler> program)
    {
        var assembler = new Assembler(32);
        assembler.mov(esp, Stack);
        program(assembler);
        using var code = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(code), CodeAddress);
        byte[] file = new byte[HeaderLength + code.Length];
        uint[] header = [0x1BAD_B002, 1 << 16, unchecked(0u - 0x1BAD_B002u - (1 << 16)), 0x10_0000, 0x10_0000, 0, 0, CodeAddress];
        for (int i = 0; i < header.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(i * 4), header[i]);
        code.ToArray().CopyTo(file, (int)HeaderLength);
        string path = Path.Combine(folder.Path, $"guest-{Guid.NewGuid():n}");
        File.WriteAllBytes(path, file);
        return path;
    }

    /// <summary>Sends one character to COM1.</summary>
    public static void Print(this Assembler a, char character)
    {
        a.mov(dx, 0x3F8);
        a.mov(al, (sbyte)character);
        a.@out(dx, al);
    }

    /// <summary>Sends a text to COM1.</summary>
    public static void Print(this Assembler a, string text)
    {
        foreach (char character in text)
            a.Print(character);
    }

    /// <summary>Ends by isa-debug-exit with what is in EAX.</summary>
    public static void Exit(this Assembler a)
    {
        a.mov(dx, 0xF4);
        a.@out(dx, eax);
    }

    /// <summary>Ends by isa-debug-exit.</summary>
    public static void Exit(this Assembler a, int value)
    {
        a.mov(eax, value);
        a.Exit();
    }

    /// <summary>Makes an interrupt table without gates, and loads it; the 8259s, whose tick firmware has left on, are masked.</summary>
    public static void LoadInterruptTable(this Assembler a)
    {
        a.Out(0x21, 0xFF);
        a.mov(edi, InterruptTable);
        a.xor(eax, eax);
        a.mov(ecx, 512);
        a.cld();
        a.rep.stosd();
        a.push(InterruptTable);
        a.push(0x07FF_0000);
        a.lidt(__[esp + 2]);
        a.add(esp, 8);
    }

    /// <summary>Sets a gate of the table to a handler that is assembled here and jumped over. Clobbers EAX.</summary>
    public static void SetGate(this Assembler a, byte vector, Action handler)
    {
        uint gate = InterruptTable + vector * 8u;
        Label over = a.CreateLabel();
        // The call leaves the handler's address on the stack.
        a.call(over);
        handler();
        a.Label(ref over);
        a.pop(eax);
        a.mov(__word_ptr[gate], ax);
        a.shr(eax, 16);
        a.mov(__word_ptr[gate + 6], ax);
        a.mov(__word_ptr[gate + 2], cs);
        a.mov(__word_ptr[gate + 4], 0x8E00);
    }

    /// <summary>Writes a register of the local APIC.</summary>
    public static void WriteApic(this Assembler a, uint register, uint value) => a.mov(__dword_ptr[0xFEE0_0000 + register], value);

    /// <summary>Writes a byte to a port.</summary>
    public static void Out(this Assembler a, ushort port, byte value)
    {
        a.mov(dx, (short)port);
        a.mov(al, (sbyte)value);
        a.@out(dx, al);
    }
}

/// <summary>A folder that goes with the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("vmm-machine-").FullName;

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
